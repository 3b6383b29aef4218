"""What a reproduction found: published figures beside measured ones, as one JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.errors import PolicyError
from understudy.json_codec import Stored, StoredFile, stored
from understudy.outcome import Outcome
from understudy.policy import Policy
from understudy.reproduction.papers import PaperRow, PublishedFigure
from understudy.searching.saver_ranking import RankedSaver

AS_PUBLISHED, HELD_OUT, CERTIFIED = WAYS = (
    "as the paper chooses",
    "the same, held out",
    "certified",
)
"""The ways in which a policy is chosen for a budget."""


@dataclass(frozen=True)
class Finding(Stored, what="a finding", error=PolicyError):
    """A policy that was chosen in one way for one budget, as measured.

    Attributes:
        way: one of `WAYS`.
        max_drop: the budget in points.
        chosen_on: the samples that it was chosen on, in words.
        measured_on: the split of the outcome; "all" for what saw these samples.
        policy: what was chosen; None where the rule is not defined.
        outcome: its figures; None without a policy.
        certified_saving: the saving that is certified; None where nothing is.
        remark: why there is no policy, or what should be known of it.
    """

    way: str
    max_drop: float
    chosen_on: str
    measured_on: str
    policy: Policy | None
    outcome: Outcome | None
    certified_saving: float | None = None
    remark: str = ""

    @property
    def in_sample(self) -> bool:
        """Whether it was chosen on samples that it is measured on."""
        return self.way == AS_PUBLISHED


@dataclass(frozen=True)
class CurvePoint(Stored, what="a point of a curve"):
    """What `onepass` finds for one trade-off, lambda in the paper; its outcome on all samples."""

    weight: float
    policy: Policy
    outcome: Outcome


@dataclass(frozen=True)
class HalvesGap(Stored, what="what a choice promises too much"):
    """What the paper's way of choosing promises too much, in points of drop.

    Attributes:
        max_drop: the budget in points.
        claimed: the mean drop on the halves of the images that policies were chosen on.
        given: the mean drop of the same policies on the other halves.
        halves: how many halves were drawn, each with its other half.
    """

    max_drop: float
    claimed: float
    given: float
    halves: int

    @property
    def points(self) -> float:
        """How much more is lost than claimed."""
        return self.given - self.claimed


@dataclass(frozen=True)
class RowFindings(Stored, what="the findings of a row", error=PolicyError):
    """One row of a paper as it was run.

    Attributes:
        row: what is published, and what was run.
        samples: the number of images.
        unit: the unit of cost that was minimised.
        base_accuracy, base_cost: of the large model on all samples, and per sample by unit in JSON.
        findings: by budget, in the order of `WAYS`.
        optimism: what the paper's way of choosing promises too much, by budget.
        ranking: the savers by delta C, of TinySaver.
        ranked_on: the samples of that ranking, or of the search for exits, in words.
        curve: of `onepass`, by trade-off, of DyCE and of exit sequences.
        result: the file of the certified search.
        table: the hash of the scores.
    """

    row: PaperRow
    samples: int
    unit: str
    base_accuracy: float
    base_cost: Mapping[str, float]
    findings: tuple[Finding, ...]
    optimism: tuple[HalvesGap, ...] = ()
    ranking: tuple[RankedSaver, ...] = ()
    ranked_on: str = ""
    curve: tuple[CurvePoint, ...] = ()
    result: str = ""
    table: str = ""

    def at(self, max_drop: float) -> tuple[Finding, ...]:
        """The findings of a budget."""
        return tuple(one for one in self.findings if one.max_drop == max_drop)

    def published(self, max_drop: float) -> tuple[PublishedFigure, ...]:
        """The published figures of a budget."""
        return tuple(one for one in self.row.figures if one.max_drop == max_drop)


@dataclass(frozen=True)
class Reproduction(
    StoredFile,
    what="a reproduction",
    error=PolicyError,
    remedy="run it again",
    format="understudy.reproduction",
):
    """A paper as it was run.

    Attributes:
        paper: its name.
        data: the spec of the images.
        limit: how many of them, taken in turn from the classes; None for all.
        weights: "random" where the models had none: every figure is meaningless then.
        rows: those that were run.
        left_out: row -> why it was not run.
        provenance: plain JSON: the machine, the libraries, the command.
    """

    paper: str
    data: str
    limit: int | None
    weights: str
    rows: tuple[RowFindings, ...]
    left_out: Mapping[str, str]
    provenance: Mapping[str, Any] = field(default_factory=dict, metadata=stored(optional=True))

    @property
    def meaningless(self) -> bool:
        """Whether the figures say nothing of the models, which had random weights."""
        return self.weights == "random"
