"""The outcome of a policy on a table: `evaluate` is the specification of every faster way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.display import budget_text, percent
from understudy.intervals import Interval, drop_interval, wilson
from understudy.json_codec import Stored, stored
from understudy.policy import Policy, accepts
from understudy.priced_exits import PricedExits
from understudy.scores import Array, ScoreTable
from understudy.short_repr import short_repr
from understudy.table_validation import NO_LABEL
from understudy.tabular import Tabular
from understudy.time_noise import saving_interval


@dataclass(frozen=True)
class Decisions:
    """Per sample (N,): the stage that answers, its prediction and its confidence.

    The confidence is NaN where the last stage, which needs none, names one that the table lacks.
    """

    stage: npt.NDArray[np.intp]
    prediction: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float64]

    __repr__ = short_repr


@dataclass(frozen=True)
class Outcome(
    Stored,
    Tabular,
    what="an outcome",
    keys=(
        *("samples", "reference", "accuracy", "accuracy_interval", "reference_accuracy"),
        *("drop", "drop_interval", "losses", "gains", "cost", "saving", "saving_intervals"),
        "shares",
    ),
):
    """The figures of a policy on a table.

    Attributes:
        samples: the number of samples.
        reference: the exit it is compared with.
        accuracy, reference_accuracy: fractions of right answers.
        drop: the paired gap in points: 100 x mean of (reference right) - (cascade right).
        losses, gains: samples that only the reference, or only the cascade, has right.
        cost: mean cost per sample, by unit.
        saving: the fraction of the reference's cost that is saved, by unit (negative if dearer).
        shares: the fraction of samples that each stage answers, by exit.
        saving_intervals: by unit of measured times, the savings that their noise allows.

    >>> from understudy import Policy, ScoreTable, evaluate
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> outcome = evaluate(table, Policy.single("tiny"), reference="big")
    >>> outcome.accuracy, outcome.drop, outcome.losses, outcome.gains
    (0.75, 25.0, 1, 0)
    """

    samples: int
    reference: str
    accuracy: float
    reference_accuracy: float
    losses: int
    gains: int
    cost: Mapping[str, float]
    saving: Mapping[str, float]
    shares: Mapping[str, float]
    saving_intervals: Mapping[str, Interval] = field(
        default_factory=dict, metadata=stored(optional=True, sparse=True)
    )

    def columns(self) -> dict[str, list[Any]]:
        """One row: accuracies, the drop with its interval, and cost and saving by unit."""
        low, high = self.drop_interval
        return {
            "samples": [self.samples],
            "reference": [self.reference],
            "accuracy": [self.accuracy],
            "reference_accuracy": [self.reference_accuracy],
            "drop": [self.drop],
            "drop_low": [low],
            "drop_high": [high],
            **{f"cost {unit}": [cost] for unit, cost in self.cost.items()},
            **{f"saving {unit}": [saving] for unit, saving in self.saving.items()},
        }

    def saving_interval(self, unit: str) -> Interval:
        """The smallest and the largest saving: one figure for costs that are counted."""
        return self.saving_intervals.get(unit, (self.saving[unit], self.saving[unit]))

    def saving_text(self, unit: str) -> str:
        """The saving as percent, by time with its interval below; or that the noise explains it."""
        low, high = self.saving_interval(unit)
        if low <= 0 <= high and low < high:
            return "within noise"
        ends = f"\n{percent(low)[:-2]} to {percent(high)[:-2]}" if low < high else ""
        return f"{percent(self.saving[unit])}{ends}"

    @property
    def drop(self) -> float:
        """The paired gap in points: 100 x mean of (reference right) - (policy right)."""
        return 100.0 * (self.losses - self.gains) / self.samples

    @property
    def accuracy_interval(self) -> Interval:
        """95 % interval of the accuracy (Wilson 1927)."""
        return wilson(round(self.accuracy * self.samples), self.samples)

    @property
    def drop_interval(self) -> Interval:
        """95 % interval of the drop in points: the exact test inverted, see `intervals`.

        For one policy fixed beforehand; after a search the certificate's bound holds. The
        reference's own drop is 0 by definition.
        """
        if set(self.shares) == {self.reference}:
            return 0.0, 0.0
        return drop_interval(self.losses, self.gains, self.samples)


def decide(table: ScoreTable, policy: Policy) -> Decisions:
    """The stage that answers each sample, and its prediction.

    Raises:
        TableError: the policy names an exit or a confidence that the table lacks.
    """
    count = len(table)
    stage = np.zeros(count, np.intp)
    prediction = np.zeros(count, np.int32)
    confidence = np.zeros(count)
    left = np.arange(count)
    for number, rule in enumerate(policy.stages):
        row = table.index(rule.exit)
        if rule.threshold is None and rule.confidence not in table.confidence:
            values = np.full(len(left), np.nan)
        else:
            values = table.scores(rule.confidence)[row, left]
        answered = accepts(values, rule.threshold)
        rows = left[answered]
        stage[rows] = number
        prediction[rows] = table.prediction[row, rows]
        confidence[rows] = values[answered]
        left = left[~answered]
    return Decisions(stage, prediction, confidence)


def evaluate(table: ScoreTable, policy: Policy, *, reference: str | None = None) -> Outcome:
    """The outcome of the policy on the table, compared with the reference.

    The reference is `table.reference()` if None: the most accurate exit on tune. A sample pays, in
    every unit, the sum over the union of the parts of the exits it visited. Where a label is
    missing the reference's prediction takes its place: without any labels the drop is disagreement.

    >>> import numpy as np
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> outcome = evaluate(table, Policy.pair("tiny", "big", 0.65))
    >>> outcome.drop, outcome.shares, outcome.cost
    (0.0, {'tiny': 0.75, 'big': 0.25}, {'MACs': 3.25})

    Raises:
        TableError: the policy names an exit or a confidence that the table lacks, or a part has no
            cost.
    """
    reference = table.reference(reference)
    decisions = decide(table, policy)
    right, reference_right = _right(table, policy, decisions, reference)
    counts = PolicyCounts(
        tuple(np.bincount(decisions.stage, minlength=len(policy.stages)).tolist()),
        int((reference_right & ~right).sum()),
        int((right & ~reference_right).sum()),
        int(reference_right.sum()),
    )
    return counted_outcome(table, policy, counts, reference=reference)


@dataclass(frozen=True)
class PolicyCounts:
    """What a policy did on N samples, in samples.

    Attributes:
        answered: by stage.
        losses, gains: as in `Outcome`.
        reference_right: those that the reference has right.
    """

    answered: tuple[int, ...]
    losses: int
    gains: int
    reference_right: int


def counted_outcome(
    exits: PricedExits, policy: Policy, counts: PolicyCounts, *, reference: str
) -> Outcome:
    """The outcome of a policy whose samples were counted; `evaluate` without the samples.

    Raises:
        TableError: a part has no cost.
    """
    answered, samples = np.array(counts.answered), sum(counts.answered)
    visits = [policy.exits[: stage + 1] for stage in range(len(policy.stages))]
    cost, saving, intervals = {}, {}, {}
    for unit in units_of(exits, {reference, *policy.exits}):
        paid = [exits.cost_of(visited, unit) for visited in visits]
        full = exits.cost_of([reference], unit)
        cost[unit] = float(
            sum(k / samples * price for k, price in zip(answered, paid, strict=True))
        )
        saving[unit] = 1 - cost[unit] / full if full else 0.0
        if unit in exits.times and exits.sittings:
            paid_parts = _shares_of_parts(exits, visits, (answered / samples).tolist())
            intervals[unit] = saving_interval(exits, unit, paid_parts, reference)
    return Outcome(
        samples=samples,
        reference=reference,
        accuracy=(counts.reference_right + counts.gains - counts.losses) / samples,
        reference_accuracy=counts.reference_right / samples,
        losses=counts.losses,
        gains=counts.gains,
        cost=cost,
        saving=saving,
        shares={name: int(k) / samples for name, k in zip(policy.exits, answered, strict=True)},
        saving_intervals=intervals,
    )


def _right(
    table: ScoreTable, policy: Policy, decisions: Decisions, reference: str
) -> tuple[Array, Array]:
    """Which samples the policy and the reference have right, (N,) each."""
    right = table.right(reference)
    rows = np.array([table.index(name) for name in policy.exits])
    return right[rows[decisions.stage], np.arange(len(table))], right[table.index(reference)]


def _shares_of_parts(
    table: PricedExits, visits: Sequence[tuple[str, ...]], shares: Sequence[float]
) -> dict[str, float]:
    """Part -> the fraction of samples that pay it; those of each stage visit some exits."""
    paid: dict[str, float] = {}
    for exits, share in zip(visits, shares, strict=True):
        parts = (part for name in exits for part in table.exits[table.index(name)].parts)
        for part in dict.fromkeys(parts):
            paid[part] = paid.get(part, 0.0) + share
    return paid


@dataclass(frozen=True)
class ClassGap(
    Stored, keys=("name", "samples", "losses", "gains", "drop", "interval", "tune_drop")
):
    """The drop on the samples of one class: an estimate, with its 95 % interval in points.

    `tune_drop` is its drop in points on the samples by which classes are ordered; None in files of
    before, which ordered them by `drop`.
    """

    name: str
    samples: int
    losses: int
    gains: int
    tune_drop: float | None = field(default=None, metadata=stored(optional=True))

    @property
    def drop(self) -> float:
        """The paired gap in points: 100 x mean of (reference right) - (policy right)."""
        return 100.0 * (self.losses - self.gains) / self.samples

    @property
    def interval(self) -> Interval:
        return drop_interval(self.losses, self.gains, self.samples)


def class_gaps(
    tune: ScoreTable, measured: ScoreTable, policy: Policy, *, reference: str, most: int = 20
) -> tuple[ClassGap, ...]:
    """The classes that lose most against the reference on `tune`, as measured on other samples.

    The worst of many classes looks worse than it is on the samples by which it was picked. Classes
    without a sample in either table are left out. There are none where labels are missing, and
    none for the reference itself.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> gaps = class_gaps(table, table, Policy.single("tiny"), reference="big")
    >>> [(gap.name, gap.losses) for gap in gaps]
    [('0', 1), ('1', 0)]
    """
    if tune.label is None or measured.label is None or policy == Policy.single(reference):
        return ()
    if not (tune.labelled.all() and measured.labelled.all()):
        return ()
    classes = 1 + int(max(part.label_rows.max() for part in (tune, measured)))
    seen, lost, gained = _by_class(tune, policy, reference, classes)
    order = np.argsort(-(lost - gained) / np.maximum(seen, 1), kind="stable")
    counts = _by_class(measured, policy, reference, classes)
    names = measured.classes or [str(number) for number in range(classes)]
    gaps = (
        ClassGap(
            name=names[row],
            samples=int(counts[0][row]),
            losses=int(counts[1][row]),
            gains=int(counts[2][row]),
            tune_drop=100.0 * int(lost[row] - gained[row]) / int(seen[row]),
        )
        for row in order.tolist()
        if seen[row] and counts[0][row]
    )
    return tuple(islice(gaps, most))


def _by_class(
    table: ScoreTable, policy: Policy, reference: str, classes: int
) -> tuple[Array, Array, Array]:
    """How many samples, losses and gains each class has, (C,) each; a sample with several right
    answers counts for each of them."""
    right, reference_right = _right(table, policy, decide(table, policy), reference)
    sets = np.sort(table.label_rows, axis=1)
    known = sets != NO_LABEL
    known[:, 1:] &= sets[:, 1:] != sets[:, :-1]  # a class that repeats counts once
    rows, columns = np.nonzero(known)
    label = sets[rows, columns]
    marks = (np.ones_like(right), reference_right & ~right, right & ~reference_right)
    samples, losses, gains = (np.bincount(label[one[rows]], minlength=classes) for one in marks)
    return samples, losses, gains


def points(drop: float) -> str:
    """A number of points as text.

    >>> points(1.0), points(-0.5)
    ('1 point', '−0.5 points')
    """
    return f"{budget_text(drop)} point{'s' * (drop != 1)}"


def units_of(table: PricedExits, exits: set[str]) -> list[str]:
    """The units in which every part of these exits has a cost; at least the first, or an error."""
    parts = {part for name in exits for part in table.exits[table.index(name)].parts}
    prices = {**table.costs, **table.times}
    known = [unit for unit in table.units if parts <= set(prices[unit])]
    if not known:
        table.cost_of(sorted(exits), table.unit())
    return known
