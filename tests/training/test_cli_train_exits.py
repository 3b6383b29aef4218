"""The verb `train-exits`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from command_line import Run, refused
from understudy.app.cli.main import app
from understudy.training import api
from understudy.training.config import TrainingConfig
from understudy.zoo.models import load_network

FAST = "epochs = 2\nviews = 1\nbatch = 64\nheld_out = 0.2\n"
TRAIN = ("train-exits", "net=py:exit_digits:big?weights=random", "--data", "digits:train")
TRAIN_FAST = (*TRAIN, "--config", "fast.toml", "--into", "exits")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("fast.toml").write_text(FAST)
    return tmp_path


def test_from_a_model_to_a_score(run: Run) -> None:
    command = run(*TRAIN_FAST, "--taps", "blocks.0,blocks.1", "--heads", "linear,conv4")
    assert command.exit_code == 0, command.stderr
    assert "score it as exits:exits --allow-code exit_digits, on other data" in command.stdout
    assert "exits, epoch 2:" in command.stderr
    assert len(load_network("exits:exits", allow_code=["exit_digits"]).locations) == 4
    words = ("score", "exits:exits", "--data", "digits:heldout", "--into", "table")
    scored = run(*words, "--allow-code", "exit_digits", "--json")
    assert scored.json["exits"][-1] == "net"


def test_the_size_of_an_exit_sequence_network(run: Run) -> None:
    words = ("--taps", 2, "--saver", "py:exit_digits:small", "--heads", "esn0x16", "--json")
    assert list(run(*TRAIN_FAST, *words).json["exits"]) == ["blocks.0/esn", "blocks.1/esn"]
    network = load_network("exits:exits", allow_code=["exit_digits"])
    assert network.saver_branch is not None
    size = network.saver_branch.sequence.spec
    assert (size.layers, size.dim) == (0, 16)


def test_options_override_a_configuration(run: Run) -> None:
    words = (*TRAIN, "--into", "exits", "--config", "dyce", "--epochs", 1, "--json")
    found = run(*words, "--taps", 1, "--heads", "mlp1x8").json
    assert list(found["exits"]) == ["blocks.1/mlp1x8"]
    settings = found["recipe"]
    assert (settings["epochs"], settings["mixup"], settings["weights"]) == (1, 0.8, "dyce")
    assert not found["cached"]


def test_a_configuration_names_exits(run: Run) -> None:
    Path("mine.toml").write_text(
        FAST + 'taps = "all"\nheads = []\n[sequence]\nlayers = 1\ndim = 12\nheads = 3\n'
    )
    words = (*TRAIN, "--into", "exits", "--config", "mine.toml", "--json")
    saver = ("--saver", "py:exit_digits:small")
    assert list(run(*words, *saver).json["exits"]) == ["blocks.0/esn", "blocks.1/esn"]
    network = load_network("exits:exits", allow_code=["exit_digits"])
    assert network.saver_branch is not None
    size = network.saver_branch.sequence.spec
    assert (size.layers, size.dim, size.heads) == (1, 12, 3)
    other = run(*words, *saver, "--heads", "linear,esn0x8x2", "--taps", "blocks.1").json
    assert list(other["exits"]) == ["blocks.1/linear", "blocks.1/esn"]


def test_every_option_and_setting(run: Run) -> None:
    Path("config.toml").write_text(
        'targets = "both"\ntemperature = 2\nshare = 0.3\nweights = "tinysaver"\n'
        "weight_decay = 0\nlabel_smoothing = 0.1\nviews = 1\nshift = 0\nflip = false\n"
        "held_out = 0.2\npatience = 5\nepochs = 50\nlr = 0.5\nseed = 8\n"
    )
    command = run(
        *(*TRAIN, "--into", "exits", "--taps", 1, "--saver", "py:exit_digits:small"),
        *("--classifier", "--config", "config.toml", "--epochs", 2, "--batch", 64, "--lr", 0.01),
        *("--seed", 3, "--cache-gb", 0, "--workers", 0, "--json"),
    )
    found = command.json
    assert (found["spec"], found["name"], found["cached"]) == ("exits:exits", "net", False)
    assert list(found["exits"]) == ["classifier", "blocks.1/linear", "blocks.1/esn"]
    settings = found["recipe"]
    assert (settings["targets"], settings["share"], settings["temperature"]) == ("both", 0.3, 2)
    assert (settings["flip"], settings["shift"], settings["label_smoothing"]) == (False, 0, 0.1)
    assert (settings["epochs"], settings["lr"], settings["seed"]) == (2, 0.01, 3)
    assert "the network runs anew in every epoch" in command.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--heads", "linaer"), "did you mean"),
        (("--taps", "blocks.7"), "blocks.7"),
        (("--lr", -1), "lr lies between"),
        (("--heads", "esn2x16"), "names 1 and --saver none: give --saver MODEL"),
        (
            ("--saver", "py:exit_digits:small", "--heads", "esn2x16,esn1x16"),
            "names 2 and --saver one: name one size",
        ),
        (("--saver", "py:exit_digits:small", "--heads", "esn2y16"), "reads LAYERSxDIM"),
        (("--config", "nowhere.toml"), "or a TOML file, 'nowhere.toml' cannot be read"),
        (("--config", "tinysaver"), "found neither heads nor a saver"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    run: Run, here: Path, words: tuple[object, ...], message: str
) -> None:
    refused(run(*TRAIN_FAST, *words), message, here, {"fast.toml"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epohcs = 2", "in 'fast.toml' has the fields epochs, batch, lr"),
        ("epohcs = 2", "found 'epohcs': correct the file"),
        ("epochs = 2.5", "in 'fast.toml' has a whole number at $.epochs, found 2.5"),
        ("epochs = true", "a whole number at $.epochs, found True"),
        ('lr = "fast"', "a number at $.lr, found 'fast'"),
        ("flip = 1", "true or false at $.flip, found 1"),
        ("targets = 1", "a text at $.targets, found 1"),
        ("[training]\nepochs = 2", "found 'training': correct the file"),
        ("epochs 2", "a configuration is a TOML file, 'fast.toml' is not"),
        ('taps = "blocks.7"', "blocks.7"),
        ("crop = 2", "crop lies between"),
        ('targets = "truth"', "no targets 'truth'"),
        ('weights = "tinysaver"', "found no saver"),
        ("lr = -1", "lr lies between"),
    ],
)
def test_a_wrong_setting_is_one_sentence(run: Run, here: Path, text: str, message: str) -> None:
    Path("fast.toml").write_text(text)
    refused(run(*TRAIN_FAST), message, here, {"fast.toml"})


def test_ctrl_c_keeps_finished_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "fit", interrupted)
        command = run(*TRAIN_FAST)
    assert command.exit_code == 130
    assert "interrupted; finished work is kept" in command.stderr
    assert (Path("exits.partial") / "features" / "note.json").exists()
    assert run(*TRAIN_FAST).exit_code == 0


def test_the_help_has_the_defaults_of_the_config() -> None:
    command = typer.main.get_command(app).commands["train-exits"]  # type: ignore[attr-defined]
    defaults = {
        option.name: re.search(r"Default: ([^\[]+)\[", option.help or "")
        for option in command.params
    }
    settings = {name: v for name, v in TrainingConfig().to_dict().items() if name in defaults}
    assert set(settings) == {"epochs", "batch", "lr", "seed"}
    for name, value in settings.items():
        found = defaults[name]
        assert found is not None, name
        assert float(found[1]) == value, name
