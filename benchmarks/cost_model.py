"""What scoring, serving and searching cost in processor seconds: few constants per machine.

Each constant is fitted to some measurements by non-negative least squares of relative errors, and
the model is compared with others. `cluster_costs.py` does both; docs/cluster.md explains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.optimize import nnls


class Work(Protocol):
    """What has to be done, as amounts that the constants of a machine are multiplied with."""

    @property
    def amounts(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Scoring:
    """Some models over some images.

    Attributes:
        macs: of one image, by model.
        images: how many.
        groups: how often an image is decoded: once for all models whose weights fit into 2 GiB.
        processes: how many of them share the work: each model is looked at by one of them, and
            loaded by all that score its group; here each of them works at all groups.
    """

    macs: tuple[float, ...]
    images: int
    groups: int = 1
    processes: int = 1

    @property
    def amounts(self) -> dict[str, float]:
        answers = self.images * len(self.macs)
        return {
            "process": self.processes,
            "look": len(self.macs),
            "load": self.processes * len(self.macs),
            "decoded image": self.images * self.groups,
            "answer": answers,
            "MAC": self.images * sum(self.macs),
        }


@dataclass(frozen=True)
class Searching:
    """All ordered pairs of some models on some samples."""

    models: int
    samples: int

    @property
    def amounts(self) -> dict[str, float]:
        return {
            "comparison of a sort": self.models * self.samples * np.log2(self.samples),
            "pair": self.models**2,
            "sample of a pair": self.models**2 * self.samples,
        }


class Measured(NamedTuple):
    """Some work and the processor seconds that it took."""

    work: Work
    seconds: float


@dataclass(frozen=True)
class Costs:
    """The processor seconds of one of each amount, on one machine."""

    seconds: Mapping[str, float]

    @staticmethod
    def fitted(measured: Sequence[Measured]) -> Costs:
        """The constants that fit some measurements best, by relative errors; none is negative."""
        names = list(measured[0].work.amounts)
        amounts = np.array([[one.work.amounts[name] for name in names] for one in measured])
        rows = amounts / np.array([[one.seconds] for one in measured])
        scale = np.where(rows.any(axis=0), rows.max(axis=0), 1)
        found, _ = nnls(rows / scale, np.ones(len(measured)))
        return Costs(dict(zip(names, (found / scale).tolist(), strict=True)))

    def of(self, work: Work) -> float:
        """The processor seconds of some work."""
        return sum(self.seconds[name] * amount for name, amount in work.amounts.items())


class Check(NamedTuple):
    """A measurement that no constant was fitted to, and what was predicted of it."""

    what: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How far the prediction lies above, as a share of what was measured."""
        return self.predicted / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "predicted": round(self.predicted, 6),
            "measured": round(self.measured, 6),
            "error": round(self.error, 3),
        }
