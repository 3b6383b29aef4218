"""Policies with all that it takes to measure them on other tables of the same exits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.deferral import DeferralScore, with_scores
from understudy.display import cost_text
from understudy.ensemble import Ensemble, models_of, with_ensembles
from understudy.errors import TableError, listed, unknown
from understudy.intervals import drop_interval
from understudy.outcome import Outcome, decide, evaluate
from understudy.sample_marks import found_again
from understudy.scores import ScoreTable
from understudy.shift import (
    HOLDS,
    NONE,
    VOID,
    AppliedPlan,
    AppliedTable,
    Measured,
    ShiftCard,
    change_of,
    within_budget,
)
from understudy.split import ALL, SPLITS

_SAME_COST = 0.005  # a relative difference of costs that is rounding
_IDENTITY = {"weights_hash": "weights", "dtype": "dtype", "run": "execution mode"}


@dataclass(frozen=True)
class PolicySet:
    """Policies, and what is known of their exits; `apply` measures them on other tables.

    Attributes:
        reference: the exit that drops are measured against.
        unit: the cost that was minimised.
        plans: the policies.
        origins: by exit, plain JSON that identifies its model; models that are known by name alone
            have none.
        scores, ensembles: what the search fitted, by exit.
        classes: the names of the classes, where they are known.
        costs: by unit and exit, what each exit cost alone.
        source: what a result says of its table: `hash`, `provenance`. Empty where nothing is known.
    """

    reference: str
    unit: str
    plans: tuple[AppliedPlan, ...]
    origins: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, DeferralScore] = field(default_factory=dict)
    ensembles: Mapping[str, Ensemble] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, tables: Mapping[str, ScoreTable], *, split: str | None = None) -> ShiftCard:
        """Measure all policies on other tables.

        What the search fitted is applied as it was stored; nothing is fitted to the new samples.

        Args:
            tables: by the names that the card gives them.
            split: the samples to measure: tune, certify, test or all. By default all; where they
                are those that were searched, the split of the headline figures.

        Raises:
            TableError: no table; one that lacks an exit, was scored with other weights or classes,
                or lacks what a fitted exit needs; an empty split.
        """
        if not tables:
            raise TableError("policies are applied to at least one table, found none")
        found = [(name, *self._measured(name, table, split)) for name, table in tables.items()]
        return ShiftCard(
            reference=self.reference,
            unit=self.unit,
            plans=tuple(
                replace(plan, on={name: measured[number] for name, _, measured in found})
                for number, plan in enumerate(self.plans)
            ),
            tables=tuple(table for _, table, _ in found),
        )

    @property
    def exits(self) -> tuple[str, ...]:
        """The models that a table must have: those of policies and ensembles, and the reference."""
        names = [name for plan in self.plans for name in plan.policy.exits]
        members = [
            one for n in names for one in (self.ensembles[n].exits if n in self.ensembles else [n])
        ]
        return tuple(dict.fromkeys([*members, self.reference]))

    def _measured(
        self, name: str, table: ScoreTable, split: str | None
    ) -> tuple[AppliedTable, list[Measured]]:
        self._check(name, table)
        relation, apart = self._relation(table)
        chosen = split or (self._seen_on(table) if apart else ALL)
        part = self._fitted(name, table.on(chosen))
        own = table.hash == self.source.get("hash")
        measured = [self._on(plan, part, own=own) for plan in self.plans]
        applied = AppliedTable(
            name=name,
            hash=table.hash,
            samples=len(part),
            labels=int(part.labelled.sum()),
            split=chosen,
            remarks=tuple(self._remarks(table, part, relation, chosen)),
        )
        return applied, measured

    def _on(self, plan: AppliedPlan, table: ScoreTable, *, own: bool) -> Measured:
        """A policy on a table that has all of its exits."""
        outcome = evaluate(table, plan.policy, reference=self.reference)
        prediction = decide(table, plan.policy).prediction
        differ = int((prediction != table.prediction[table.index(self.reference)]).sum())
        exact = not table.needs_label(self.reference, prediction).any()
        change, ends = (None, None) if own or not exact else _change(plan, outcome)
        return Measured(
            outcome=outcome,
            disagreements=differ,
            labelled=exact,
            within=_within(plan, outcome, differ, exact=exact),
            drop_change=change,
            drop_change_interval=ends,
            promise=NONE if plan.proof is None else HOLDS if own else VOID,
        )

    def _fitted(self, name: str, table: ScoreTable) -> ScoreTable:
        """The exits of the policies, with learned scores and ensembles as the search stored them.

        Raises:
            TableError: the table lacks the logits or top classes that they need.
        """
        models = models_of(table).only(self.exits)
        try:
            scored = with_scores(models, self.scores) if self.scores else models
            return with_ensembles(scored, self.ensembles)
        except TableError as error:
            raise TableError(f"{name!r} cannot be measured by these policies: {error}") from error

    # -- checks and remarks -------------------------------------------------------------------

    def _check(self, name: str, table: ScoreTable) -> None:
        """Refuse a table of other exits, models or classes.

        Raises:
            TableError: the message has the first difference.
        """
        missing = [exit for exit in self.exits if exit not in table.names]
        if missing:
            raise TableError(
                f"a table has the exits of the policies that are applied to it, "
                f"{unknown('exit', missing[0], table.names, where=repr(name))}: score "
                f"{listed(map(repr, missing))} into it"
            )
        for exit in self.exits:
            now = table.exits[table.index(exit)].origin
            found = _difference(self.origins.get(exit, {}), now)
            if found is not None:
                raise TableError(
                    f"policies are applied to outputs of the same models, {exit!r} in {name!r} is "
                    f"another one ({found}): score that table with the model that was searched"
                )
        if self.classes and table.classes and self.classes != table.classes:
            differ = sorted(set(self.classes) ^ set(table.classes)) or ["their order"]
            raise TableError(
                f"policies are applied to outputs of the same classes, those of {name!r} differ in "
                f"{listed(map(repr, differ))}: map the labels to the classes of the models"
            )

    def _relation(self, table: ScoreTable) -> tuple[str, bool]:
        """How its samples are those that were searched, in words, and whether they are in the same
        splits; no words where they are others, or nothing is known of them."""
        own = self.source.get("hash")
        if own is None:
            return "", False
        if table.hash == own:
            return "This is the table that was searched", True
        if table.provenance.get("judged_from") == own:
            return "These are the samples that were searched, judged by other labels", True
        before = self.source.get("provenance", {})
        same = before.get("fingerprint") == table.provenance.get("fingerprint") is not None
        if same and before.get("split") == table.provenance.get("split"):
            return "These are the images that were searched, scored again", True
        again = found_again(self.source.get("marks", {}), table, self.reference)
        if again is None:
            return "", False
        return "Samples that were searched are among these, with the same answers", all(again)

    def _seen_on(self, table: ScoreTable) -> str:
        """The split of the headline figures; all where the table has no sample of it."""
        name = self.plans[0].seen_on
        return name if name == ALL or (table.split == SPLITS.index(name)).any() else ALL

    def _remarks(
        self, table: ScoreTable, part: ScoreTable, relation: str, split: str
    ) -> Iterator[str]:
        """What should be known of the figures on a table."""
        if relation:
            used = {"test": "", "certify": ", by which the plans were certified"}
            chosen = used.get(split, ", some of which chose the plans: slightly optimistic")
            yield f"{relation}: measured on {split}{chosen}."
        labels = int(part.labelled.sum())
        if not labels:
            yield (
                "No sample has a label: the drop is at most the disagreement with "
                f"{self.reference}."
            )
        elif labels < len(part):
            yield f"{labels:,} of {len(part):,} samples have a label: a drop marked ≤ is a bound."
        bare = [
            name
            for name in (() if relation else self.exits)
            if not _known(self.origins.get(name, {}))
            or not _known(table.exits[table.index(name)].origin)
        ]
        if bare:
            verb = "is" if len(bare) == 1 else "are"
            yield (
                f"{listed(bare, 3)} {verb} known by name alone: nothing shows that the models are "
                "those that were searched."
            )
        yield from self._cost_remarks(part)

    def _cost_remarks(self, table: ScoreTable) -> Iterator[str]:
        """Where costs are others than where the policies were searched."""
        if self.unit not in table.units:
            yield f"This table has no costs in {self.unit}, which was minimised."
        for unit, before in self.costs.items():
            if unit not in table.costs:
                continue
            for name in self.exits:
                parts = set(table.exits[table.index(name)].parts)
                if name not in before or not parts <= set(table.costs[unit]):
                    continue
                was, now = before[name], table.cost_of([name], unit)
                if abs(now - was) > _SAME_COST * max(abs(was), abs(now)):
                    yield (
                        f"{name} costs {cost_text(now, unit)} {unit} here and cost "
                        f"{cost_text(was, unit)} where searched: savings are those of the costs "
                        "here."
                    )


def _known(origin: Mapping[str, Any]) -> bool:
    return "weights_hash" in origin


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In what two models differ, in words; None where nothing that both records have does."""
    for key, what in _IDENTITY.items():
        if _known(before) and _known(now) and before.get(key) != now.get(key):
            return f"other {what}: {_brief(now.get(key))} here, {_brief(before.get(key))} searched"
    was, here = before.get("preprocess"), now.get("preprocess")
    if isinstance(was, Mapping) and isinstance(here, Mapping):
        for key in was.keys() & here.keys():
            if _plain(was[key]) != _plain(here[key]):
                return f"other preprocessing: {key} {here[key]} here, {was[key]} searched"
    return None


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)[:12]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _change(plan: AppliedPlan, outcome: Outcome) -> Any:
    """The change of the drop with its interval; none for the reference by itself, or unknown."""
    seen = plan.seen_drop
    if seen is None or plan.kind != "gap" or set(outcome.shares) == {outcome.reference}:
        return None, None
    return change_of(outcome.drop, outcome.drop_interval, *seen)


def _within(plan: AppliedPlan, outcome: Outcome, differ: int, *, exact: bool) -> str | None:
    """Whether the plan keeps its budget, of the drop or of the disagreement."""
    if plan.max_drop is None:
        return None
    if plan.kind == "gap":
        return within_budget(plan.max_drop, outcome.drop_interval, exact=exact)
    interval = drop_interval(differ, 0, outcome.samples)
    return within_budget(plan.max_drop, interval, exact=True)
