"""Trained exits as a source: ``exits:DIR`` is scored, searched, built and run like any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import Run, refused
from understudy.early_exit.network import Heads, attach
from understudy.early_exit.serialization import save_exits
from understudy.errors import ModelError
from understudy.outcome import decide
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.scoring.on_disk import score_into
from understudy.store import load_table
from understudy.zoo.data import open_data
from understudy.zoo.models import load_network, load_stage, load_stages, named_models

ALLOWED = ("exit_nets",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exits with random weights in ``py:exit_nets:eight``, and a saver."""
    place = tmp_path_factory.mktemp("networks") / "exits"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone, saver = load_stage("py:exit_nets:eight"), load_stage("py:exit_nets:four")
        heads: Heads = {
            "blocks.0": "linear",
            "blocks.1": {"linear": "linear", "told": "linear+saver"},
        }
        save_exits(attach(backbone, heads, saver={"four": saver}), place, name="net")
    return place


def score(target: Path, folder: Path, **options: Any) -> ScoreTable:
    models = {"net": f"exits:{folder}", "other": "py:exit_nets:four"}
    options = {"measure_batches": (4,), "allow_code": ALLOWED, **options}
    return score_into(target, models, "digits:heldout", **options)


def test_a_folder_is_scored_at_all_its_exits(folder: Path, tmp_path: Path) -> None:
    table = score(tmp_path / "table", folder)
    names = ["four", "net/blocks.0/linear", "net/blocks.0/esn", "net/blocks.1/linear"]
    names += ["net/blocks.1/told", "net/blocks.1/esn", "net", "other"]
    assert list(table.names) == names
    assert table.times["ms@4"].keys() == table.costs["MACs"].keys()
    assert table.cost_of(["four"], "MACs") == table.cost_of(["other"], "MACs")
    origin = dict(table.exits[1].origin)
    assert (origin["spec"], origin["root"], origin["backbone"]) == (
        f"exits:{folder}",
        "net",
        "py:exit_nets:eight",
    )
    data = open_data("digits:heldout")
    images = torch.stack([data.image(index) for index in range(64)])
    stages = load_network(f"exits:{folder}", allow_code=ALLOWED).stages("net")
    for name in table.names[:-1]:
        predicted = stages[name](images).argmax(1).tolist()
        assert predicted == table.prediction[table.index(name)][:64].tolist()


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path) -> None:
    whole = score(tmp_path / "whole", folder, batch=32)
    calls = iter(range(10**6))

    def stop(*_: object) -> None:
        if next(calls) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "table", folder, batch=32, on_progress=stop)
    assert score(tmp_path / "table", folder, batch=32).hash == whole.hash


def test_two_exits_of_one_name(folder: Path, tmp_path: Path) -> None:
    models = {"net": f"exits:{folder}", "four": "py:exit_nets:four"}
    with pytest.raises(ModelError, match="brings 'four', which is there already"):
        score_into(tmp_path / "table", models, "digits:heldout", allow_code=ALLOWED)
    network = {"net": f"exits:{folder}"}
    whole = score_into(tmp_path / "table", network, "digits:heldout", allow_code=ALLOWED)
    again = score_into(tmp_path / "table", network, "digits:heldout", allow_code=ALLOWED)
    assert again.hash == whole.hash


def test_names_and_specs(folder: Path) -> None:
    assert named_models([f"exits:{folder}"]) == {"net": f"exits:{folder}"}
    assert named_models([f"mine=exits:{folder}"]) == {"mine": f"exits:{folder}"}
    assert (
        list(load_stages(f"exits:{folder}", "mine", allow_code=ALLOWED))[1]
        == "mine/blocks.0/linear"
    )
    with pytest.raises(ModelError, match="one model is needed here"):
        load_stage(f"exits:{folder}")
    with pytest.raises(ModelError, match="does not exist"):
        named_models(["exits:nowhere"])
    with pytest.raises(ModelError, match="reads exits:DIR"):
        load_network("py:exit_nets:eight")


def test_from_the_command_line(run: Run, folder: Path, tmp_path: Path) -> None:
    """Scored, searched, built and run: every answer is the one that `evaluate` predicts."""
    table, result, cascade = (tmp_path / name for name in ("table", "result.json", "cascade"))
    data = ("--data", "digits:heldout", "--allow-code", "exit_nets")
    assert run("score", f"exits:{folder}", *data, "--into", table).exit_code == 0
    said = run(
        "search", table, "--max-drop", "20,40", "--reference", "net", "--jointly", "--out", result
    )
    assert said.exit_code == 0, said.stderr
    built = run("build", result, "--into", cascade, *data[2:], "--json")
    assert built.exit_code == 0, built.stderr
    settings = json.loads(built.stdout)["frontier"]
    policy = Policy.from_dict(json.loads(built.stdout)["policy"])
    again = run("run", cascade, *data, "--out", tmp_path / "answers.csv")
    assert again.exit_code == 0, again.stderr
    scored = load_table(table)
    decided = decide(scored, policy)
    rows = [line.split(",") for line in (tmp_path / "answers.csv").read_text().splitlines()]
    place = rows[0].index("prediction"), rows[0].index("exit")
    assert [int(row[place[0]]) for row in rows[1:]] == decided.prediction.tolist()
    exits = np.array(policy.exits)[decided.stage]
    assert [row[place[1]] for row in rows[1:]] == exits.tolist()
    assert settings[-1]["max_drop"] == 0.0
    set_to_zero = run("run", cascade, *data, "--max-drop", 0, "--out", tmp_path / "a.csv", "--json")
    assert json.loads(set_to_zero.stdout)["shares"] == {"net": 1.0}
    wrong = run("run", cascade, *data, "--max-drop=-1", "--out", tmp_path / "b.csv")
    refused(wrong, "no certified operating point lies within a drop of -1")


def test_a_folder_that_was_trained_again(run: Run, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "exits"
    shutil.copytree(folder, copy)
    words = ("score", f"exits:{copy}", "--data", "digits:heldout", "--into", tmp_path / "t")
    allowed = ("--allow-code", "exit_nets")
    assert run(*words, *allowed).exit_code == 0
    out = ("--max-drop", 0, "--reference", "net", "--out", tmp_path / "r.json")
    assert run("search", tmp_path / "t", *out).exit_code == 0
    network = load_network(f"exits:{copy}", allow_code=ALLOWED)
    with torch.no_grad():
        next(network.heads.parameters()).add_(1)
    save_exits(network, copy, name="net")
    said = run("build", tmp_path / "r.json", "--into", tmp_path / "c", *allowed)
    assert said.exit_code == 2
    assert "is not the model that was scored, its weights have the hash" in said.stderr
    assert PolicyStage("net").threshold is None
