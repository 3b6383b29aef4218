"""How far a confidence can be trusted: accuracy by claimed probability, and who is ranked first.

A cascade needs a confidence that ranks right answers before wrong ones; whether it is calibrated
changes thresholds, not what can be saved (Kubaty et al., arXiv 2508.21495).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.scores import ScoreTable
from understudy.short_repr import short_repr

BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Accuracy against claimed probability, in B bins of about equally many samples.

    Attributes:
        claimed, accuracy: (B,) fractions: the mean probability of a bin and the share of right
            answers there, by rising probability.
        samples: (B,) how many samples a bin has.
    """

    claimed: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    samples: npt.NDArray[np.int64]

    __repr__ = short_repr

    @property
    def calibration_error(self) -> float:
        """The mean distance of a sample's bin from the diagonal, as a fraction (ECE)."""
        return float(np.average(np.abs(self.accuracy - self.claimed), weights=self.samples))

    @property
    def excess(self) -> float:
        """The mean probability less the accuracy: positive where an exit claims too much."""
        return float(np.average(self.claimed - self.accuracy, weights=self.samples))


@dataclass(frozen=True)
class RightRanking:
    """How well a confidence ranks right answers before wrong ones; equal ones count half.

    Attributes:
        auroc: the probability that a right answer has more confidence than a wrong one; None where
            all are right or all wrong.
        risk_area: the area under the risk-coverage curve (AURC): the share of wrong answers among
            the most confident samples, as a mean over how many these are; lower is better.
    """

    auroc: float | None
    risk_area: float


def reliability(
    table: ScoreTable,
    exit: str,
    *,
    confidence: str = DEFAULT_CONFIDENCE,
    reference: str | None = None,
    bins: int = BINS,
) -> Reliability:
    """The accuracy of an exit by the probability that it claims, on all samples of `table`.

    Bins end at quantiles, as those of scikit-learn's `calibration_curve(strategy="quantile")`;
    equal probabilities share a bin, so there may be fewer. Where a label is missing, the answer of
    `reference` takes its place.

    Args:
        table: the samples.
        exit: whose answers.
        confidence: the stored confidence, which has to be a probability.
        reference: by default the table's.
        bins: how many at most.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 0, 0], [.6, .6, .9, .9]), "big": ([0] * 4, [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 9})
    >>> found = reliability(table, "tiny", bins=2)
    >>> found.accuracy.tolist(), round(found.calibration_error, 3)
    ([0.5, 1.0], 0.1)

    Raises:
        TableError: unknown names, no bin, or a confidence outside 0 to 1.
    """
    if bins < 1:
        raise TableError(f"reliability takes at least one bin, found {bins}: try {BINS}")
    right, claimed = _answers(table, exit, confidence, reference)
    low, high = float(claimed.min()), float(claimed.max())
    if low < 0 or high > 1:
        raise TableError(
            f"reliability is of probabilities, {confidence} of {exit!r} lies between {low:g} and "
            f"{high:g}: name another confidence, or see how it ranks (`right_ranking`)"
        )
    edges = np.sort(claimed)[(len(claimed) - 1) * np.arange(1, bins) // bins]
    _, number, samples = np.unique(
        np.searchsorted(edges, claimed), return_inverse=True, return_counts=True
    )
    return Reliability(
        np.bincount(number, claimed) / samples, np.bincount(number, right) / samples, samples
    )


def right_ranking(
    table: ScoreTable,
    exit: str,
    *,
    confidence: str = DEFAULT_CONFIDENCE,
    reference: str | None = None,
) -> RightRanking:
    """How well a confidence of an exit ranks its right answers first, on all samples of `table`.

    The arguments are those of `reliability`; any stored confidence will do.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 0, 1], [.9, .8, .7, .6]), "big": ([0] * 4, [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 9})
    >>> found = right_ranking(table, "tiny")
    >>> found.auroc, round(found.risk_area, 3)
    (0.75, 0.333)

    Raises:
        TableError: unknown names.
    """
    right, values = _answers(table, exit, confidence, reference)
    _, number, counts = np.unique(-values, return_inverse=True, return_counts=True)
    wrong = np.bincount(number, ~right)  # of equals, from the most confident on
    risk = np.cumsum(np.repeat(wrong / counts, counts)) / np.arange(1, len(right) + 1)
    pairs = int(right.sum()) * int((~right).sum())
    below = np.cumsum(wrong[::-1])[::-1] - wrong / 2
    auroc = float((counts - wrong) @ below) / pairs if pairs else None
    return RightRanking(auroc, float(risk.mean()))


def _answers(
    table: ScoreTable, exit: str, confidence: str, reference: str | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which answers of an exit are right, and their confidences, (N,) each."""
    row = table.index(exit)
    right = table.right(table.reference(reference), row)
    return right, table.scores(confidence)[row].astype(np.float64)
