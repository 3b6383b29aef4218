from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fakes import TableModel, images_of, result_of, scored
from understudy.deferral import LEARNED, DeferralScore, scores_of, with_deferral, with_scores
from understudy.ensemble import ensemble_of, ensemble_pairs
from understudy.errors import PolicyError
from understudy.nn.cascade import Cascade, build
from understudy.nn.confidence import deferral_score
from understudy.nn.stage import Stage
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.runtime.executor import Executor
from understudy.scores import Detail
from understudy.zoo.cascades import load_cascade, save_cascade

WEIGHTS = st.lists(st.floats(-3, 3), max_size=5).map(tuple)


def with_tops(table):
    """The details that scoring keeps: the two top classes by probability, stable."""
    details = {}
    for name, detail in table.details.items():
        logits = torch.from_numpy(detail.logits.astype(np.float32))
        probability, order = logits.softmax(1).sort(dim=1, descending=True, stable=True)
        details[name] = Detail(order[:, :2].numpy(), probability[:, :2].numpy(), detail.logits)
    return replace(table, details=details)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 8),
    st.builds(
        DeferralScore,
        exit=st.just("tiny"),
        reference=st.just("big"),
        bias=st.floats(-3, 3),
        log_odds=st.floats(-3, 3),
        margin=st.floats(-3, 3),
        first=WEIGHTS,
        second=WEIGHTS,
    ),
)
def test_the_twins_agree(seed, classes, levels, score):
    if classes == 1:
        score = replace(score, second=())
    random = np.random.default_rng(seed)
    logits = random.integers(-levels, levels + 1, (2, 20, classes)) / 2
    table = with_tops(scored({"tiny": logits[0], "big": logits[1]}))
    running = deferral_score(score, torch.from_numpy(logits[0].astype(np.float32)))
    np.testing.assert_allclose(running.numpy(), score.apply(table), rtol=1e-6, atol=1e-6)


def test_nan_stays_nan():
    rows = torch.tensor([[torch.nan, 0.0], [1.0, 0.0]])
    score = DeferralScore("tiny", "big", 0.0, 1.0, 1.0, (1.0,), (1.0,))
    assert deferral_score(score, rows).isnan().tolist() == [True, False]


@pytest.fixture
def table():
    random = np.random.default_rng(8)
    label = random.integers(0, 5, 600)
    logits = {
        name: random.normal(size=(600, 5)) + skill * np.eye(5)[label]
        for name, skill in (("tiny", 2.0), ("big", 4.0))
    }
    table = with_deferral(with_tops(scored(logits, label)), "big", fit_on="tune")
    return ensemble_pairs(with_scores(table, scores_of(table.provenance)), "big")


def said(answers):
    return list(zip(answers.prediction.tolist(), answers.exit_names(), strict=True))


def expected(table, policy):
    decided = decide(table, policy)
    return [
        (int(prediction), policy.exits[stage])
        for prediction, stage in zip(decided.prediction, decided.stage, strict=True)
    ]


def policy_of(table, last):
    """A threshold between two scores that are not close to each other."""
    sure = np.sort(table.scores(LEARNED)[0].astype(float))
    middle = sure[200:400]
    widest = int(np.diff(middle).argmax())
    return Policy.pair("tiny", last, middle[widest : widest + 2].mean(), confidence=LEARNED)


@pytest.mark.parametrize("last", ["big", "tiny+big"])
def test_running_equals_the_table(table, last):
    policy = policy_of(table, last)
    truth = expected(table, policy)
    assert 100 < sum(exit == "tiny" for _, exit in truth) < 500
    cascade = build(result_of(table, policy), {n: TableModel(table, n) for n in ("tiny", "big")})
    answers = cascade.answer(images_of(range(600)))
    assert said(answers) == truth
    first = answers.exit == 0
    np.testing.assert_allclose(
        answers.confidence[first], table.scores(LEARNED)[0][first], rtol=1e-5
    )
    streamed = Executor(cascade, max_batch=64).map(images_of(range(600)).split(50))
    assert [row for answers in streamed for row in said(answers)] == truth


def test_a_cascade_without_the_score(table):
    policy = policy_of(table, "big")
    models = {name: TableModel(table, name) for name in ("tiny", "big")}
    with pytest.raises(
        PolicyError, match=r"'tiny' is accepted by a learned score, .* has for no stage"
    ):
        Cascade(models, policy)
    with pytest.raises(PolicyError, match="learned score"):
        build(policy, models)
    cascade = build(result_of(table, Policy.single("big")), models)
    cascade.policy = policy
    assert said(cascade.answer(images_of(range(600)))) == expected(table, policy)


def test_the_confidence_of_a_last_stage(table):
    """It decides nothing: an exit without a score says its max softmax, as the table does."""
    policy = Policy(
        (
            *policy_of(table, "big").stages[:1],
            replace(Policy.single("big").stages[0], confidence=LEARNED),
        )
    )
    cascade = build(result_of(table, policy), {n: TableModel(table, n) for n in ("tiny", "big")})
    answers = cascade.answer(images_of(range(600)))
    np.testing.assert_allclose(answers.confidence, decide(table, policy).confidence, rtol=1e-5)


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 5))

    def forward(self, images):
        return images @ self.weight


def test_saved_and_loaded(table, tmp_path, monkeypatch):
    built = lambda spec: Stage(Weighted(), origin={"spec": spec})  # noqa: E731
    monkeypatch.setattr("understudy.zoo.cascades.build_stage", built)
    torch.manual_seed(0)
    stages = {n: Stage(Weighted(), origin={"spec": f"py:nets:{n}"}) for n in ("tiny", "big")}
    for stage in stages.values():
        stage.model.weight.data = torch.randn(5, 5)
    stages["tiny+big"] = ensemble_of(table.exits[2].origin)
    scores = scores_of(table.provenance)
    cascade = Cascade(stages, policy_of(table, "tiny+big"), scores=scores)
    save_cascade(cascade, tmp_path / "c")
    loaded = load_cascade(tmp_path / "c")
    assert loaded.scores == scores
    rows = torch.randn(50, 5)
    assert torch.equal(loaded(rows), cascade(rows))
    assert said(loaded.answer(rows)) == said(cascade.answer(rows))
