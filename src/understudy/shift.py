"""The shift card: the same policies on other tables, side by side with what was seen before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from understudy import display
from understudy.certificate import Certificate
from understudy.errors import PolicyError
from understudy.html_views import html_of
from understudy.intervals import Interval, drop_interval
from understudy.json_codec import Stored, StoredFile, stored
from understudy.outcome import Outcome, points
from understudy.policy import Policy
from understudy.short_repr import clipped, cut_list
from understudy.tabular import Tabular
from understudy.text_table import Column, TextTable

if TYPE_CHECKING:
    from rich.console import Group

SEARCHED = "as searched"
YES, NO, UNDECIDED = "yes", "no", "undecided"
HOLDS, VOID, NONE = "holds", "void", "none"


@dataclass(frozen=True)
class Proof(Stored):
    """What a certificate promised: the fields are those of `Certificate`.

    >>> Proof("gap", 0.5, 0.05, 2000, 12, 7, {}).drop
    0.25
    """

    kind: str
    budget: float
    delta: float
    samples: int
    losses: int
    gains: int
    saving_bounds: Mapping[str, float]

    @staticmethod
    def of(certificate: Certificate | None) -> Proof | None:
        """What was proved; None where nothing was."""
        if certificate is None or certificate.falls_back:
            return None
        return Proof(
            kind=certificate.kind,
            budget=certificate.budget,
            delta=certificate.delta,
            samples=certificate.samples,
            losses=certificate.losses,
            gains=certificate.gains,
            saving_bounds=dict(certificate.saving_bounds),
        )

    @property
    def drop(self) -> float:
        """The drop in points on the certify samples."""
        return 100.0 * (self.losses - self.gains) / self.samples


@dataclass(frozen=True)
class Measured(Stored):
    """A policy on one table.

    Attributes:
        outcome: its figures there. Where labels are missing the reference's answers take their
            place, so that its drop is a bound from above: without labels it is the disagreement.
        disagreements: the samples that it answers otherwise than the reference.
        labelled: whether its drop is one of accuracy, exactly: no label was needed that is missing.
        within: whether the budget is kept, "yes" or "no" where the whole 95 % interval is on one
            side of it, else "undecided"; None without a budget.
        drop_change: the drop here less the one that was seen, in points, with its 95 % interval;
            None where they cannot be compared.
        promise: what is left of the certificate: it "holds" for the table that was searched, is
            "void" for any other, and there may be "none".
    """

    outcome: Outcome
    disagreements: int
    labelled: bool
    within: str | None
    drop_change: float | None
    drop_change_interval: Interval | None
    promise: str

    @property
    def agreement(self) -> float:
        """The share of samples that are answered as by the reference."""
        return 1 - self.disagreements / self.outcome.samples


@dataclass(frozen=True)
class AppliedPlan(Stored):
    """A policy on several tables.

    Attributes:
        max_drop: its budget in points; None where it has none.
        policy: the policy.
        proof: what was certified; None where nothing was.
        seen: its figures where it was searched; None where they are not known.
        seen_on: the split of those figures.
        kind: what the budget bounds: "gap" (of accuracy), or "disagreement" where the search had no
            labels.
        seen_labelled: whether all samples of those figures have a label.
        on: what was measured, by table.
    """

    max_drop: float | None
    policy: Policy
    proof: Proof | None
    seen: Outcome | None
    seen_on: str
    kind: str = "gap"
    seen_labelled: bool = field(default=True, metadata=stored(optional=True))
    on: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def seen_drop(self) -> tuple[float, Interval] | None:
        """The drop where it was searched, or else on its certify samples."""
        if self.seen is not None:
            return self.seen.drop, self.seen.drop_interval
        if self.proof is None:
            return None
        proof = self.proof
        return proof.drop, drop_interval(proof.losses, proof.gains, proof.samples)

    def title(self, reference: str) -> str:
        """The budget and what was promised, in words."""
        stages = " → ".join(self.policy.exits)
        if self.max_drop is None:
            return f"{stages}: without a budget"
        head = f"{points(self.max_drop)}: {stages}"
        if self.policy == Policy.single(reference):
            return f"{head}, the reference alone"
        if self.proof is None:
            return f"{head}; nothing was certified"
        likely = display.probability_text(self.proof.delta)
        gap = "drop" if self.kind == "gap" else "disagreement"
        return f"{head}; {gap} certified where searched, with probability {likely}"


@dataclass(frozen=True)
class AppliedTable(Stored):
    """A table that policies were applied to.

    Attributes:
        name: what it is called on the card.
        hash: its hash.
        samples, labels: how many were measured, and how many of them have a label.
        split: the split that was measured, or all.
        remarks: what should be known of its figures.
    """

    name: str
    hash: str
    samples: int
    labels: int
    split: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class ShiftCard(
    StoredFile,
    Tabular,
    what="a shift card",
    error=PolicyError,
    remedy="apply the policies again",
    format="understudy.shift",
):
    """What policies do on other tables; `print(card)` prints it with the tables side by side.

    A certificate holds for samples like those it was proved on. Another table voids it, however
    well the policy does there: what is left is what was measured.

    Attributes:
        reference: the exit that drops are measured against.
        unit: the cost that was minimised.
        plans: the policies, with what was measured on each table.
        tables: the tables, with what should be known of each.
    """

    reference: str
    unit: str
    plans: tuple[AppliedPlan, ...]
    tables: tuple[AppliedTable, ...]

    def __repr__(self) -> str:
        kept = (f"{clipped(one.name)}: {self._kept(one.name)}" for one in self.tables)
        return f"<ShiftCard against {clipped(self.reference)}; {cut_list(kept, 160)}>"

    def __str__(self) -> str:
        return display.plain(self.view())

    def _repr_html_(self) -> str:
        return html_of(self.view())

    def columns(self) -> dict[str, list[Any]]:
        """A row per plan and table, that of the search (`as searched`) first."""
        rows = [row for plan in self.plans for row in self._rows(plan)]
        keys = dict.fromkeys(key for row in rows for key in row)
        return {key: [row.get(key) for row in rows] for key in keys}

    def _rows(self, plan: AppliedPlan) -> Iterator[dict[str, Any]]:
        head = {"max_drop": plan.max_drop, "policy": plan.policy.describe()}
        if plan.seen is not None:
            figures = _figures(plan.seen, labelled=plan.seen_labelled)
            yield {**head, "table": SEARCHED, "measured_on": plan.seen_on, **figures}
        splits = {one.name: one.split for one in self.tables}
        for name, one in plan.on.items():
            low, high = one.drop_change_interval or (None, None)
            yield {
                **head,
                "table": name,
                "measured_on": splits[name],
                **_figures(one.outcome, labelled=self.labelled(name)),
                "within": one.within,
                "drop_change": one.drop_change,
                "drop_change_low": low,
                "drop_change_high": high,
                "agreement": one.agreement,
                "certificate": one.promise,
            }

    def labelled(self, name: str) -> bool:
        """Whether all samples of a table have a label, without which there are no accuracies."""
        return any(one.labels == one.samples for one in self.tables if one.name == name)

    @property
    def has_cascade(self) -> bool:
        """Whether any plan has several stages."""
        return any(len(plan.policy.exits) > 1 for plan in self.plans)

    def words(self, name: str) -> str:
        """What the plans do on a table, in a sentence."""
        cascades = [plan for plan in self.plans if len(plan.policy.exits) > 1]
        if not cascades:
            return "No plan here is a cascade."
        units = [u for u in cascades[0].on[name].outcome.saving if self._known(u, name)]
        unit = self.unit if self.unit in units else units[0]
        savings = [plan.on[name].outcome.saving[unit] for plan in cascades]
        seen = [p.seen.saving[unit] for p in cascades if p.seen and unit in p.seen.saving]
        before = f" ({_range(seen)} where searched)" if seen else ""
        return f"{self._kept(name)}; {_range(savings)} of {unit} saved{before}."

    def _known(self, unit: str, name: str) -> bool:
        return all(unit in plan.on[name].outcome.saving for plan in self.plans)

    def _kept(self, name: str) -> str:
        """How many budgets are kept on a table."""
        found = [plan.on[name].within for plan in self.plans if plan.max_drop is not None]
        if not found:
            return "no budget to keep"
        counts = [(found.count(YES), "kept"), (found.count(NO), "exceeded")]
        counts.append((found.count(UNDECIDED), "undecided by its noise"))
        some = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"{len(found)} budget{'s' * (len(found) > 1)}: {some}"

    def view(self) -> Group:
        """The card for a terminal: for every plan its figures on all tables."""
        void = any(one.promise == VOID for plan in self.plans for one in plan.on.values())
        warning = (
            "A certificate holds for samples drawn like those it was proved on. For the tables "
            "marked void it promises nothing: `within the budget` is what was measured there "
            "(95 %).\n"
        )
        return display.group_of(
            *(_plan_table(self, plan) for plan in self.plans),
            *(
                display.note_of(" ".join((self.words(one.name), *one.remarks)) + "\n", heading=head)
                for one in self.tables
                for head in [f"{one.name}: "]
            ),
            *([display.note_of(warning)] if void else []),
        )


def change_of(
    drop: float, interval: Interval, seen: float, seen_interval: Interval
) -> tuple[float, Interval]:
    """The difference of two drops and its 95 % interval (Zou and Donner 2008, from both intervals).

    For samples drawn apart; where some are in both it is wider than it need be.

    >>> change, (low, high) = change_of(1.0, (0.0, 2.0), 0.25, (-0.75, 1.25))
    >>> change, round(low, 2), round(high, 2)
    (0.75, -0.66, 2.16)
    """
    change = drop - seen
    below = math.hypot(drop - interval[0], seen_interval[1] - seen)
    above = math.hypot(interval[1] - drop, seen - seen_interval[0])
    return change, (change - below, change + above)


def within_budget(budget: float, interval: Interval, *, exact: bool) -> str:
    """Whether a gap is within its budget (points) by its 95 % interval.

    Where labels are missing the gap is a bound from above, which cannot show that it is exceeded.

    >>> [within_budget(0.5, one, exact=True) for one in ((0, 0.4), (0.2, 0.6), (0.6, 1))]
    ['yes', 'undecided', 'no']
    """
    if interval[1] <= budget:
        return YES
    return NO if exact and interval[0] > budget else UNDECIDED


def _figures(outcome: Outcome, *, labelled: bool) -> dict[str, Any]:
    """Figures by what they are; accuracies are None where labels are missing."""
    shares = {f"share {name}": share for name, share in outcome.shares.items()}
    figures = {key: values[0] for key, values in outcome.columns().items()} | shares
    return {k: None if "accuracy" in k and not labelled else v for k, v in figures.items()}


def _range(values: list[float]) -> str:
    low, high = display.percent(min(values)), display.percent(max(values))
    return low if low == high else f"{low[:-2]} to {high}"


def _plan_table(card: ShiftCard, plan: AppliedPlan) -> TextTable:
    """The figures of a plan, one column per table."""
    columns = [_column(card, plan, name, one) for name, one in plan.on.items()]
    heads = [Column(name) for name in plan.on]
    if plan.seen is not None:
        columns = [_seen_column(plan, plan.seen), *columns]
        heads = [Column(f"{SEARCHED}\n({plan.seen_on})"), *heads]
    found = dict.fromkeys(key for column in columns for key in column if key != "certificate")
    keys = [*found, "certificate"]
    rows = [(key, *(column.get(key, "–") for column in columns)) for key in keys]
    if plan.policy == Policy.single(card.reference):
        rows = [row for row in rows if row[0] in ("samples", f"accuracy of {card.reference}")]
    return display.table_of(plan.title(card.reference), (Column("", "words"), *heads), rows)


def _seen_column(plan: AppliedPlan, seen: Outcome) -> dict[str, str]:
    labelled = plan.kind == "gap" and plan.seen_labelled
    cells = _cells(seen, labelled=labelled)
    if not labelled:
        cells = _without_accuracy(cells)
    return {**cells, "certificate": "proved" if plan.proof is not None else NONE}


def _column(card: ShiftCard, plan: AppliedPlan, name: str, one: Measured) -> dict[str, str]:
    cells = _cells(one.outcome, labelled=one.labelled)
    if not card.labelled(name):
        cells = _without_accuracy(cells)
    if one.drop_change is not None and one.drop_change_interval is not None:
        change = display.signed(one.drop_change)
        cells["change of the drop"] = change
        cells["95 % interval of the change"] = display.interval_text(one.drop_change_interval)
    if plan.max_drop is not None and one.within is not None:
        cells[f"within {points(plan.max_drop)}"] = one.within
    cells[f"agreement with {card.reference}"] = display.percent(one.agreement)
    cells["certificate"] = one.promise
    return cells


def _without_accuracy(cells: Mapping[str, str]) -> dict[str, str]:
    """The figures of a table that lacks labels: it has no accuracies."""
    return {key: text for key, text in cells.items() if not key.startswith("accuracy")}


def _cells(outcome: Outcome, *, labelled: bool) -> dict[str, str]:
    """Figures as text, by what they are."""
    low, high = outcome.drop_interval
    most = "" if labelled else "≤ "
    accuracy = f"accuracy of {outcome.reference}"
    return {
        "samples": f"{outcome.samples:,}",
        accuracy: display.percent(outcome.reference_accuracy),
        "accuracy": display.percent(outcome.accuracy),
        "drop": most + display.signed(outcome.drop),
        "95 % interval": (
            display.interval_text((low, high)) if labelled else f"≤ {display.signed(high)}"
        ),
        **{
            f"saving of {unit}": outcome.saving_text(unit).replace("\n", ", ")
            for unit in outcome.saving
        },
        **{f"answered by {name}": display.percent(s) for name, s in outcome.shares.items()},
    }
