from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fakes import StatefulStage, TableModel, images_of, result_of, rows_of, scored
from understudy.ensemble import Ensemble, ensemble_of, with_ensemble
from understudy.errors import ModelError, PolicyError
from understudy.nn.cascade import Cascade, EnsembleStage, build, build_stages
from understudy.nn.stage import Stage
from understudy.outcome import decide
from understudy.policy import Policy, PolicyStage
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import StateKey
from understudy.zoo.cascades import load_cascade, save_cascade

TEMPERATURES = st.floats(0.2, 5)


def models_of(table):
    """What runs at each exit: a fake that looks its logits up, or the recipe of an average."""
    return {
        exit.name: ensemble_of(exit.origin) or TableModel(table, exit.name) for exit in table.exits
    }


def said(answers):
    return list(zip(answers.prediction.tolist(), answers.exit_names(), strict=True))


def expected(table, policy):
    decided = decide(table, policy)
    names = [policy.exits[stage] for stage in decided.stage]
    return list(zip(decided.prediction.tolist(), names, strict=True))


def runs(cascade):
    return {
        n: s.model.batches for n, s in cascade.stages.items() if not isinstance(s, EnsembleStage)
    }


@st.composite
def tables(draw):
    """Three models full of ties, and two averages of them."""
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
def policies(draw, table):
    order = draw(st.permutations(table.names))[: draw(st.integers(1, len(table.names)))]
    thresholds = st.sampled_from([0.3, 0.4, 0.55, 0.7, 0.9, np.inf, -np.inf])
    steps = [PolicyStage(name, draw(thresholds)) for name in order[:-1]]
    sure = table.scores("max_softmax")
    for step in steps:
        gaps = np.abs(sure[table.index(step.exit)] - step.threshold)
        assume((gaps > 1e-5).all())
    return Policy((*steps, PolicyStage(order[-1])))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 12), st.integers(1, 9))
def test_running_equals_the_table(data, size, batch):
    """The chief test: averages too answer what `evaluate` says, each model run once a sample."""
    table = data.draw(tables())
    policy = data.draw(policies(table))
    truth = expected(table, policy)
    images = images_of(range(len(table)))

    cascade = Cascade(models_of(table), policy)
    assert said(cascade.answer(images)) == truth
    visited = [set() for _ in truth]
    for position, name in enumerate(policy.exits):
        for sample, (_, exit) in enumerate(truth):
            if policy.exits.index(exit) >= position:
                visited[sample] |= set(table.exits[table.index(name)].parts)
    for name, batches in runs(cascade).items():
        assert sum(batches) == sum(name in models for models in visited)

    cascade = Cascade(models_of(table), policy)
    streamed = list(Executor(cascade, max_batch=batch).map(images.split(size)))
    assert [row for answers in streamed for row in said(answers)] == truth
    for name, batches in runs(cascade).items():
        assert sum(batches) == sum(name in models for models in visited)

    logits = cascade(images)
    assert logits.argmax(1).tolist() == [row[0] for row in truth]


@pytest.fixture
def table():
    random = np.random.default_rng(5)
    wide = scored({"tiny": random.normal(size=(60, 4)), "big": random.normal(size=(60, 4))})
    return with_ensemble(wide, ["tiny", "big"], [1.3, 0.8])


def test_the_little_model_is_not_run_again(table):
    cascade = Cascade(models_of(table), Policy.pair("tiny", "tiny+big", 0.5))
    deferred = cascade.answer(images_of(range(60))).exit_names().count("tiny+big")
    assert 0 < deferred < 60
    assert runs(cascade) == {"tiny": [60], "big": [deferred]}


def test_an_average_alone_runs_all_its_members(table):
    cascade = Cascade(models_of(table), Policy.single("tiny+big"))
    logits = cascade(images_of(range(60)))
    assert runs(cascade) == {"tiny": [60], "big": [60]}
    first, second = (cascade.stages[n].model.logits for n in ("tiny", "big"))
    torch.testing.assert_close(logits, (first / 1.3 + second / 0.8) / 2)


def test_without_an_average_behind_it_nothing_is_handed_on(table):
    cascade = Cascade(models_of(table), Policy.pair("tiny", "big", np.inf))
    output = cascade.runners[0].run(images_of(range(60)), {})
    assert len(output.deferred) == 60
    assert output.state == {}
    cascade.policy = Policy.pair("tiny", "tiny+big", np.inf)
    output = cascade.runners[0].run(images_of(range(60)), {})
    assert set(output.state) == {StateKey.logits("tiny")}


