"""The thresholds that the papers' own rules choose, for comparison with the exact search.

Written anew, faithful to the papers' code. TinySaver (arXiv 2403.17726) lowers one threshold in
steps of 0.001 and stops at the first crossing. DyCE's `onepass` (2403.01695) goes through the
positions once, shallow to deep, applies a smooth scalar optimiser to each step function, and never
revisits an exit. Both answer when `confidence > t`, which is converted exactly.
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
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.result import Published
from understudy.scores import ScoreTable
from understudy.searching.exits import exits_in_order, positions
from understudy.searching.pairs import allowed_gap

ONEPASS, FIRST_CROSSING = "onepass", "first crossing"
GRID = np.arange(1, 0, -0.001)
WEIGHTS = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
MOST_EXITS, MOST_SHARED, MOST_SAMPLES = 24, 200, 2_000  # onepass takes 30 ms per exit
Array = npt.NDArray[Any]


def published_rules(
    tune: ScoreTable,
    measured: ScoreTable,
    *,
    reference: str,
    unit: str,
    max_drop: Sequence[float],
    confidence: str = DEFAULT_CONFIDENCE,
) -> tuple[Published, ...]:
    """What TinySaver's and DyCE's rules choose on `tune` for every budget, measured on `measured`.

    Both rules need confidences between 0 and 1; with others nothing is returned. DyCE's runs where
    exits share parts or are few, on at most 2,000 evenly spaced samples of `tune`; its 51
    trade-offs are compared on all of `tune`.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> found = published_rules(table, table, reference="big", unit="MACs", max_drop=[0.0])
    >>> [(one.rule, one.outcome.drop, one.outcome.shares["tiny"]) for one in found]
    [('first crossing', 0.0, 0.9), ('onepass', 0.0, 0.9)]
    """
    savers = saver_rules(
        tune, measured, reference=reference, unit=unit, max_drop=max_drop, confidence=confidence
    )
    if not savers:
        return ()
    policies = _onepass_policies(tune, reference, unit, confidence)
    on_tune = [(one, evaluate(tune, one, reference=reference)) for one in policies]
    chosen = []
    for drop in max_drop if on_tune else ():
        within = [pair for pair in on_tune if pair[1].drop <= drop + 1e-9]
        best = min(within, key=lambda pair: pair[1].cost[unit], default=None)
        chosen.append((ONEPASS, drop, Policy.single(reference) if best is None else best[0]))
    return (*savers, *_measured(chosen, measured, reference))


def saver_rules(
    tune: ScoreTable,
    measured: ScoreTable,
    *,
    reference: str,
    unit: str,
    max_drop: Sequence[float],
    confidence: str = DEFAULT_CONFIDENCE,
) -> tuple[Published, ...]:
    """The policies of TinySaver's rule only, the one for models that share no parts.

    For each budget the pair of least cost among all cheaper exits, each at its own crossing.
    """
    full = tune.cost_of([reference], unit)
    littles = [name for name in tune.names if tune.cost_of([name], unit) < full]
    if not littles or confidence not in tune.confidence:
        return ()
    if not _in_range(tune.confidence[confidence]):
        return ()
    spec = {"unit": unit, "confidence": confidence}
    sweeps = [_GridSweep.of(tune, name, reference, **spec) for name in littles]
    chosen = []
    for drop in max_drop:
        ends = [sweep.crossing(drop) for sweep in sweeps]
        best = min(range(len(ends)), key=lambda number: ends[number][0])
        chosen.append((FIRST_CROSSING, drop, sweeps[best].policy(ends[best][1])))
    return _measured(chosen, measured, reference)


def _measured(
    chosen: Sequence[tuple[str, float, Policy]], measured: ScoreTable, reference: str
) -> tuple[Published, ...]:
    outcomes = {
        one: evaluate(measured, one, reference=reference)
        for one in dict.fromkeys(policy for _, _, policy in chosen)
    }
    return tuple(Published(rule, drop, policy, outcomes[policy]) for rule, drop, policy in chosen)


def first_crossing(
    table: ScoreTable,
    little: str,
    reference: str,
    *,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    max_drop: float | None = None,
) -> Policy:
    """TinySaver's pair: t falls from 1 in steps of 0.001 to the first at which, on the samples that
    the little model answers, it is less accurate than the reference.

    That t is taken, although it has crossed. With `max_drop` (points) the gap over all samples is
    compared with it instead, and the last t before the crossing is taken. Where this saves nothing
    (delta C >= 0 in the paper), it is the reference alone.

    Raises:
        PolicyError: confidences outside 0 to 1.
        TableError: an unknown name, or a cost that is missing.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6055, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> first_crossing(table, "tiny", "big").describe()
    'tiny when max_softmax >= 0.605, else big'
    >>> first_crossing(table, "tiny", "big", max_drop=0.0).describe()
    'tiny when max_softmax >= 0.606, else big'
    """
    unit = table.unit(unit)
    _check_range(table.scores(confidence)[table.index(little)])
    spec = {"unit": unit, "confidence": confidence}
    sweep = _GridSweep.of(table, little, reference, **spec)
    return sweep.policy(sweep.crossing(max_drop)[1])


@dataclass(frozen=True, eq=False)
class _GridSweep:
    """A pair as its threshold falls from 1 to 0 in steps of 0.001.

    `scores` (N,) are the little model's. At each step of the grid, (G,): `gap` is how many samples
    are lost net, `cost` the mean cost. `full` is the reference's.
    """

    little: str
    reference: str
    confidence: str
    scores: Array
    gap: Array
    cost: Array
    full: float

    @staticmethod
    def of(
        table: ScoreTable, little: str, reference: str, *, unit: str, confidence: str
    ) -> _GridSweep:
        """The sweep on a table."""
        row = table.index(little)
        scores = table.scores(confidence)[row].astype(np.float64)
        lost = table.right(reference, table.index(reference)).astype(np.int64)
        lost -= table.right(reference, row)
        order = np.argsort(scores)
        accepted = len(scores) - np.searchsorted(scores[order], GRID, side="right")
        share = accepted / len(scores)
        alone, both = (table.cost_of(names, unit) for names in ([little], [little, reference]))
        return _GridSweep(
            little=little,
            reference=reference,
            confidence=confidence,
            scores=scores,
            gap=np.append(0, np.cumsum(lost[order[::-1]]))[accepted],
            cost=share * alone + (1 - share) * both,
            full=table.cost_of([reference], unit),
        )

    def crossing(self, max_drop: float | None) -> tuple[float, int]:
        """The mean cost and the step of the crossing; the reference's cost and -1 for no step."""
        crossed = self.gap > (0 if max_drop is None else allowed_gap(max_drop, len(self.scores)))
        last = int(np.argmax(crossed)) - (max_drop is not None) if crossed.any() else len(GRID) - 1
        saves = last >= 0 and self.cost[last] < self.full
        return (float(self.cost[last]), last) if saves else (self.full, -1)

    def policy(self, step: int) -> Policy:
        """The policy at a step."""
        if step < 0:
            return Policy.single(self.reference)
        threshold = from_strict(float(GRID[step]), self.scores)
        return Policy.pair(self.little, self.reference, threshold, confidence=self.confidence)


