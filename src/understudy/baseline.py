"""What is normal of a policy: its confidences, disagreements and costs, to watch it run against.

The edges of the cells come from the tune split and the counts from the certify split. What a
running cascade sees is then compared with samples that had no part in the choice of the cells, so
that ranks among both are uniform for as long as the data stay the same (conformal p-values: Vovk,
Gammerman & Shafer 2005, Algorithmic Learning in a Random World, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError
from understudy.json_codec import Stored
from understudy.outcome import decide, units_of
from understudy.policy import Policy
from understudy.scores import Array, ScoreTable

MOST_CELLS = 256
LEAST_PER_CELL = 20  # certify samples that a cell is expected to have

Limits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StageBaseline(Stored, what="the baseline of a stage", error=PolicyError):
    """How confident one stage of a policy was on the certify samples that reached it.

    Attributes:
        exit: the name of the exit.
        edges: ascending confidences between the cells; each is the float32 that its digits name.
        counts: the certify samples in each cell, one more than edges; an edge is in the upper cell.

    >>> stage = StageBaseline("tiny", edges=(0.5, 0.9), counts=(10, 20, 70))
    >>> stage.cells(np.array([0.2, 0.5, 0.89, 1.0, np.nan])).tolist()
    [0, 1, 1, 2, 0]

    Raises:
        PolicyError: edges that do not ascend, or counts that do not fit them.
    """

    exit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        limits = self._limits
        if not np.isfinite(limits).all() or (np.diff(limits) <= 0).any():
            raise PolicyError(
                f"the edges of a stage ascend as float32, those of {self.exit!r} do not: search "
                "again"
            )
        if min(self.counts, default=0) < 0:
            raise PolicyError(
                f"the counts of a stage are 0 or more, {self.exit!r} has {min(self.counts)}: "
                "search again"
            )
        if len(self.counts) != len(self.edges) + 1:
            raise PolicyError(
                f"a stage counts samples in one cell more than it has edges, {self.exit!r} has "
                f"{len(self.counts)} counts and {len(self.edges)} edges: search again"
            )

    @property
    def samples(self) -> int:
        """The certify samples that reached the stage."""
        return sum(self.counts)

    def cells(self, confidence: Array) -> npt.NDArray[np.intp]:
        """The cell of each confidence, (n,), compared in float32 as a cascade has them.

        NaN, which no stage but the last accepts, is in the first cell: the least confident.
        """
        return _cells(confidence, self._limits)

    @cached_property
    def _limits(self) -> Limits:
        return _as_float32(self.edges)


@dataclass(frozen=True)
class Baseline(Stored, what="the baseline of a policy", error=PolicyError):
    """What a policy did on the certify samples.

    Attributes:
        reference: the exit that it is compared with.
        samples: the certify samples.
        disagreements: those to which the policy and the reference give different answers.
        stages: one per stage of the policy, in order.
        costs: unit -> exit -> what a sample costs that this exit answers, by the rules of
            `evaluate`: all parts visited on the way to it, each once.
        reference_costs: unit -> what a sample costs that goes to the reference alone.

    Raises:
        PolicyError: numbers that do not fit each other.
    """

    reference: str
    samples: int
    disagreements: int
    stages: tuple[StageBaseline, ...]
    costs: Mapping[str, Mapping[str, float]]
    reference_costs: Mapping[str, float]

    def __post_init__(self) -> None:
        reached = [stage.samples for stage in self.stages]
        if reached[:1] != [self.samples] or reached != sorted(reached, reverse=True):
            raise PolicyError(
                "all samples reach the first stage and no more each next one, found "
                f"{reached} of {self.samples} samples: search again"
            )
        if not 0 <= self.disagreements <= self.samples:
            raise PolicyError(
                f"disagreements are some of {self.samples} samples, found {self.disagreements}: "
                "search again"
            )

    def check(self, policy: Policy) -> None:
        """Refuse the baseline of another policy.

        Raises:
            PolicyError: its stages are not those of the policy.
        """
        exits = tuple(stage.exit for stage in self.stages)
        if exits != policy.exits:
            raise PolicyError(
                f"a baseline has the stages of its policy, found {list(exits)} for "
                f"{list(policy.exits)}: take it from the search result"
            )


def baseline_of(
    tune: ScoreTable, certify: ScoreTable, policy: Policy, *, reference: str
) -> Baseline:
    """What a policy does on the certify samples, in cells that are quantiles of the tune samples.

    No label is needed. The last stage reports a confidence too; where a table does not have it,
    that stage has one cell.

    >>> from understudy.scores import ScoreTable
    >>> rows = np.arange(1000)
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (0 * rows, rows / 1000), "big": (rows > 900, np.ones(1000))}, 0 * rows,
    ...     costs={"tiny": 1, "big": 9})
    >>> found = baseline_of(table, table, Policy.pair("tiny", "big", 0.95), reference="big")
    >>> found.disagreements, found.costs
    (50, {'MACs': {'tiny': 1.0, 'big': 10.0}})
    >>> found.stages[0].edges[:3], found.stages[0].counts[:3]
    ((0.0195, 0.0395, 0.0595), (20, 20, 20))

    Raises:
        TableError: the policy names an exit or a confidence that a table lacks, or a part has no
            cost.
    """
    exits = policy.exits
    reaching = _reaching(tune, policy), _reaching(certify, policy)
    stages = []
    for number, (seen, counted) in enumerate(zip(*reaching, strict=True)):
        expected = len(certify) * len(seen) // len(tune)
        edges = _edges(seen, min(MOST_CELLS, expected // LEAST_PER_CELL))
        cells = _cells(counted, _as_float32(edges))
        counts = np.bincount(cells, minlength=len(edges) + 1).tolist()
        stages.append(StageBaseline(exits[number], edges, tuple(counts)))
    answers = decide(certify, policy).prediction
    units = units_of(certify, {reference, *exits})
    return Baseline(
        reference=reference,
        samples=len(certify),
        disagreements=int((answers != certify.prediction[certify.index(reference)]).sum()),
        stages=tuple(stages),
        costs={
            unit: {
                name: certify.cost_of(exits[: number + 1], unit)
                for number, name in enumerate(exits)
            }
            for unit in units
        },
        reference_costs={unit: certify.cost_of([reference], unit) for unit in units},
    )


def _as_float32(values: npt.ArrayLike) -> Limits:
    """Numbers as float32; those beyond its range are infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def _cells(confidence: npt.ArrayLike, limits: Limits) -> npt.NDArray[np.intp]:
    values = _as_float32(confidence)
    found = np.searchsorted(limits, values, side="right")
    return np.where(np.isnan(values), 0, found)