def test_the_state_of_members_is_shared(table):
    """Members hand on to each other, and to later stages, as stages of a cascade do."""
    models = {n: StatefulStage(TableModel(table, n)) for n in ("tiny", "big")}
    models["both"] = ensemble_of(table.exits[2].origin)
    cascade = Cascade(models, Policy((PolicyStage("tiny", np.inf), PolicyStage("both"))))
    renamed = Policy.pair("tiny", "tiny+big", np.inf)
    truth = [prediction for prediction, _ in expected(table, renamed)]
    for answers in Executor(cascade, max_batch=7).map([images_of(range(60))]):
        assert answers.prediction.tolist() == truth


def test_members_are_the_stages_beside_them(table):
    cascade = Cascade(models_of(table), Policy.single("tiny"))
    members = cascade.stages["tiny+big"].members
    assert members["big"] is cascade.stages["big"]
    assert len(list(cascade.buffers())) == 2
    copied = copy.deepcopy(cascade)
    assert copied.stages["tiny+big"].members["big"] is copied.stages["big"]


def test_confidences_of_an_average(table):
    stage = Cascade(models_of(table), Policy.single("tiny")).stages["tiny+big"]
    for name, rows in table.confidence.items():
        output = stage.run(images_of(range(60)), confidence=name)
        np.testing.assert_allclose(output.confidence, rows[2], rtol=1e-5, atol=1e-6, err_msg=name)
    with pytest.raises(PolicyError, match="no confidence 'entropy'"):
        stage.run(images_of([0]), confidence="entropy")


def test_averages_that_cannot_be_made():
    tiny = nn.Linear(2, 3)
    both = Ensemble(("tiny", "big"), (1.0, 1.0))
    with pytest.raises(
        ModelError, match="models as members, 'big' of 'both' are none; given are 'tiny'"
    ):
        build_stages({"tiny": tiny, "both": both})
    nested = {
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


def test_one_model_twice():
    model = nn.Linear(2, 3)
    both = Ensemble(("a", "b"), (1.0, 1.0))
    cascade = Cascade({"a": model, "b": model, "both": both}, Policy.single("both"))
    rows = torch.randn(5, 2)
    torch.testing.assert_close(cascade(rows), model(rows).detach())


def test_build_takes_averages_from_the_result(table):
    policy = Policy.pair("tiny", "tiny+big", 0.5)
    result = result_of(table, policy)
    models = {name: TableModel(table, name) for name in ("tiny", "big")}
    cascade = build(result, models)
    assert cascade.exits == table.names
    assert said(cascade.answer(images_of(range(60)))) == expected(table, policy)
    with pytest.raises(ModelError, match="'tiny\\+big' has none; given were 'tiny'"):
        build(result, {"tiny": models["tiny"]})


class Looked(nn.Module):
    """Logits by row number from a weight, so that they are saved."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(60, 4))

    def forward(self, images):
        return self.weight[rows_of(images)]


def test_saved_and_loaded(table, tmp_path, monkeypatch):
    built = lambda spec: Stage(Looked(), origin={"spec": spec})  # noqa: E731
    monkeypatch.setattr("understudy.zoo.cascades.build_stage", built)
    stages = {}
    for name in ("tiny", "big"):
        stages[name] = Stage(Looked(), origin={"spec": f"py:nets:{name}"})
        stages[name].model.weight.data = TableModel(table, name).logits
    stages["tiny+big"] = ensemble_of(table.exits[2].origin)
    policy = Policy.pair("tiny", "tiny+big", 0.5)
    save_cascade(Cascade(stages, policy), tmp_path / "c")
    files = sorted(path.name for path in (tmp_path / "c" / "weights").iterdir())
    assert files == ["big.safetensors", "tiny.safetensors"]
    data = json.loads((tmp_path / "c" / "cascade.json").read_text())
    assert data["stages"]["tiny+big"] == dict(table.exits[2].origin)
    loaded = load_cascade(tmp_path / "c")
    assert loaded.exits == table.names
    assert said(loaded.answer(images_of(range(60)))) == expected(table, policy)
    data["stages"]["tiny+big"]["recipe"]["temperatures"] = [1.0]
    (tmp_path / "c" / "cascade.json").write_text(json.dumps(data))
    with pytest.raises(PolicyError, match="one temperature above 0 for each"):
        load_cascade(tmp_path / "c")
