"""The tables of a search result, as text that fits its width."""

from __future__ import annotations

from dataclasses import dataclass

from understudy import display
from understudy.certificate import several_guarantees
from understudy.choice import DECIDED, Choice, Published, Single
from understudy.split import ALL
from understudy.text_table import Column, Paragraph, TextTable

PLAN = Column("plan, share per stage", "plan")


@dataclass(frozen=True)
class ResultTables:
    """The tables of a result; the attributes are those of `Result`."""

    unit: str
    reference: str
    delta: float
    choices: tuple[Choice, ...]
    singles: tuple[Single, ...]
    published: tuple[Published, ...]
    measured_on: str
    in_sample: bool
    labelled: bool
    partly_labelled: bool
    gap: str

    def single_exits(self) -> TextTable:
        """Every exit by itself, cheapest first."""
        measure = "accuracy" if self.labelled else "agreement"
        measure += "*" if self.partly_labelled else ""
        compared = "in points" if self.labelled else "in % of the samples"
        outcomes = {single.name: single.on[self.measured_on] for single in self.singles}
        rows = (
            (
                name,
                display.cost_text(outcome.cost[self.unit], self.unit),
                display.percent(outcome.accuracy),
                "reference" if name == self.reference else self._gap_text(outcome.drop),
                outcome.saving_text(self.unit),
            )
            for name, outcome in outcomes.items()
        )
        title = f"single exits, measured on {self.measured_on}; {self.gap} {compared}"
        return display.table_of(title, ("exit", self.unit, measure, self.gap, "saving"), rows)

    def plans(self) -> TextTable:
        """The plan of every budget, with its proof."""
        costs = [set(choice.outcome.cost) for choice in self.choices]
        others = sorted(set.intersection(*costs) - {self.unit})
        decided = f" ({DECIDED})" if self.measured_on == "certify" else ""
        proof = "proof" if self.in_sample else f"proof\n(δ = {display.level_text(self.delta)})"
        head = (self._budget(), PLAN, self.unit, "saving")
        return display.table_of(
            f"the cheapest plan per budget, measured on {self.measured_on}{decided}",
            (*head, *(f"saving\n{unit}" for unit in others), self.gap, "95 %\ninterval", proof),
            (self._choice_row(choice, others) for choice in self.choices),
        )

    def guarantees(self) -> Paragraph:
        """What the column of proofs stands for."""
        count, probability = len(self.choices), display.probability_text(self.delta)
        words = (
            f"Each {self.gap} and each saving (≥) is certified with probability {probability} by "
            "itself"
        )
        proofs = [choice.certificate for choice in self.choices if choice.certificate]
        if all(proof.falls_back for proof in proofs):
            words, count = f"Nothing cheaper than {self.reference} is certified", 1
        several = f"; {several_guarantees(count, self.delta)}" if count > 1 else ""
        look = max((proof.looks for proof in proofs), default=1)
        again = (
            f" This is look {look} at the certify samples: the best of several looks is wrong with "
            "a probability of up to the sum of their δ."
        )
        return display.note_of(f"{words}{several}.{again if look > 1 else ''}\n")

    def baselines(self) -> TextTable:
        """What the plans must beat."""
        rows = []
        for choice in self.choices:
            others = choice.baselines
            single = ("all cost more", "–")
            if others.single is not None and others.single_drop is not None:
                single = (others.single, self._gap_text(others.single_drop))
            drops = (self._gap_text(drop) for drop in (others.random_drop, others.oracle_drop))
            budget, drop = display.budget_text(choice.max_drop), choice.outcome.drop
            rows.append((budget, self._gap_text(drop), *single, *drops))
        return display.table_of(
            f"{self.gap}s that the plans must beat at no more cost, measured on {self.measured_on}",
            (
                *(self._budget(), "plan", Column("best single\nexit", "name"), f"its\n{self.gap}"),
                *("deferring\nat random", "by an\noracle"),
            ),
            rows,
        )

    def published_rules(self) -> TextTable:
        """What the papers' own rules choose."""
        return display.table_of(
            f"what published rules choose, measured on {self.measured_on}; nothing is proved",
            (self._budget(), PLAN, Column("rule", "name"), self.unit, "saving", self.gap),
            (
                (
                    display.budget_text(one.max_drop),
                    display.plan_text(one.outcome.shares),
                    one.rule,
                    display.cost_text(one.outcome.cost[self.unit], self.unit),
                    one.outcome.saving_text(self.unit),
                    self._gap_text(one.outcome.drop),
                )
                for one in self.published
            ),
        )

    def _choice_row(self, choice: Choice, others: list[str]) -> list[str]:
        outcome, certificate, proof = choice.outcome, choice.certificate, "none"
        interval_text = display.interval_text if self.labelled else display.share_interval_text
        if certificate is not None:
            proof = "fell back"
            if certificate.p_value is not None and not certificate.falls_back:
                p_value = certificate.p_value
                proof = f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"
        return [
            display.budget_text(choice.max_drop),
            display.plan_text(outcome.shares),
            display.cost_text(outcome.cost[self.unit], self.unit),
            _saving_text(choice, self.unit),
            *(outcome.saving_text(other) for other in others),
            self._gap_text(outcome.drop),
            interval_text(outcome.drop_interval),
            proof,
        ]

    def _budget(self) -> Column:
        return Column("max\ndrop" if self.labelled else "budget", "name")

    def _gap_text(self, drop: float) -> str:
        """A drop with its sign, or a disagreement, which has none."""
        return display.signed(drop) if self.labelled else f"{drop:.2f}"


def worst_class(choice: Choice) -> str:
    """The class that loses most, where its loss is more than the noise of its samples."""
    if len(choice.classes) < 2 or (gap := choice.classes[0]).interval[0] <= 0:
        return ""
    on_tune = ALL not in choice.on and gap.tune_drop is not None
    where = f" on {choice.measured_on}"
    picked, measured = ("lost most on tune", where) if on_tune else ("loses most", "")
    return (
        f" The class that {picked} is {gap.name}: {display.signed(gap.drop)} "
        f"{display.interval_text(gap.interval)}{measured}, an estimate from {gap.samples:,} "
        "samples."
    )


def _saving_text(choice: Choice, unit: str) -> str:
    """The measured saving, and the one that is certified."""
    least = choice.certificate.saving_bounds.get(unit) if choice.certificate else None
    proved = "" if least is None else f"\n≥ {display.least_percent(least)}"
    return f"{choice.outcome.saving_text(unit)}{proved}"
