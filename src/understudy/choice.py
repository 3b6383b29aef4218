"""What a search chose for one budget, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.baseline import Baseline
from understudy.certificate import Certificate
from understudy.errors import PolicyError
from understudy.json_codec import Stored, stored
from understudy.outcome import ClassGap, Outcome
from understudy.policy import Policy
from understudy.split import headline_split

MONITORING = stored(optional=True, sparse=True)
DECIDED = "the samples that decided: slightly optimistic"
"""What is said of figures on certify."""


@dataclass(frozen=True)
class Baselines(Stored):
    """What a choice is compared with, on the split of its headline figures.

    Attributes:
        single: the best single exit (by tune accuracy) that costs no more; None if all cost more.
        single_drop: its drop in points.
        random_drop: the expected drop if as many samples reached each stage, drawn at random.
        oracle_drop: the drop if as many samples reached each stage, chosen by who is right.
    """

    single: str | None
    single_drop: float | None
    random_drop: float
    oracle_drop: float


@dataclass(frozen=True)
class Choice(
    Stored,
    what="a choice",
    error=PolicyError,
    keys=(
        *("max_drop", "policy", "on", "baselines", "certificate", "classes", "verdict"),
        "monitoring",
    ),
    ignored=("cost", "saving", "drop", "shares"),
):
    """The policy chosen for one budget.

    Attributes:
        max_drop: the budget in points.
        policy: the policy.
        on: its outcome by split: tune, certify and perhaps test, or all where it was searched
            in-sample.
        certificate: the proof; None in-sample, where nothing is proved.
        baselines: what it is compared with, on `measured_on`.
        verdict: in words; may be "a cascade does not pay here".
        classes: the classes that lose most on tune, as measured on `measured_on`: estimates, not
            proved; none for the reference itself.
        monitoring: what is normal of it, for watching it run; None in-sample, and in older files.
    """

    max_drop: float
    policy: Policy
    on: Mapping[str, Outcome]
    certificate: Certificate | None
    baselines: Baselines
    verdict: str
    classes: tuple[ClassGap, ...] = ()
    monitoring: Baseline | None = field(default=None, metadata=MONITORING)

    @property
    def outcome(self) -> Outcome:
        """The headline figures: those on `measured_on`."""
        return self.on[self.measured_on]

    @property
    def measured_on(self) -> str:
        """The split of the headline figures; see `headline_split`."""
        return headline_split(self.on)

    @property
    def exits(self) -> frozenset[str]:
        """The exits of the policy and of those that were proved before it."""
        path = () if self.certificate is None else self.certificate.path
        return frozenset(name for policy in (self.policy, *path) for name in policy.exits)

    def to_dict(self, unit: str | None = None) -> dict[str, Any]:
        """Plain JSON; with the headline figures in front where their unit is given."""
        data, outcome = super().to_dict(), self.outcome
        if unit is None:
            return data
        headline = {
            "max_drop": self.max_drop,
            "policy": data["policy"],
            "cost": outcome.cost[unit],
            "saving": outcome.saving[unit],
            "drop": outcome.drop,
            "shares": dict(outcome.shares),
        }
        return headline | data


@dataclass(frozen=True)
class Published(Stored):
    """The policy that a published rule chose for one budget (points), and its outcome."""

    rule: str
    max_drop: float
    policy: Policy
    outcome: Outcome


@dataclass(frozen=True)
class Single(Stored):
    """One exit by itself: its origin (plain JSON), its outcome by split, and of the reference what
    is normal (`Choice.monitoring`)."""

    name: str
    origin: Mapping[str, Any]
    on: Mapping[str, Outcome]
    monitoring: Baseline | None = field(default=None, metadata=MONITORING)
