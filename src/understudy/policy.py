"""A policy: the exits that run, their order, and the confidence at which each answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, check_number
from understudy.json_codec import Stored, StoredFile, stored

DEFAULT_CONFIDENCE = "max_softmax"


@dataclass(frozen=True)
class PolicyStage(
    Stored, what="a stage", error=PolicyError, keys=("exit", "confidence", "threshold")
):
    """One stage of a policy: an exit, the confidence that decides, and its threshold.

    The stage answers a sample when ``confidence >= threshold``; ``None`` answers whatever is left.
    ``inf`` accepts no sample, ``-inf`` all.
    """

    exit: str
    threshold: float | None = None
    confidence: str = field(default=DEFAULT_CONFIDENCE, metadata=stored(optional=True))

    def __post_init__(self) -> None:
        given: object = self.threshold
        if given is not None and not isinstance(given, float):
            check_number(given, f"the threshold of exit {self.exit!r}", PolicyError)
        if self.threshold is not None and math.isnan(self.threshold):
            raise PolicyError(f"a threshold is a number, exit {self.exit!r} has NaN: search again")


@dataclass(frozen=True)
class Policy(StoredFile, what="a policy", error=PolicyError):
    """Stages that run in order; the last one has no threshold and answers whatever is left.

    Ties are settled once for the whole library: a stage answers when ``confidence >= threshold``,
    compared in float64. Saved thresholds make an exact round trip.

    >>> policy = Policy.pair("tiny", "big", 0.75)
    >>> policy.describe()
    'tiny when max_softmax >= 0.75, else big'
    >>> Policy.from_dict(policy.to_dict()) == policy
    True

    Raises:
        PolicyError: no stage, an exit named twice, or a threshold in the wrong place.
    """

    stages: tuple[PolicyStage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise PolicyError("a policy has at least one stage, found none: name its exits")
        names = [stage.exit for stage in self.stages]
        if len(set(names)) < len(names):
            raise PolicyError(
                f"each exit appears once in a policy, found {names}: drop the repeats"
            )
        for stage in self.stages[:-1]:
            if stage.threshold is None:
                raise PolicyError(
                    f"only the last stage has no threshold, {stage.exit!r} has none before "
                    f"{names[-1]!r}: give it a number, or end the policy there"
                )
        if self.stages[-1].threshold is not None:
            raise PolicyError(
                f"the last stage answers whatever is left, {names[-1]!r} has the threshold "
                f"{self.stages[-1].threshold!r}: set it to null"
            )

    @staticmethod
    def single(exit: str) -> Policy:
        """The policy of one exit that answers every sample."""
        return Policy((PolicyStage(exit),))

    @staticmethod
    def pair(
        little: str, big: str, threshold: float, *, confidence: str = DEFAULT_CONFIDENCE
    ) -> Policy:
        """The two-stage cascade of Little-Big (arXiv 2406.17117) and TinySaver (2403.17726)."""
        return Policy((PolicyStage(little, threshold, confidence), PolicyStage(big)))

    @property
    def exits(self) -> tuple[str, ...]:
        """The exits in the order in which they run."""
        return tuple(stage.exit for stage in self.stages)

    def describe(self) -> str:
        """The policy in words."""
        rules = [f"{s.exit} when {s.confidence} >= {s.threshold:.6g}" for s in self.stages[:-1]]
        return ", else ".join([*rules, self.stages[-1].exit])


def accepts(
    confidence: npt.NDArray[np.floating[Any]], threshold: float | None
) -> npt.NDArray[np.bool_]:
    """Which samples a stage answers: ``confidence >= threshold`` in float64; all where it is None.

    >>> accepts(np.array([0.2, 0.5, 0.9], np.float32), 0.5).tolist()
    [False, True, True]
    """
    if threshold is None:
        return np.ones(confidence.shape, bool)
    return confidence.astype(np.float64) >= np.float64(threshold)


def midpoint(below: npt.ArrayLike, above: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The thresholds between adjacent observed confidences: each accepts `above`, not `below`.

    Exact for float32 confidences, whose midpoints are float64 numbers. Where nothing lies between
    two float64 neighbours, or one is infinite, the upper one is the threshold.

    >>> midpoint([0.25], [0.75]).tolist()
    [0.5]
    """
    low, high = np.asarray(below, np.float64), np.asarray(above, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        middle = low + (high - low) / 2
    return np.where((low < middle) & (middle < high), middle, high)