def _onepass_policies(tune: ScoreTable, reference: str, unit: str, confidence: str) -> list[Policy]:
    """The policies of all trade-offs; none where the rule is undefined or would take long."""
    if len(tune.exits) > (MOST_SHARED if tune.shares_parts else MOST_EXITS):
        return []
    few = tune
    if len(tune) > MOST_SAMPLES:
        few = tune.rows(np.linspace(0, len(tune) - 1, MOST_SAMPLES).astype(np.intp))
    try:
        found = onepass(few, WEIGHTS, reference=reference, unit=unit, confidence=confidence)
    except PolicyError:
        return []
    return list(dict.fromkeys(found))


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
    return [_policy(problem, weight) for weight in weights]


def _in_range(scores: Array) -> bool:
    """Whether thresholds from 0 to 1 reach all confidences."""
    return bool(scores.min() >= 0 and scores.max() <= 1 + 1e-6)


def _check_range(scores: Array) -> None:
    if not _in_range(scores):
        raise PolicyError(
            "the published rules try thresholds from 0 to 1, found confidences from "
            f"{scores.min():.4g} to {scores.max():.4g}: use max_softmax"
        )


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

    def value(self, weight: float, cost: float, right: int) -> float:
        """J of a total cost and a number of right answers."""
        samples = len(self.final)
        m = (cost / samples - self.least[0]) / (self.full[0] - self.least[0])
        a = (right / samples - self.least[1]) / (self.full[1] - self.least[1])
        return weight * (1 - a) + (1 - weight) * m

    def cost(self, visited: Array) -> float:
        """The cost of the parts that were visited, a mask (P,)."""
        return float(self.price[visited].sum())


