"""What the page says, as a typed record: built from a result, testable without HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from understudy.certificate import Certificate
from understudy.deciles import Bin, Difficulty
from understudy.outcome import Interval, Outcome
from understudy.result import Baselines, Choice, Published, Result, Single
from understudy.split import ALL, SPLITS

DRAWN_POINTS = 400
WORST = 3


@dataclass(frozen=True)
class Measured:
    """One policy on one split. Drop in points, saving as a fraction.

    The interval of the reference itself, whose drop is 0 by definition, is (0, 0).
    """

    split: str
    samples: int
    cost: float
    saving: float
    accuracy: float
    drop: float
    interval: Interval

    @staticmethod
    def of(split: str, outcome: Outcome, unit: str) -> Measured:
        by_definition = tuple(outcome.shares) == (outcome.reference,)
        return Measured(
            split=split,
            samples=outcome.samples,
            cost=outcome.cost[unit],
            saving=outcome.saving[unit],
            accuracy=outcome.accuracy,
            drop=outcome.drop,
            interval=(0.0, 0.0) if by_definition else outcome.drop_interval,
        )


@dataclass(frozen=True)
class Proof:
    """A certificate: its words and the figures it rests on."""

    words: str
    kind: str
    falls_back: bool
    samples: int
    losses: int
    gains: int
    p_value: float | None
    delta: float
    proved: int
    steps: int
    samples_needed: int | None
    looks: int

    @staticmethod
    def of(certificate: Certificate) -> Proof:
        return Proof(
            words=certificate.words(),
            kind=certificate.kind,
            falls_back=certificate.falls_back,
            samples=certificate.samples,
            losses=certificate.losses,
            gains=certificate.gains,
            p_value=certificate.p_value,
            delta=certificate.delta,
            proved=len(certificate.path),
            steps=certificate.steps,
            samples_needed=certificate.samples_needed,
            looks=certificate.looks,
        )


@dataclass(frozen=True)
class ReportedPlan:
    """The choice for one budget: `main` is its headline measurement, `on` has one per split."""

    max_drop: float
    exits: tuple[str, ...]
    words: str
    verdict: str
    main: Measured
    on: tuple[Measured, ...]
    shares: Mapping[str, float]
    baselines: Baselines
    proof: Proof | None

    @property
    def is_cascade(self) -> bool:
        return len(self.exits) > 1

    @staticmethod
    def of(choice: Choice, unit: str) -> ReportedPlan:
        on = tuple(Measured.of(split, outcome, unit) for split, outcome in choice.on.items())
        return ReportedPlan(
            max_drop=choice.max_drop,
            exits=choice.policy.exits,
            words=choice.policy.describe(),
            verdict=choice.verdict,
            main=next((m for m in on if m.split == "test"), on[0]),
            on=on,
            shares=choice.outcome.shares,
            baselines=choice.baselines,
            proof=None if choice.certificate is None else Proof.of(choice.certificate),
        )


@dataclass(frozen=True)
class Ruled:
    """What a published rule chose for one budget."""

    rule: str
    max_drop: float
    exits: tuple[str, ...]
    main: Measured

    @staticmethod
    def of(one: Published, unit: str, *, split: str) -> Ruled:
        main = Measured.of(split, one.outcome, unit)
        return Ruled(one.rule, one.max_drop, one.policy.exits, main)


@dataclass(frozen=True)
class WorstClass:
    """One of the classes that lose most under the plan for a budget."""

    max_drop: float
    name: str
    samples: int
    drop: float
    interval: Interval


@dataclass(frozen=True)
class Alone:
    """One exit by itself. `origin` has its facts, such as its spec and the hash of its weights."""

    name: str
    main: Measured
    planned: bool
    on_frontier: bool
    origin: Mapping[str, str]

    @staticmethod
    def of(single: Single, result: Result, *, split: str) -> Alone:
        on_frontier = {point.policy.exits for point in result.frontier}
        return Alone(
            name=single.name,
            main=Measured.of(split, single.on[split], result.unit),
            planned=any(single.name in choice.policy.exits for choice in result.choices),
            on_frontier=(single.name,) in on_frontier,
            origin=dict(facts(single.origin)),
        )


@dataclass(frozen=True)
class Report:
    """All that the page says.

    Attributes:
        title, lead: the headline and where its figures come from.
        measure: what is counted: "accuracy", or "agreement with X" where there were no labels.
        plans: one per budget; `singles`: every exit by itself, cheapest first.
        frontier: (cost, drop) of non-dominated policies on `searched_on`, thinned for drawing.
        found: how many there were before thinning.
        difficulty: accuracy by difficulty; None where the result has none.
        published: what the papers' own rules choose, on the same split as the plans.
        worst: for each plan of several stages, the classes that lose most: at most three.
        gain_step: the amount of cost that gains in accuracy are quoted for: a power of ten.
        provenance: name and value of every fact about the table.
        version: of the understudy that made the page.
    """

    title: str
    lead: str
    measure: str
    unit: str
    reference: str
    delta: float
    in_sample: bool
    searched_on: str
    measured_on: str
    plans: tuple[ReportedPlan, ...]
    singles: tuple[Alone, ...]
    frontier: tuple[tuple[float, float], ...]
    found: int
    difficulty: Difficulty | None
    gain_step: float
    published: tuple[Ruled, ...]
    worst: tuple[WorstClass, ...]
    provenance: tuple[tuple[str, str], ...]
    version: str

    @staticmethod
    def of(result: Result) -> Report:
        """The record of a result.

        >>> import numpy as np
        >>> from understudy.scores import ScoreTable
        >>> from understudy.searching.search import search
        >>> right = np.arange(1000) % 10 < 9
        >>> table = ScoreTable.from_predictions(
        ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, 0 * right)},
        ...     0 * right, costs={"tiny": 1, "big": 9})
        >>> report = Report.of(search(table, max_drop=2.0))
        >>> report.title, report.plans[0].exits
        ('A certified cascade for big', ('tiny', 'big'))
        """
        split = ALL if result.in_sample else "test"
        plans = tuple(ReportedPlan.of(choice, result.unit) for choice in result.choices)
        singles = tuple(Alone.of(single, result, split=split) for single in result.singles)
        labelled = result.table.get("labelled", True)
        return Report(
            title=_title(plans, result),
            lead=_lead(result),
            measure="accuracy" if labelled else f"agreement with {result.reference}",
            unit=result.unit,
            reference=result.reference,
            delta=result.delta,
            in_sample=result.in_sample,
            searched_on=result.searched_on,
            measured_on=split,
            plans=plans,
            singles=singles,
            frontier=tuple((p.cost, p.drop) for p in _thinned(result.frontier.points)),
            found=len(result.frontier),
            difficulty=result.difficulty,
            gain_step=_step(max(single.main.cost for single in singles)),
            published=tuple(Ruled.of(one, result.unit, split=split) for one in result.published),
            worst=tuple(_worst(result)),
            provenance=_provenance(result),
            version=version("understudy"),
        )

    @property
    def saves(self) -> bool:
        """Whether any plan is more than the reference by itself."""
        return any(plan.exits != (self.reference,) for plan in self.plans)

    @property
    def shown(self) -> tuple[str, ...]:
        """The exits to name where there is no room for all, the most important first."""
        rank = {name: 1 for plan in self.plans for name in plan.exits} | {self.reference: 0}
        rest = {single.name: 2 if single.on_frontier else 3 for single in self.singles}
        return tuple(sorted(rest, key=lambda name: rank.get(name, rest[name])))

    def exits_by_cost(self, bins: tuple[Bin, ...]) -> list[str]:
        """The exits that bins tell of, cheapest first."""
        return [single.name for single in self.singles if single.name in bins[0].accuracy]


def facts(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain JSON as names and texts; what is None or empty is left out.

    >>> list(facts({"split": {"by": "id", "shares": {"tune": 1}}, "size": [3, 32], "group": None}))
    [('split by', 'id'), ('split shares tune', '1'), ('size', '3, 32')]
    """
    for key, value in data.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            yield from facts(value, name)
        elif isinstance(value, list | tuple):
            if value:
                yield name, ", ".join(map(str, value))
        elif value not in (None, ""):
            yield name, str(value)


