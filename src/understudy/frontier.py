"""A frontier: the policies that no other found policy beats in both cost and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError
from understudy.json_codec import Stored, StoredFile
from understudy.outcome import Outcome, evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.short_repr import clipped, short_repr
from understudy.tabular import Tabular


@dataclass(frozen=True)
class Point(Stored, keys=("cost", "accuracy", "drop", "saving", "shares", "policy")):
    """One policy of a frontier: mean cost per sample, accuracy, drop in points, saving, shares."""

    policy: Policy
    cost: float
    accuracy: float
    drop: float
    saving: float
    shares: Mapping[str, float]

    @staticmethod
    def of(policy: Policy, outcome: Outcome, *, unit: str) -> Point:
        return Point(
            policy=policy,
            cost=outcome.cost[unit],
            accuracy=outcome.accuracy,
            drop=outcome.drop,
            saving=outcome.saving[unit],
            shares=outcome.shares,
        )


@dataclass(frozen=True, eq=False)
class PointArrays:
    """P points as arrays; `point` makes the one of a row, where it is kept.

    Attributes:
        cost, drop: (P,) mean cost per sample, and the drop in points.
        point: the point of a row.
    """

    cost: npt.NDArray[np.float64]
    drop: npt.NDArray[np.float64]
    point: Callable[[int], Point]

    __repr__ = short_repr

    @staticmethod
    def of(points: Sequence[Point]) -> PointArrays:
        """Points that are made already."""
        cost, drop = (np.array([getattr(p, name) for p in points]) for name in ("cost", "drop"))
        return PointArrays(cost, drop, points.__getitem__)


@dataclass(frozen=True)
class Frontier(
    StoredFile,
    Tabular,
    what="a frontier",
    error=PolicyError,
    keys=("unit", "reference", "points"),
    remedy="make it again",
    format="understudy.frontier",
    version=2,
):
    """Points sorted by cost. Found on one table; `measured_on` looks at the same policies
    elsewhere.

    Attributes:
        points: sorted by cost, cheapest first.
        unit: the unit of their costs.
        reference: the exit that drops are measured against.

    >>> cheap = Point(Policy.single("tiny"), 1.0, 0.8, 5.0, 0.9, {"tiny": 1.0})
    >>> dear = Point(Policy.single("big"), 10.0, 0.85, 0.0, 0.0, {"big": 1.0})
    >>> worse = Point(Policy.single("mid"), 10.0, 0.7, 15.0, 0.0, {"mid": 1.0})
    >>> frontier = Frontier.of([dear, worse, cheap], unit="MACs", reference="big")
    >>> [point.cost for point in frontier]
    [1.0, 10.0]
    >>> frontier.within(5.0).policy.describe(), frontier.at_least(0.85).cost
    ('tiny', 10.0)
    """

    points: tuple[Point, ...]
    unit: str
    reference: str

    @staticmethod
    def of(points: Iterable[Point], *, unit: str, reference: str) -> Frontier:
        """The non-dominated ones among `points`; of equals the first stays."""
        return Frontier.of_arrays([PointArrays.of(list(points))], unit=unit, reference=reference)

    @staticmethod
    def of_arrays(arrays: Sequence[PointArrays], *, unit: str, reference: str) -> Frontier:
        """The same for points in arrays: only those that are kept are made."""
        cost = np.concatenate([one.cost for one in arrays])
        drop = np.concatenate([one.drop for one in arrays])
        ends = np.cumsum([len(one.cost) for one in arrays])
        kept = []
        for row in undominated(cost, drop).tolist():
            source = int(np.searchsorted(ends, row, side="right"))
            kept.append(arrays[source].point(row - int(ends[source]) + len(arrays[source].cost)))
        return Frontier(tuple(kept), unit, reference)

    def __repr__(self) -> str:
        ends = [f"{point.cost:.4g}" for point in (*self.points[:1], *self.points[1:][-1:])]
        costs = f", {' to '.join(ends)} {clipped(self.unit)}" if ends else ""
        count = f"{len(self):,} point{'s' * (len(self) != 1)}"
        return f"<Frontier: {count} against {clipped(self.reference)}{costs}>"

    def columns(self) -> dict[str, list[Any]]:
        """A row per point, cheapest first; the cost in the frontier's unit, the drop in points."""
        return {
            "policy": [point.policy.describe() for point in self.points],
            "cost": [point.cost for point in self.points],
            "accuracy": [point.accuracy for point in self.points],
            "drop": [point.drop for point in self.points],
            "saving": [point.saving for point in self.points],
        }

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def within(self, cost: float) -> Point:
        """The most accurate point at that cost or less.

        Raises:
            PolicyError: every point is dearer.
        """
        fitting = [point for point in self.points if point.cost <= cost]
        if not fitting:
            cheapest = min((point.cost for point in self.points), default=float("nan"))
            raise PolicyError(
                f"no point of this frontier costs {cost:g} {self.unit} or less, the cheapest costs "
                f"{cheapest:g}: allow more, or score a smaller model"
            )
        return min(fitting, key=lambda point: (point.drop, point.cost))

    def at_least(self, accuracy: float) -> Point:
        """The cheapest point with that accuracy or more.

        Raises:
            PolicyError: no point is that accurate.
        """
        fitting = [point for point in self.points if point.accuracy >= accuracy]
        if not fitting:
            best = max((point.accuracy for point in self.points), default=float("nan"))
            raise PolicyError(
                f"no point of this frontier reaches the accuracy {accuracy:g}, the best has "
                f"{best:g}: accept less, or score a larger model"
            )
        return min(fitting, key=lambda point: point.cost)

    def measured_on(self, table: ScoreTable) -> Frontier:
        """The same policies, measured on another table; even those that are now dominated stay.

        Raises:
            TableError: the table lacks an exit, a confidence, or a cost in the frontier's unit.
        """
        table.cost_of({name for p in self.points for name in p.policy.exits}, self.unit)
        points = (
            Point.of(p.policy, evaluate(table, p.policy, reference=self.reference), unit=self.unit)
            for p in self.points
        )
        return Frontier(tuple(sorted(points, key=lambda p: p.cost)), self.unit, self.reference)


def undominated(
    cost: npt.NDArray[np.float64], drop: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """The rows that no other one beats in cost and drop, by rising cost; of equals the first.

    >>> undominated(np.array([2.0, 1.0, 1.0, 3.0]), np.array([0.5, 2.0, 1.0, 0.5])).tolist()
    [2, 0]
    """
    order = np.lexsort((drop, cost))
    sorted_drop = drop[order]
    least = np.minimum.accumulate(np.append(np.inf, sorted_drop))[:-1]
    return np.asarray(order[sorted_drop < least], np.intp)
