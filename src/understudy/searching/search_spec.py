"""What is searched for: budgets, reference, unit of cost, and what limits the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, check_number
from understudy.searching.expected_cost import expected_costs, least_cost
from understudy.searching.policy_sequences import PolicySequence, ThresholdPath

LEAST_DELTA = 1e-12  # 1 - delta is a number below 1, with some digits of delta


class SearchNames(TypedDict):
    """Keyword arguments that most searches share."""

    reference: str
    unit: str
    confidence: str


@dataclass(frozen=True)
class SearchSpec:
    """What is searched for: policies within `drops` (points) of the reference's accuracy.

    Attributes:
        reference, unit, confidence, drops, delta: as for `search`.
        certify_samples: how many samples the certificates will rest on.
        stages: the most exits that a sample may visit, the last one counted.

    Raises:
        PolicyError: a level that is no probability, or fewer than two stages.
    """

    reference: str
    unit: str
    confidence: str
    drops: tuple[float, ...]
    delta: float
    certify_samples: int
    stages: int = 2

    def __post_init__(self) -> None:
        if self.stages < 2:
            raise PolicyError(f"a cascade has at least two stages, found {self.stages}: give 2")
        check_delta(self.delta)

    @property
    def names(self) -> SearchNames:
        """The reference, unit and confidence, as keyword arguments."""
        return {"reference": self.reference, "unit": self.unit, "confidence": self.confidence}

    def expected_costs(self, sequence: PolicySequence, drop: float) -> npt.NDArray[np.float64]:
        """The expected cost of what a test that starts at each policy certifies, (P,)."""
        samples, delta = self.certify_samples, self.delta
        return expected_costs(sequence, budget=drop / 100, samples=samples, delta=delta)

    def least_cost(self, counted: PolicySequence | ThresholdPath, drop: float) -> float:
        """The least cost of a policy that would be proved by itself if certify looked like tune."""
        samples, delta = self.certify_samples, self.delta
        return least_cost(counted, budget=drop / 100, samples=samples, delta=delta)


def check_delta(delta: float) -> None:
    """Refuse what is no level.

    >>> check_delta(0.05)

    Raises:
        PolicyError: no number, or none between `LEAST_DELTA` and 1.
    """
    check_number(delta, "delta", PolicyError)
    if not LEAST_DELTA <= delta < 1:
        raise PolicyError(
            f"delta is a probability between {LEAST_DELTA:g} and 1, found {delta:g}: try 0.05"
        )
