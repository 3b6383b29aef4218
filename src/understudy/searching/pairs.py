"""Exact evaluation of every threshold of a two-stage cascade.

Sort the little model's confidences once; the cumulative sum of (large right) - (little right)
over groups of ties gives the gap at every possible threshold. The largest accepted prefix within a
budget is optimal; the first crossing, which TinySaver's code takes (arXiv 2403.17726), can accept
far less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, check_number
from understudy.frontier import Frontier, Point, PointArrays
from understudy.outcome import Outcome, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy, midpoint
from understudy.scores import ScoreTable
from understudy.short_repr import short_repr

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PairCurve:
    """The cascade little -> last at every possible threshold, compared with a reference.

    All arrays are (K + 1,) for K distinct confidences, from no sample accepted to all of them.

    Attributes:
        little, last: the exits of the two stages; `last` is the reference or an ensemble with it.
        confidence: the stored confidence that the threshold applies to.
        full: the cost of the reference alone.
        threshold: float64; `inf` first, `-inf` last.
        accepted: how many samples the little model answers.
        losses, gains: how many samples only the reference, or only the cascade, has right.
        cost: mean cost per sample; 0 accepted is `last` alone, all accepted `little` alone.
    """

    little: str
    last: str
    confidence: str
    full: float
    threshold: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.int64]
    losses: npt.NDArray[np.int64]
    gains: npt.NDArray[np.int64]
    cost: npt.NDArray[np.float64]

    __repr__ = short_repr

    @property
    def samples(self) -> int:
        return int(self.accepted[-1])

    @property
    def drop(self) -> npt.NDArray[np.float64]:
        """The gap in points at every threshold."""
        return 100.0 * (self.losses - self.gains) / self.samples

    def policy(self, position: int) -> Policy:
        """The policy at a position: `last` alone at the start, `little` alone at the end."""
        if position == 0:
            return Policy.single(self.last)
        if self.accepted[position] == self.samples:
            return Policy.single(self.little)
        threshold = float(self.threshold[position])
        return Policy.pair(self.little, self.last, threshold, confidence=self.confidence)

    def cheapest_within(self, max_drop: float) -> int:
        """The position of least cost within `max_drop` points; of equals that of least drop."""
        allowed = np.flatnonzero(self.losses - self.gains <= allowed_gap(max_drop, self.samples))
        if not len(allowed):
            return 0
        cost = self.cost[allowed]
        best = allowed[cost == cost.min()]
        return int(best[np.argmin(self.losses[best] - self.gains[best])])


def pair_curve(
    table: ScoreTable,
    little: str,
    last: str,
    *,
    reference: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
) -> PairCurve:
    """The exact trade-off of one pair on a table.

    Losses and gains are counted against `reference`, which is `last` unless that is an ensemble:
    then those of the samples that the ensemble answers count as well.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> curve = pair_curve(table, "tiny", "big")
    >>> curve.accepted.tolist(), curve.drop.tolist()
    ([0, 1, 2, 3, 4], [0.0, 0.0, 0.0, 0.0, 25.0])
    >>> curve.policy(curve.cheapest_within(0.0)).describe()
    'tiny when max_softmax >= 0.65, else big'

    Raises:
        TableError: unknown names, or a missing cost.
    """
    unit = table.unit(unit)
    reference = last if reference is None else reference
    scores = table.scores(confidence)[table.index(little)].astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    little_right, last_right, reference_right = (
        table.right(reference, table.index(name))[order] for name in (little, last, reference)
    )
    falling, samples = scores[order], len(scores)
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True)) + 1
    accepted = np.concatenate([[0], ends])
    first, both = table.cost_of([little], unit), table.cost_of([little, last], unit)
    cost = accepted / samples * first + (samples - accepted) / samples * both
    cost[0] = table.cost_of([last], unit)
    losses = _counts(reference_right & ~little_right, reference_right & ~last_right, accepted)
    gains = _counts(little_right & ~reference_right, last_right & ~reference_right, accepted)
    full, threshold = table.cost_of([reference], unit), thresholds_between(falling, ends)
    return PairCurve(little, last, confidence, full, threshold, accepted, losses, gains, cost)


def thresholds_between(falling: Array, ends: Array) -> npt.NDArray[np.float64]:
    """The threshold that accepts exactly the first `end` of falling confidences, for every end.

    The first one, `inf`, accepts none; the last one, `-inf`, accepts all.
    """
    between = midpoint(falling[ends[:-1]], falling[ends[:-1] - 1])
    return np.concatenate([[np.inf], between, [-np.inf]])


def checked_drops(max_drop: float | Sequence[float]) -> tuple[float, ...]:
    """One or several budgets in points as a tuple.

    Raises:
        PolicyError: no budget, one that is no number, or one beyond 100 points.
    """
    several = isinstance(max_drop, Sequence | np.ndarray) and not isinstance(max_drop, str)
    drops = list(cast("Sequence[float]", max_drop)) if several else [cast("float", max_drop)]
    if not drops:
        raise PolicyError("a search has at least one budget, found none: --max-drop 0.5")
    for drop in drops:
        check_number(drop, "a budget in points", PolicyError)
        if not -100 <= drop <= 100:
            raise PolicyError(f"a drop lies between -100 and 100 points, found {drop:g}")
    return tuple(float(drop) for drop in drops)


def allowed_gap(max_drop: float, samples: int) -> int:
    """The largest whole number of net losses among `samples` within `max_drop` points.

    >>> allowed_gap(0.1, 50_000), allowed_gap(0.25, 10)
    (50, 0)
    """
    return int(np.floor(max_drop * samples / 100 + 1e-6))


def pair_curves(
    table: ScoreTable, reference: str, *, confidence: str = DEFAULT_CONFIDENCE, unit: str
) -> list[PairCurve]:
    """The curves of every exit that is cheaper than the reference, in the table's order."""
    full = table.cost_of([reference], unit)
    return [
        pair_curve(table, name, reference, confidence=confidence, unit=unit)
        for name in table.names
        if table.cost_of([name], unit) < full
    ]


