"""Search over many exits of one network: which exits are on, and at which thresholds.

DyCE's problem (arXiv 2403.01695): positions along a trunk, several exit types at each, at most one
of them on. `coordinate_descent` solves it on arrays; this module translates from tables and to
policies and frontiers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.frontier import Frontier, Point
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.coordinate_descent import configuration, even_weights, fill, trade_offs
from understudy.searching.exit_problem import ExitProblem

TRADE_OFFS = 51
STARTS = 6
Array = npt.NDArray[Any]


def search_exits(
    table: ScoreTable,
    *,
    reference: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
    starts: int = STARTS,
    seed: int = 0,
) -> Frontier:
    """Which exits to turn on and at which thresholds, for every trade-off of cost and accuracy.

    The exits are visited in order of cost, those that cost more than the reference never.
    Thresholds are found by exact line search from random starts and along the trade-off; the
    frontier is then filled with every neighbour that differs in one exit.

    Args:
        reference, confidence, unit: as for `search`; the reference answers whatever is left.
        starts: random starts per trade-off; 1 is quicker and can miss a point or two of cost.
        seed: of the random starts; one seed, one result, whatever the number of threads.

    Raises:
        TableError: a part without a cost, costs or confidences that are not finite.

    >>> table = ScoreTable.from_predictions(
    ...     {"first": ([0, 1, 1, 0], [.9, .8, .6, .7]), "last": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"first": 1, "last": 9})
    >>> [round(point.cost, 2) for point in search_exits(table)]
    [1.0, 3.25]
    """
    unit = table.unit(unit)
    reference = table.reference(reference, unit=unit)
    names = exits_in_order(table, reference, unit)
    if not names:
        alone = Policy.single(reference)
        point = Point.of(alone, evaluate(table, alone, reference=reference), unit=unit)
        return Frontier((point,), unit, reference)
    problem = exit_problem(table, names, reference, confidence=confidence, unit=unit)
    off = configuration(problem, np.full(problem.exits, np.nan))
    weights = even_weights(problem, TRADE_OFFS)
    filled = fill(problem, [off, *trade_offs(problem, weights, starts=starts, seed=seed)])
    policies = [_policy(row, names, reference, confidence) for row in filled.thresholds]
    answered = _count_answers(problem, filled.thresholds)
    points = _points(table, policies, answered, filled.wrong, order=[*names, reference], unit=unit)
    return Frontier.of(points, unit=unit, reference=reference)


def exits_in_order(table: ScoreTable, reference: str, unit: str) -> list[str]:
    """The exits that can save cost before the reference, in visiting order.

    An exit that contains a whole other exit (such as a saver that it refines) is visited after that
    one has been paid: it can save cost where its other parts cost less than the reference. Types of
    one position stand together. The cheapest position comes first, but none before one that lies
    before it on a trunk, or that it contains.
    """
    parts = {exit.name: frozenset(exit.parts) for exit in table.exits}
    full, last = table.cost_of([reference], unit), parts[reference]
    prices = {**table.costs, **table.times}[unit]
    contained = {
        name: {other for other in parts if parts[other] < own and other != reference}
        for name, own in parts.items()
    }
    added = {
        name: sum(prices[part] for part in own.difference(*(parts[n] for n in contained[name])))
        for name, own in parts.items()
    }
    useful = [name for name in table.names if name != reference and added[name] < full]
    place = positions(table, [*useful, reference])
    groups: dict[frozenset[str], list[str]] = {}
    for name in sorted(useful, key=lambda name: table.cost_of([name], unit)):
        groups.setdefault(place[name], []).append(name)

    def is_behind(later: frozenset[str], earlier: frozenset[str]) -> bool:
        inside = set(groups[earlier]) & set().union(*(contained[n] for n in groups[later]))
        return bool(inside) or (bool(earlier & last) and earlier & last < later & last)

    order: list[str] = []
    left = sorted(groups, key=lambda one: min(added[name] for name in groups[one]))
    while left:
        free = next(
            one for one in left if not any(is_behind(one, other) for other in left if other != one)
        )
        order += groups[free]
        left.remove(free)
    return order


def positions(table: ScoreTable, names: list[str]) -> dict[str, frozenset[str]]:
    """Where each exit sits: the parts it shares with others; its own name if it shares none."""
    parts = {name: table.exits[table.index(name)].parts for name in names}
    users: dict[str, int] = {}
    for own in parts.values():
        for part in own:
            users[part] = users.get(part, 0) + 1
    return {
        name: frozenset(part for part in own if users[part] > 1) or frozenset([f"only {name}"])
        for name, own in parts.items()
    }


def exit_problem(
    table: ScoreTable, names: list[str], reference: str, *, confidence: str, unit: str
) -> ExitProblem:
    """The arrays behind the search, for exits in visiting order."""
    rows, last = [table.index(name) for name in names], table.index(reference)
    truth = table.truth(reference)
    position = positions(table, [*names, reference])
    numbers: dict[frozenset[str], int] = {}
    group = np.array([numbers.setdefault(position[name], len(numbers)) for name in names])
    prices = {**table.costs, **table.times}[unit]
    index = {part: i for i, part in enumerate(prices)}
    return ExitProblem.from_parts(
        table.scores(confidence)[rows],
        table.prediction[rows] == truth,
        table.prediction[last] == truth,
        group=group,
        parts=[[index[part] for part in table.exits[row].parts] for row in (*rows, last)],
        price=np.array(list(prices.values())),
    )


def _points(
    table: ScoreTable,
    policies: Sequence[Policy],
    answered: Array,
    wrong: Array,
    *,
    order: Sequence[str],
    unit: str,
) -> list[Point]:
    """One point per policy (P,), from the samples that each exit answers, (P, K + 1), and the
    number of mistakes (P,); `order` names the K exits and the reference, which is last."""
    price = cache(lambda visited: table.cost_of(visited, unit))
    reference, samples = order[-1], len(table)
    full = table.cost_of([reference], unit)
    right = table.prediction[table.index(reference)] == table.truth(reference)
    reference_wrong = samples - int(right.sum())
    points = []
    for policy, counts, mistakes in zip(policies, answered.tolist(), wrong.tolist(), strict=True):
        by_exit = dict(zip(order, counts, strict=True))
        cost = 0.0
        for stage in range(len(policy.stages)):
            visited = policy.exits[: stage + 1]
            cost += by_exit[visited[-1]] / samples * price(visited)
        accuracy = (samples - mistakes) / samples
        drop = 100.0 * (mistakes - reference_wrong) / samples
        saving = 1 - cost / full if full else 0.0
        shares = {name: by_exit[name] / samples for name in policy.exits}
        points.append(Point(policy, cost, accuracy, drop, saving, shares))
    return points


def _count_answers(problem: ExitProblem, thresholds: Array) -> Array:
    """How many samples the exits and, in the last column, the reference answer, (P, K + 1)."""
    from understudy.searching._coordinate_descent_kernels import count_answers

    confidence = np.ascontiguousarray(problem.confidence.T, np.float64)
    counts = np.zeros((len(thresholds), problem.exits + 1), np.int64)
    chunks = np.array_split(np.arange(len(thresholds)), min(len(thresholds), os.cpu_count() or 1))

    def count(rows: Array) -> None:
        count_answers(confidence, thresholds[rows], counts[rows[0] : rows[-1] + 1])

    with ThreadPoolExecutor(len(chunks)) as pool:
        list(pool.map(count, chunks))
    return counts


def _policy(thresholds: Array, names: list[str], reference: str, confidence: str) -> Policy:
    stages: list[PolicyStage] = []
    for name, threshold in zip(names, thresholds.tolist(), strict=True):
        if np.isnan(threshold):
            continue
        if threshold == -np.inf:
            return Policy((*stages, PolicyStage(name)))
        stages.append(PolicyStage(name, threshold, confidence))
    return Policy((*stages, PolicyStage(reference)))
