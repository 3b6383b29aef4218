"""The verb `train-exits`, as typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from command_line import Run
from understudy.app.cli import app
from understudy.training import api
from understudy.training.config import TrainingConfig
from understudy.zoo.models import load_network

SMALL = ("--epochs", 2, "--views", 1, "--batch", 64, "--held-out", 0.2)
TRAIN = ("train-exits", "net=py:exit_digits:big?weights=random", "--data", "digits:train", *SMALL)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return tmp_path


def test_from_a_model_to_a_score(run: Run) -> None:
    said = run(*TRAIN, "--taps", "blocks.0,blocks.1", "--heads", "linear,conv4", "--into", "exits")
    assert said.code == 0, said.err
    assert "score it as exits:exits" in said.out
    assert "exits, epoch 2:" in said.err
    assert len(load_network("exits:exits").points) == 4
    scored = run("score", "exits:exits", "--data", "digits:heldout", "--into", "table", "--json")
    assert json.loads(scored.out)["exits"][-1] == "net"


def test_json_with_every_option(run: Run) -> None:
    said = run(
        *(
            *TRAIN,
            "--into",
            "exits",
            "--taps",
            1,
            "--saver",
            "py:exit_digits:small",
            "--classifier",
        ),
        *("--targets", "both", "--temperature", 2, "--share", 0.3, "--weights", "tinysaver"),
        *("--lr", 0.01, "--weight-decay", 0, "--label-smoothing", 0.1, "--shift", 0, "--no-flip"),
        *("--patience", 5, "--seed", 3, "--cache-gb", 0, "--workers", 0, "--json"),
    )
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert (told["spec"], told["name"], told["cached"]) == ("exits:exits", "net", False)
    assert list(told["exits"]) == ["classifier", "blocks.1/linear", "blocks.1/esn"]
    recipe = told["recipe"]
    assert (recipe["targets"], recipe["share"], recipe["seed"]) == ("both", 0.3, 3)
    assert (recipe["flip"], recipe["shift"], recipe["label_smoothing"]) == (False, 0, 0.1)
    assert "the network runs anew in every epoch" in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--heads", "linaer"), "did you mean"),
        (("--taps", "blocks.7"), "blocks.7"),
        (("--targets", "truth"), "no targets 'truth'"),
        (("--weights", "tinysaver"), "found no saver"),
        (("--lr", -1), "lr lies between"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, words: tuple[object, ...], sentence: str) -> None:
    said = run(*TRAIN, "--into", "exits", *words)
    assert said.code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert not list(Path().iterdir())


def test_ctrl_c_keeps_what_is_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "fit", interrupted)
        said = run(*TRAIN, "--into", "exits")
    assert said.code == 130
    assert "interrupted; what was finished is kept" in said.err
    assert (Path("exits.partial") / "features" / "note.json").exists()
    assert run(*TRAIN, "--into", "exits").code == 0


def test_the_help_names_the_defaults_of_the_recipe() -> None:
    command = typer.main.get_command(app).commands["train-exits"]  # type: ignore[attr-defined]
    told = {
        option.name: re.search(r"Default: ([^\[]+)\[", option.help or "")
        for option in command.params
    }
    settings = {name: value for name, value in TrainingConfig().to_dict().items() if name in told}
    assert len(settings) > 12
    for name, value in settings.items():
        found = told[name]
        assert found is not None, name
        assert found[1] in (str(value), name) or float(found[1]) == value, name