def _reaching(table: ScoreTable, policy: Policy) -> list[Limits]:
    """The confidences of each stage on the samples that reach it; NaN where there are none."""
    answered = decide(table, policy).stage
    found = []
    for number, stage in enumerate(policy.stages):
        rows = np.flatnonzero(answered >= number)
        if stage.threshold is None and stage.confidence not in table.confidence:
            found.append(np.full(len(rows), np.nan, np.float32))
        else:
            found.append(_as_float32(table.scores(stage.confidence)[table.index(stage.exit), rows]))
    return found


def _edges(confidence: Limits, cells: int) -> tuple[float, ...]:
    """The edges of at most so many cells, equally full: each between two float32 confidences."""
    values = np.sort(confidence[np.isfinite(confidence)])
    if not len(values):
        return ()
    above = np.unique(values[np.arange(1, cells) * len(values) // max(cells, 1)])
    above = above[above > values[0]]
    below = values[np.searchsorted(values, above) - 1]
    return tuple(map(_shortest_between, below, above))


def _shortest_between(below: np.float32, above: np.float32) -> float:
    """A number of few digits near the middle of two float32, clear of the rounding of both; the
    upper one where they are neighbours.

    >>> _shortest_between(np.float32(0.57), np.float32(0.58))
    0.575
    """
    low, high = float(below), float(above)
    middle, width = (low + high) / 2, high - low
    for digits in range(1, 9):
        value = float(f"{middle:.{digits}g}")
        if abs(float(np.float32(value)) - middle) <= width / 4:
            return value
    return float(str(above))
