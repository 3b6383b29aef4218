"""Counting along a path whose stages accept more and more: one pass over the samples per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.scores import ScoreTable

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Walk:
    """One stage along a path of P steps, its threshold never rising.

    Attributes:
        exit: the exit that answers.
        threshold: (P,) float64.
        start: (N,) the first step at which the stage accepts each sample; P for never.
    """

    exit: str
    threshold: Array
    start: Array

    @staticmethod
    def of(table: ScoreTable, exit: str, confidence: str, threshold: Array) -> Walk:
        """The walk of an exit on a table, from thresholds that never rise."""
        if np.isneginf(threshold).all():  # asked last: its confidence may not even be stored
            return Walk(exit, threshold, np.zeros(len(table), np.intp))
        sure = table.scores(confidence)[table.index(exit)].astype(np.float64)
        return Walk(exit, threshold, np.searchsorted(-threshold, -sure))


def count_walks(
    table: ScoreTable, walks: Sequence[Walk], *, reference: str, steps: int
) -> tuple[Counts, Counts, Counts]:
    """How many samples each stage answers, (S + 1, P), and losses and gains, (P,) each.

    The reference answers what no stage does. A stage answers a sample from the step at which it
    first accepts it until an earlier one does.
    """
    truth = table.truth(reference)
    reference_right = table.prediction[table.index(reference)] == truth
    answered = np.zeros((len(walks) + 1, steps), np.int64)
    losses, gains = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
    taken = np.full(len(table), steps)
    for stage, walk in enumerate(walks):
        right = table.prediction[table.index(walk.exit)] == truth
        some = walk.start < taken
        span = walk.start, taken
        answered[stage] = _over_steps(some, span, steps)
        losses += _over_steps(some & reference_right & ~right, span, steps)
        gains += _over_steps(some & right & ~reference_right, span, steps)
        taken = np.minimum(taken, walk.start)
    answered[-1] = len(table) - answered[:-1].sum(0)
    return answered, losses, gains


def _over_steps(marks: Array, span: tuple[Array, Array], steps: int) -> Counts:
    """At each step, how many marked samples are within their span of steps."""
    start, stop = (np.bincount(edge[marks], minlength=steps + 1) for edge in span)
    return np.asarray(np.cumsum(start - stop)[:steps], np.int64)
