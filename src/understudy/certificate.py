"""A certificate: a policy with a finite-sample bound on its gap, and all that a check needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, cast

from understudy.display import (
    budget_text,
    group_of,
    least_percent,
    level_text,
    note_of,
    probability_text,
    table_of,
)
from understudy.errors import PolicyError, listed
from understudy.html_views import html_of
from understudy.json_codec import Stored, stored
from understudy.outcome import points
from understudy.policy import Policy, PolicyStage
from understudy.split import fold_words
from understudy.text_table import Column

_SPARE = 0.99  # of the level; the exact test spends the rest on the discordance


@dataclass(frozen=True)
class StageForm(Stored):
    """A stage of a policy without its threshold."""

    exit: str
    confidence: str


@dataclass(frozen=True)
class PathRun(Stored):
    """Consecutive policies of a path that differ in their thresholds alone."""

    stages: tuple[StageForm, ...]
    thresholds: tuple[tuple[float, ...], ...]


def path_to_runs(path: Sequence[Policy]) -> tuple[PathRun, ...]:
    """A path of policies in short.

    >>> path = (Policy.pair("a", "b", 0.9), Policy.pair("a", "b", 0.5), Policy.single("a"))
    >>> path_to_runs(path)[0].thresholds
    ((0.9,), (0.5,))
    >>> runs_to_path(path_to_runs(path)) == path
    True
    """

    def shape(policy: Policy) -> tuple[StageForm, ...]:
        return tuple(StageForm(stage.exit, stage.confidence) for stage in policy.stages)

    return tuple(
        PathRun(forms, tuple(tuple(cast(float, s.threshold) for s in p.stages[:-1]) for p in run))
        for forms, run in groupby(path, key=shape)
    )


def runs_to_path(runs: Sequence[PathRun]) -> tuple[Policy, ...]:
    """The policies of the path that `path_to_runs` shortened.

    Raises:
        ValueError: thresholds that are not one less than the stages.
    """
    return tuple(
        Policy(
            tuple(
                PolicyStage(form.exit, threshold, form.confidence)
                for form, threshold in zip(run.stages, (*row, None), strict=True)
            )
        )
        for run in runs
        for row in run.thresholds
    )


COMPACT_PATH = stored(shape=tuple[PathRun, ...], pack=path_to_runs, unpack=runs_to_path)


def least_samples(budget: float, delta: float) -> int:
    """The fewest samples that prove a budget (points, above 0) at level `delta`: without one loss.

    >>> least_samples(0.5, 0.05), least_samples(5, 0.05)
    (600, 59)
    """
    return math.ceil(math.log(_SPARE * delta) / math.log1p(-min(budget, 99.99) / 100))


def least_budget(samples: int, delta: float) -> float:
    """The smallest budget in points that so many samples can prove.

    >>> round(least_budget(600, 0.05), 3), round(least_budget(40, 0.05), 1)
    (0.5, 7.2)
    """
    return -100 * math.expm1(math.log(_SPARE * delta) / samples)


def several_guarantees(count: int, delta: float) -> str:
    """What `count` guarantees at level `delta` are together.

    >>> several_guarantees(3, 0.05)
    'these are 3 guarantees, which hold all at once with probability 0.85 at the least (search
    --jointly divides δ among the budgets)'
    """
    return (
        f"these are {count} guarantees, which hold all at once with probability "
        f"{probability_text(count * delta)} at the least (search --jointly divides δ among the "
        "budgets)"
    )


@dataclass(frozen=True)
class ClassBound(Stored):
    """What was proved for the samples of one class; the fields are those of `Certificate`."""

    budget: float
    samples: int
    losses: int
    gains: int
    p_value: float | None
    failed: bool = field(default=False, metadata=stored(optional=True))
    samples_needed: int | None = field(default=None, metadata=stored(optional=True))


@dataclass(frozen=True)
class Certificate(
    Stored,
    what="a certificate",
    error=PolicyError,
    keys=(
        *("policy", "reference", "kind", "budget", "delta", "samples", "losses", "gains"),
        *("p_value", "path", "steps", "samples_needed", "looks", "table", "split", "classes"),
        *("saving_bounds", "failed", "words"),
    ),
):
    """The proof that a policy's true gap lies within a budget, with probability 1 - delta.

    The path is a sequence of policies whose order was frozen on `tune`. They were tested on
    `certify` one after another, each at level delta, up to the first that could not be proved; the
    last proved one is certified. It is valid although models and thresholds were chosen, since
    nothing was chosen on the certify samples (fixed-sequence testing; Learn then Test, arXiv
    2110.01052, section 3).

    Attributes:
        policy: the certified policy; the reference itself where nothing cheaper could be proved.
        reference: the exit that the gap is measured against.
        kind: "gap" (of accuracy) or "disagreement" (with the reference, without labels).
        budget: the bound on the gap, in points.
        delta: the chance that the bound is wrong.
        samples, losses, gains: what was counted on certify for `policy`.
        p_value: of the hypothesis that the gap exceeds the budget; None for the reference itself.
        path: the policies that were proved, in order; ends with `policy`, empty for the reference.
        steps: the number of policies in the whole frozen path.
        samples_needed: about how many certify samples would prove the tuned optimum; None where the
            path was proved to its end or no number would do.
        classes: the classes with budgets of their own, by name.
        looks: how often certify samples had been read, this time included; 1 - delta is the
            probability of one look that was fixed beforehand, not that of the best of several.
        table: the hash of the certify sub-table; `split`: how the samples were split.
        saving_bounds: by unit, the fraction of the reference's cost that `policy` saves at least:
            each with probability 1 - delta by itself, next to the bound on the gap. Empty for the
            reference itself, and in older files.
        failed: whether it was this budget, that of all samples, that the first policy behind the
            path did not meet; each class says the same of its own.

    >>> import numpy as np
    >>> from understudy import ScoreTable, search
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> certificate = search(table, max_drop=2.0, without=["learned"]).choices[0].certificate
    >>> certificate.policy.describe()
    'tiny when max_softmax >= 0.75, else big'
    >>> certificate.budget, certificate.losses, certificate.p_value <= certificate.delta
    (2.0, 0, True)
    """

    policy: Policy
    reference: str
    kind: str
    budget: float
    delta: float
    samples: int
    losses: int
    gains: int
    p_value: float | None
    path: tuple[Policy, ...] = field(metadata=COMPACT_PATH)
    steps: int
    samples_needed: int | None
    looks: int
    table: str
    split: Mapping[str, Any]
    classes: Mapping[str, ClassBound] = field(default_factory=dict, metadata=stored(optional=True))
    saving_bounds: Mapping[str, float] = field(default_factory=dict, metadata=stored(optional=True))
    failed: bool = field(default=False, metadata=stored(optional=True))

    def _repr_html_(self) -> str:
        """The policy, what was counted and the guarantee, for a notebook."""
        figures = {
            "policy": self.policy.describe(),
            "reference": self.reference,
            f"{'drop' if self.kind == 'gap' else 'disagreement'} proved, points": (
                "–" if self.falls_back else f"≤ {budget_text(self.budget)}"
            ),
            "level δ": level_text(self.delta),
            "certify samples": f"{self.samples:,}",
            "losses, gains": f"{self.losses:,}, {self.gains:,}",
            "p-value": "–" if self.p_value is None else f"{self.p_value:.3g}",
            **{
                f"saving of {unit} proved": f"≥ {least_percent(saving)}"
                for unit, saving in self.saving_bounds.items()
            },
        }
        table = table_of("certificate", ("figure", Column("value", "words")), [*figures.items()])
        return html_of(group_of(table, note_of(self.words())))

    @property
    def falls_back(self) -> bool:
        """Whether nothing but the reference could be certified."""
        return not self.path

    def of_reference(self) -> Certificate:
        """That of the reference by itself, from the same samples: for a policy that was proved and
        does not cost less. The reference loses nothing against itself, so the bound holds."""
        classes = {
            name: ClassBound(one.budget, one.samples, 0, 0, None)
            for name, one in self.classes.items()
        }
        return replace(
            self,
            policy=Policy.single(self.reference),
            losses=0,
            gains=0,
            p_value=None,
            path=(),
            samples_needed=None,
            classes=classes,
            saving_bounds={},
            failed=False,
        )

    @property
    def unprovable(self) -> bool:
        """Whether a budget failed that so few samples cannot prove, whatever the models."""
        return self._too_few(self) or any(map(self._too_few, self.classes.values()))

    def check(self, policy: Policy, max_drop: float, *, what: str, remedy: str) -> None:
        """Refuse another policy or budget than was proved.

        Args:
            policy, max_drop: what is said to be certified, the budget in points.
            what, remedy: whose they are, and the way out, for the message.

        Raises:
            PolicyError: they differ from the certificate's, or its policy from the end of its path.
        """
        proved = self.path[-1] if self.path else Policy.single(self.reference)
        for found in (self.policy, policy):
            if _exactly(found) != _exactly(proved):
                raise PolicyError(
                    f"{what} is that of its certificate, found {_exactly(found)} where "
                    f"{_exactly(proved)} was proved: {remedy}"
                )
        if max_drop != self.budget:
            raise PolicyError(
                f"{what} has the budget of its certificate, found {max_drop:g} points where "
                f"{self.budget:g} were proved: {remedy}"
            )

    def words(self) -> str:
        """The guarantee in words, and when it ends."""
        again = ""
        if self.looks > 1:
            again = (
                f" This is look {self.looks} at the certify samples: the best of several looks is "
                "wrong with a probability of up to the sum of their δ."
            )
        if self.falls_back:
            more = (
                f" About {self.samples_needed:,} certify samples would do for the best plan found."
                if self.samples_needed and self.samples_needed > self.samples
                else ""
            )
            more += "".join(self._shortfall(name, bound) for name, bound in self.classes.items())
            more += self._shortfall("", self)
            aim = f"{self._loses} at most {points(self.budget)}"
            if self.budget < 0:
                aim = f"gain at least {points(-self.budget)}"
            classes = " in all and in each named class" if self.classes else ""
            return (
                f"Nothing cheaper than {self.reference} could be proved to {aim}{classes} with "
                f"{self.samples:,} certify samples.{more}{again}"
            )
        return (
            f"With probability {probability_text(self.delta)} the cascade {self._guarantee()} on "
            f"new samples like the {self.samples:,} certify samples ({self._counts()}, "
            f"p = {self.p_value:.3g}). {self._savings()}"
            f"The promise ends when the data change.{again} {fold_words(self.split)}"
        ).rstrip()

    @property
    def _loses(self) -> str:
        return "lose" if self.kind == "gap" else f"disagree with {self.reference} on"

    def _counts(self) -> str:
        if self.kind == "disagreement":
            return f"{self.losses:,} answered otherwise"
        return f"{self.losses:,} losses, {self.gains:,} gains"

    def _too_few(self, bound: Certificate | ClassBound) -> bool:
        return bound.failed and 0 < bound.budget < least_budget(bound.samples, self.delta)

    def _shortfall(self, name: str, bound: Certificate | ClassBound) -> str:
        """What would do where a budget failed: that of a class, or of all samples."""
        of_class = f" of class {name}" if name else ""
        samples = f"{bound.samples:,} certify samples{of_class}"
        if self._too_few(bound):
            least = points(_rounded_up(least_budget(bound.samples, self.delta)))
            return (
                f" With {samples} nothing can be proved to {self._loses} at most "
                f"{points(bound.budget)}, "
                f"whatever the models: it takes {least_samples(bound.budget, self.delta):,} at the "
                f"least, or a budget of {least}."
            )
        if not (bound.failed and name):
            return ""
        enough = f": about {bound.samples_needed:,} would do" if bound.samples_needed else ""
        return (
            f" What failed is the budget{of_class}, {points(bound.budget)} with {samples}{enough}."
        )

    def _savings(self) -> str:
        """The bounds of the savings, where there are some above nothing."""
        savings = [f"{least_percent(s)} of {u}" for u, s in self.saving_bounds.items() if s > 0]
        if not savings:
            return ""
        bounds = "this bound holds" if len(savings) == 1 else "each of these bounds holds"
        return (
            f"It saves at least {listed(savings, 12)}: {bounds} with probability "
            f"{probability_text(self.delta)} by itself. "
        )

    def _guarantee(self) -> str:
        if self.kind == "disagreement":
            bound = f"disagrees with {self.reference} on at most {points(self.budget)}"
        elif self.budget < 0:
            bound = f"is at least {points(-self.budget)} more accurate than {self.reference}"
        else:
            bound = f"loses against {self.reference} by at most {points(self.budget)}"
        classes = [f"at most {points(b.budget)} in class {n}" for n, b in self.classes.items()]
        return ", and by ".join([bound, *classes])


def _exactly(policy: Policy) -> str:
    """A policy with all digits of its thresholds."""
    stages = [f"{s.exit} when {s.confidence} >= {s.threshold!r}" for s in policy.stages[:-1]]
    return ", else ".join([*stages, policy.exits[-1]])


def _rounded_up(budget: float) -> float:
    """A budget with two digits, none below it."""
    digit = 10.0 ** (math.floor(math.log10(budget)) - 1)
    return round(math.ceil(budget / digit) * digit, 10)
