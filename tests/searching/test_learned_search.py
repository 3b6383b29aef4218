"""Searching with a learned deferral score and with ensembles: chosen, certified, verified."""

from __future__ import annotations

import numpy as np
import pytest

from understudy import Policy, Result, ScoreTable, search, verify
from understudy.ensemble import ensemble_pairs, models_of
from understudy.searching.search import search_in_sample


def table(count: int = 6000) -> ScoreTable:
    """Three models on two classes; the little one is biased against class 1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    probabilities = {}
    for name, noise, bias in (("tiny", 1.0, 0.8), ("mid", 0.6, 0.3), ("big", 0.3, 0.0)):
        logit = (2 * labels - 1) + noise * rng.standard_normal(count) - bias
        first = 1 / (1 + np.exp(-2 * logit))
        probabilities[name] = np.stack([1 - first, first], 1)
    return ScoreTable.from_probabilities(
        probabilities, labels, costs={"tiny": 1.0, "mid": 4.0, "big": 20.0}
    )


@pytest.mark.parametrize("stages", [2, 3])
def test_a_learned_score_is_certified_and_verified(stages: int) -> None:
    scores = table()
    result = search(scores, max_drop=1.0, at_most_stages=stages)
    assert (
        result.choices
        == search(scores, max_drop=1.0, confidence="deferral", at_most_stages=stages).choices
    )
    (choice,) = result.choices
    assert choice.certificate is not None
    assert not choice.certificate.falls_back
    assert {step.confidence for step in choice.policy.stages[:-1]} <= {"deferral"}
    assert "deferral" in result.table["provenance"]
    again = Result.from_dict(result.to_dict())
    assert all(check.holds for check in verify(again, scores))
    plain = search(scores, max_drop=1.0, without=["learned"], at_most_stages=stages).choices[0]
    assert {step.confidence for step in plain.policy.stages} == {"max_softmax"}
    saved = choice.on["certify"].saving["MACs"]
    assert saved > plain.on["certify"].saving["MACs"]


def test_ensembles_compete_and_leave_the_models_alone() -> None:
    """Those that a table has already are searched for again, and count for nothing else."""
    plain = table()
    wide = ensemble_pairs(plain, "big")
    assert models_of(wide).names == ("tiny", "mid", "big")
    result = search(wide, max_drop=[-0.2, 1.0])
    assert result.reference == "big"
    used = {name for choice in result.choices for name in choice.exits}
    assert {*plain.names, *used} <= {single.name for single in result.singles} <= set(wide.names)
    for choice, other in zip(
        result.choices, search(plain, max_drop=[-0.2, 1.0]).choices, strict=True
    ):
        assert choice.certificate is not None
        assert choice.on["certify"].losses == choice.certificate.losses
        assert (choice.policy, choice.on) == (other.policy, other.on)
    assert all(check.holds for check in verify(result, wide))


def test_in_sample_it_is_learned_from_all_samples() -> None:
    result = search_in_sample(table(500), max_drop=1.0, confidence="deferral")
    assert result.choices[0].policy != Policy.single("big")
