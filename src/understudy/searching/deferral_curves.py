"""Accuracy against the share that a little model defers: by confidences, at random, by an oracle.

The area between the curve of a confidence and that of random deferral is what the confidence is
worth; an oracle, which knows who is right, is what none can exceed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.scores import ScoreTable
from understudy.searching.pairs import pair_curve
from understudy.short_repr import short_repr


@dataclass(frozen=True, eq=False)
class Deferral:
    """One way to defer: shares of the samples that are deferred, rising, and the accuracy there.

    Attributes:
        deferred, accuracy: (K,) fractions.
    """

    deferred: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    __repr__ = short_repr

    @property
    def area(self) -> float:
        """The area under the curve: the mean accuracy over all shares, as a fraction."""
        return float(np.trapezoid(self.accuracy, self.deferred))


@dataclass(frozen=True, eq=False)
class DeferralCurves:
    """How a little model may defer to a big one.

    Attributes:
        little, big: the two exits.
        by_confidence: every threshold of each confidence; equal confidences are never parted.
        random: the expected accuracy, from the little model's to the big one's.
        oracle: the best that any deferral of so many samples does.
    """

    little: str
    big: str
    by_confidence: Mapping[str, Deferral]
    random: Deferral
    oracle: Deferral

    __repr__ = short_repr

    @property
    def gains(self) -> dict[str, float]:
        """Confidence -> points of accuracy over deferral at random, as a mean over all shares; the
        best confidence first."""
        found = {name: self._above_random(one) for name, one in self.by_confidence.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def oracle_gain(self) -> float:
        """The same of the oracle: the most that there is to gain."""
        return self._above_random(self.oracle)

    def _above_random(self, one: Deferral) -> float:
        return 100 * (one.area - self.random.area)


def deferral_curves(
    table: ScoreTable,
    *,
    little: str | None = None,
    big: str | None = None,
    confidences: Sequence[str] | None = None,
    unit: str | None = None,
) -> DeferralCurves:
    """The accuracy of little -> big at every share of deferred samples of `table`.

    Where labels are missing it is the agreement with the big model.

    Args:
        table: the samples.
        little, big: by default the cheapest exit and the reference of the table.
        confidences: by default all that are stored.
        unit: the cost by which the cheapest exit is found.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 0, 1, 0], [.9, .8, .7, .6]), "big": ([0, 0, 0, 1], [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 9})
    >>> curves = deferral_curves(table, big="big")
    >>> curves.by_confidence["max_softmax"].accuracy.tolist()
    [0.75, 0.5, 0.75, 0.75, 0.75]
    >>> curves.oracle.deferred.tolist(), curves.oracle.accuracy.tolist()
    ([0.0, 0.25, 0.75, 1.0], [0.75, 1.0, 1.0, 0.75])

    Raises:
        TableError: unknown names, a missing cost, or two times the same exit.
    """
    big = table.reference(big, unit=unit)
    if little is None:
        little = table.names[int(table.exit_costs(table.unit(unit)).argmin())]
    small = table.names[table.index(little)]
    if small == big:
        raise TableError(f"an exit defers to another, found {big!r} twice: name two exits")
    right = table.right(big)
    first, second = right[table.index(small)], right[table.index(big)]
    by_confidence = {}
    for name in table.confidence if confidences is None else confidences:
        curve = pair_curve(table, small, big, confidence=name, unit=unit)
        accuracy = float(second.mean()) - curve.drop / 100
        shares = 1 - curve.accepted / len(table)
        by_confidence[name] = Deferral(shares[::-1], accuracy[::-1])
    gains, losses = float((second & ~first).mean()), float((first & ~second).mean())
    ends = float(first.mean()), float(second.mean())
    best = ends[0] + gains
    return DeferralCurves(
        little=small,
        big=big,
        by_confidence=by_confidence,
        random=Deferral(np.array([0.0, 1.0]), np.array(ends)),
        oracle=Deferral(
            np.array([0.0, gains, 1 - losses, 1.0]), np.array([ends[0], best, best, ends[1]])
        ),
    )
