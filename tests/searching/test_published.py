"""The papers' own rules, against slow restatements of what their code does."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import fminbound

from tables import score_tables, synthetic
from understudy.choice import Published
from understudy.errors import PolicyError
from understudy.outcome import evaluate
from understudy.policy import Policy, accepts
from understudy.scores import Exit, ScoreTable
from understudy.searching.onepass import onepass
from understudy.searching.pairs import pair_curve
from understudy.searching.published_rules import (
    FIRST_CROSSING,
    ONEPASS,
    WEIGHTS,
    first_crossing,
    published_rules,
)
from understudy.searching.scalar_minima import bounded_minima


def stopped(table: ScoreTable, little: str, big: str) -> tuple[float, list[bool]]:
    """TinySaver's loop: the t it stops at, and the samples that leave there."""
    small, large = (table.right(big, table.index(name)) for name in (little, big))
    sure = table.scores("max_softmax")[table.index(little)].astype(float)
    for t in np.arange(1, 0, -0.001):
        leaves = sure > t
        first = small[leaves].sum() / leaves.sum() if leaves.any() else 0
        second = large[leaves].sum() / leaves.sum() if leaves.any() else 0
        if first < second:
            break
    return float(t), leaves.tolist()


@given(score_tables(most=12, least_exits=2))
@settings(max_examples=60)
def test_first_crossing_is_the_loop(table: ScoreTable) -> None:
    big = table.reference()
    for little in table.names:
        if table.cost_of([little], "MACs") >= table.cost_of([big], "MACs"):
            continue
        _, leaves = stopped(table, little, big)
        found = first_crossing(table, little, big)
        share = sum(leaves) / len(leaves)
        cost = share * table.cost_of([little], "MACs")
        cost += (1 - share) * table.cost_of([little, big], "MACs")
        if cost >= table.cost_of([big], "MACs"):
            assert found == Policy.single(big)
        else:
            sure = table.scores("max_softmax")[table.index(little)].astype(float)
            assert found.exits == (little, big)
            assert accepts(sure, found.stages[0].threshold).tolist() == leaves


@given(score_tables(most=12, least_exits=2), st.sampled_from([0.0, 10.0, 30.0, 100.0]))
@settings(max_examples=60)
def test_within_a_budget_it_never_breaks_it_nor_beats_the_exact_search(
    table: ScoreTable, drop: float
) -> None:
    big = table.reference()
    for little in table.names:
        if table.cost_of([little], "MACs") >= table.cost_of([big], "MACs"):
            continue
        found = first_crossing(table, little, big, max_drop=drop)
        outcome = evaluate(table, found, reference=big)
        curve = pair_curve(table, little, big)
        assert outcome.drop <= drop + 1e-9
        assert outcome.cost["MACs"] >= curve.cost[curve.cheapest_within(drop)] - 1e-9


def test_it_stops_at_the_first_crossing_though_more_would_be_free() -> None:
    """A loss at 0.8 stops it; the gains below it would pay for that loss."""
    sure = [0.9, 0.8, 0.7, 0.6, 0.5]
    table = ScoreTable.from_predictions(
        {"tiny": ([0, 1, 0, 0, 0], sure), "big": ([0, 0, 1, 1, 0], np.ones(5))},
        np.zeros(5, int),
        costs={"tiny": 1, "big": 9},
    )
    found = evaluate(table, first_crossing(table, "tiny", "big"), reference="big")
    assert found.shares["tiny"] == 0.4
    assert found.drop == 20.0
    threshold = first_crossing(table, "tiny", "big", max_drop=0.0).stages[0].threshold
    assert threshold is not None
    assert threshold > 0.8
    curve = pair_curve(table, "tiny", "big")
    assert curve.accepted[curve.cheapest_within(0.0)] == 5


def objective(table: ScoreTable, on: list[tuple[str, float]], *, weight: float, first: str) -> Any:
    """DyCE's J of exits that are on, sample by sample."""
    big, right_by_exit = "base", table.right("base")
    prices, rows = table.costs["MACs"], range(len(table))
    right, paid = 0, 0.0
    for sample in rows:
        parts: set[str] = set()
        for name, t in [*on, (big, -1.0)]:
            row = table.index(name)
            parts |= set(table.exits[row].parts)
            if float(table.scores("max_softmax")[row, sample]) > t:
                break
        right += right_by_exit[row, sample]
        paid += sum(prices[part] for part in parts)
    low = right_by_exit[table.index(first)].mean()
    high = right_by_exit[table.index(big)].mean()
    a = (right / len(table) - low) / (high - low)
    base, full = prices["trunk/0"], table.cost_of([big], "MACs")
    m = (paid / len(table) - base) / (full - base)
    return weight * (1 - a) + (1 - weight) * m