def cheapest_pair(curves: Sequence[PairCurve], max_drop: float) -> tuple[PairCurve, int]:
    """The curve and the position of least cost with a drop of at most `max_drop` points."""
    ends = [(curve, curve.cheapest_within(max_drop)) for curve in curves]
    return min(ends, key=lambda end: float(end[0].cost[end[1]]))


def search_pairs(
    table: ScoreTable,
    *,
    reference: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
) -> Frontier:
    """Every non-dominated two-stage cascade and exit that is cheaper than one reference, exactly.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> for point in search_pairs(table, reference="big"):
    ...     print(point.policy.describe())
    tiny
    tiny when max_softmax >= 0.65, else big

    Raises:
        TableError: unknown names, or costs that are missing.
    """
    unit = table.unit(unit)
    reference = table.reference(reference, unit=unit)
    curves = pair_curves(table, reference, confidence=confidence, unit=unit)
    return pairs_frontier(table, curves, reference=reference, unit=unit)


def pairs_frontier(
    table: ScoreTable, curves: list[PairCurve], *, reference: str, unit: str
) -> Frontier:
    """The frontier of curves that were computed on `table`."""
    points = curve_points(table, curves, reference=reference, unit=unit)
    return Frontier.of_arrays(points, unit=unit, reference=reference)


def curve_points(
    table: ScoreTable, curves: Sequence[PairCurve], *, reference: str, unit: str
) -> list[PointArrays]:
    """The points of curves that were computed on `table`, and that of the reference alone."""
    outcome = evaluate(table, Policy.single(reference), reference=reference)
    alone = PointArrays.of([Point.of(Policy.single(reference), outcome, unit=unit)])
    pairs = (PointArrays(one.cost, one.drop, partial(_point, one, outcome)) for one in curves)
    return [alone, *pairs]


def _point(curve: PairCurve, reference: Outcome, position: int) -> Point:
    """The point of one position; its figures equal those of `evaluate` to the last bit."""
    policy, count = curve.policy(position), curve.samples
    accepted = int(curve.accepted[position])
    shares = {curve.little: accepted / count, curve.last: (count - accepted) / count}
    reference_right = round(reference.reference_accuracy * count)
    lost = int(curve.losses[position] - curve.gains[position])
    right, drop = reference_right - lost, 100.0 * lost / count
    cost, full = float(curve.cost[position]), curve.full
    saving = 1 - float(cost / full) if full else 0.0
    visited = {name: shares[name] for name in policy.exits}
    return Point(policy, cost, right / count, drop, saving, visited)


def _counts(by_little: Array, by_last: Array, accepted: Array) -> npt.NDArray[np.int64]:
    """Marks of `little` among the first `accepted` samples, plus those of `last` among the rest."""
    change = by_little.astype(np.int64) - by_last
    total = int(by_last.sum()) + np.concatenate([[0], np.cumsum(change)])
    return np.asarray(total[accepted], np.int64)
