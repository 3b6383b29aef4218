"""The steps of one little model: thresholds frozen on tune, and from which on each sample is its.

They are the same before every large model, so that confidences are sorted once per little model,
and what a pair does on a split is counted from bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.lazy_table import PREDICTION, LazyTable
from understudy.policy import Policy, midpoint
from understudy.priced_exits import PricedExits
from understudy.searching.policy_sequences import (
    STEPS,
    Counts,
    PolicySequence,
    SequenceCounts,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ModelAnswers:
    """What a model answers on the N samples of a split.

    Attributes:
        right: (N,) which answers are among the labels of their samples.
        without: (U,) the positions of the samples without a label.
        unlabelled: (U,) the predictions for these.
    """

    right: npt.NDArray[np.bool_]
    without: npt.NDArray[np.intp]
    unlabelled: Array

    @staticmethod
    def of(part: LazyTable, exit: str) -> ModelAnswers:
        """The answers of an exit.

        Raises:
            TableError: an unknown name, or scores that cannot be read.
        """
        answers, without = part.column(exit, PREDICTION), np.flatnonzero(~part.first.labelled)
        return ModelAnswers(part.is_right(answers), without, answers[without])


@dataclass(frozen=True, eq=False)
class LittleSteps:
    """A little model's P thresholds, each of which accepts about 1 / `STEPS` more of tune.

    Attributes:
        little: its name.
        confidence: the stored confidence that thresholds apply to.
        threshold: (P,) falling; the last one, `-inf`, accepts all.
        accepted: (P,) how many tune samples each accepts.
        start: by split, (N,) the first step that accepts each sample.
        answers: by split, what it answers.
    """

    little: str
    confidence: str
    threshold: npt.NDArray[np.float64]
    accepted: Counts
    start: Mapping[str, npt.NDArray[np.uint8]]
    answers: Mapping[str, ModelAnswers]

    @staticmethod
    def of(parts: Mapping[str, LazyTable], little: str, confidence: str) -> LittleSteps:
        """The steps of an exit, from the splits of a table.

        Raises:
            TableError: unknown names, or scores that cannot be read.
        """
        scores = {split: part.column(little, confidence) for split, part in parts.items()}
        falling = np.sort(scores["tune"])[::-1].astype(np.float64)
        accepted = steps_of(falling)
        between = midpoint(falling[accepted[:-1]], falling[accepted[:-1] - 1])
        threshold = np.append(between, -np.inf)
        start = {
            split: np.searchsorted(-threshold, -one.astype(np.float64)).astype(np.uint8)
            for split, one in scores.items()
        }
        answers = {split: ModelAnswers.of(part, little) for split, part in parts.items()}
        return LittleSteps(little, confidence, threshold, accepted, start, answers)

    def sequence(
        self, big: str, answers: ModelAnswers, exits: PricedExits, unit: str
    ) -> PolicySequence:
        """The sequence before a large model, as `pair_sequence` of the pair's curve.

        Args:
            big: the large model.
            answers: its answers on tune.
            exits: the costs of both.
            unit: of cost.
        """
        samples, full = int(self.accepted[-1]), exits.cost_of([big], unit)
        first, both = (exits.cost_of(some, unit) for some in ([self.little], [self.little, big]))
        cost = self.accepted / samples * first + (samples - self.accepted) / samples * both
        rows = np.flatnonzero(cost < full)
        losses, gains, _ = self._discordant("tune", answers)
        policies = [
            Policy.pair(self.little, big, threshold, confidence=self.confidence)
            for threshold in self.threshold[rows[:-1]].tolist()
        ]
        policies += [Policy.single(self.little)] if len(rows) else []
        counts = losses[rows], gains[rows], cost[rows]
        return PolicySequence(tuple(policies), *counts, samples, full)

    def counts(
        self, split: str, answers: ModelAnswers, policies: Sequence[Policy]
    ) -> SequenceCounts:
        """What some policies of a sequence do on a split, as `SequenceCounts.of` its table.

        `answers` are those of the large model on that split.
        """
        thresholds = [one.stages[0].threshold for one in policies]
        wanted = [-np.inf if one is None else one for one in thresholds]
        rows = np.searchsorted(-self.threshold, -np.array(wanted))
        start = self.start[split]
        accepted = self._counted(start)[rows].tolist()
        losses, gains, missing = (counts[rows] for counts in self._discordant(split, answers))
        answered = tuple(
            (count,) if one is None else (count, len(start) - count)
            for count, one in zip(accepted, thresholds, strict=True)
        )
        return replace(
            reference_counts(answers),
            answered=answered,
            losses=losses,
            gains=gains,
            missing=missing,
        )

    def _discordant(self, split: str, big: ModelAnswers) -> tuple[Counts, Counts, Counts]:
        """Losses, gains, and how many of the losses lack a label, (P,) each."""
        start, own = self.start[split], self.answers[split]
        differs = own.right != big.right
        lost = self._counted(start[differs & big.right])
        gained = self._counted(start[differs & own.right])
        missing = self._counted(start[big.without[own.unlabelled != big.unlabelled]])
        return lost + missing, gained, missing

    def _counted(self, start: npt.NDArray[np.uint8]) -> Counts:
        """How many of some samples each step accepts, (P,)."""
        return np.cumsum(np.bincount(start, minlength=len(self.threshold)))


def reference_counts(answers: ModelAnswers) -> SequenceCounts:
    """The counts of a sequence without policies. A missing label is the reference's answer."""
    none = np.empty(0, np.int64)
    right = int(np.count_nonzero(answers.right)) + len(answers.without)
    return SequenceCounts((), none, none, none, right, len(answers.right))


def steps_of(falling: Array) -> Counts:
    """How many samples each step accepts, by falling confidence: ties together."""
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True)) + 1
    steps = np.searchsorted(ends, np.linspace(0, len(falling), STEPS + 1)[1:])
    return ends[np.unique(steps)]