def with_one(
    table: ScoreTable, on: list[tuple[str, float]], name: str, t: float, **rest: Any
) -> Any:
    return objective(table, [*on, (name, t)], **rest)


def one_pass(table: ScoreTable, places: list[list[str]], weight: float) -> list[tuple[str, float]]:
    """DyCE's loop: types in order, "none" last, and the last of equals stays."""
    on: list[tuple[str, float]] = []
    first = places[0][0]
    for types in places:
        least, kept = 1000.0, on
        for name in types:
            trial = partial(with_one, table, on, name, weight=weight, first=first)
            t, value, _, _ = fminbound(trial, 0, 1, full_output=True)
            if value <= least + 1e-12:
                least, kept = value, [*on, (name, float(t))]
        if objective(table, on, weight=weight, first=first) <= least + 1e-12:
            kept = on
        on = kept
    return on


def multi_exit(samples: int, positions: int, types: int, *, seed: int) -> ScoreTable:
    """Exits along a trunk with heads, confidences on few levels."""
    rng = np.random.default_rng(seed)
    hard = rng.random(samples)
    names = [f"pos{j}/type{i}" for j in range(positions) for i in range(types)]
    skill = np.repeat(np.linspace(0.4, 0.8, positions), types) + 0.02 * (np.arange(len(names)) % 2)
    predictions, parts, costs = {}, {}, {"trunk/rest": 3.0}
    for number, name in enumerate(names):
        wrong = hard + 0.1 * rng.standard_normal(samples) > skill[number]
        sure = np.clip(1 - 0.7 * hard + 0.1 * rng.standard_normal(samples), 0, 1)
        predictions[name] = (wrong.astype(int), np.round(sure, 1).astype(np.float32))
        trunk = [f"trunk/{j}" for j in range(number // types + 1)]
        parts[name] = [*trunk, f"head/{name}"]
        costs |= dict.fromkeys(trunk, 2.0) | {f"head/{name}": 0.25 * (1 + number % types)}
    predictions["base"] = ((hard > 0.9).astype(int), np.ones(samples, np.float32))
    parts["base"] = [*(f"trunk/{j}" for j in range(positions)), "trunk/rest"]
    return ScoreTable.from_predictions(
        predictions, np.zeros(samples, int), costs={"MACs": costs}, parts=parts
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight", [0.5, 0.8, 0.97])
def test_onepass_is_the_loop(seed: int, weight: float) -> None:
    table = multi_exit(30, 3, 2, seed=seed)
    places = [[f"pos{j}/type{i}" for i in range(2)] for j in range(3)]
    expected = one_pass(table, places, weight)
    found = onepass(table, [weight], reference="base")[0]
    assert found.exits == (*(name for name, _ in expected), "base")
    for step, (name, t) in zip(found.stages, expected, strict=False):
        sure = table.scores("max_softmax")[table.index(name)].astype(float)
        assert step.threshold is not None
        assert ((sure >= step.threshold) == (sure > t)).all()


def test_onepass_of_many_weights_is_that_of_each() -> None:
    table = multi_exit(300, 3, 2, seed=5)
    alone = [onepass(table, [weight], reference="base")[0] for weight in WEIGHTS]
    assert onepass(table, WEIGHTS, reference="base") == alone


def steps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A step function on [0, 1]: its edges and its values, often equal."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.random(20)), rng.integers(0, 6, 21) / 7


def test_bounded_minima_are_those_of_scipy() -> None:
    """To the last bit, on step functions and on smooth ones."""
    all_steps = [steps(seed) for seed in range(200)]

    def stepped(at: np.ndarray) -> np.ndarray:
        found = [
            values[np.searchsorted(edges, x)]
            for (edges, values), x in zip(all_steps, at, strict=True)
        ]
        return np.array(found)

    def one(seed: int, x: float) -> float:
        edges, values = all_steps[seed]
        return float(values[np.searchsorted(edges, x)])

    def smooth(at: np.ndarray) -> np.ndarray:
        return np.sin(np.arange(1, len(at) + 1) * at)

    for value, single in (
        (stepped, one),
        (smooth, lambda row, x: float(np.sin((row + 1) * x))),
    ):
        found, least = bounded_minima(value, 200)
        for row in range(200):
            t, lowest, _, _ = fminbound(partial(single, row), 0, 1, full_output=True)
            assert (found[row], least[row]) == (t, lowest)


def test_onepass_never_revisits_an_exit() -> None:
    """A first exit that is set in ignorance of a perfect second one stays as it is."""
    table = multi_exit(200, 3, 2, seed=9)
    alone = table.only(["pos0/type0", "pos0/type1", "base"])
    for weight in (0.6, 0.9):
        found, first = (onepass(one, [weight], reference="base")[0] for one in (table, alone))
        before = [step for step in found.stages if step.exit.startswith("pos0")]
        assert before == list(first.stages[:-1])


def test_onepass_is_not_defined_where_the_first_exit_is_as_good() -> None:
    table = synthetic(100)
    same = replace(table, prediction=np.stack([table.prediction[2]] * 3))
    with pytest.raises(PolicyError, match="less accurate than"):
        onepass(same, [0.5], reference="net2")
    rules = {one.rule for one in rules_of(same, same, [0.5])}
    assert rules == {FIRST_CROSSING}


def rules_of(tune: ScoreTable, measured: ScoreTable, drops: list[float]) -> tuple[Published, ...]:
    return published_rules(tune, measured, reference="net2", unit="MACs", max_drop=drops)


def test_rules_keep_their_budgets_on_tune_and_are_measured_elsewhere() -> None:
    table = synthetic(3000)
    tune, test = table.on("tune"), table.on("test")
    found = rules_of(tune, test, [0.5, 2.0])
    assert [(one.rule, one.max_drop) for one in found] == [
        (FIRST_CROSSING, 0.5),
        (FIRST_CROSSING, 2.0),
        (ONEPASS, 0.5),
        (ONEPASS, 2.0),
    ]
    for one in found:
        assert evaluate(tune, one.policy, reference="net2").drop <= one.max_drop + 1e-9
        assert one.outcome == evaluate(test, one.policy, reference="net2")
        assert Published.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_onepass_takes_the_cheapest_trade_off_within_the_budget_on_all_samples() -> None:
    table = synthetic(5000)
    tried = [
        evaluate(table, one, reference="net2")
        for one in set(onepass(table, WEIGHTS, reference="net2"))
    ]
    cheapest = min((one.cost["MACs"] for one in tried if one.drop <= 1.0), default=100.0)
    found = rules_of(table, table, [1.0])[-1]
    assert found.outcome.cost["MACs"] == cheapest


def test_the_saver_is_the_one_with_the_cheapest_crossing() -> None:
    table = synthetic(2000)
    found = rules_of(table, table, [1.0])[0]
    costs = [
        evaluate(table, first_crossing(table, little, "net2", max_drop=1.0)).cost["MACs"]
        for little in ("net0", "net1")
    ]
    assert found.outcome.cost["MACs"] == min(costs)


def test_a_required_gain_leaves_the_reference() -> None:
    table = synthetic(500)
    for one in rules_of(table, table, [-30.0]):
        assert one.policy == Policy.single("net2")


def test_confidences_beyond_one_are_not_for_these_rules() -> None:
    table = synthetic(500)
    wide = replace(table, confidence={"max_softmax": 100 * table.scores("max_softmax")})
    assert rules_of(wide, wide, [1.0]) == ()
    with pytest.raises(PolicyError, match="use max_softmax"):
        first_crossing(wide, "net0", "net2")
    with pytest.raises(PolicyError, match="use max_softmax"):
        onepass(wide, [0.7])
    other = replace(table, confidence={"margin": table.scores("max_softmax")})
    assert rules_of(other, other, [1.0]) == ()


def test_nothing_cheaper_means_nothing_published() -> None:
    table = synthetic(100)
    assert published_rules(table, table, reference="net0", unit="MACs", max_drop=[1.0]) == ()


def test_many_models_that_share_nothing_are_left_to_the_pair_rule() -> None:
    table = synthetic(60, exits=26)
    rules = {
        one.rule
        for one in published_rules(table, table, reference="net25", unit="MACs", max_drop=[1.0])
    }
    assert rules == {FIRST_CROSSING}
    shared = replace(table, exits=tuple(Exit(n, (n, "net0")) for n in table.names))
    found = published_rules(shared, shared, reference="net25", unit="MACs", max_drop=[1.0])
    assert {one.rule for one in found} == {FIRST_CROSSING, ONEPASS}
