"""Names of classes from the scores to the answers; reprs and copies of what runs."""

from __future__ import annotations

import copy
import csv
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.app.run_cascade import run_cascade
from understudy.early_exit.network import Heads, attach
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.nn.cascade import Cascade, build
from understudy.nn.execution_mode import ExecutionMode, with_mode
from understudy.nn.stage import Preprocess, Stage
from understudy.onnx import export_onnx, load_onnx
from understudy.policy import Policy, PolicyStage
from understudy.result import Result
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Answers
from understudy.scoring.in_memory import score
from understudy.searching.search import search
from understudy.searching.verify import verify_file
from understudy.store import save_table
from understudy.zoo.data import open_data
from understudy.zoo.saved_cascades import load_cascade, save_cascade

NAMES = [f"digit {number}" for number in range(10)]
PREPROCESS = Preprocess(size=(8, 8), mean=(0.3,), std=(0.37,))


def stage(name: str = "tiny") -> Stage:
    torch.manual_seed(len(name))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Stage(model, preprocess=PREPROCESS, origin={"spec": f"py:nets:{name}"})


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (120, 1, 8, 8), dtype=torch.uint8, generator=generator)


@pytest.fixture
def models() -> dict[str, Stage]:
    return {"tiny": stage("tiny"), "largest": stage("largest")}


@pytest.fixture
def result(models: dict[str, Stage], images: Tensor) -> Result:
    table = score(models, [(images, [0] * 120)], classes=NAMES)
    return search(table, reference="largest", max_drop=100.0)


@pytest.fixture
def cascade(result: Result, models: dict[str, Stage]) -> Cascade:
    return build(result, models)


def test_names_reach_the_answers(cascade: Cascade, images: Tensor) -> None:
    answers = cascade.answer(images)
    assert cascade.classes == tuple(NAMES)
    expected = [NAMES[number] for number in answers.prediction]
    assert answers.class_names() == answers.to_polars()["class"].to_list() == expected
    mapped = [name for one in Executor(cascade).map(images.split(50)) for name in one.class_names()]
    assert mapped == expected


def test_names_are_saved_and_exported(
    cascade: Cascade, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "understudy.zoo.saved_cascades.build_model",
        lambda spec, **_: stage(spec.rpartition(":")[2]).model,
    )
    save_cascade(cascade, tmp_path / "cascade")
    loaded = load_cascade(tmp_path / "cascade")
    export_onnx(loaded, tmp_path / "onnx")
    exported = load_onnx(tmp_path / "onnx")
    assert loaded.classes == exported.classes == cascade.classes
    names = exported.answer(images.numpy()).class_names()
    assert names == cascade.answer(images).class_names()
    with pytest.raises(ModelError, match="use load_onnx in each process"):
        copy.deepcopy(exported)


def test_the_file_of_a_run_has_them(cascade: Cascade, tmp_path: Path) -> None:
    unnamed = replace(open_data("digits:"), classes=None)
    for classes, expected in ((NAMES, "digit "), (None, None)):
        cascade.classes = None if classes is None else tuple(classes)
        out = tmp_path / "answers.csv"
        run_cascade(cascade, unnamed, out, batch=256, workers=0, on_progress=lambda *_: None)
        with out.open() as file:
            rows = list(csv.DictReader(file))
        found = {row.get("class", "")[:6] for row in rows}
        assert found == ({expected} if expected else {""})


def test_a_result_without_names_still_verifies(
    result: Result, models: dict[str, Stage], images: Tensor, tmp_path: Path
) -> None:
    """Older versions did not write them."""
    table = score(models, [(images, [0] * 120)], classes=NAMES)
    save_table(table, tmp_path / "table")
    older = {key: value for key, value in result.table.items() if key != "classes"}
    replace(result, table=older).save(tmp_path / "result.json")
    failed = [c for c in verify_file(tmp_path / "result.json", tmp_path / "table") if not c.holds]
    assert all("classes" not in check.claim for check in failed)
    assert build(replace(result, table=older), models).classes is None


def test_names_that_are_missing(cascade: Cascade, images: Tensor) -> None:
    answers = cascade.answer(images)
    for classes in (None, ("one",)):
        with pytest.raises(DataError, match=r"every class has a name, found [01] names: give"):
            replace(answers, classes=classes).class_names()
    lost = Answers(np.array([-1]), np.array([np.nan]), np.array([-1]), ("a",), classes=("b",))
    assert lost.class_names() == [""]
    odd: Any
    for odd in ([1, 2], "abc"):
        with pytest.raises(ModelError, match="the names of classes are a list of texts"):
            Cascade({"tiny": stage()}, Policy.single("tiny"), classes=odd)


def test_reprs_are_short(images: Tensor) -> None:
    models = {f"a network of a long name, number {n}": stage() for n in range(40)}
    first, second = list(models)[:2]
    policy = Policy.pair(first, second, 0.5)
    cascade = Cascade(models, policy, classes=[f"class {n}" for n in range(10)])
    answers, executor = cascade.answer(images), Executor(cascade)
    for noun in (cascade, answers, executor):
        assert len(repr(noun)) <= 500
        assert "network of a long name" in repr(noun)
    html: Callable[[Any], str] = lambda noun: noun._repr_html_()  # noqa: E731
    assert "0.5" in html(cascade)
    assert "class 3" in html(replace(answers, prediction=answers.prediction * 0 + 3))
    assert "256" in html(executor)
    assert repr(replace(answers, exit=answers.exit * 0 - 1)).endswith("120 without an answer>")


def test_copies(cascade: Cascade, images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    heads: Heads = {"1": "linear", "2": "linear+saver"}
    network = attach(Stage(model, preprocess=PREPROCESS), heads, saver={"saver": stage()})
    stages = [PolicyStage(exit, 0.3) for exit in list(network.stages("net"))[:-1]]
    deep = build(Policy((*stages, PolicyStage("net"))), {"net": network})
    fast = with_mode(stage(), ExecutionMode.parse("folded+channels_last"))
    for one in (cascade, deep, build(Policy.single("fast"), {"fast": fast})):
        expected = one.answer(images)
        for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S301
            assert np.array_equal(other.answer(images).prediction, expected.prediction)
            assert other.classes == one.classes
            with torch.no_grad():
                for weights in one.parameters():
                    weights.zero_()
            assert np.array_equal(other.answer(images).confidence, expected.confidence)
    assert pickle.loads(pickle.dumps(expected)).exits == expected.exits  # noqa: S301
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(UnderstudyError, match="copy its cascade, and make an executor in"):
            copied(Executor(cascade))