@dataclass(frozen=True, eq=False)
class _OnepassState:
    """After some positions: the samples left (N,), the summed cost of the others, the number of
    right answers if the full model answers the rest, and the parts (P,) of exits that are on."""

    left: Array
    spent: float
    right: int
    paid: Array


def _policy(problem: _OnepassProblem, weight: float) -> Policy:
    """The exits that one pass turns on, each at its t, before the reference."""
    left, paid = np.ones(len(problem.final), bool), np.zeros(len(problem.price), bool)
    state = _OnepassState(left, 0.0, int(problem.final.sum()), paid)
    stages = []
    for position in problem.positions:
        off = state.spent + int(state.left.sum()) * problem.cost(state.paid | problem.parts[-1])
        best, found = problem.value(weight, off, state.right), None
        for exit in reversed(position):
            threshold, least = _search(problem, state, exit, weight)
            if least < best:
                best, found = least, (exit, threshold)
        if found is not None:
            exit, limit = found[0], from_strict(found[1], problem.scores[found[0]])
            stages.append(PolicyStage(problem.names[exit], limit, problem.confidence))
            state = _turned_on(problem, state, *found)
    return Policy((*stages, PolicyStage(problem.reference)))


def _search(
    problem: _OnepassProblem, state: _OnepassState, exit: int, weight: float
) -> tuple[float, float]:
    """The t that a bounded scalar search ends at, and J there."""
    from scipy.optimize import fminbound

    rows = problem.order[exit][state.left[problem.order[exit]]]
    scores = problem.scores[exit, rows]
    more = problem.right[exit, rows].astype(np.int64) - problem.final[rows]
    gained = np.append(0, np.cumsum(more[::-1]))
    visited = state.paid | problem.parts[exit]
    leave, stay = problem.cost(visited), problem.cost(visited | problem.parts[-1])

    def value(threshold: float) -> float:
        accepted = len(scores) - int(np.searchsorted(scores, threshold, side="right"))
        cost = state.spent + accepted * leave + (len(scores) - accepted) * stay
        return problem.value(weight, cost, state.right + int(gained[accepted]))

    threshold, least, _, _ = fminbound(value, 0.0, 1.0, full_output=True)
    return float(threshold), float(least)


def _turned_on(
    problem: _OnepassProblem, state: _OnepassState, exit: int, threshold: float
) -> _OnepassState:
    stops = state.left & (problem.scores[exit] > threshold)
    paid = state.paid | problem.parts[exit]
    change = int(problem.right[exit, stops].sum()) - int(problem.final[stops].sum())
    spent = state.spent + int(stops.sum()) * problem.cost(paid)
    return _OnepassState(state.left & ~stops, spent, state.right + change, paid)


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
    _check_range(scores)
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
