"""What the page adds to a result: title, what comes next, what is drawn and named, provenance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from importlib.metadata import version

import numpy as np

from understudy.app.next_commands import build_command
from understudy.app.report.words import facts
from understudy.certificate import several_guarantees
from understudy.choice import DECIDED, Choice
from understudy.deciles import Bin
from understudy.deferral import scores_of
from understudy.display import percent, signed
from understudy.intervals import Interval
from understudy.outcome import ClassGap, Outcome, points
from understudy.result import Result
from understudy.split import ALL, SPLITS

DRAWN_POINTS = 400
WORST = 3  # classes of a policy


@dataclass(frozen=True)
class Report:
    """A result, with what is derived from it for the page.

    Attributes:
        result: what a search found.
        path: the file that it stands in, for commands; None where there is none.
        made: the day on which the page is made, if the page is to state it.

    >>> import numpy as np
    >>> from understudy.scores import ScoreTable
    >>> from understudy.searching.search import search
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, 0 * right)},
    ...     0 * right, costs={"tiny": 1, "big": 9})
    >>> report = Report(search(table, max_drop=2.0))
    >>> report.title, sorted(report.planned)
    ('A certified cascade for big', ['big', 'tiny'])
    """

    result: Result
    path: str | None = None
    made: date | None = None

    @property
    def title(self) -> str:
        """The headline."""
        plans = [choice.policy.exits for choice in self.result.choices]
        cascades = sum(len(exits) > 1 for exits in plans)
        if not cascades:
            certificates = (choice.certificate for choice in self.result.choices)
            if all(proof is not None and proof.unprovable for proof in certificates):
                return f"Too few samples to certify a cascade for {self.result.reference}"
            names = dict.fromkeys(exits[0] for exits in plans)
            return f"A cascade does not pay here: use {' or '.join(names)}"
        if self.result.in_sample:
            return f"In-sample plans for {self.result.reference}"
        if cascades == 1:
            return f"A certified cascade for {self.result.reference}"
        return f"Certified cascades for {self.result.reference}"

    @property
    def lead(self) -> str:
        """The samples that the figures come from."""
        counts = self.result.table.get("samples", {})
        samples = {name: f"{count:,}" for name, count in counts.items()}
        exits = f"{len(self.result.singles)} exits"
        partly = f" {self.result.label_words()}" if self.result.partly_labelled else ""
        if self.result.in_sample:
            some = samples.get(ALL, "some")
            return f"Chosen among {exits} and measured on the same {some} samples.{partly}"
        tune, certify, test = (samples.get(name, "some") for name in SPLITS)
        measured = (
            f"measured on the same {certify}, {DECIDED}"
            if self.result.measured_on == "certify"
            else f"measured once on {test} more"
        )
        certified = f"on {tune} samples, certified on {certify} others, {measured}."
        return f"Chosen among {exits} {certified}{partly}"

    def least_saving(self, choice: Choice) -> float | None:
        """The certified saving of a plan; None where there is none."""
        proof = choice.certificate
        return None if proof is None else proof.saving_bounds.get(self.result.unit)

    @property
    def together(self) -> str:
        """What several guarantees are together."""
        return several_guarantees(len(self.result.choices), self.result.delta)

    @property
    def measure(self) -> str:
        """What is counted: "accuracy", or "agreement" where there were no labels."""
        return "accuracy" if self.labelled else "agreement"

    @property
    def labelled(self) -> bool:
        """Whether any sample has a label."""
        return bool(self.result.table.get("labelled", True))

    @property
    def gap(self) -> str:
        """What a budget bounds: "drop", or "disagreement" where there were no labels."""
        return "drop" if self.labelled else "disagreement"

    def gap_text(self, value: float) -> str:
        """A drop in points with its sign, or a disagreement, which has none."""
        return signed(value) if self.labelled else f"{value:.2f}"

    def interval(self, interval: Interval) -> Interval:
        """An interval of a drop, or of a disagreement, which cannot be below zero."""
        low, high = interval
        return interval if self.labelled else (max(low, 0.0), max(high, 0.0))

    def interval_text(self, interval: Interval) -> str:
        """The same as text."""
        if interval[0] == interval[1]:
            return "by definition"
        low, high = self.interval(interval)
        return f"[{self.gap_text(low)}, {self.gap_text(high)}]"

    def saved(self, outcome: Outcome) -> str:
        """The saving in large; none where noise of the times could explain it."""
        low, high = outcome.saving_interval(self.result.unit)
        return percent(outcome.saving[self.result.unit]) if low > 0 or low == high else "no saving"

    def aim(self, choice: Choice) -> str:
        """The budget of a plan in words."""
        if not self.labelled:
            return f"at most {points(choice.max_drop)} of disagreement"
        if choice.max_drop < 0:
            return f"at least {points(-choice.max_drop)} of {self.measure} gained"
        return f"at most {points(choice.max_drop)} of {self.measure} lost"

    def next_step(self, choice: Choice) -> str | None:
        """What to run next to use a plan; None where there is nothing to build."""
        budget = f"{choice.max_drop:g}"
        if self.result.in_sample:
            return f"understudy search TABLE --max-drop {budget}"
        if len(choice.policy.exits) == 1:
            return None
        if self.path is None:
            return f"build(result, models, max_drop={budget})"
        return build_command(self.result, self.path, [choice])

    @property
    def saves(self) -> bool:
        """Whether any plan is more than the reference by itself."""
        return any(c.policy.exits != (self.result.reference,) for c in self.result.choices)

    @property
    def full_cost(self) -> float:
        """The cost of the reference."""
        return self.singles[self.result.reference][0]

    @property
    def other_units(self) -> list[str]:
        """The units in which all plans have a cost, other than the one that was minimised."""
        costs = [set(choice.outcome.cost) for choice in self.result.choices]
        return sorted(set.intersection(*costs) - {self.result.unit})

    @cached_property
    def singles(self) -> dict[str, tuple[float, float]]:
        """Cost and drop of every exit by itself, cheapest first."""
        outcomes = {one.name: one.on[self.result.measured_on] for one in self.result.singles}
        return {name: (out.cost[self.result.unit], out.drop) for name, out in outcomes.items()}

    @cached_property
    def tints(self) -> dict[str, str]:
        """The class of every exit's colour."""
        return {name: f"x{number}" for number, name in enumerate(self.singles)}

    @cached_property
    def frontier(self) -> list[tuple[float, float]]:
        """Cost and drop of non-dominated policies on `searched_on`, thinned for drawing."""
        points = self.result.frontier.points
        rows = np.linspace(0, len(points) - 1, min(len(points), DRAWN_POINTS)).round().astype(int)
        return [(points[row].cost, points[row].drop) for row in rows]

    @cached_property
    def planned(self) -> set[str]:
        """The exits of the plans."""
        return {name for choice in self.result.choices for name in choice.policy.exits}

    @cached_property
    def on_frontier(self) -> set[str]:
        """The exits that are on the frontier by themselves."""
        policies = (point.policy.exits for point in self.result.frontier)
        return {exits[0] for exits in policies if len(exits) == 1}

    @cached_property
    def by_importance(self) -> tuple[str, ...]:
        """The exits in the order in which they are named where there is no room for all."""
        rest = {name: 2 if name in self.on_frontier else 3 for name in self.singles}
        rank = rest | dict.fromkeys(self.planned, 1) | {self.result.reference: 0}
        return tuple(sorted(rest, key=lambda name: rank[name]))

    @property
    def worst_classes(self) -> list[tuple[Choice, ClassGap]]:
        """For each plan of several stages, the classes that lose most: at most three."""
        return [
            (choice, gap)
            for choice in self.result.choices
            if len(choice.classes) > 1 and choice.policy.exits != (self.result.reference,)
            for gap in choice.classes[:WORST]
        ]

    @property
    def picks_on_tune(self) -> bool:
        """Whether those classes were picked on other samples than those they are measured on."""
        on_tune = (gap.tune_drop is not None for _, gap in self.worst_classes)
        return not self.result.in_sample and all(on_tune)

    @property
    def gain_step(self) -> float:
        """The cost that gains in accuracy are quoted for.

        A power of ten, between a tenth and a hundredth of the largest cost.
        """
        cost = max(cost for cost, _ in self.singles.values())
        return float(10.0 ** (math.ceil(math.log10(cost)) - 2)) if cost > 0 else 1.0

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """Name and value of every fact about the table."""
        table = self.result.table
        head = {
            "reference": self.result.reference,
            "unit of cost": self.result.unit,
            "level δ": self.result.delta or None,
            "table hash": table.get("hash"),
            "samples": {name: f"{n:,}" for name, n in table.get("samples", {}).items()},
        }
        known = dict(table.get("provenance", {}))
        known["deferral"] = {"learned for": list(scores_of(known))}
        return [*facts(head), *facts(known)]

    @property
    def origins(self) -> dict[str, dict[str, str]]:
        """The facts about every exit that has some: its spec, the hash of its weights."""
        origins = {one.name: dict(facts(one.origin)) for one in self.result.singles}
        return {name: origin for name, origin in origins.items() if origin}

    @property
    def version(self) -> str:
        """The version of the understudy that makes the page."""
        return version("understudy")

    def exits_by_cost(self, bins: tuple[Bin, ...]) -> list[str]:
        """The exits in bins of difficulty, cheapest first."""
        return [name for name in self.singles if name in bins[0].accuracy]
