"""Exits of one network: every step against brute force on tiny problems with ties."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exits import measure, onepass, synthetic
from understudy.errors import PolicyError, TableError
from understudy.policy import accepts, midpoint
from understudy.searching.coordinate_descent import (
    Configuration,
    configuration,
    descend,
    evaluate_configuration,
    even_weights,
    fill,
    random_start,
    trade_offs,
)
from understudy.searching.exit_problem import ExitProblem

Array = npt.NDArray[Any]
LEVELS = np.array([0.125, 0.25, 0.5, 0.75, 1.0], np.float32)


def tiny(seed: int, *, exits: int = 4, samples: int = 7, dtype: Any = np.float32) -> ExitProblem:
    """A random problem with ties, several exits per group, shared parts and costs of zero."""
    draw = np.random.default_rng(seed)
    exits, samples = int(draw.integers(1, exits + 1)), int(draw.integers(1, samples + 1))
    parts = int(draw.integers(0, 3))
    return ExitProblem(
        confidence=draw.choice(LEVELS, (exits, samples)).astype(dtype),
        correct=draw.random((exits, samples)) < 0.6,
        final=draw.random(samples) < 0.8,
        group=np.sort(draw.integers(0, exits, exits)),
        trunk=np.cumsum(draw.integers(0, 9, exits + 1)).astype(float),
        head=draw.integers(0, 3, exits).astype(float),
        shared=draw.random((exits + 1, parts)) < 0.5,
        shared_cost=draw.integers(0, 4, parts).astype(float),
    )


settings.register_profile("compiling", deadline=None)
settings.load_profile("compiling")
problems = st.integers(0, 2**32).map(tiny)
weights = st.sampled_from([0.0, 0.5, 3.0, 20.0, 1e3, np.inf])


def levels(problem: ExitProblem, exit: int) -> list[float]:
    """Every threshold that accepts something else."""
    seen = np.unique(problem.confidence[exit])
    return [-np.inf, *midpoint(seen[:-1], seen[1:]).tolist()]


def operating_points_of(problem: ExitProblem, group: int) -> Iterator[tuple[int, float]]:
    """Every setting of one group: an exit and a threshold, NaN for off."""
    members = np.flatnonzero(problem.group == group)
    yield int(members[0]), np.nan
    for exit in members.tolist():
        yield from ((exit, threshold) for threshold in levels(problem, exit))


def neighbours(problem: ExitProblem, thresholds: Array) -> Iterator[Array]:
    """Every configuration that differs in one group at most."""
    for group in np.unique(problem.group):
        for exit, threshold in operating_points_of(problem, group):
            other = thresholds.copy()
            other[problem.group == group] = np.nan
            other[exit] = threshold
            yield other


def everything(problem: ExitProblem) -> Iterator[Array]:
    """Every configuration there is."""
    groups = [list(operating_points_of(problem, group)) for group in np.unique(problem.group)]
    for chosen in itertools.product(*groups):
        thresholds = np.full(problem.exits, np.nan)
        for exit, threshold in chosen:
            thresholds[exit] = threshold
        yield thresholds


def staircase(points: list[tuple[float, int]]) -> dict[int, float]:
    """The least cost by number of mistakes, non-dominated points only."""
    least: dict[int, float] = {}
    best = np.inf
    for wrong, cost in sorted((wrong, cost) for cost, wrong in points):
        if cost < best - 1e-9:
            best = least[wrong] = cost
    return least


def start_of(problem: ExitProblem, seed: int = 0) -> Array:
    return random_start(problem, np.random.default_rng(seed))


def by_definition(problem: ExitProblem, thresholds: Array) -> tuple[float, int]:
    """One sample at a time."""
    cost, wrong = 0.0, 0
    for sample in range(problem.samples):
        visited: list[int] = []
        right = problem.final[sample]
        for exit in range(problem.exits):
            if np.isnan(thresholds[exit]):
                continue
            visited.append(exit)
            if float(problem.confidence[exit, sample]) >= thresholds[exit]:
                right = problem.correct[exit, sample]
                break
        else:
            visited.append(problem.exits)
        cost += problem.trunk[visited[-1]]
        cost += sum(problem.head[exit] for exit in visited if exit < problem.exits)
        cost += problem.shared_cost[problem.shared[visited].any(0)].sum()
        wrong += not right
    return cost / problem.samples, wrong


@given(problems, st.integers(0, 99))
def test_evaluation_follows_the_definition(problem: ExitProblem, seed: int) -> None:
    thresholds = start_of(problem, seed)
    cost, wrong = evaluate_configuration(problem, thresholds)
    true_cost, true_wrong = by_definition(problem, thresholds)
    assert cost == pytest.approx(true_cost)
    assert wrong == true_wrong


@given(problems, st.integers(0, 99), weights)
def test_a_descent_ends_where_no_group_can_be_improved(
    problem: ExitProblem, seed: int, weight: float
) -> None:
    start = configuration(problem, start_of(problem, seed))
    found = descend(problem, weight, start=start.thresholds)
    cost, wrong = evaluate_configuration(problem, found.thresholds)
    assert found.cost == pytest.approx(cost)
    assert found.wrong == wrong
    weight = min(weight, 1e4)
    value = found.objective(weight, problem.samples)
    assert value <= start.objective(weight, problem.samples) + 1e-6
    for other in neighbours(problem, found.thresholds):
        assert value <= configuration(problem, other).objective(weight, problem.samples) + 1e-6


@given(problems, weights)
def test_one_group_is_solved_outright(problem: ExitProblem, weight: float) -> None:
    one = ExitProblem(
        problem.confidence,
        problem.correct,
        problem.final,
        np.zeros(problem.exits),
        problem.trunk,
        problem.head,
    )
    weight = min(weight, 1e4)
    best = min(configuration(one, t).objective(weight, one.samples) for t in everything(one))
    assert descend(one, weight).objective(weight, one.samples) == pytest.approx(best)


@given(problems, st.integers(0, 99))
def test_fill_is_the_frontier_of_all_neighbours(problem: ExitProblem, seed: int) -> None:
    bases = [configuration(problem, start_of(problem, seed + 100 * i)) for i in range(2)]
    points = fill(problem, bases)
    reached = [t for one in bases for t in neighbours(problem, one.thresholds)]
    expected = staircase([evaluate_configuration(problem, t) for t in reached])
    found = dict(zip(points.wrong.tolist(), points.cost.tolist(), strict=True))
    assert found == pytest.approx(expected)
    assert (np.diff(points.cost) > 0).all()
    assert (np.diff(points.wrong) < 0).all()
    for index in range(len(points)):
        cost, wrong = evaluate_configuration(problem, points.thresholds[index])
        assert (pytest.approx(cost), wrong) == (points.cost[index], points.wrong[index])


@given(problems, st.integers(0, 99))
def test_fill_counts_the_answers_of_every_group(problem: ExitProblem, seed: int) -> None:
    bases = [configuration(problem, start_of(problem, seed + 100 * i)) for i in range(3)]
    points = fill(problem, bases, rounds=2, threads=2)
    for thresholds, answered in zip(points.thresholds, points.answered, strict=True):
        left, counts = np.ones(problem.samples, bool), np.zeros(len(problem.first), int)
        for exit in np.flatnonzero(~np.isnan(thresholds)):
            stops = left & accepts(problem.confidence[exit], thresholds[exit])
            counts[np.searchsorted(problem.first, exit, side="right") - 1] = stops.sum()
            left &= ~stops
        counts[-1] = left.sum()
        assert answered.tolist() == counts.tolist()


@given(problems, st.integers(0, 99))
def test_further_rounds_only_gain(problem: ExitProblem, seed: int) -> None:
    bases = [configuration(problem, start_of(problem, seed))]
    once, often = fill(problem, bases), fill(problem, bases, rounds=3)
    for cost, wrong in zip(once.cost, once.wrong, strict=True):
        assert often.cost[often.wrong <= wrong].min() <= cost + 1e-9
    for index in range(len(often)):
        cost, wrong = evaluate_configuration(problem, often.thresholds[index])
        assert (pytest.approx(cost), wrong) == (often.cost[index], often.wrong[index])


def test_rounds_do_not_depend_on_threads() -> None:
    problem = synthetic(500, 4, 2)
    found = trade_offs(problem, even_weights(problem, 5), starts=1)
    one, three = (fill(problem, found, rounds=3, threads=threads) for threads in (1, 3))
    assert one.thresholds.tobytes() == three.thresholds.tobytes()
    assert one.cost.tolist() == three.cost.tolist()
    assert len(one) > 0


def test_rounds_come_near_the_best_of_many_starts() -> None:
    problem = synthetic(1500, 6, 2, seed=5)
    weights = even_weights(problem, 21)
    best = fill(problem, trade_offs(problem, weights, starts=12, seed=9), rounds=20)
    start = trade_offs(problem, weights, starts=2)
    budgets = np.count_nonzero(~problem.final) + np.arange(0, 60)

    def gap(rounds: int) -> float:
        found = fill(problem, start, rounds=rounds)
        costs = [
            np.array([one.cost[one.wrong <= most].min() for most in budgets])
            for one in (found, best)
        ]
        return float((costs[0] - costs[1]).max() / problem.trunk[-1])

    assert gap(8) < 0.003 < gap(0)


def test_many_starts_and_fill_seldom_miss_the_best_of_all_configurations() -> None:
    missed = met = 0
    for seed in range(150):
        problem = tiny(seed)
        off = configuration(problem, np.full(problem.exits, np.nan))
        points = fill(problem, [off, *trade_offs(problem, even_weights(problem, 7), threads=1)])
        truth = staircase([evaluate_configuration(problem, t) for t in everything(problem)])
        for budget, cost in truth.items():
            ours = points.cost[points.wrong <= budget].min(initial=np.inf)
            assert ours >= cost - 1e-9
            met += ours <= cost + 1e-9
            missed += ours > cost + 1e-9
    assert missed <= 0.02 * (met + missed), (missed, met)


@given(problems, st.integers(0, 99))
def test_thresholds_lie_between_confidences(problem: ExitProblem, seed: int) -> None:
    found = descend(problem, 10.0, start=start_of(problem, seed))
    for exit in np.flatnonzero(~np.isnan(found.thresholds)).tolist():
        assert found.thresholds[exit] in levels(problem, exit)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([np.float32, np.float64]))
def test_close_and_tied_confidences(seed: int, dtype: Any) -> None:
    draw = np.random.default_rng(seed)
    base = tiny(seed, dtype=dtype)
    near = np.array([0.5, np.nextafter(dtype(0.5), dtype(1)), -0.0, 0.0, -1e30], dtype)
    problem = ExitProblem(
        draw.choice(near, base.confidence.shape),
        base.correct,
        base.final,
        base.group,
        base.trunk,
        base.head,
    )
    found = descend(problem, 10.0, start=start_of(problem))
    assert found.wrong == evaluate_configuration(problem, found.thresholds)[1]
    for other in neighbours(problem, found.thresholds):
        assert found.objective(10.0, problem.samples) <= (
            configuration(problem, other).objective(10.0, problem.samples) + 1e-9
        )


@given(st.integers(0, 2**32))
def test_parts_become_trunk_heads_and_shared_parts(seed: int) -> None:
    draw = np.random.default_rng(seed)
    base = tiny(seed)
    price = draw.integers(0, 9, 5).astype(float)
    parts = [np.flatnonzero(draw.random(5) < 0.5).tolist() for _ in range(base.exits + 1)]
    if draw.random() < 0.5:
        parts = [list(range(min(exit + 1, 5))) for exit in range(base.exits + 1)]
    problem = ExitProblem.from_parts(
        base.confidence, base.correct, base.final, group=base.group, parts=parts, price=price
    )
    thresholds = start_of(problem)
    total = 0.0
    for sample in range(problem.samples):
        visited: set[int] = set()
        for exit in [*np.flatnonzero(~np.isnan(thresholds)).tolist(), problem.exits]:
            visited |= set(parts[exit])
            if exit < problem.exits and accepts(
                problem.confidence[exit, sample : sample + 1], thresholds[exit]
            ):
                break
        total += price[list(visited)].sum()
    assert evaluate_configuration(problem, thresholds)[0] == pytest.approx(total / problem.samples)


def same(one: list[Configuration], other: list[Configuration]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.thresholds.tobytes() == b.thresholds.tobytes() for a, b in pairs)


def test_the_same_seed_gives_the_same_answer_with_any_number_of_threads() -> None:
    problem = synthetic(300, 4, 2)
    steps = even_weights(problem, 5)
    one = trade_offs(problem, steps, starts=3, seed=4, threads=1)
    assert same(one, trade_offs(problem, steps, starts=3, seed=4, threads=2))
    again = synthetic(300, 4, 2)
    assert same(one, trade_offs(again, steps, starts=3, seed=4))


def test_more_starts_are_never_worse() -> None:
    problem = synthetic(400, 5, 2)
    steps = even_weights(problem, 9)
    few = trade_offs(problem, steps, starts=1)
    many = trade_offs(problem, steps, starts=3)
    for weight, a, b in zip(steps, few, many, strict=True):
        assert b.objective(weight, 400) <= a.objective(weight, 400) + 1e-9


def test_line_search_is_not_worse_than_onepass() -> None:
    problem = synthetic(300, 4, 2)
    steps = even_weights(problem, 5)
    for weight, found in zip(steps, trade_offs(problem, steps), strict=True):
        assert found.objective(weight, 300) <= onepass(problem, weight).objective(weight, 300)


def test_thousands_of_exits() -> None:
    draw = np.random.default_rng(0)
    exits, samples = 2000, 20
    problem = ExitProblem(
        confidence=draw.random((exits, samples)).astype(np.float32),
        correct=draw.random((exits, samples)) < 0.7,
        final=np.ones(samples),
        group=np.arange(exits) // 2,
        trunk=np.arange(exits + 1.0),
        head=np.full(exits, 0.01),
    )
    found = descend(problem, 1e5)
    cost, wrong = evaluate_configuration(problem, found.thresholds)
    assert found.cost == pytest.approx(cost)
    assert found.wrong == wrong
    assert found.cost < 2000
    assert len(fill(problem, [found]))


def one_exit(**changes: Any) -> ExitProblem:
    values = {
        "confidence": [[0.5]],
        "correct": [[True]],
        "final": [True],
        "group": [0],
        "trunk": [1.0, 2.0],
        "head": [0.5],
    }
    return ExitProblem(**{name: np.array(v) for name, v in (values | changes).items()})


def test_one_sample() -> None:
    assert descend(one_exit(), 1.0).cost == 1.5
    assert np.isnan(descend(one_exit(correct=[[False]]), 10.0).thresholds).all()
    assert trade_offs(one_exit(), np.array([1.0]))[0].thresholds.tolist() == [-np.inf]


def test_a_passing_exit_is_paid_and_turned_off() -> None:
    problem = one_exit(confidence=[[0.5, 0.1]], correct=[[1, 1]], final=[1, 1], head=[3.0])
    assert evaluate_configuration(problem, np.array([0.3])) == (4.5, 0)
    found = descend(problem, 1.0, start=np.array([0.3]))
    assert (found.cost, found.wrong) == (2.0, 0)


def test_nothing_costs_anything() -> None:
    problem = one_exit(trunk=[0.0, 0.0], head=[0.0], final=[False])
    assert descend(problem, 1.0).wrong == 0
    assert descend(problem, 0.0).cost == 0


def test_an_endless_weight_counts_mistakes_first() -> None:
    problem = synthetic(200, 3, 2)
    finite = min(one.wrong for one in trade_offs(problem, even_weights(problem, 5)))
    assert trade_offs(problem, np.array([np.inf]))[0].wrong <= finite


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confidence": [[np.nan]]}, "finite"),
        ({"confidence": [[np.inf]]}, "finite"),
        ({"confidence": np.empty((0, 0))}, "at least one"),
        ({"correct": [True]}, "`correct` has the shape"),
        ({"trunk": [1.0]}, "`trunk` has the shape"),
        ({"trunk": [2.0, 1.0]}, "never falls"),
        ({"head": [-1.0]}, "-1.0"),
        ({"head": [np.nan]}, "nan"),
        ({"trunk": [1.0, np.inf]}, "inf"),
    ],
)
def test_a_problem_that_breaks_a_rule_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TableError, match=words):
        one_exit(**changes)


def test_a_configuration_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(PolicyError, match="one threshold per exit"):
        evaluate_configuration(one_exit(), np.zeros(2))
    double = one_exit(
        confidence=[[0.5], [0.5]],
        correct=[[1], [1]],
        group=[0, 0],
        trunk=[1.0, 1.0, 2.0],
        head=[0.0, 0.0],
    )
    with pytest.raises(PolicyError, match="at most one exit of a group"):
        descend(double, 1.0, start=np.zeros(2))
    for weight in (-1.0, np.nan):
        with pytest.raises(PolicyError, match="costs 0 or more"):
            descend(double, weight)
    with pytest.raises(PolicyError, match="at least one configuration"):
        fill(double, [])


def test_numba_waits_until_it_is_needed() -> None:
    code = "import sys, understudy.searching.coordinate_descent; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_benchmark_runs() -> None:
    found = measure(200, 3, 2, starts=2, random_starts=2, threads=1)
    assert found["points"] > 1
    assert len(found["points_above_random_starts"]) == 5
