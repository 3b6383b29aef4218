"""`torch.compile`, `torch.export` and training modes around cascades and their models."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.early_exit.network import attach
from understudy.errors import ModelError
from understudy.nn.cascade import Cascade, build
from understudy.nn.stage import Stage, as_stage, hash_of
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.scoring.in_memory import score
from understudy.searching.search import search
from understudy.zoo.saved_cascades import save_cascade

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15),
    reason="cascades are compiled by PyTorch 2.15 and later",
)

Models = dict[str, nn.Module]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def models() -> Models:
    torch.manual_seed(0)
    layers = nn.Linear(8, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 3)
    return {"tiny": nn.Linear(8, 3), "big": nn.Sequential(*layers)}


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(300, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def table(models: Models, rows: Tensor) -> ScoreTable:
    labels = copy.deepcopy(models["big"]).eval()(rows).argmax(1)
    return score(models, [(rows, labels)])


@pytest.fixture
def result(table: ScoreTable) -> Result:
    return search(table, reference="big", max_drop=60.0)


class Counting:
    """A backend that counts the graphs that it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


def test_a_compiled_cascade_answers_alike(result: Result, models: Models, rows: Tensor) -> None:
    cascade, backend = build(result, models), Counting()
    compiled = torch.compile(cascade, backend=backend)
    for batch in (rows, rows[:7], rows[:1]):
        with pytest.warns(UserWarning, match=r"cascade.compile\(\) compiles its models"):
            found = compiled(batch)
        assert torch.equal(found, cascade(batch))
    assert backend.graphs == 0


def test_compiling_a_cascade_compiles_its_models(
    result: Result, models: Models, rows: Tensor
) -> None:
    cascade, backend = build(result, models), Counting()
    before = cascade.answer(rows)
    cascade.compile(backend=backend)
    assert np.array_equal(cascade.answer(rows).exit, before.exit)
    assert backend.graphs >= 1
    for copied in (copy.deepcopy(cascade), pickle.loads(pickle.dumps(cascade))):  # noqa: S301
        assert np.array_equal(copied.answer(rows).prediction, before.prediction)


@pytest.mark.parametrize("how", ["torch.compile", "in place"])
def test_compiled_models_are_those_that_were_scored(
    how: str, result: Result, table: ScoreTable, models: Models, rows: Tensor
) -> None:
    def compiled(model: nn.Module, backend: str = "eager") -> nn.Module:
        if how == "torch.compile":
            return torch.compile(model, backend=backend)  # type: ignore[return-value]
        model = copy.deepcopy(model)
        model.compile(backend=backend)
        return model

    fast = {name: compiled(model) for name, model in models.items()}
    assert [hash_of(model) for model in fast.values()] == [hash_of(m) for m in models.values()]
    cascade, other = build(result, fast), build(result, models)
    assert np.array_equal(cascade.answer(rows).prediction, other.answer(rows).prediction)
    again = score(fast, [rows])
    assert again.costs["MACs"] == table.costs["MACs"]
    assert build(search(again, reference="big", max_drop=60.0), models)
    with pytest.raises(ModelError, match="'tiny' is not the model that was scored"):
        build(result, {**fast, "tiny": compiled(nn.Linear(8, 3))})
    assert list(attach(fast["big"], {"0": "linear"}, image=rows[0]).stages("net"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor(result: Result, models: Models, rows: Tensor) -> None:
    fast: Models = {name: torch.compile(model) for name, model in models.items()}  # type: ignore[misc]
    cascade = build(result, fast)
    assert np.array_equal(
        cascade.answer(rows).prediction, build(result, models).answer(rows).prediction
    )


def test_compiled_models_are_saved_under_their_own_names(models: Models, tmp_path: Path) -> None:
    stages = {
        name: Stage(torch.compile(model, backend="eager"), origin={"spec": f"py:nets:{name}"})  # type: ignore[arg-type]
        for name, model in models.items()
    }
    save_cascade(Cascade(stages, Policy.pair("tiny", "big", 0.5)), tmp_path / "c")
    assert b"_orig_mod" not in (tmp_path / "c/weights/big.safetensors").read_bytes()


def test_a_compiled_stage_is_refused(models: Models) -> None:
    with pytest.raises(ModelError, match="a Stage is compiled inside"):
        as_stage(torch.compile(Stage(models["tiny"]), backend="eager"))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("export", [torch.export.export, torch.jit.trace])
def test_a_cascade_is_no_single_graph(export: Any, models: Models, rows: Tensor) -> None:
    cascade = Cascade(models, Policy.pair("tiny", "big", 0.5))
    with pytest.raises(
        ModelError, match=r"no single graph, [^:]*: write it with understudy\.onnx\.export_onnx"
    ):
        export(cascade, (rows,))


def test_training_modes_stay_until_the_cascade_runs(
    result: Result, models: Models, rows: Tensor
) -> None:
    expected = build(result, models)(rows)
    for top, inner in ((True, True), (False, True), (True, False), (False, False)):
        models["big"].train(inner).training = top
        before = [module.training for module in models["big"].modules()]
        cascade = build(result, models)
        assert [module.training for module in models["big"].modules()] == before
        assert torch.equal(cascade(rows), expected)
        cascade.policy = Policy.single("big")
        cascade(rows)
        assert not any(module.training for module in models["big"].modules())
