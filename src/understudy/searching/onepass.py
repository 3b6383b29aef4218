"""DyCE's `onepass` (arXiv 2403.01695), faithful to its code's rule: a baseline for many exits.

It goes through the positions once, shallow to deep, puts a smooth scalar optimiser on each step
function, and never revisits an exit. `search_exits` finds what it misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError
from understudy.import_exits import from_strict
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.exits import exits_in_order, positions

Array = npt.NDArray[Any]


def onepass(
    table: ScoreTable,
    weight: float,
    *,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> Policy:
    """Position after position, the exit type and threshold, or none, of least J.

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
    >>> onepass(table, 0.6).exits
    ('tiny', 'big')
    """
    return onepasses(table, [weight], reference=reference, unit=unit, confidence=confidence)[0]


def onepasses(
    table: ScoreTable,
    weights: Sequence[float],
    *,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> list[Policy]:
    """`onepass` for every weight; the confidences are sorted once."""
    unit = table.unit(unit)
    big = table.reference(reference, unit=unit)
    problem = _problem(table, big, unit=unit, confidence=confidence)
    return [_policy(problem, _pass(problem, weight)) for weight in weights]


def in_range(sure: Array) -> bool:
    """Whether thresholds from 0 to 1 reach all confidences."""
    return bool(sure.min() >= 0 and sure.max() <= 1 + 1e-6)


def check_range(sure: Array) -> None:
    """Refuse confidences that thresholds from 0 to 1 do not reach.

    Raises:
        PolicyError: one lies outside 0 to 1.
    """
    if not in_range(sure):
        raise PolicyError(
            "the published rules try thresholds from 0 to 1, found confidences from "
            f"{sure.min():.4g} to {sure.max():.4g}: use max_softmax"
        )


@dataclass(frozen=True, eq=False)
class _Problem:
    """K exits in order of position, types of one in the table's order, and the full model `big`.

    `sure` and `right` are (K, N), `order` the samples by rising confidence, `final` (N,) whether
    the full model is right. `places` are the rows of each position. `parts` (K + 1, P) says what
    runs, at `price` (P,). `least` and `full` are what a and m are 0 and 1 at: cost, accuracy.
    """

    names: tuple[str, ...]
    big: str
    confidence: str
    sure: Array
    right: Array
    order: Array
    final: Array
    places: tuple[range, ...]
    parts: Array
    price: Array
    least: tuple[float, float]
    full: tuple[float, float]

    def value(self, weight: float, cost: float, right: int) -> float:
        """J of a total cost and a number of right answers."""
        samples = len(self.final)
        m = (cost / samples - self.least[0]) / (self.full[0] - self.least[0])
        a = (right / samples - self.least[1]) / (self.full[1] - self.least[1])
        return weight * (1 - a) + (1 - weight) * m

    def cost(self, visited: Array) -> float:
        """The cost of all parts that were visited, a mask (P,)."""
        return float(self.price[visited].sum())


@dataclass(frozen=True, eq=False)
class _State:
    """Behind some positions: who is left (N,), what the others cost in all, how many answers are
    right if the full model answers the rest, and the parts (P,) of the exits that are on."""

    left: Array
    spent: float
    right: int
    paid: Array


def _pass(problem: _Problem, weight: float) -> list[tuple[int, float]]:
    """The exits that are turned on, each with its t."""
    state = _State(
        left=np.ones(len(problem.final), bool),
        spent=0.0,
        right=int(problem.final.sum()),
        paid=np.zeros(len(problem.price), bool),
    )
    chosen = []
    for place in problem.places:
        none = state.spent + int(state.left.sum()) * problem.cost(state.paid | problem.parts[-1])
        best, found = problem.value(weight, none, state.right), None
        for exit in reversed(place):
            threshold, least = _search(problem, state, exit, weight)
            if least < best:
                best, found = least, (exit, threshold)
        if found is not None:
            chosen.append(found)
            state = _turned_on(problem, state, *found)
    return chosen


def _search(problem: _Problem, state: _State, exit: int, weight: float) -> tuple[float, float]:
    """The t that a bounded scalar search ends at, and J there."""
    from scipy.optimize import fminbound

    rows = problem.order[exit][state.left[problem.order[exit]]]
    sure = problem.sure[exit, rows]
    more = problem.right[exit, rows].astype(np.int64) - problem.final[rows]
    gained = np.append(0, np.cumsum(more[::-1]))
    visited = state.paid | problem.parts[exit]
    leave, stay = problem.cost(visited), problem.cost(visited | problem.parts[-1])

    def value(threshold: float) -> float:
        accepted = len(sure) - int(np.searchsorted(sure, threshold, side="right"))
        cost = state.spent + accepted * leave + (len(sure) - accepted) * stay
        return problem.value(weight, cost, state.right + int(gained[accepted]))

    threshold, least, _, _ = fminbound(value, 0.0, 1.0, full_output=True)
    return float(threshold), float(least)


def _turned_on(problem: _Problem, state: _State, exit: int, threshold: float) -> _State:
    stops = state.left & (problem.sure[exit] > threshold)
    paid = state.paid | problem.parts[exit]
    change = int(problem.right[exit, stops].sum()) - int(problem.final[stops].sum())
    spent = state.spent + int(stops.sum()) * problem.cost(paid)
    return _State(state.left & ~stops, spent, state.right + change, paid)


def _policy(problem: _Problem, chosen: Sequence[tuple[int, float]]) -> Policy:
    steps = (
        PolicyStage(problem.names[exit], from_strict(t, problem.sure[exit]), problem.confidence)
        for exit, t in chosen
    )
    return Policy((*steps, PolicyStage(problem.big)))


def _problem(table: ScoreTable, big: str, *, unit: str, confidence: str) -> _Problem:
    found = exits_in_order(table, big, unit)
    place = positions(table, [*found, big])
    groups: dict[frozenset[str], list[str]] = {}
    for name in sorted(found, key=table.index):
        groups.setdefault(place[name], []).append(name)
    ordered = [groups[key] for key in dict.fromkeys(place[name] for name in found)]
    names = tuple(name for group in ordered for name in group)
    ends = np.cumsum([0, *(len(group) for group in ordered)]).tolist()
    rows, truth = [table.index(name) for name in names], table.truth(big)
    sure = table.scores(confidence)[rows].astype(np.float64)
    check_range(sure)
    right, final = table.prediction[rows] == truth, table.prediction[table.index(big)] == truth
    price = {**table.costs, **table.times}[unit]
    own = [set(table.exits[row].parts) for row in (*rows, table.index(big))]
    trunk = [price[part] for part in place[names[0]] if part in own[0]]
    start = math.fsum(trunk) if trunk else table.cost_of([names[0]], unit)
    least = (start, float(right[0].mean()))
    full = (table.cost_of([big], unit), float(final.mean()))
    if not (least[0] < full[0] and least[1] < full[1]):
        raise PolicyError(
            f"`onepass` measures between the first exit and the reference: {names[0]!r} costs less "
            f"and is less accurate than {big!r}, found {100 * least[1]:.2f} % against "
            f"{100 * full[1]:.2f} %: use `search_exits`"
        )
    return _Problem(
        names=names,
        big=big,
        confidence=confidence,
        sure=sure,
        right=right,
        order=np.argsort(sure, axis=1),
        final=final,
        places=tuple(range(low, high) for low, high in pairwise(ends)),
        parts=np.array([[part in one for part in price] for one in own]),
        price=np.array(list(price.values())),
        least=least,
        full=full,
    )
