"""DyCE's `onepass`: one pass over the positions, a scalar search per exit, none revisited.

Written anew, faithful to the code of the paper (arXiv 2403.01695). All trade-offs are searched side
by side, because each exit's samples are sorted and counted once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, TableError
from understudy.import_exits import from_strict
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.exits import exits_in_order, positions
from understudy.searching.scalar_minima import bounded_minima

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
_BLOCK = 4_000_000  # trade-offs times samples that are counted at a time


def onepass(
    table: ScoreTable,
    weights: Sequence[float],
    *,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> list[Policy]:
    """DyCE's policy for each weight: at one position after another the exit of least J, or none.

    J = weight (1 - a) + (1 - weight) m. There a runs from the accuracy of the first exit (0) to
    the reference's (1), and m from the cost of the trunk up to the first position (of the first
    exit where exits are whole models) to the reference's. At each position a bounded scalar search
    over t in [0, 1] runs once per type, later exits off; of equals the later type wins, and "none"
    over all. Exits answer when `confidence > t`, which is converted exactly.

    Raises:
        PolicyError: confidences outside 0 to 1, or a first exit that is as accurate or as costly as
            the reference, for which J is not defined.
        TableError: no exit cheaper than the reference, an unknown name, a cost that is missing.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> onepass(table, [0.6])[0].exits
    ('tiny', 'big')
    """
    unit = table.unit(unit)
    reference = table.reference(reference, unit=unit)
    problem = _problem(table, reference, unit=unit, confidence=confidence)
    return _policies(problem, np.asarray(weights, np.float64))


@dataclass(frozen=True, eq=False)
class _OnepassProblem:
    """K exits in order of position, types of one in the table's order, and the full model.

    `scores` and `right` are (K, N), `order` the samples by rising confidence, `final` (N,) whether
    the full model is right. `positions` are the rows of each position. `parts` (K + 1, P) marks
    what runs, at `price` (P,). `least` and `full` are the (cost, accuracy) scaled to 0 and 1.
    """

    names: tuple[str, ...]
    reference: str
    confidence: str
    scores: Array
    right: Array
    order: Array
    final: Array
    positions: tuple[range, ...]
    parts: Array
    price: Array
    least: tuple[float, float]
    full: tuple[float, float]

    def value(self, weight: Floats, cost: Floats, right: Array) -> Floats:
        """J of total costs and numbers of right answers, one per trade-off, (W,)."""
        samples = len(self.final)
        m = (cost / samples - self.least[0]) / (self.full[0] - self.least[0])
        a = (right / samples - self.least[1]) / (self.full[1] - self.least[1])
        return np.asarray(weight * (1 - a) + (1 - weight) * m)

    def cost(self, visited: Array) -> Floats:
        """The cost of the parts that were visited, masks (W, P)."""
        return np.array([self.price[mask].sum() for mask in visited])


@dataclass(frozen=True, eq=False)
class _OnepassState:
    """After some positions, for W trade-offs: the samples left (W, N), the summed cost of the
    others, the number of right answers if the full model answers the rest, the parts (W, P) of the
    exits that are on, and these exits with their t."""

    left: Array
    spent: Floats
    right: Array
    paid: Array
    on: tuple[tuple[tuple[int, float], ...], ...]


def _policies(problem: _OnepassProblem, weights: Floats) -> list[Policy]:
    """For every weight the exits that one pass turns on, each at its t, before the reference."""
    block = max(1, _BLOCK // len(problem.final))
    found = []
    for start in range(0, len(weights), block):
        some = weights[start : start + block]
        state = _OnepassState(
            left=np.ones((len(some), len(problem.final)), bool),
            spent=np.zeros(len(some)),
            right=np.full(len(some), problem.final.sum(), np.int64),
            paid=np.zeros((len(some), len(problem.price)), bool),
            on=((),) * len(some),
        )
        for position in problem.positions:
            state = _after(problem, state, position, some)
        found += [_policy(problem, on) for on in state.on]
    return found


def _policy(problem: _OnepassProblem, on: Sequence[tuple[int, float]]) -> Policy:
    """The policy of the exits that are on, answering when `confidence > t`."""
    stages = [
        PolicyStage(problem.names[exit], from_strict(t, problem.scores[exit]), problem.confidence)
        for exit, t in on
    ]
    return Policy((*stages, PolicyStage(problem.reference)))


def _after(
    problem: _OnepassProblem, state: _OnepassState, position: range, weights: Floats
) -> _OnepassState:
    """The state behind one position, with its best exit or none on."""
    off = state.spent + state.left.sum(1) * problem.cost(state.paid | problem.parts[-1])
    best = problem.value(weights, off, state.right)
    exits, thresholds = np.full(len(weights), -1), np.zeros(len(weights))
    for exit in reversed(position):
        threshold, least = _search(problem, state, exit, weights)
        better = least < best
        best, exits = np.where(better, least, best), np.where(better, exit, exits)
        thresholds = np.where(better, threshold, thresholds)
    return _turned_on(problem, state, exits, thresholds)


def _search(
    problem: _OnepassProblem, state: _OnepassState, exit: int, weights: Floats
) -> tuple[Floats, Floats]:
    """The t that a bounded scalar search ends at for every trade-off, and J there, (W,)."""
    order = problem.order[exit]
    scores, left = problem.scores[exit, order], state.left[:, order]
    more = problem.right[exit, order].astype(np.int8) - problem.final[order].astype(np.int8)
    below, gained_below = _counted(left), _counted(left * more)
    visited = state.paid | problem.parts[exit]
    leave, stay = problem.cost(visited), problem.cost(visited | problem.parts[-1])
    lanes = np.arange(len(weights))

    def value(threshold: Floats) -> Floats:
        place = np.searchsorted(scores, threshold, side="right")
        stays = below[lanes, place]
        accepted = below[:, -1] - stays
        gained = gained_below[:, -1] - gained_below[lanes, place]
        cost = state.spent + accepted * leave + stays * stay
        return problem.value(weights, cost, state.right + gained)

    return bounded_minima(value, len(weights))


def _counted(marks: Array) -> npt.NDArray[np.int32]:
    """The sums of the first 0, 1, ... N marks of every row, (W, N + 1)."""
    sums = np.zeros((marks.shape[0], marks.shape[1] + 1), np.int32)
    np.cumsum(marks, axis=1, out=sums[:, 1:])
    return sums


def _turned_on(
    problem: _OnepassProblem, state: _OnepassState, exits: Array, thresholds: Floats
) -> _OnepassState:
    """The state with an exit more for every trade-off; none where `exits` is -1."""
    left, paid, on = state.left.copy(), state.paid.copy(), list(state.on)
    spent, right = state.spent.copy(), state.right.copy()
    for lane in np.flatnonzero(exits >= 0):
        exit, threshold = int(exits[lane]), float(thresholds[lane])
        stops = left[lane] & (problem.scores[exit] > threshold)
        left[lane] &= ~stops
        paid[lane] |= problem.parts[exit]
        spent[lane] += int(stops.sum()) * problem.price[paid[lane]].sum()
        right[lane] += int(problem.right[exit, stops].sum()) - int(problem.final[stops].sum())
        on[lane] = (*on[lane], (exit, threshold))
    return _OnepassState(left, spent, right, paid, tuple(on))


def _problem(table: ScoreTable, reference: str, *, unit: str, confidence: str) -> _OnepassProblem:
    found = exits_in_order(table, reference, unit)
    if not found:
        raise TableError(f"a cascade needs an exit that is cheaper than {reference!r}, found none")
    place = positions(table, [*found, reference])
    ordered = [sorted(types, key=table.index) for _, types in groupby(found, place.__getitem__)]
    names = tuple(name for group in ordered for name in group)
    ends = np.cumsum([0, *(len(group) for group in ordered)]).tolist()
    rows, last = [table.index(name) for name in names], table.index(reference)
    scores = table.scores(confidence)[rows].astype(np.float64)
    check_range(scores)
    right, final = (table.right(reference, row) for row in (rows, last))
    price = {**table.costs, **table.times}[unit]
    own = [set(table.exits[row].parts) for row in (*rows, last)]
    trunk = [price[part] for part in place[names[0]] if part in own[0]]
    start = math.fsum(trunk) if trunk else table.cost_of([names[0]], unit)
    least = (start, float(right[0].mean()))
    full = (table.cost_of([reference], unit), float(final.mean()))
    if not (least[0] < full[0] and least[1] < full[1]):
        raise PolicyError(
            f"`onepass` measures between the first exit and the reference: {names[0]!r} costs less "
            f"and is less accurate than {reference!r}, found {100 * least[1]:.2f} % against "
            f"{100 * full[1]:.2f} %: use `search_exits`"
        )
    return _OnepassProblem(
        names=names,
        reference=reference,
        confidence=confidence,
        scores=scores,
        right=right,
        order=np.argsort(scores, axis=1),
        final=final,
        positions=tuple(range(low, high) for low, high in pairwise(ends)),
        parts=np.array([[part in one for part in price] for one in own]),
        price=np.array(list(price.values())),
        least=least,
        full=full,
    )


def in_range(scores: Array) -> bool:
    """Whether thresholds from 0 to 1 reach all confidences."""
    return bool(scores.min() >= 0 and scores.max() <= 1 + 1e-6)


def check_range(scores: Array) -> None:
    """Refuse confidences that thresholds from 0 to 1 do not reach.

    Raises:
        PolicyError: the message has their range.
    """
    if not in_range(scores):
        raise PolicyError(
            "the published rules try thresholds from 0 to 1, found confidences from "
            f"{scores.min():.4g} to {scores.max():.4g}: use max_softmax"
        )
