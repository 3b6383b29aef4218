"""Learned scores as confidences of a cascade: with tensors like with arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fakes import ensembles_of, result_of, scored, table_models, tensors_of
from sample_rows import answered_rows, expected_rows, in_batches, without_confidence
from understudy.confidence_functions import LEARNED
from understudy.deferral import DeferralScore, scores_of, with_deferral, with_scores
from understudy.ensemble import ensemble_pairs
from understudy.errors import PolicyError
from understudy.nn.cascade import Cascade, Models, build
from understudy.nn.confidence_functions import deferral_score
from understudy.nn.stage import Stage
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.runtime.executor import Executor
from understudy.scores import Detail, ScoreTable
from understudy.zoo.saved_cascades import load_cascade, save_cascade

WEIGHTS = st.lists(st.floats(-3, 3), max_size=5).map(tuple)


def with_tops(table: ScoreTable) -> ScoreTable:
    """The details that scoring keeps: the two top classes by probability, stable."""
    details = {}
    for name, detail in table.details.items():
        assert detail.logits is not None
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
def test_tensors_and_tables_have_the_same_score(
    seed: int, classes: int, levels: int, score: DeferralScore
) -> None:
    if classes == 1:
        score = replace(score, second=())
    random = np.random.default_rng(seed)
    logits = random.integers(-levels, levels + 1, (2, 20, classes)) / 2
    table = with_tops(scored({"tiny": logits[0], "big": logits[1]}))
    running = deferral_score(score, torch.from_numpy(logits[0].astype(np.float32)))
    np.testing.assert_allclose(running.numpy(), score.apply(table), rtol=1e-6, atol=1e-6)


def test_nan_stays_nan() -> None:
    rows = torch.tensor([[torch.nan, 0.0], [1.0, 0.0]])
    score = DeferralScore("tiny", "big", 0.0, 1.0, 1.0, (1.0,), (1.0,))
    assert deferral_score(score, rows).isnan().tolist() == [True, False]


@pytest.fixture
def table() -> ScoreTable:
    random = np.random.default_rng(8)
    label = random.integers(0, 5, 600)
    logits = {
        name: random.normal(size=(600, 5)) + skill * np.eye(5)[label]
        for name, skill in (("tiny", 2.0), ("big", 4.0))
    }
    table = with_deferral(with_tops(scored(logits, label)), "big", fit_on="tune")
    return ensemble_pairs(with_scores(table, scores_of(table.provenance)), "big")


def policy_of(table: ScoreTable, last: str) -> Policy:
    """A threshold between two scores that are not close to each other."""
    scores = np.sort(table.scores(LEARNED)[0].astype(float))[200:400]
    widest = int(np.diff(scores).argmax())
    threshold = float(scores[widest : widest + 2].mean())
    return Policy.pair("tiny", last, threshold, confidence=LEARNED)


@pytest.mark.parametrize("last", ["big", "tiny+big"])
def test_running_equals_the_table(table: ScoreTable, last: str) -> None:
    policy = policy_of(table, last)
    expected = without_confidence(expected_rows(table, policy))
    assert 100 < sum(exit == "tiny" for _, exit in expected) < 500
    cascade, images = build(result_of(table, policy), table_models(table)), tensors_of(range(600))
    answers = cascade.answer(images)
    assert without_confidence(answered_rows(answers)) == expected
    first = answers.exit == 0
    np.testing.assert_allclose(
        answers.confidence[first], table.scores(LEARNED)[0][first], rtol=1e-5
    )
    streamed = Executor(cascade, max_batch=64).map(in_batches(images, [50]))
    assert without_confidence(answered_rows(*streamed)) == expected


def test_a_cascade_without_the_score(table: ScoreTable) -> None:
    policy = policy_of(table, "big")
    models = table_models(table)
    with pytest.raises(
        PolicyError, match=r"'tiny' is accepted by a learned score, .* has for no stage"
    ):
        Cascade(models, policy)
    with pytest.raises(PolicyError, match="learned score"):
        build(policy, models)
    cascade = build(result_of(table, Policy.single("big")), models)
    cascade.policy = policy
    found = answered_rows(cascade.answer(tensors_of(range(600))))
    assert without_confidence(found) == without_confidence(expected_rows(table, policy))


def test_the_confidence_of_a_last_stage(table: ScoreTable) -> None:
    """It decides nothing: an exit without a score reports its max softmax, as the table does."""
    first, last = policy_of(table, "big").stages
    policy = Policy((first, replace(last, confidence=LEARNED)))
    cascade = build(result_of(table, policy), table_models(table))
    answers = cascade.answer(tensors_of(range(600)))
    np.testing.assert_allclose(answers.confidence, decide(table, policy).confidence, rtol=1e-5)


class Weighted(nn.Module):
    """A linear layer of 5 classes without a bias."""

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 5) if weight is None else weight)

    def forward(self, images: Tensor) -> Tensor:
        return images @ self.weight


def test_saved_and_loaded(
    table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_model(_spec: str, **_: object) -> nn.Module:
        return Weighted(torch.zeros(5, 5))

    monkeypatch.setattr("understudy.zoo.saved_cascades.build_model", build_model)
    torch.manual_seed(0)
    stages = {
        name: Stage(Weighted(torch.randn(5, 5)), origin={"spec": f"py:nets:{name}"})
        for name in ("tiny", "big")
    }
    scores = scores_of(table.provenance)
    models: Models = {**stages, **ensembles_of(table)}
    cascade = Cascade(models, policy_of(table, "tiny+big"), scores=scores)
    save_cascade(cascade, tmp_path / "c")
    loaded = load_cascade(tmp_path / "c")
    assert loaded.scores == scores
    rows = torch.randn(50, 5)
    assert torch.equal(loaded(rows), cascade(rows))
    found, expected = answered_rows(loaded.answer(rows)), answered_rows(cascade.answer(rows))
    assert without_confidence(found) == without_confidence(expected)
