"""The verb `train-saver`."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import saver_digits
from command_line import Run, refused
from exit_digits import big, train
from hf_nets import save_resnet, save_vit
from understudy.app.cli.main import app
from understudy.training import saver
from understudy.training.pair_saving import PairSaving
from understudy.training.saver_config import SaverConfig
from understudy.training.saver_record import SaverFolder

FAST = """objective = "labels"
tuning_epochs = 1
[teaching]
epochs = 1
batch = 64
lr = 0.02
held_out = 0.2
flip = false
"""
LITTLE, LARGE = "py:exit_digits:small?weights=random", "py:exit_digits:big?weights=random"
TEACH = ("train-saver", LITTLE, "--from", LARGE, "--data", "digits:train", "--into", "taught")
TEACH_FAST = (*TEACH, "--config", "fast.toml")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(saver, "PairSaving", partial(PairSaving, draws=1, samples=1000))
    Path("fast.toml").write_text(FAST)
    return tmp_path


def teach(little: str, large: str, data: str = "digits:train") -> tuple[object, ...]:
    """The words that teach some other pair."""
    names = ("train-saver", little, "--from", large, "--data", data)
    return (*names, "--into", "taught", "--config", "fast.toml")


def test_from_two_models_to_a_spec(run: Run, here: Path) -> None:
    """What is printed can be pasted into a shell."""
    command = run(*TEACH_FAST, "--seed", 3, "--lr", 0.03)
    assert command.exit_code == 0, command.stderr
    assert "teaching, epoch 1:" in command.stderr
    spec = f"py:exit_digits:small?checkpoint={here}/taught/weights.safetensors"
    words = shlex.split(" ".join(command.stdout.split()))
    assert spec in "".join(words) or spec in "".join(words).replace(" ", "")
    record = SaverFolder.load("taught/saver.json")
    assert record.spec == spec
    assert (record.little, record.large) == (LITTLE, LARGE)
    assert record.training.config.teaching.seed == 3
    assert record.training.config.teaching.lr == 0.03


def test_every_option(run: Run) -> None:
    words = ("--objective", "gatekeeper", "--max-drop", 2, "--epochs", 2, "--batch", 32)
    found = run(*TEACH_FAST, *words, "--workers", 0, "--device", "cpu", "--json").json
    assert found["folder"] == "taught"
    settings = found["training"]["config"]
    assert (settings["objective"], settings["max_drop"]) == ("gatekeeper", 2)
    assert (settings["teaching"]["epochs"], settings["teaching"]["batch"]) == (2, 32)
    assert settings["teaching"]["targets"] == "both"
    assert {name: len(epochs) for name, epochs in found["training"]["epochs"].items()} == {
        "teaching": 3, "tuning": 2,
    }  # fmt: skip
    assert [pair["large"] for pair in found["training"]["pairs"]] == [
        "as it is", "as it is", "last layer trained",
    ]  # fmt: skip


@pytest.mark.slow
def test_names_and_modes_stand_in_specs(run: Run) -> None:
    found = run(*teach(f"tiny={LITTLE}&run=channels_last", f"big={LARGE}&run=folded"), "--json")
    assert found.json["spec"].startswith("py:exit_digits:small?run=channels_last&checkpoint=/")


@pytest.mark.parametrize(
    ("little", "large", "message"),
    [
        ("py:saver_digits:seven", LARGE, "7 and 10"),
        (LARGE, LITTLE, "a little model costs less than its teacher"),
        ("py:saver_digits:named_otherwise", "py:saver_digits:named", "as class 2 and class 3"),
        ("py:saver_digits:broken", "py:saver_digits:large", "check its weights"),
        ("py:saver_digits:no_weights", "py:saver_digits:large", "PyTorch can train, found none"),
        ("py:saver_digits:estimator", "py:saver_digits:large", "PyTorch can train, found none"),
        ("py:nowhere:small", LARGE, "'nowhere'"),
        ("exits:fast", LARGE, "exits are in a folder"),
        (LITTLE, "cascade", "model specs read SCHEME:NAME, found 'cascade'"),
        (f"{LITTLE}&checkpoint=a.pt", LARGE, "names two"),
        ("py:exit_digits:small?checkpoint=a.pt", LARGE, "'a.pt' is none"),
    ],
)
def test_models_that_are_no_pair_are_one_sentence(
    run: Run, here: Path, little: str, large: str, message: str
) -> None:
    data = "digits:train"
    if "saver_digits" in f"{little} {large}":
        saver_digits.write_digits(here / "digits")
        large = large.replace("py:exit_digits:big", "py:saver_digits:large")
        data = "folder:digits"
    left = {"fast.toml", *(["digits"] if data != "digits:train" else [])}
    refused(run(*teach(little, large, data)), message, here, left)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--objective", "label"), "no objective 'label'"),
        (("--max-drop", 101), "max_drop lies between"),
        (("--lr", -1), "lr lies between"),
        (("--config", "nowhere.toml"), "a configuration is a TOML file, 'nowhere.toml' cannot"),
        (("--data", "nowhere"), "nowhere"),
        (("--data", "folder:few"), "the objective 'labels' learns from labels"),
        (("--data", "folder:three"), "has 3 names"),
        (("--into", "."), "a taught model goes into a folder of its own"),
        (("--into", "a&b"), "an option of a spec ends at '&'"),
        (("--device", "nowhere"), "device 'nowhere' cannot be used"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    run: Run, here: Path, words: tuple[object, ...], message: str
) -> None:
    saver_digits.write_digits(here / "three")
    for folder in sorted((here / "three").iterdir())[3:]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    (here / "few").mkdir()
    next((here / "three" / "0").iterdir()).rename(here / "few" / "0.png")
    pair = teach("py:saver_digits:little", "py:saver_digits:large")
    command = run(*(pair if "folder" in str(words) else TEACH_FAST), *words)
    refused(command, message, here, {"fast.toml", "few", "three"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 2", "found 'epochs': correct the file"),
        ("[teaching]\nepohcs = 2", "found 'epohcs': correct the file"),
        ("[teaching]\nepochs = 2.5", "a whole number at $.teaching.epochs, found 2.5"),
        ("teaching = 3", "$.teaching"),
        ("alpha = true", "a number at $.alpha, found True"),
        ("alpha = 1.0", "alpha lies between 0 and 1"),
        ('[teaching]\ntargets = "labels"', "found the targets 'labels'"),
        ('[teaching]\nweights = "dyce"', "has no exits, found weights"),
        ("alpha 2", "a configuration is a TOML file, 'fast.toml' is not"),
    ],
)
def test_a_wrong_setting_is_one_sentence(run: Run, here: Path, text: str, message: str) -> None:
    Path("fast.toml").write_text(text)
    refused(run(*TEACH_FAST), message, here, {"fast.toml"})


def test_another_plan_names_what_differs(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saver, "fit", interrupted)
        command = run(*TEACH_FAST)
    assert command.exit_code == 130
    assert "interrupted; finished work is kept" in command.stderr
    refused(
        run(*TEACH_FAST, "--lr", 0.5),
        "another for teaching lr",
        here,
        {"fast.toml", "taught.partial"},
    )
    assert run(*TEACH_FAST).exit_code == 0


@pytest.mark.slow
def test_a_loss_that_is_not_finite_says_how_to_go_on(run: Run, here: Path) -> None:
    saver_digits.write_digits(here / "digits")
    pair = teach("py:saver_digits:exploding", "py:saver_digits:large", "folder:digits")
    command = run(*pair, "--epochs", 6)
    assert command.exit_code == 2
    sentence = command.stderr.splitlines()[-1]
    assert sentence.startswith("error: losses are finite, that of 'little' is nan after epoch 3")
    assert "'taught.partial/weights.safetensors': another rate goes into another folder" in sentence
    assert {path.name for path in here.iterdir()} == {"fast.toml", "digits", "taught.partial"}


@pytest.mark.slow
def test_models_of_transformers(run: Run, here: Path) -> None:
    """Their names of classes are compared; the taught weights are read by `hf:`."""
    names = [str(number) for number in range(10)]
    save_vit(here / "vit", names=names)
    save_resnet(here / "resnet", names=names)
    saver_digits.write_digits(here / "digits")
    macs = {name: f"hf:./{name}" for name in ("vit", "resnet")}
    command = run(*teach(macs["resnet"], macs["vit"], "folder:digits"), "--json")
    if command.exit_code:
        assert "costs less than its teacher" in command.stderr
        command = run(*teach(macs["vit"], macs["resnet"], "folder:digits"), "--json")
    found = command.json
    table = ("--data", "folder:digits", "--into", "table", "--json")
    assert run("score", f"little={found['spec']}", *table).exit_code == 0
    little = re.search(r"\./(\w+)\?", found["spec"])
    assert little is not None
    save = {"vit": save_vit, "resnet": save_resnet}[little[1]]
    save(here / "moved", names=[*names[1:], names[0]])
    other = next(spec for name, spec in macs.items() if name != little[1])
    command = run(*teach("hf:./moved", other, "folder:digits"))
    assert command.exit_code == 2
    assert "in the same order, found '1' as class 0 and class 1" in command.stderr


@pytest.mark.slow
def test_onnx_files_and_functions_may_teach_and_are_not_taught(run: Run, here: Path) -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    saver_digits.write_digits(here / "digits")
    model = saver_digits.large().model
    torch.onnx.export(
        model, (torch.zeros(2, 3, 8, 8),), "large.onnx", input_names=["x"], output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False,
    )  # fmt: skip
    spec = "onnx:large.onnx?mean=0.5&std=0.5&size=8"
    Path("fast.toml").write_text(FAST.replace('"labels"', '"distillation"'))
    little = "py:saver_digits:little?weights=random"
    command = run(*teach(little, spec, "folder:digits"), "--json")
    assert len(command.json["training"]["pairs"]) == 2
    assert "the large model's last layer is not trained beside" in command.stderr
    assert run(*teach(little, "py:saver_digits:estimator?macs=1e9", "folder:digits")).exit_code == 0
    refused(run(*teach(spec, "py:saver_digits:large", "folder:digits")), "PyTorch can train")


@pytest.mark.slow
def test_from_teaching_to_answers(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """train-saver, and in another directory score, search, build and run."""
    torch.manual_seed(0)
    train(big(), here / "big.safetensors", epochs=10)
    large = f"py:exit_digits:big?checkpoint={here}/big.safetensors"
    Path("fast.toml").write_text(FAST.replace("epochs = 1\nb", "epochs = 12\nb"))
    spec = run(*teach(LITTLE, large), "--json").json["spec"]
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    specs = (f"little={spec}", f"big={large}")
    assert run("score", *specs, "--data", "digits:heldout", "--into", "table").exit_code == 0
    words = ("--max-drop", 5, "--reference", "big", "--without", "ensembles")
    found = run("search", "table", *words, "--out", "result.json", "--json").json
    assert "little → big saves" in str(found)
    allowed = ("--allow-code", "exit_digits")
    built = run("build", "result.json", "--max-drop", 5, "--into", "cascade", *allowed)
    assert built.exit_code == 0, built.stderr
    ran = run("run", "cascade", "--data", "digits:heldout", "--out", "answers.csv", *allowed)
    assert ran.exit_code == 0, ran.stderr
    assert Path("answers.csv").read_text().count("\n") == 901


def test_the_help_has_the_defaults_of_the_config() -> None:
    command = typer.main.get_command(app).commands["train-saver"]  # type: ignore[attr-defined]
    found = {
        option.name: match[1]
        for option in command.params
        if (match := re.search(r"Default: ([^\[]+)\[", option.help or ""))
    }
    config = SaverConfig()
    settings: dict[str, Any] = {**config.teaching.to_dict(), **config.to_dict()}
    for name in ("epochs", "batch", "lr", "seed", "max_drop"):
        assert float(found.pop(name)) == settings[name], name
    assert found.pop("objective") == config.objective
    assert all(name not in settings for name in found)
