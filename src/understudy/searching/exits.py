"""Search over many exits of one network: which exits are on, and at which thresholds.

DyCE's problem (arXiv 2403.01695): positions along a trunk, several exit types at each, at most one
of them on. `coordinate_descent` solves it on arrays; this module translates from tables and to
policies and frontiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.frontier import Frontier, Point, PointArrays
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.coordinate_descent import (
    Neighbours,
    configuration,
    even_weights,
    fill,
    trade_offs,
)
from understudy.searching.exit_problem import ExitProblem

TRADE_OFFS = 51
STARTS, ROUNDS = 6, 8
Array = npt.NDArray[Any]


def search_exits(
    table: ScoreTable,
    *,
    reference: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
    starts: int = STARTS,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Frontier:
    """Which exits to turn on and at which thresholds, for every trade-off of cost and accuracy.

    The exits are visited in order of cost, those that cost more than the reference never.
    Thresholds are found by exact line search from random starts and along the trade-off; the
    frontier is then filled with every neighbour that differs in one exit, round after round.

    Args:
        reference, confidence, unit: as for `search`; the reference answers whatever is left.
        starts: random starts per trade-off; 1 is quicker and can miss a point or two of cost.
        rounds: how often the frontier is filled again from points between the trade-offs.
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
    effort = {"starts": starts, "rounds": rounds, "seed": seed}
    points = exit_points(table, reference=reference, confidence=confidence, unit=unit, **effort)
    return Frontier.of_arrays([points], unit=unit, reference=reference)


def exit_points(
    table: ScoreTable,
    *,
    reference: str,
    confidence: str,
    unit: str,
    starts: int = STARTS,
    rounds: int = ROUNDS,
    seed: int = 0,
    threads: int | None = None,
) -> PointArrays:
    """What `search_exits` finds, as arrays, with so many threads; the arguments are the same."""
    names = exits_in_order(table, reference, unit)
    if not names:
        alone = Policy.single(reference)
        outcome = evaluate(table, alone, reference=reference)
        return PointArrays.of([Point.of(alone, outcome, unit=unit)])
    problem = exit_problem(table, names, reference, confidence=confidence, unit=unit)
    off = configuration(problem, np.full(problem.exits, np.nan))
    weights = even_weights(problem, TRADE_OFFS if problem.exits > 1 else 0)
    found = trade_offs(problem, weights, starts=starts, seed=seed, threads=threads)
    filled = fill(problem, [off, *found], rounds=rounds, threads=threads)
    points = _FoundExits.of(table, problem, filled, order=(*names, reference), unit=unit)
    return PointArrays(points.cost, points.drop, partial(points.point, confidence=confidence))


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
    position = positions(table, [*names, reference])
    numbers: dict[frozenset[str], int] = {}
    group = np.array([numbers.setdefault(position[name], len(numbers)) for name in names])
    prices = {**table.costs, **table.times}[unit]
    index = {part: i for i, part in enumerate(prices)}
    return ExitProblem.from_parts(
        table.scores(confidence)[rows],
        table.right(reference, rows),
        table.right(reference, last),
        group=group,
        parts=[[index[part] for part in table.exits[row].parts] for row in (*rows, last)],
        price=np.array(list(prices.values())),
    )


@dataclass(frozen=True, eq=False)
class _FoundExits:
    """P configurations of K exits; their figures equal those of `evaluate` to the last bit.

    `order` names the exits and the reference, which is last. `visited` (P, K + 1) marks the stages
    of each policy, `answered` (P, K + 1) counts the samples that they answer. `thresholds` are
    (P, K), `wrong`, `cost` and `drop` (P,). `stage` makes each stage once: neighbours share most.
    """

    order: tuple[str, ...]
    samples: int
    full: float
    thresholds: Array
    visited: Array
    answered: Array
    wrong: Array
    cost: Array
    drop: Array
    stage: Callable[..., PolicyStage]

    @staticmethod
    def of(
        table: ScoreTable,
        problem: ExitProblem,
        filled: Neighbours,
        *,
        order: tuple[str, ...],
        unit: str,
    ) -> _FoundExits:
        """The configurations of `filled`, with their costs and drops on the table."""
        on = ~np.isnan(filled.thresholds)
        ended = np.logical_or.accumulate(filled.thresholds == -np.inf, axis=1)
        before = np.pad(ended, ((0, 0), (1, 0)))
        visited = np.pad(on, ((0, 0), (0, 1)), constant_values=True) & ~before
        group = np.append(np.searchsorted(problem.first, np.arange(problem.exits), "right") - 1, -1)
        answered = filled.answered[:, group]
        right = table.right(order[-1], table.index(order[-1]))
        return _FoundExits(
            order=order,
            samples=len(table),
            full=table.cost_of([order[-1]], unit),
            thresholds=filled.thresholds,
            visited=visited,
            answered=answered,
            wrong=filled.wrong,
            cost=_costs(table, order, visited, answered / len(table), unit=unit),
            drop=100.0 * (filled.wrong - (len(table) - int(right.sum()))) / len(table),
            stage=cache(PolicyStage),
        )

    def point(self, row: int, *, confidence: str) -> Point:
        """The policy of a row with its figures."""
        *before, last = self.visited[row].nonzero()[0].tolist()
        thresholds, counts = self.thresholds[row].tolist(), self.answered[row].tolist()
        stages = [self.stage(self.order[exit], thresholds[exit], confidence) for exit in before]
        cost = float(self.cost[row])
        return Point(
            policy=Policy((*stages, self.stage(self.order[last]))),
            cost=cost,
            accuracy=(self.samples - int(self.wrong[row])) / self.samples,
            drop=float(self.drop[row]),
            saving=1 - cost / self.full if self.full else 0.0,
            shares={self.order[exit]: counts[exit] / self.samples for exit in (*before, last)},
        )


def _costs(
    table: ScoreTable, order: Sequence[str], visited: Array, shares: Array, *, unit: str
) -> npt.NDArray[np.float64]:
    """The mean cost (P,) of policies that visit these stages and end there for these shares,
    (P, K + 1) both, summed from stage to stage as `evaluate` does."""
    cost = np.zeros(len(visited))
    stages, kind = np.unique(visited, axis=0, return_inverse=True)
    for number, row in enumerate(stages):
        rows, names = np.flatnonzero(kind == number), []
        for stage in np.flatnonzero(row).tolist():
            names.append(order[stage])
            cost[rows] += shares[rows, stage] * table.cost_of(names, unit)
    return cost
