"""Pairs that end with an ensemble of both models: the curve, its sequence and the frontier."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import scored
from understudy.ensemble import ensemble_pairs, with_ensemble
from understudy.frontier import Frontier
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.pairs import PairCurve, pair_curve
from understudy.searching.policy_sequences import losses_and_gains, pair_sequence
from understudy.searching.search_spec import SearchSpec
from understudy.searching.strategies import ensembles_with, find_ensembles

CONFIDENCE = "margin"


@st.composite
def tables(draw: st.DrawFn) -> ScoreTable:
    """Two models full of ties, with their ensemble, and labels."""
    classes, samples = draw(st.integers(1, 3)), draw(st.integers(1, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.integers(-2, 3, (2, samples, classes)) / 2
    table = scored({"tiny": logits[0], "big": logits[1]}, rng.integers(0, classes, samples))
    return with_ensemble(table, ["tiny", "big"], [draw(st.floats(0.3, 3)), 1.0])


def curve_of(table: ScoreTable) -> PairCurve:
    return pair_curve(table, "tiny", "tiny+big", reference="big", confidence=CONFIDENCE)


@given(tables())
def test_the_curve_equals_evaluate(table: ScoreTable) -> None:
    curve = curve_of(table)
    assert curve.policy(0) == Policy.single("tiny+big")
    for row in range(len(curve.threshold)):
        found = evaluate(table, curve.policy(row), reference="big")
        assert (found.losses, found.gains) == (curve.losses[row], curve.gains[row])
        assert found.cost["MACs"] == pytest.approx(curve.cost[row])


@given(tables(), st.integers(1, 12))
def test_the_sequence_leads_from_the_ensemble_to_the_little(table: ScoreTable, steps: int) -> None:
    curve = curve_of(table)
    assert curve.full == 10.0
    sequence = pair_sequence(curve, steps=steps)
    assert (np.diff(sequence.cost) < 0).all()
    assert (sequence.cost < 10).all()
    assert sequence.policies[-1] == Policy.single("tiny")
    losses, gains = losses_and_gains(table, sequence.policies, reference="big")
    np.testing.assert_array_equal(losses, sequence.losses)
    np.testing.assert_array_equal(gains, sequence.gains)


@given(tables())
def test_the_strategy(table: ScoreTable) -> None:
    spec = SearchSpec("big", "MACs", CONFIDENCE, (1.0,), 0.05, 100)
    found = find_ensembles(table, spec)
    assert len(found.sequences) == 1
    frontier = Frontier.of_arrays(found.points, unit="MACs", reference="big")
    assert any(point.policy == Policy.single("big") or point.drop <= 0 for point in frontier)
    for point in frontier:
        expected = evaluate(table, point.policy, reference="big")
        assert point.accuracy == pytest.approx(expected.accuracy)
        assert point.drop == pytest.approx(expected.drop)
        assert point.saving == pytest.approx(expected.saving["MACs"])
        assert point.shares == pytest.approx(expected.shares)


def test_which_ensembles_are_pairs_with_the_reference() -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(30, 3)) for name in "abc"}
    table = scored(rows, rng.integers(0, 3, 30))
    table = ensemble_pairs(table, "c", fit_on="all")
    table = with_ensemble(table, ["a", "b", "c"], [1, 1, 1])
    table = with_ensemble(table, ["a", "b"], [1, 1])
    assert ensembles_with(table, "c") == [("a", "a+c"), ("b", "b+c")]
    assert ensembles_with(table, "b") == [("a", "a+b")]
    spec = SearchSpec("b", "MACs", CONFIDENCE, (1.0,), 0.05, 100)
    assert len(find_ensembles(table, spec).sequences) == 1


def test_an_ensemble_beats_replacing_where_both_models_are_informative() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 5, 4000)
    rows = {n: rng.normal(size=(4000, 5)) + 1.2 * np.eye(5)[label] for n in ("tiny", "big")}
    table = ensemble_pairs(scored(rows, label), "big")
    average = evaluate(table, Policy.single("tiny+big"), reference="big")
    assert average.drop < -5
