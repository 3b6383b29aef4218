"""Ensembles as stages: they use the logits of their members, and run those that are missing."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fakes import (
    StatefulStage,
    batch_sizes,
    ensembles_of,
    result_of,
    scored,
    table_models,
    tensors_of,
)
from sample_rows import answered_rows, expected_rows, in_batches, rows_of, without_confidence
from understudy.documents import write_document
from understudy.ensemble import Ensemble, with_ensemble
from understudy.errors import ModelError, PolicyError
from understudy.nn.cascade import Cascade, Models, build, build_stages
from understudy.nn.stage import Stage
from understudy.policy import Policy, PolicyStage
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import StateKey
from understudy.scores import ScoreTable
from understudy.zoo.saved_cascades import load_cascade, save_cascade

TEMPERATURES = st.floats(0.2, 5)


def models_of(table: ScoreTable) -> Models:
    """The model of each exit: one that looks its logits up, or an ensemble of them."""
    return {**table_models(table), **ensembles_of(table)}


@st.composite
def tables(draw: st.DrawFn) -> ScoreTable:
    """Three models full of ties, and two ensembles of them."""
    classes = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, levels = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    logits = random.integers(-levels, levels + 1, (3, samples, classes)) / 2
    table = scored(dict(zip("abc", logits, strict=True)))
    for members in (["a", "c"], draw(st.permutations("abc"))):
        temperatures = [draw(TEMPERATURES) for _ in members]
        table = with_ensemble(table, members, temperatures)
    return table


@st.composite
def policies(draw: st.DrawFn, table: ScoreTable) -> Policy:
    """Thresholds that are not within rounding of a confidence."""
    order = draw(st.permutations(table.names))[: draw(st.integers(1, len(table.names)))]
    thresholds = st.sampled_from([0.3, 0.4, 0.55, 0.7, 0.9, np.inf, -np.inf])
    stages = []
    for name in order[:-1]:
        threshold = draw(thresholds)
        assume((np.abs(table.scores("max_softmax")[table.index(name)] - threshold) > 1e-5).all())
        stages.append(PolicyStage(name, threshold))
    return Policy((*stages, PolicyStage(order[-1])))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 12), st.integers(1, 9))
def test_running_equals_the_table(data: st.DataObject, size: int, batch: int) -> None:
    """The chief test: ensembles too answer like `evaluate`, each model run once a sample."""
    table = data.draw(tables())
    policy = data.draw(policies(table))
    expected = without_confidence(expected_rows(table, policy))
    images = tensors_of(range(len(table)))

    cascade = Cascade(models_of(table), policy)
    assert without_confidence(answered_rows(cascade.answer(images))) == expected
    visited: list[set[str]] = [set() for _ in expected]
    for position, name in enumerate(policy.exits):
        for sample, (_, exit) in enumerate(expected):
            if policy.exits.index(exit) >= position:
                visited[sample] |= set(table.exits[table.index(name)].parts)
    for name, sizes in batch_sizes(cascade).items():
        assert sum(sizes) == sum(name in models for models in visited)

    cascade = Cascade(models_of(table), policy)
    streamed = Executor(cascade, max_batch=batch).map(in_batches(images, [size]))
    assert without_confidence(answered_rows(*streamed)) == expected
    for name, sizes in batch_sizes(cascade).items():
        assert sum(sizes) == sum(name in models for models in visited)

    logits = cascade(images)
    assert logits.argmax(1).tolist() == [prediction for prediction, _ in expected]


@pytest.fixture
def table() -> ScoreTable:
    random = np.random.default_rng(5)
    models = scored({"tiny": random.normal(size=(60, 4)), "big": random.normal(size=(60, 4))})
    return with_ensemble(models, ["tiny", "big"], [1.3, 0.8])


def test_the_little_model_is_not_run_again(table: ScoreTable) -> None:
    cascade = Cascade(models_of(table), Policy.pair("tiny", "tiny+big", 0.5))
    deferred = cascade.answer(tensors_of(range(60))).exit_names().count("tiny+big")
    assert 0 < deferred < 60
    assert batch_sizes(cascade) == {"tiny": [60], "big": [deferred]}


def test_an_ensemble_alone_runs_all_its_members(table: ScoreTable) -> None:
    models = table_models(table)
    cascade = Cascade({**models, **ensembles_of(table)}, Policy.single("tiny+big"))
    logits = cascade(tensors_of(range(60)))
    assert batch_sizes(cascade) == {"tiny": [60], "big": [60]}
    mean = (models["tiny"].logits / 1.3 + models["big"].logits / 0.8) / 2
    torch.testing.assert_close(logits, mean)


def test_without_an_ensemble_behind_it_nothing_is_handed_on(table: ScoreTable) -> None:
    cascade = Cascade(models_of(table), Policy.pair("tiny", "big", np.inf))
    output = cascade.runners[0].run(tensors_of(range(60)), {})
    assert len(output.deferred) == 60
    assert output.state == {}
    cascade.policy = Policy.pair("tiny", "tiny+big", np.inf)
    output = cascade.runners[0].run(tensors_of(range(60)), {})
    assert set(output.state) == {StateKey("logits", "tiny")}


def test_the_state_of_members_is_shared(table: ScoreTable) -> None:
    """Members hand on to each other, and to later stages, as stages of a cascade do."""
    models = {name: StatefulStage(model) for name, model in table_models(table).items()}
    both = ensembles_of(table)["tiny+big"]
    policy = Policy((PolicyStage("tiny", np.inf), PolicyStage("both")))
    cascade = Cascade({**models, "both": both}, policy)
    same = Policy.pair("tiny", "tiny+big", np.inf)
    expected = [prediction for prediction, _, _ in expected_rows(table, same)]
    for answers in Executor(cascade, max_batch=7).map([tensors_of(range(60))]):
        assert answers.prediction.tolist() == expected


def test_members_are_the_stages_of_the_cascade(table: ScoreTable) -> None:
    cascade = Cascade(models_of(table), Policy.single("tiny"))
    members = cascade.stages["tiny+big"].members
    assert members["big"] is cascade.stages["big"]
    assert len(list(cascade.buffers())) == 2
    copied = copy.deepcopy(cascade)
    assert copied.stages["tiny+big"].members["big"] is copied.stages["big"]


def test_confidences_of_an_ensemble(table: ScoreTable) -> None:
    stage = Cascade(models_of(table), Policy.single("tiny")).stages["tiny+big"]
    for name, rows in table.confidence.items():
        output = stage.run(tensors_of(range(60)), confidence=name)
        np.testing.assert_allclose(output.confidence, rows[2], rtol=1e-5, atol=1e-6, err_msg=name)
    with pytest.raises(PolicyError, match="no confidence 'entropy'"):
        stage.run(tensors_of([0]), confidence="entropy")


def test_invalid_ensembles() -> None:
    tiny = nn.Linear(2, 3)
    both = Ensemble(("tiny", "big"), (1.0, 1.0))
    with pytest.raises(
        ModelError, match="models as members, 'big' of 'both' are none; given are 'tiny'"
    ):
        build_stages({"tiny": tiny, "both": both})
    nested: Models = {
        "tiny": tiny,
        "big": tiny,
        "both": both,
        "all": Ensemble(("tiny", "both"), (1.0, 1.0)),
    }
    with pytest.raises(ModelError, match="'both' of 'all' are none"):
        build_stages(nested)
    cascade = Cascade({"tiny": tiny, "big": nn.Linear(2, 1), "both": both}, Policy.single("both"))
    with pytest.raises(ModelError, match="'tiny' has 3 and 'big' has 1"):
        cascade(torch.zeros(1, 2))


def test_one_model_twice() -> None:
    model = nn.Linear(2, 3)
    both = Ensemble(("a", "b"), (1.0, 1.0))
    cascade = Cascade({"a": model, "b": model, "both": both}, Policy.single("both"))
    rows = torch.randn(5, 2)
    torch.testing.assert_close(cascade(rows), model(rows).detach())


def test_build_takes_ensembles_from_the_result(table: ScoreTable) -> None:
    policy = Policy.pair("tiny", "tiny+big", 0.5)
    result, models = result_of(table, policy), table_models(table)
    cascade = build(result, models)
    assert cascade.exits == table.names
    found = answered_rows(cascade.answer(tensors_of(range(60))))
    assert without_confidence(found) == without_confidence(expected_rows(table, policy))
    with pytest.raises(ModelError, match="'tiny\\+big' has none; given were 'tiny'"):
        build(result, {"tiny": models["tiny"]})


class SavedLogits(nn.Module):
    """Logits by row number from a weight, so that they are saved."""

    def __init__(self, logits: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(60, 4) if logits is None else logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.weight[rows_of(images)]


def test_saved_and_loaded(
    table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_model(_spec: str, **_: object) -> nn.Module:
        return SavedLogits()

    monkeypatch.setattr("understudy.zoo.saved_cascades.build_model", build_model)
    stages = {
        name: Stage(SavedLogits(model.logits), origin={"spec": f"py:nets:{name}"})
        for name, model in table_models(table).items()
    }
    policy = Policy.pair("tiny", "tiny+big", 0.5)
    save_cascade(Cascade({**stages, **ensembles_of(table)}, policy), tmp_path / "c")
    files = sorted(path.name for path in (tmp_path / "c" / "weights").iterdir())
    assert files == ["big.safetensors", "tiny.safetensors"]
    data = json.loads((tmp_path / "c" / "cascade.json").read_text())
    assert data["stages"]["tiny+big"] == dict(table.exits[2].origin)
    loaded = load_cascade(tmp_path / "c")
    assert loaded.exits == table.names
    found = answered_rows(loaded.answer(tensors_of(range(60))))
    assert without_confidence(found) == without_confidence(expected_rows(table, policy))
    data["stages"]["tiny+big"]["recipe"]["temperatures"] = [1.0]
    write_document(tmp_path / "c" / "cascade.json", data)
    with pytest.raises(PolicyError, match="one temperature above 0 for each"):
        load_cascade(tmp_path / "c")
