"""Sequences of policies from safe to cheap, which a certificate tests in order.

A sequence is frozen on tune. It accepts more from step to step, so that losses and gains of all its
policies are counted in one pass per stage. A test may start anywhere in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.frontier import Point
from understudy.outcome import PolicyCounts
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.pairs import PairCurve
from understudy.short_repr import short_repr

STEPS = 200
Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PolicySequence:
    """Policies in the order in which they will be tested, with what they did on tune.

    `losses`, `gains` (counts) and `cost` (means) are (P,); `samples` is the size of the tune split,
    `full` the cost of the reference.
    """

    policies: tuple[Policy, ...]
    losses: Counts
    gains: Counts
    cost: npt.NDArray[np.float64]
    samples: int
    full: float

    __repr__ = short_repr

    def starting_at(self, step: int) -> PolicySequence:
        """The sequence without its first `step` policies."""
        counts = self.losses[step:], self.gains[step:], self.cost[step:]
        return PolicySequence(self.policies[step:], *counts, self.samples, self.full)

    def at(self, step: int) -> PolicySequence:
        """The sequence of one of its policies alone."""
        one = slice(step, step + 1)
        counts = self.losses[one], self.gains[one], self.cost[one]
        return PolicySequence(self.policies[one], *counts, self.samples, self.full)


EMPTY = PolicySequence((), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 1, 1.0)


def pair_sequence(curve: PairCurve, *, steps: int = STEPS) -> PolicySequence:
    """The sequence of one pair: each policy accepts 1/steps more of the tune samples.

    Policies that cost as much as the reference or more, such as the first ones, are left out. Where
    the last stage is an ensemble the first policies may well be more accurate than the reference.
    """
    rows = np.unique(np.searchsorted(curve.accepted, np.linspace(0, curve.samples, steps + 1)))
    rows = rows[curve.cost[rows] < curve.full]
    policies = tuple(curve.policy(int(row)) for row in rows)
    losses, gains, cost = curve.losses[rows], curve.gains[rows], curve.cost[rows]
    return PolicySequence(policies, losses, gains, cost, curve.samples, curve.full)


@dataclass(frozen=True, eq=False)
class ThresholdPath:
    """P policies that differ in thresholds alone, none of which rises, and what they do on a table.

    Policies that cost as much as the reference, or as one before them, are left out. A path is
    arrays, of which policies are made where it is chosen.

    Attributes:
        stages: the stages before the reference; their own thresholds count for nothing.
        thresholds: (S, P) float64; a stage whose threshold is -inf is the last one.
        answered: (S + 1, P) how many samples each stage answers, and the reference.
        losses, gains, cost: (P,) as in `PolicySequence`.
        full: the cost of the reference; `right`: how many samples it has right.
    """

    stages: tuple[PolicyStage, ...]
    reference: str
    thresholds: Array
    answered: Counts
    losses: Counts
    gains: Counts
    cost: npt.NDArray[np.float64]
    full: float
    right: int

    __repr__ = short_repr

    @property
    def samples(self) -> int:
        """The number of samples that were counted."""
        return int(self.answered[:, :1].sum())

    @property
    def drop(self) -> npt.NDArray[np.float64]:
        """The gap in points, (P,)."""
        return 100.0 * (self.losses - self.gains) / max(self.samples, 1)

    @staticmethod
    def of(
        table: ScoreTable,
        stages: Sequence[PolicyStage],
        thresholds: Array,
        *,
        reference: str,
        unit: str,
    ) -> ThresholdPath:
        """The path of some stages and thresholds (S, P) on a table."""
        sweeps = [
            _ThresholdSweep.of(table, stage.exit, stage.confidence, row)
            for stage, row in zip(stages, thresholds, strict=True)
        ]
        names = [*(stage.exit for stage in stages), reference]
        answered, losses, gains = _count_sweeps(
            table, sweeps, reference=reference, steps=thresholds.shape[1]
        )
        cost = np.zeros(len(losses))
        for stage, counts in enumerate(answered):
            if counts.any():
                cost += counts / len(table) * table.cost_of(names[: stage + 1], unit)
        full = table.cost_of([reference], unit)
        right = int(table.right(reference, table.index(reference)).sum())
        rows = np.flatnonzero(cost < np.minimum.accumulate(np.append(full, cost))[:-1])
        kept = thresholds[:, rows], answered[:, rows], losses[rows], gains[rows], cost[rows]
        return ThresholdPath(tuple(stages), reference, *kept, full, right)

    def point(self, row: int) -> Point:
        """The point of a frontier at one policy."""
        policy, samples = self._policy(self.thresholds[:, row].tolist()), self.samples
        counts = dict(
            zip(
                (*(stage.exit for stage in self.stages), self.reference),
                self.answered[:, row].tolist(),
                strict=True,
            )
        )
        accuracy = (self.right + int(self.gains[row] - self.losses[row])) / samples
        cost = float(self.cost[row])
        shares = {name: counts[name] / samples for name in policy.exits}
        saving = 1 - cost / self.full if self.full else 0.0
        return Point(policy, cost, accuracy, float(self.drop[row]), saving, shares)

    def sequence(self) -> PolicySequence:
        """The path as policies; stages behind one that accepts everything are left out."""
        policies = tuple(self._policy(column) for column in self.thresholds.T.tolist())
        counts = self.losses, self.gains, self.cost
        return PolicySequence(policies, *counts, self.samples, self.full)

    def _policy(self, thresholds: Sequence[float]) -> Policy:
        kept: list[PolicyStage] = []
        for stage, threshold in zip(self.stages, thresholds, strict=True):
            if threshold == -np.inf:
                return Policy((*kept, PolicyStage(stage.exit)))
            kept.append(PolicyStage(stage.exit, threshold, stage.confidence))
        return Policy((*kept, PolicyStage(self.reference)))


@dataclass(frozen=True, eq=False)
class SequenceCounts:
    """What P policies did on N samples.

    Attributes:
        answered: for each policy, how many samples each of its stages answers.
        losses, gains: (P,) as in `PolicySequence`.
        missing: (P,) how many of the losses lack a label.
        reference_right: how many samples the reference has right.
        samples: N.
    """

    answered: tuple[tuple[int, ...], ...]
    losses: Counts
    gains: Counts
    missing: Counts
    reference_right: int
    samples: int

    @staticmethod
    def of(table: ScoreTable, policies: Sequence[Policy], *, reference: str) -> SequenceCounts:
        """The counts on a table."""
        answered, losses, gains = _count_policies(table, policies, reference=reference)
        missing = labels_missing(table, policies, reference=reference)
        right = int(table.right(reference, table.index(reference)).sum())
        return SequenceCounts(answered, losses, gains, missing, right, len(table))

    def starting_at(self, step: int) -> SequenceCounts:
        """Those of `PolicySequence.starting_at`."""
        arrays = self.losses[step:], self.gains[step:], self.missing[step:]
        return SequenceCounts(self.answered[step:], *arrays, self.reference_right, self.samples)

    def at(self, step: int) -> SequenceCounts:
        """Those of `PolicySequence.at`."""
        one = slice(step, step + 1)
        arrays = self.losses[one], self.gains[one], self.missing[one]
        return SequenceCounts(self.answered[one], *arrays, self.reference_right, self.samples)

    def of_policy(self, step: int) -> PolicyCounts:
        """Those of one policy."""
        counts = int(self.losses[step]), int(self.gains[step])
        return PolicyCounts(self.answered[step], *counts, self.reference_right)


def losses_and_gains(
    table: ScoreTable, policies: Sequence[Policy], *, reference: str
) -> tuple[Counts, Counts]:
    """Losses and gains of every policy on a table, each (P,).

    Runs of policies that differ in thresholds alone, none of which rises, take one pass per stage.
    """

    _, losses, gains = _count_policies(table, policies, reference=reference)
    return losses, gains


def _count_policies(
    table: ScoreTable, policies: Sequence[Policy], *, reference: str
) -> tuple[tuple[tuple[int, ...], ...], Counts, Counts]:
    """How many samples each stage of each policy answers; losses and gains, (P,) each."""

    def shape(policy: Policy) -> tuple[Any, ...]:
        return tuple((stage.exit, stage.confidence) for stage in policy.stages)

    answered: list[tuple[int, ...]] = []
    counts = [np.empty((2, 0), np.int64)]
    for _, run in groupby(policies, key=shape):
        for stages, losses, gains in _count_run(table, list(run), reference=reference):
            answered += map(tuple, stages.T.tolist())
            counts.append(np.stack([losses, gains]))
    losses, gains = np.concatenate(counts, axis=1)
    return tuple(answered), losses, gains


def labels_missing(table: ScoreTable, policies: Sequence[Policy], *, reference: str) -> Counts:
    """How many samples each policy answers otherwise than the reference without a label, (P,).

    `losses_and_gains` counts them as losses.
    """
    if table.labelled.all():
        return np.zeros(len(policies), np.int64)
    unlabelled = table.rows(np.flatnonzero(~table.labelled))
    missing, _ = losses_and_gains(unlabelled, policies, reference=reference)
    return missing


@dataclass(frozen=True, eq=False)
class _ThresholdSweep:
    """One stage along P policies whose thresholds never rise; `start` (N,) is the first in which it
    accepts each sample, P for never."""

    exit: str
    start: Array

    @staticmethod
    def of(table: ScoreTable, exit: str, confidence: str, threshold: Array) -> _ThresholdSweep:
        """The sweep of an exit on a table, from thresholds that never rise."""
        if np.isneginf(threshold).all():  # the last stage, whose confidence may not be stored
            return _ThresholdSweep(exit, np.zeros(len(table), np.intp))
        scores = table.scores(confidence)[table.index(exit)].astype(np.float64)
        return _ThresholdSweep(exit, np.searchsorted(-threshold, -scores))


def _count_sweeps(
    table: ScoreTable, sweeps: Sequence[_ThresholdSweep], *, reference: str, steps: int
) -> tuple[Counts, Counts, Counts]:
    """How many samples each stage answers, (S + 1, P), and losses and gains, (P,) each.

    The reference answers what no stage does. A stage answers a sample from the policy in which it
    first accepts it until an earlier stage does.
    """
    reference_right = table.right(reference, table.index(reference))
    answered = np.zeros((len(sweeps) + 1, steps), np.int64)
    losses, gains = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
    taken = np.full(len(table), steps)
    for stage, sweep in enumerate(sweeps):
        right = table.right(reference, table.index(sweep.exit))
        some = sweep.start < taken
        span = sweep.start, taken
        answered[stage] = _over_steps(some, span, steps)
        losses += _over_steps(some & reference_right & ~right, span, steps)
        gains += _over_steps(some & right & ~reference_right, span, steps)
        taken = np.minimum(taken, sweep.start)
    answered[-1] = len(table) - answered[:-1].sum(0)
    return answered, losses, gains


def _over_steps(marks: Array, span: tuple[Array, Array], steps: int) -> Counts:
    """At each step, how many marked samples are within their span of steps."""
    start, stop = (np.bincount(edge[marks], minlength=steps + 1) for edge in span)
    return np.asarray(np.cumsum(start - stop)[:steps], np.int64)


def _count_run(
    table: ScoreTable, run: list[Policy], *, reference: str
) -> list[tuple[Counts, Counts, Counts]]:
    """Samples answered by each stage (S, P), losses and gains (P,), of policies that differ in
    thresholds; in several pieces where a threshold rises."""
    stages = run[0].stages if run[0].exits[-1] != reference else run[0].stages[:-1]
    thresholds = np.array(
        [[-np.inf if s.threshold is None else s.threshold for s in p.stages] for p in run]
    )
    if (thresholds[1:] > thresholds[:-1]).any():
        return [one for p in run for one in _count_run(table, [p], reference=reference)]
    sweeps = [
        _ThresholdSweep.of(table, stage.exit, stage.confidence, thresholds[:, number])
        for number, stage in enumerate(stages)
    ]
    answered, losses, gains = _count_sweeps(table, sweeps, reference=reference, steps=len(run))
    return [(answered[: len(run[0].stages)], losses, gains)]
