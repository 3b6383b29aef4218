"""Pairs: the curve at every position, the optimum and the frontier, against trying everything."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from tables import CONFIDENCES, pair_table, score_tables, synthetic
from understudy.errors import TableError
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.pairs import allowed_gap, pair_curve, search_pairs

BUDGETS = (-50.0, -10.0, 0.0, 1.0, 5.0, 10.0, 25.0, 33.0, 100.0)


def one_pair(data: st.DataObject) -> tuple[ScoreTable, str, str, str, str]:
    table = data.draw(score_tables(least_exits=2))
    little, big = data.draw(st.permutations(table.names))[:2]
    return (
        table,
        little,
        big,
        data.draw(st.sampled_from(CONFIDENCES)),
        data.draw(st.sampled_from(table.units)),
    )


@given(st.data())
def test_every_position_of_a_curve_is_what_its_policy_does(data: st.DataObject) -> None:
    table, little, big, confidence, unit = one_pair(data)
    curve = pair_curve(table, little, big, confidence=confidence, unit=unit)
    levels = oracle.thresholds(table, little, confidence)
    assert len(curve.accepted) == len(levels)
    assert curve.samples == len(table)
    for position in range(len(curve.accepted)):
        policy = curve.policy(position)
        true = oracle.totals(table, policy, reference=big, unit=unit)
        assert (curve.losses[position], curve.gains[position]) == (true.losses, true.gains)
        assert curve.cost[position] == pytest.approx(true.cost, abs=1e-12)
        assert curve.cost[position] == evaluate(table, policy, reference=big).cost[unit]
        by_threshold = Policy.pair(
            little, big, float(curve.threshold[position]), confidence=confidence
        )
        answered = oracle.totals(table, by_threshold, reference=big, unit=unit).answered[0]
        assert curve.accepted[position] == answered


@given(st.data())
def test_the_cheapest_within_a_budget_is_the_cheapest_of_all(data: st.DataObject) -> None:
    table, little, big, confidence, unit = one_pair(data)
    budget = data.draw(st.sampled_from(BUDGETS))
    curve = pair_curve(table, little, big, confidence=confidence, unit=unit)
    tried = [
        oracle.totals(table, curve.policy(k), reference=big, unit=unit)
        for k in range(len(curve.accepted))
    ]
    fitting = [t for t in tried if 100 * (t.losses - t.gains) <= (budget + 1e-9) * len(table)]
    position = curve.cheapest_within(budget)
    if not fitting:
        assert position == 0
        return
    least = min(t.cost for t in fitting)
    assert curve.cost[position] == pytest.approx(least, abs=1e-12)
    assert curve.drop[position] <= budget + 1e-9


@given(st.data())
def test_the_frontier_is_all_that_nothing_beats(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    big = data.draw(st.none() | st.sampled_from(table.names))
    confidence = data.draw(st.sampled_from(CONFIDENCES))
    unit = data.draw(st.sampled_from(table.units))
    found = search_pairs(table, reference=big, confidence=confidence, unit=unit)
    reference = table.reference(big, unit=unit)
    tried = oracle.pairs(table, reference=reference, confidence=confidence, unit=unit)
    points = [(true.cost, true.losses - true.gains) for _, true in tried]
    assert {
        (round(p.cost, 9), round(p.drop * len(table) / 100)) for p in found
    } == oracle.undominated(points)
    assert found.reference == reference


@given(st.data())
def test_points_equal_evaluate_to_the_last_bit(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    unit = data.draw(st.sampled_from(table.units))
    frontier = search_pairs(table, unit=unit)
    for point in frontier:
        outcome = evaluate(table, point.policy, reference=frontier.reference)
        assert (point.cost, point.saving) == (outcome.cost[unit], outcome.saving[unit])
        assert (point.accuracy, point.drop) == (outcome.accuracy, outcome.drop)
        assert point.shares == outcome.shares
    assert frontier.measured_on(table) == frontier


def test_points_equal_evaluate_on_many_samples() -> None:
    table = synthetic(2000, exits=4)
    frontier = search_pairs(table)
    assert len(frontier) > 20
    assert frontier.measured_on(table) == frontier


def test_the_first_crossing_is_not_the_optimum() -> None:
    """An early stumble, made good later: the largest prefix within the budget counts."""
    little = [1, 0, 1, 1, 1, 1, 1, 1, 1, 0]
    big = [1, 1, 0, 1, 1, 1, 1, 1, 1, 1]
    table = pair_table(little, big, np.linspace(1, 0.1, 10))
    curve = pair_curve(table, "tiny", "big")
    assert curve.drop.tolist() == [0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 10]
    assert curve.accepted[curve.cheapest_within(0.0)] == 9


def test_all_tied_is_all_or_nothing() -> None:
    curve = pair_curve(pair_table([1, 0], [1, 1], [0.5, 0.5]), "tiny", "big")
    assert curve.accepted.tolist() == [0, 2]
    assert curve.threshold.tolist() == [math.inf, -math.inf]
    assert curve.policy(0) == Policy.single("big")
    assert curve.policy(1) == Policy.single("tiny")


def test_infinite_confidences_are_levels_like_others() -> None:
    table = pair_table([1, 1, 0, 1], [1, 1, 1, 1], [math.inf, 3.0, -math.inf, math.inf])
    curve = pair_curve(table, "tiny", "big")
    assert curve.accepted.tolist() == [0, 2, 3, 4]
    for position in (1, 2):
        outcome = evaluate(table, curve.policy(position))
        assert outcome.shares["tiny"] == curve.accepted[position] / 4


@pytest.mark.parametrize("samples", [1, 3, 10, 1000, 49_999])
def test_a_budget_in_points_is_a_whole_number_of_samples(samples: int) -> None:
    for net in range(-min(samples, 50), min(samples, 50) + 1):
        assert allowed_gap(100 * net / samples, samples) == net
        assert allowed_gap(100 * (net + 0.99) / samples, samples) == net


def test_equal_costs_leave_the_reference_alone() -> None:
    table = pair_table([1, 1], [1, 0], [0.9, 0.1], costs=(5.0, 5.0))
    frontier = search_pairs(table, reference="big")
    assert [point.policy for point in frontier] == [Policy.single("big")]


def test_a_reference_that_is_not_the_best_may_be_beaten() -> None:
    table = pair_table([1, 1, 0], [1, 0, 1], [0.9, 0.8, 0.1])
    best = search_pairs(table, reference="big").at_least(1.0)
    assert best.policy.exits == ("tiny", "big")
    assert best.drop == pytest.approx(-100 / 3)


def test_free_models_and_free_references() -> None:
    table = pair_table([1, 0], [1, 1], [0.9, 0.1])
    free = search_pairs(replace(table, costs={"MACs": {"tiny": 0.0, "big": 0.0}}))
    assert [(p.cost, p.saving) for p in free] == [(0.0, 0.0)]
    half = search_pairs(pair_table([1, 0], [1, 1], [0.9, 0.1], costs=(0.0, 1.0)))
    assert [(p.cost, p.drop) for p in half] == [(0.0, 50.0), (0.5, 0.0)]


def test_unknown_names_are_sentences() -> None:
    table = pair_table([1, 0], [1, 1], [0.9, 0.1])
    for wrong in ({"reference": "bigg"}, {"unit": "MAC"}, {"confidence": "max_sofmax"}):
        (name,) = wrong.values()
        with pytest.raises(TableError, match=f"no .* '{name}' in this table; did you mean"):
            search_pairs(table, **wrong)
