"""Every threshold of a two-stage cascade, exactly.

Sort the little model's confidences once; the cumulative sum of (reference right) - (little right)
over groups of ties gives the gap at every possible threshold. The largest accepted prefix within a
budget is optimal; the first crossing, which TinySaver's code takes (arXiv 2403.17726), can accept
far less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.frontier import Frontier, Point
from understudy.outcome import Outcome, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy, midpoint
from understudy.scores import ScoreTable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PairCurve:
    """What the cascade little -> reference does at every possible threshold.

    All arrays are (K + 1,) for K distinct confidences, from nobody accepted to everybody.

    Attributes:
        threshold: float64; `inf` first, `-inf` last.
        accepted: how many samples the little model answers.
        losses, gains: of those, how many only the reference, or only the little model, has right.
        cost: mean cost per sample; 0 accepted is the reference alone, all accepted the little
            alone.
    """

    little: str
    reference: str
    confidence: str
    threshold: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.int64]
    losses: npt.NDArray[np.int64]
    gains: npt.NDArray[np.int64]
    cost: npt.NDArray[np.float64]

    @property
    def samples(self) -> int:
        return int(self.accepted[-1])

    @property
    def drop(self) -> npt.NDArray[np.float64]:
        """The gap in points at every threshold."""
        return 100.0 * (self.losses - self.gains) / self.samples

    def policy(self, position: int) -> Policy:
        """The policy at a position: the reference alone at the start, the little alone at the
        end."""
        if position == 0:
            return Policy.single(self.reference)
        if self.accepted[position] == self.samples:
            return Policy.single(self.little)
        threshold = float(self.threshold[position])
        return Policy.pair(self.little, self.reference, threshold, confidence=self.confidence)

    def cheapest_within(self, max_drop: float) -> int:
        """The position of least cost with a drop of at most `max_drop` points.

        Where costs tie, the smaller drop wins.
        """
        allowed = np.flatnonzero(self.losses - self.gains <= allowed_gap(max_drop, self.samples))
        if not len(allowed):
            return 0
        cost = self.cost[allowed]
        best = allowed[cost == cost.min()]
        return int(best[np.argmin(self.losses[best] - self.gains[best])])


def pair_curve(
    table: ScoreTable,
    little: str,
    reference: str,
    *,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
) -> PairCurve:
    """The exact trade-off of one pair on a table.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> curve = pair_curve(table, "tiny", "big")
    >>> curve.accepted.tolist(), curve.drop.tolist()
    ([0, 1, 2, 3, 4], [0.0, 0.0, 0.0, 0.0, 25.0])
    >>> curve.policy(curve.cheapest_within(0.0)).describe()
    'tiny when max_softmax >= 0.65, else big'
    """
    unit = table.unit(unit)
    truth = table.truth(reference)
    row, big = table.index(little), table.index(reference)
    sure = table.scores(confidence)[row].astype(np.float64)
    order = np.argsort(-sure, kind="stable")
    little_right = (table.prediction[row] == truth)[order]
    big_right = (table.prediction[big] == truth)[order]
    sure = sure[order]
    ends = np.flatnonzero(np.append(sure[:-1] != sure[1:], True)) + 1
    accepted = np.concatenate([[0], ends])
    first, both = table.cost_of([little], unit), table.cost_of([little, reference], unit)
    cost = accepted / len(sure) * first + (len(sure) - accepted) / len(sure) * both
    cost[0] = table.cost_of([reference], unit)
    return PairCurve(
        little=little,
        reference=reference,
        confidence=confidence,
        threshold=thresholds_between(sure, ends),
        accepted=accepted,
        losses=_counts(big_right & ~little_right, accepted),
        gains=_counts(little_right & ~big_right, accepted),
        cost=cost,
    )


def thresholds_between(sure: Array, ends: Array) -> npt.NDArray[np.float64]:
    """The threshold that accepts exactly the first `end` of the sorted confidences, for every end.

    `inf` stands before them for "nobody"; the last one, for "everybody", is `-inf`.
    """
    return np.concatenate([[np.inf], midpoint(sure[ends[:-1]], sure[ends[:-1] - 1]), [-np.inf]])


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
        if name != reference and table.cost_of([name], unit) < full
    ]


def search_pairs(
    table: ScoreTable,
    *,
    reference: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
) -> Frontier:
    """Every non-dominated two-stage cascade and exit that is cheaper than one reference, exactly.

    Raises:
        TableError: unknown names, or costs that are missing.
    """
    unit = table.unit(unit)
    big = table.reference(reference, unit=unit)
    curves = pair_curves(table, big, confidence=confidence, unit=unit)
    return pairs_frontier(table, curves, reference=big, unit=unit)


def pairs_frontier(
    table: ScoreTable, curves: list[PairCurve], *, reference: str, unit: str
) -> Frontier:
    """The frontier of curves that were computed on `table`."""
    outcome = evaluate(table, Policy.single(reference), reference=reference)
    points = [Point.of(Policy.single(reference), outcome, unit=unit)]
    for curve in curves:
        points += [_point(curve, k, outcome) for k in _undominated(curve)]
    return Frontier.of(points, unit=unit, reference=reference)


def _undominated(curve: PairCurve) -> list[int]:
    order = np.lexsort((curve.drop, curve.cost))
    drop = curve.drop[order]
    best = np.minimum.accumulate(np.concatenate([[np.inf], drop[:-1]]))
    return [int(k) for k in order[drop < best]]


def _point(curve: PairCurve, position: int, reference: Outcome) -> Point:
    """The point of one position; its figures are `evaluate`'s, to the last bit."""
    policy, count = curve.policy(position), curve.samples
    accepted = int(curve.accepted[position])
    shares = {curve.little: accepted / count, curve.reference: (count - accepted) / count}
    reference_right = round(reference.reference_accuracy * count)
    right = reference_right + int(curve.gains[position] - curve.losses[position])
    return Point(
        policy=policy,
        cost=float(curve.cost[position]),
        accuracy=right / count,
        drop=float(curve.drop[position]),
        saving=1 - float(curve.cost[position] / curve.cost[0]) if curve.cost[0] else 0.0,
        shares={name: shares[name] for name in policy.exits},
    )


def _counts(marks: npt.NDArray[np.bool_], accepted: Array) -> npt.NDArray[np.int64]:
    return np.asarray(np.concatenate([[0], np.cumsum(marks)])[accepted], dtype=np.int64)
