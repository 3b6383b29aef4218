"""The slider of the page: every step of every path as texts and places, for the script."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from understudy.app.report.path_steps import BudgetPath, PathStep
from understudy.app.report.record import Report
from understudy.app.report.words import minus, stage_rule, typeset
from understudy.display import cost_text, percent, probability_text, signed
from understudy.outcome import ClassGap, points

PRINTED_STEPS = 10  # steps per budget in the table for paper, and where there is no script
_SCRIPT = Path(__file__).parent / "slider.js"


@dataclass(frozen=True)
class Slider:
    """What the slider shows; all text is made here, so that the script only puts it in place.

    Attributes:
        report: of the result.
        paths: the steps of every budget that has some.
    """

    report: Report
    paths: tuple[BudgetPath, ...]

    @cached_property
    def script(self) -> Markup:
        """What moves the mark and puts the texts in place."""
        return Markup(_SCRIPT.read_text(encoding="utf-8"))

    @cached_property
    def budgets(self) -> list[dict[str, Any]]:
        """Every path as plain JSON: where the slider starts, and its steps."""
        return [
            {
                "start": 0 if path.plan is None else path.plan,
                "frozen": path.frozen,
                "proved": path.proved,
                "rows": max(len(step.policy.stages) for step in path.steps),
                "steps": [self._step(path, step) for step in path.steps],
            }
            for path in self.paths
        ]

    @property
    def json(self) -> Markup:
        """The steps as JSON that may stand in a page."""
        names = [{"name": typeset(name), "tint": self.tint(name)} for name in self._exits]
        text = json.dumps(
            {"exits": names, "budgets": self.budgets},
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        return Markup(text.replace("<", "\\u003c"))

    def few(self, path: BudgetPath) -> list[PathStep]:
        """About ten steps of a path: evenly spaced, the ends, the plan and the one behind it."""
        last = len(path.steps) - 1
        kept = {round(last * number / (PRINTED_STEPS - 1)) for number in range(PRINTED_STEPS)}
        if path.plan is not None:
            near = {path.plan, min(path.plan + 1, last)}
            kept = near | {row for row in kept if min(abs(row - one) for one in near) > last / 25}
            kept |= {0, last}
        return [path.steps[row] for row in sorted(kept)]

    def budget(self, path: BudgetPath) -> str:
        """The budget of a path, in short."""
        return f"≤ {points(path.choice.max_drop)}"

    def proof(self, path: BudgetPath, step: PathStep) -> str:
        """Whether a step is certified, in words."""
        choice, proof = path.choice, path.choice.certificate
        if proof is None:
            return "not certified: in-sample"
        if step.proved:
            plan = "the plan, certified" if step.policy == choice.policy else "certified"
            gap = f"{self.report.gap} ≤ {points(choice.max_drop)}"
            return f"{plan}: {gap} with probability {probability_text(proof.delta)}"
        if path.frozen and proof.falls_back and not proof.failed:
            return f"not certified: nothing cheaper than {proof.reference} was proved"
        if path.frozen and step.number == len(proof.path):
            return "not certified: could not be proved"
        if path.frozen:
            return "not certified: not tested, as one before it could not be proved"
        return "not certified: not tested"

    def compared(self, path: BudgetPath, step: PathStep) -> str:
        """The saving and the gap beside those of the plan, on the same samples."""
        plan = None if path.plan is None else path.steps[path.plan]
        if plan is None or plan.measured_on != step.measured_on:
            return "–"
        if plan == step:
            return "this is the plan"
        unit = self.report.result.unit
        saved = 100 * (step.outcome.saving[unit] - plan.outcome.saving[unit])
        gap = step.outcome.drop - plan.outcome.drop
        return f"{signed(saved, 1)} % saved, {self.report.gap} {signed(gap)}"

    def losing(self, step: PathStep) -> list[ClassGap]:
        """The classes of a step that lose anything on tune."""
        return [gap for gap in step.classes if gap.tune_drop is not None and gap.tune_drop > 0]

    @property
    def any_lose(self) -> bool:
        """Whether any step has such classes."""
        return any(self.losing(step) for path in self.paths for step in path.steps)

    def samples(self, gap: ClassGap) -> str:
        """How many samples a class has."""
        return f"{gap.samples:,} sample{'s' * (gap.samples != 1)}"

    @property
    def words(self) -> str:
        """What the steps are, what is proved of them, and where they were measured."""
        result = self.report.result
        if result.in_sample:
            return (
                "The steps are the frontier, chosen and measured on the same samples: nothing is "
                "certified."
            )
        if any(path.frozen for path in self.paths):
            steps = (
                "The steps of a budget are its path: policies that were frozen on tune and tested "
                "on certify in this order, up to the first that could not be proved. So all steps "
                "up to the plan are certified at once."
            )
        else:
            steps = "The steps are the frontier of tune; the plan alone was tested on certify."
        where = (
            "All are measured on test: to choose a step by these figures is to choose on test."
            if result.measured_on == "test"
            else "Certified steps are measured on certify, the samples that decided; the others on "
            "tune, where they were chosen and look too good: to measure them on certify would be "
            "another look."
        )
        return f"{steps} {where}"

    @property
    def lost(self) -> str:
        """What the classes of a step are."""
        verb = ("lose", "lost") if self.report.labelled else ("disagree", "disagreed")
        if self.report.result.in_sample:
            return f"Classes that {verb[0]} most"
        return f"Classes that {verb[1]} most on tune"

    def tint(self, exit: str) -> str:
        """The class of the colour of an exit; ensembles that are in no plan have a neutral one."""
        return self.report.tints.get(exit, "c-single")

    @cached_property
    def _exits(self) -> list[str]:
        """The exits of all steps."""
        steps = (step for path in self.paths for step in path.steps)
        return list(dict.fromkeys(name for step in steps for name in step.policy.exits))

    def _step(self, path: BudgetPath, step: PathStep) -> dict[str, Any]:
        report, outcome, unit = self.report, step.outcome, self.report.result.unit
        saved = report.saved(outcome)
        texts = {
            "number": f"step {step.number + 1} of {path.length}",
            "proof": self.proof(path, step),
            "saving": saved,
            "measure": percent(outcome.accuracy),
            "reference": percent(outcome.reference_accuracy),
            "gap": report.gap_text(outcome.drop),
            "interval": report.interval_text(outcome.drop_interval),
            "cost": cost_text(outcome.cost[unit], unit),
            "compared": self.compared(path, step),
            "on": f"{step.measured_on}, {outcome.samples:,} samples",
            **{
                f"saving {other}": outcome.saving_text(other).replace("\n", " · ")
                if other in outcome.saving
                else "–"
                for other in report.other_units
            },
        }
        texts["spoken"] = (
            f"{saved}{'' if saved == 'no saving' else f' of {unit} saved'}, {report.gap} "
            f"{texts['gap']}, {'certified' if step.proved else 'not certified'}"
        )
        return {
            "cost": outcome.cost[unit],
            "drop": outcome.drop,
            "ends": report.interval(outcome.drop_interval),
            "proved": step.proved,
            "texts": {name: typeset(text) for name, text in texts.items()},
            "stages": [
                [
                    self._exits.index(stage.exit),
                    stage_rule(stage),
                    outcome.shares[stage.exit],
                    typeset(percent(outcome.shares[stage.exit])),
                ]
                for stage in step.policy.stages
            ],
            "classes": [
                [
                    gap.name,
                    self.samples(gap),
                    minus(report.gap_text(gap.drop)),
                    minus(report.interval_text(gap.interval)),
                ]
                for gap in self.losing(step)
            ],
        }
