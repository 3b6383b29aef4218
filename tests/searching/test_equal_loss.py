"""Paths of equal expected loss: counted as `evaluate` does, fitted as scikit-learn does."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from fakes import scored
from tables import CONFIDENCES, record, score_tables, synthetic
from understudy.ensemble import with_ensemble
from understudy.frontier import Point
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.equal_loss import (
    EqualLossSearch,
    LossCurve,
    equal_loss_path,
    loss_curves,
)
from understudy.searching.exits import exits_in_order
from understudy.searching.policy_sequences import ThresholdPath
from understudy.searching.search_spec import SearchSpec


def path_of(
    table: ScoreTable,
    exits: list[str],
    last: str,
    *,
    reference: str,
    confidence: str = "max_softmax",
    steps: int = 30,
) -> ThresholdPath:
    names = {"reference": reference, "confidence": confidence}
    curves = loss_curves(table, exits, last, **names)
    return equal_loss_path(table, exits, last, curves, **names, unit="MACs", steps=steps)


def check_path(path: ThresholdPath, table: ScoreTable) -> None:
    """Every policy is what `evaluate` says, and accepts what those before it do."""
    sequence = path.sequence()
    for row, policy in enumerate(sequence.policies):
        found = evaluate(table, policy, reference=path.reference)
        assert (sequence.losses[row], sequence.gains[row]) == (found.losses, found.gains)
        assert sequence.cost[row] == pytest.approx(found.cost["MACs"], abs=1e-12)
        point, expected = path.point(row), Point.of(policy, found, unit="MACs")
        assert point.policy == policy
        assert (point.accuracy, point.drop) == (expected.accuracy, expected.drop)
        assert point.shares == expected.shares
        assert point.cost == pytest.approx(expected.cost, abs=1e-12)
        assert point.saving == pytest.approx(expected.saving, abs=1e-12)
    assert path.samples in (0, len(table))
    assert not (path.thresholds[:, 1:] > path.thresholds[:, :-1]).any()
    assert (np.diff(sequence.cost, prepend=sequence.full) < 0).all()


@settings(max_examples=60)
@given(st.data())
def test_a_path_counts_what_its_policies_do(data: st.DataObject) -> None:
    """Ties, saturated confidences, shared parts, free exits, one class, missing labels."""
    table = data.draw(score_tables(least_exits=2))
    big, *exits = data.draw(st.permutations(table.names))
    exits = exits[: data.draw(st.integers(1, 3))]
    path = path_of(
        table,
        exits,
        big,
        reference=big,
        confidence=data.draw(st.sampled_from(CONFIDENCES)),
        steps=data.draw(st.sampled_from([1, 3, 30])),
    )
    check_path(path, table)
    first, full = table.cost_of(exits[:1], "MACs"), table.cost_of([big], "MACs")
    if first < full * (1 - 1e-9):  # it ends with the first exit alone, or what costs as little
        assert path.cost[-1] == pytest.approx(first, abs=1e-12)
    elif first > full:
        assert not len(path.cost)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 15))
def test_a_path_to_an_ensemble_counts_what_its_policies_do(
    seed: int, classes: int, samples: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (3, samples, classes)) / 2
    label = rng.integers(0, classes, samples)
    table = scored(dict(zip(("tiny", "mid", "big"), logits, strict=True)), label)
    table = with_ensemble(table, ["tiny", "big"], [1.5, 1.0])
    for exits in (["tiny"], ["tiny", "mid"], ["mid", "tiny"]):
        path = path_of(table, exits, "tiny+big", reference="big", confidence="margin")
        check_path(path, table)
        for policy in path.sequence().policies:
            assert policy.exits[-1] == "tiny+big" or policy == Policy.single(exits[0])


@settings(max_examples=60)
@given(st.data())
def test_any_falling_thresholds_are_counted(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    big, *exits = data.draw(st.permutations(table.names))
    level = st.sampled_from([-math.inf, 0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0, math.inf])
    rows = st.lists(level, min_size=4, max_size=4).map(lambda row: sorted(row, reverse=True))
    thresholds = np.array([data.draw(rows) for _ in exits])
    stages = [PolicyStage(name, 0.0) for name in exits]
    path = ThresholdPath.of(table, stages, thresholds, reference=big, unit="MACs")
    check_path(path, table)


def test_a_path_leads_from_safe_to_cheap_in_even_steps() -> None:
    table = synthetic(2000, exits=4)
    path = path_of(table, ["net0", "net1", "net2"], "net3", reference="net3", steps=100)
    deferred = path.answered[-1] / len(table)
    assert len(deferred) > 40
    assert deferred[0] > 0.85  # the first steps cost more than the reference
    assert np.abs(np.diff(deferred)).max() < 0.04
    assert path.sequence().policies[-1] == Policy.single("net0")
    assert len(path.sequence().policies[0].exits) == 4
    assert path.drop[0] < 0.5 < path.drop[-1]


def test_tied_confidences_leave_all_or_nothing() -> None:
    same = np.ones(100, int)
    table = ScoreTable.from_predictions(
        {name: (same, np.full(100, 0.7)) for name in ("a", "b", "c")},
        same,
        costs={"a": 1.0, "b": 2.0, "c": 9.0},
    )
    path = path_of(table, ["a", "b"], "c", reference="c")
    assert path.cost.tolist() in ([1.0], [3.0, 1.0])


@pytest.mark.parametrize("edge", [math.inf, -math.inf])
def test_infinite_confidences_are_counted(edge: float) -> None:
    """As any others: infinite ones are the last that a threshold accepts, or the first."""
    table = synthetic(300, exits=3)
    sure = table.scores("max_softmax").astype(float)
    sure[:2, ::7] = edge
    table = replace(table, confidence={"max_softmax": sure})
    check_path(path_of(table, ["net0", "net1"], "net2", reference="net2"), table)
    sure[0] = edge
    check_path(path_of(table, ["net0", "net1"], "net2", reference="net2"), table)


# -- the curves -----------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([None, 1, 2]))
def test_a_curve_is_what_scikit_learn_fits(seed: int, decimals: int | None) -> None:
    """The isotonic regression of the difference of two logistic regressions."""
    rng = np.random.default_rng(seed)
    sure = rng.normal(size=300) * rng.uniform(0.1, 5)
    sure = sure if decimals is None else np.round(sure, decimals)
    chance = 1 / (1 + np.exp(rng.uniform(-1, 3) * sure))
    losses = rng.random(300) < rng.uniform(0.1, 0.9) * chance
    gains = ~losses & (rng.random(300) < 0.2 * rng.random())
    curve = LossCurve.of(sure, losses, gains)
    expected = np.zeros(len(curve.confidence))
    for marks, sign in ((losses, 1), (gains, -1)):
        if not marks.any() or marks.all():
            return
        scale, centre = sure.std() + 1e-9, sure.mean()
        fit = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
        fit.fit((sure[:, None] - centre) / scale, marks)
        expected += sign * fit.predict_proba((curve.confidence[:, None] - centre) / scale)[:, 1]
    places = np.arange(len(expected))
    falling = IsotonicRegression(increasing=False).fit_transform(places, expected)
    np.testing.assert_allclose(curve.loss, falling, atol=1e-5)
    assert (np.diff(curve.loss) <= 0).all()


def test_a_curve_without_losses_or_gains() -> None:
    sure, none = np.linspace(-3, 3, 50), np.zeros(50, bool)
    assert np.abs(LossCurve.of(sure, none, none).loss).max() < 1e-6
    assert LossCurve.of(sure, ~none, none).loss.min() > 0.9
    assert LossCurve.of(np.zeros(50), sure > 0, none).loss == pytest.approx(0.5, abs=0.01)


@given(st.integers(0, 10**6), st.booleans())
def test_a_threshold_is_the_least_confidence_within_the_level(seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    sure = np.sort(rng.normal(size=256))
    sure = np.round(sure, 1) if tied else sure
    loss = -np.sort(-np.round(rng.uniform(-0.2, 0.6, 256), int(rng.integers(1, 4))))
    curve = LossCurve(sure, loss)
    levels = np.concatenate([rng.uniform(-0.3, 0.7, 20), loss[::32]])
    between = rng.uniform(sure[0], sure[-1], 300)
    between = between[(np.abs(between[:, None] - sure) > 1e-6).all(1)]
    expected = np.interp(between, sure, loss)
    for level, threshold in zip(levels, curve.threshold(levels), strict=True):
        if threshold == -np.inf:
            assert loss[0] <= level
        elif threshold == np.inf:
            assert loss[-1] > level
        else:
            assert loss[0] > level >= loss[-1]
        assert (expected[between < threshold - 1e-6] > level - 1e-9).all()
        assert (expected[between > threshold + 1e-6] <= level + 1e-9).all()


# -- the search for exits -------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.data())
def test_the_exits_are_those_of_trying_every_subset(data: st.DataObject) -> None:
    """Of up to four exits before the last one, for every budget, by their least cost."""
    seed, stages = data.draw(st.integers(0, 10**6)), data.draw(st.integers(3, 5))
    kind = data.draw(st.sampled_from(["zoo", "network"]))
    made = synthetic(200, seed=seed, exits=5) if kind == "zoo" else record(200, places=2, seed=seed)
    big = made.names[-1]
    drops = (-1.0, 0.0, 5.0, 20.0)
    spec = SearchSpec(big, "MACs", "max_softmax", drops, 0.2, 800, stages)
    order = exits_in_order(made, big, "MACs")
    assert len(order) == 4
    search = EqualLossSearch.of(made, spec, order, big)
    found = search.paths()
    every = [
        equal_loss_path(made, exits, big, search.curves, **spec.names)
        for size in range(2, stages)
        for exits in itertools.combinations(order, size)
    ]
    for drop in drops:
        best = min(spec.least_cost(path, drop) for path in every)
        assert min(spec.least_cost(path, drop) for path in found) == best


def test_before_an_ensemble_its_member_is_always_visited() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 400)
    rows = {
        name: rng.normal(size=(400, 3)) + skill * np.eye(3)[label]
        for name, skill in (("a", 0.8), ("b", 1.2), ("c", 1.5), ("big", 2.0))
    }
    table = with_ensemble(scored(rows, label), ["b", "big"], [1.0, 1.0])
    spec = SearchSpec("big", "MACs", "max_softmax", (0.0, 2.0), 0.1, 1600, 4)
    order = ["a", "b", "c"]
    search = EqualLossSearch.of(table, spec, order, "b+big", member="b")
    tried = {tuple(stage.exit for stage in path.stages) for path in search.paths()}
    assert tried == {("a", "b", "b+big"), ("b", "c", "b+big"), ("a", "b", "c", "b+big")}


def test_of_many_exits_the_best_by_themselves_are_combined() -> None:
    table = record(300, places=10, types=3)
    spec = SearchSpec("full", "MACs", "max_softmax", (5.0,), 0.2, 1200, 4)
    order = exits_in_order(table, "full", "MACs")
    assert len(order) == 30
    found = EqualLossSearch.of(table, spec, order, "full").paths()
    assert {len(path.stages) for path in found} == {2, 3}
    for path in found:
        check_path(path, table)
        places = [order.index(stage.exit) for stage in path.stages]
        assert places == sorted(set(places))
