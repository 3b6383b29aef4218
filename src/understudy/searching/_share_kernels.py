"""The compiled half of `exits`: how many samples each exit answers, for many policies at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.searching._compiled import compiled

Array = npt.NDArray[Any]


@compiled
def count_answers(confidence: Array, thresholds: Array, out: Array) -> None:
    """Add to `out` (P, K + 1) who answers: the first exit that is on and sure enough, or the last.

    `confidence` is (N, K) float64, `thresholds` (P, K) float64 with NaN for off.
    """
    samples, exits = confidence.shape
    for policy in range(thresholds.shape[0]):
        on = np.flatnonzero(~np.isnan(thresholds[policy]))
        for sample in range(samples):
            answered = exits
            for exit in on:
                if confidence[sample, exit] >= thresholds[policy, exit]:
                    answered = exit
                    break
            out[policy, answered] += 1
