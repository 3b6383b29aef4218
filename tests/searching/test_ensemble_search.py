from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import scored
from understudy.ensemble import ensemble_pairs, with_ensemble
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.searching.certify import count_path
from understudy.searching.ensembles import (
    average_curve,
    average_ladder,
    averaged_pairs,
    find_averages,
)
from understudy.searching.strategies import SearchSpec

CONFIDENCE = "margin"


@st.composite
def tables(draw):
    """Two models full of ties, with their average, and labels."""
    classes, samples = draw(st.integers(1, 3)), draw(st.integers(1, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.integers(-2, 3, (2, samples, classes)) / 2
    table = scored({"tiny": logits[0], "big": logits[1]}, rng.integers(0, classes, samples))
    return with_ensemble(table, ["tiny", "big"], [draw(st.floats(0.3, 3)), 1.0])


@given(tables())
def test_the_curve_is_what_evaluate_says(table):
    curve = average_curve(table, "tiny", "tiny+big", reference="big", confidence=CONFIDENCE)
    assert curve.policy(0) == Policy.single("tiny+big")
    for row in range(len(curve.threshold)):
        found = evaluate(table, curve.policy(row), reference="big")
        assert (found.losses, found.gains) == (curve.losses[row], curve.gains[row])
        assert found.cost["MACs"] == pytest.approx(curve.cost[row])


@given(tables(), st.integers(1, 12))
def test_the_ladder_leads_from_the_average_to_the_little(table, steps):
    curve = average_curve(table, "tiny", "tiny+big", reference="big", confidence=CONFIDENCE)
    path = average_ladder(curve, full=10.0, steps=steps)
    assert (np.diff(path.cost) < 0).all()
    assert (path.cost < 10).all()
    assert path.policies[-1] == Policy.single("tiny")
    losses, gains = count_path(table, path.policies, reference="big")
    np.testing.assert_array_equal(losses, path.losses)
    np.testing.assert_array_equal(gains, path.gains)


@given(tables())
def test_the_family(table):
    question = SearchSpec("big", "MACs", CONFIDENCE, (1.0,), 0.05, 100)
    found = find_averages(table, question)
    assert len(found.paths) == 1
    assert any(point.policy == Policy.single("big") or point.drop <= 0 for point in found.frontier)
    for point in found.frontier:
        wanted = evaluate(table, point.policy, reference="big")
        assert point.accuracy == pytest.approx(wanted.accuracy)
        assert point.drop == pytest.approx(wanted.drop)
        assert point.saving == pytest.approx(wanted.saving["MACs"])
        assert point.shares == pytest.approx(wanted.shares)


def test_which_averages_are_pairs_with_the_reference():
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(30, 3)) for name in "abc"}
    table = scored(rows, rng.integers(0, 3, 30))
    table = ensemble_pairs(table, "c", fit_on="all")
    table = with_ensemble(table, ["a", "b", "c"], [1, 1, 1])
    table = with_ensemble(table, ["a", "b"], [1, 1])
    assert averaged_pairs(table, "c") == [("a", "a+c"), ("b", "b+c")]
    assert averaged_pairs(table, "b") == [("a", "a+b")]
    question = SearchSpec("b", "MACs", CONFIDENCE, (1.0,), 0.05, 100)
    assert len(find_averages(table, question).paths) == 1


def test_averaging_beats_replacing_where_both_know_something():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 5, 4000)
    rows = {n: rng.normal(size=(4000, 5)) + 1.2 * np.eye(5)[label] for n in ("tiny", "big")}
    table = ensemble_pairs(scored(rows, label), "big")
    average = evaluate(table, Policy.single("tiny+big"), reference="big")
    assert average.drop < -5