def _title(plans: tuple[ReportedPlan, ...], result: Result) -> str:
    cascades = sum(plan.is_cascade for plan in plans)
    if not cascades:
        names = dict.fromkeys(plan.exits[0] for plan in plans)
        return f"A cascade does not pay here: use {' or '.join(names)}"
    if result.in_sample:
        return f"In-sample plans for {result.reference}"
    if cascades == 1:
        return f"A certified cascade for {result.reference}"
    return f"Certified cascades for {result.reference}"


def _lead(result: Result) -> str:
    samples = {name: f"{count:,}" for name, count in result.table.get("samples", {}).items()}
    exits = f"{len(result.singles)} exits"
    if result.in_sample:
        return f"Chosen among {exits} and measured on the same {samples.get(ALL, 'some')} samples."
    tune, certify, test = (samples.get(name, "some") for name in SPLITS)
    return (
        f"Chosen among {exits} on {tune} samples, certified on {certify} others, "
        f"measured once on {test} more."
    )


def _worst(result: Result) -> Iterator[WorstClass]:
    for choice in result.choices:
        if len(choice.classes) < 2 or choice.policy.exits == (result.reference,):
            continue
        for gap in choice.classes[:WORST]:
            yield WorstClass(choice.max_drop, gap.name, gap.samples, gap.drop, gap.interval)


def _thinned(points: tuple[Any, ...]) -> list[Any]:
    rows = np.linspace(0, len(points) - 1, min(len(points), DRAWN_POINTS)).round().astype(int)
    return [points[row] for row in rows]


def _step(cost: float) -> float:
    """A power of ten, between a tenth and a hundredth of a cost."""
    return float(10.0 ** (math.ceil(math.log10(cost)) - 2)) if cost > 0 else 1.0


def _provenance(result: Result) -> tuple[tuple[str, str], ...]:
    head = {
        "reference": result.reference,
        "unit of cost": result.unit,
        "level δ": result.delta or None,
        "table hash": result.table.get("hash"),
        "samples": {name: f"{n:,}" for name, n in result.table.get("samples", {}).items()},
    }
    rest = result.table.get("provenance", {})
    return (*facts(head), *facts(rest))
