"""From a sequence of policies, frozen on tune, to a certificate.

The policies are tested in order on the certify split until the first that cannot be proved; each
test has the full level delta (fixed-sequence testing). Fine steps cost nothing, and a start at the
safe end lets the test go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from types import MappingProxyType

import numpy as np

from understudy.certificate import Certificate, ClassBound
from understudy.policy import Policy
from understudy.priced_exits import PricedExits
from understudy.scores import ScoreTable
from understudy.searching.exact_test import drop_p_value, drop_p_value_bound, samples_needed
from understudy.searching.policy_sequences import (
    Counts,
    PolicySequence,
    SequenceCounts,
    labels_missing,
    losses_and_gains,
)
from understudy.searching.saving_bound import counted_saving_bounds, saving_bounds

_BLOCK = 8  # policies that one bound may prove


def certify(
    sequence: PolicySequence,
    table: ScoreTable,
    *,
    reference: str,
    max_drop: float,
    delta: float = 0.05,
    class_drops: Mapping[str, float] = MappingProxyType({}),
    looks: int = 1,
) -> Certificate:
    """Test the sequence on `table` (the certify split) and certify the last policy that is proved.

    `max_drop` is in points. Where no policy meets it, the certificate is that of the reference
    itself and holds the number of samples that would do.

    With `class_drops` (class name -> points) a policy is proved when the budget of all samples and
    that of each named class are. The guarantee is their conjunction, which is wrong only if one of
    them is; so each is tested at the full level delta (intersection-union, Berger 1982).

    Labels are needed only where a policy answers otherwise than the reference. A sample that lacks
    one there counts as a loss, and the p-value is the largest that its label could give.

    Raises:
        TableError: a named class that the table lacks, or has no sample of.
    """
    count = partial(SequenceCounts.of, policies=sequence.policies, reference=reference)
    counted = CountedSequence(
        sequence,
        reference,
        count(table),
        "disagreement" if table.label is None else "gap",
        table,
        {name: count(table.of_class(name)) for name in class_drops},
    )
    proof = certify_counted(
        counted, max_drop=max_drop, delta=delta, class_drops=class_drops, looks=looks
    )
    return replace(proof, table=table.hash, split=table.provenance.get("split", {}))


@dataclass(frozen=True, eq=False)
class CountedSequence:
    """A sequence with what it did on the certify samples: all that its test needs of them.

    Attributes:
        sequence: the policies, frozen on tune.
        reference: the exit that they are compared with.
        counts: on all certify samples.
        kind: "gap", or "disagreement" where no sample has a label.
        exits: the costs that its saving is bounded with.
        classes: the counts on the samples of each class with a budget.
    """

    sequence: PolicySequence
    reference: str
    counts: SequenceCounts
    kind: str
    exits: PricedExits
    classes: Mapping[str, SequenceCounts] = field(default_factory=dict)


def certify_counted(
    counted: CountedSequence,
    *,
    max_drop: float,
    delta: float,
    class_drops: Mapping[str, float] = MappingProxyType({}),
    looks: int = 1,
) -> Certificate:
    """`certify` from counts; the certificate lacks `table` and `split`, which say where they are
    from."""
    sequence, reference, policies = counted.sequence, counted.reference, counted.sequence.policies
    whole = _SequenceTest.of(counted.counts, max_drop, delta)
    of_class = {
        name: _SequenceTest.of(counted.classes[name], drop, delta)
        for name, drop in class_drops.items()
    }
    proved = min(one.proved for one in (whole, *of_class.values()))
    bound = whole.bound(proved)
    return Certificate(
        policy=policies[proved - 1] if proved else Policy.single(reference),
        reference=reference,
        kind=counted.kind,
        budget=max_drop,
        delta=delta,
        samples=bound.samples,
        losses=bound.losses,
        gains=bound.gains,
        p_value=bound.p_value,
        path=policies[:proved],
        steps=len(policies),
        classes={name: one.bound(proved) for name, one in of_class.items()},
        samples_needed=_needed(sequence, max_drop / 100, delta) if proved < len(policies) else None,
        looks=looks,
        table="",
        split={},
        saving_bounds=_saving_bounds(counted, proved - 1, delta) if proved else {},
        failed=bound.failed,
    )


def _saving_bounds(counted: CountedSequence, step: int, delta: float) -> dict[str, float]:
    policies, answered = counted.sequence.policies, counted.counts.answered[step]
    return counted_saving_bounds(
        counted.exits,
        policies[step],
        policies,
        answered,
        reference=counted.reference,
        delta=delta,
    )


def certify_one(
    policy: Policy, table: ScoreTable, *, reference: str, delta: float = 0.05, looks: int = 1
) -> Certificate:
    """The smallest budget that `table` proves for one policy fixed beforehand.

    The bound is the edge of the budgets whose test at level delta rejects: a confidence bound, to
    1e-4 points.
    """
    counts = losses_and_gains(table, [policy], reference=reference)
    losses, gains = (int(count[0]) for count in counts)
    missing = int(labels_missing(table, [policy], reference=reference)[0])

    def p_value(budget: int) -> float:
        test = partial(drop_p_value, samples=len(table), max_drop=budget / 1e4, delta=delta)
        return largest_p_value(test, losses, gains, missing, delta=delta)

    alone = policy == Policy.single(reference)
    saving = partial(saving_bounds, table, reference=reference, delta=delta)
    low, high = (0, 0) if alone else (-1_000_000, 1_000_000)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(middle) <= delta else (middle, high)
    return Certificate(
        policy=policy,
        reference=reference,
        kind="disagreement" if table.label is None else "gap",
        budget=high / 1e4,
        delta=delta,
        samples=len(table),
        losses=losses,
        gains=gains,
        p_value=None if alone else p_value(high),
        path=() if alone else (policy,),
        steps=1,
        samples_needed=None,
        looks=looks,
        table=table.hash,
        split=table.provenance.get("split", {}),
        saving_bounds={} if alone else saving(policy, [policy]),
    )


def largest_p_value(
    p_value: Callable[[int, int], float], losses: int, gains: int, missing: int, *, delta: float
) -> float:
    """The largest p-value of these counts whatever the labels of `missing` of the losses are, or
    one beyond `delta`.

    With its label each is a loss, a gain or neither. At a given number of discordant samples the
    p-value rises with losses - gains, so none of them need be tried as a gain.

    >>> largest_p_value(lambda losses, gains: losses / 100, 3, 0, 2, delta=0.05)
    0.03
    """
    largest = 0.0
    for neither in range(missing + 1):
        largest = max(largest, p_value(losses - neither, gains))
        if largest > delta:
            break
    return largest


@dataclass(frozen=True, eq=False)
class _SequenceTest:
    """P policies tested in order for one budget (points), on all samples or those of a class."""

    max_drop: float
    delta: float
    samples: int
    losses: Counts
    gains: Counts
    missing: Counts

    @staticmethod
    def of(counts: SequenceCounts, max_drop: float, delta: float) -> _SequenceTest:
        arrays = counts.losses, counts.gains, counts.missing
        return _SequenceTest(max_drop, delta, counts.samples, *arrays)

    @cached_property
    def proved(self) -> int:
        """The number of policies before the first that is not proved.

        One bound proves most blocks of policies; in the others each is tested by itself.
        """
        rows = range(len(self.losses))
        for start in rows[::_BLOCK]:
            block = slice(start, start + _BLOCK)
            if not self._bounded(block):
                for row in rows[block]:
                    if self.p_value(row) > self.delta:
                        return row
        return len(rows)

    def p_value(self, row: int) -> float:
        """The p-value of one policy: the largest that its missing labels could give, or one beyond
        delta."""
        counts = (int(count[row]) for count in (self.losses, self.gains, self.missing))
        return largest_p_value(self._drop_p_value, *counts, delta=self.delta)

    def bound(self, proved: int) -> ClassBound:
        """The bound of the last of `proved` policies; for 0, that of the reference itself."""
        failed = proved == self.proved < len(self.losses)
        needed = self._needed(proved) if failed else None
        losses, gains, p_value = 0, 0, None
        if proved:
            losses, gains = int(self.losses[proved - 1]), int(self.gains[proved - 1])
            p_value = self.p_value(proved - 1)
        return ClassBound(self.max_drop, self.samples, losses, gains, p_value, failed, needed)

    @cached_property
    def _drop_p_value(self) -> Callable[[int, int], float]:
        samples, max_drop, delta = self.samples, self.max_drop, self.delta
        return cache(partial(drop_p_value, samples=samples, max_drop=max_drop, delta=delta))

    def _bounded(self, block: slice) -> bool:
        """Whether one bound of all their p-values proves the policies of a block."""
        bound = drop_p_value_bound(
            self.losses[block],
            self.gains[block],
            self.missing[block],
            samples=self.samples,
            max_drop=self.max_drop,
            delta=self.delta,
        )
        return bound <= self.delta

    def _needed(self, row: int) -> int | None:
        """About how many samples would prove a policy, by its counts here."""
        losses, gains = int(self.losses[row]) / self.samples, int(self.gains[row]) / self.samples
        if losses - gains >= self.max_drop / 100:
            return None
        return samples_needed(losses + gains, losses - gains, self.max_drop / 100, self.delta)


def _needed(sequence: PolicySequence, budget: float, delta: float) -> int | None:
    """The number of certify samples that would prove the cheapest policy whose gap on tune lies
    below the budget by a quarter of its size."""
    gap = (sequence.losses - sequence.gains) / sequence.samples
    fitting = np.flatnonzero((gap <= budget - abs(budget) / 4) & (gap < budget))
    if not len(fitting):
        return None
    best = fitting[np.argmin(sequence.cost[fitting])]
    discordant = float(sequence.losses[best] + sequence.gains[best]) / sequence.samples
    return samples_needed(discordant, float(gap[best]), budget, delta)
