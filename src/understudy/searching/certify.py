"""From a sequence of policies, frozen on tune, to a certificate.

The policies are tested in order on the certify split until the first that cannot be proved; each
test has the full level delta (fixed-sequence testing). Fine steps cost nothing, and a start at the
safe end lets the test go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from understudy.certificate import Certificate, ClassBound
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.exact_test import drop_p_value, samples_needed
from understudy.searching.policy_sequences import (
    Counts,
    PolicySequence,
    labels_missing,
    losses_and_gains,
)
from understudy.searching.saving_bound import saving_bounds


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
    test = partial(_SequenceTest.of, sequence, reference=reference, delta=delta)
    whole = test(table, max_drop=max_drop)
    of_class = {
        name: test(table.of_class(name), max_drop=drop) for name, drop in class_drops.items()
    }
    p_values = np.max([one.p_values for one in (whole, *of_class.values())], axis=0)
    failed = p_values > delta
    proved = int(np.argmax(failed)) if failed.any() else len(failed)
    bound = whole.bound(proved, delta)
    policies = sequence.policies
    saving = partial(saving_bounds, table, reference=reference, delta=delta)
    return Certificate(
        policy=policies[proved - 1] if proved else Policy.single(reference),
        reference=reference,
        kind="disagreement" if table.label is None else "gap",
        budget=max_drop,
        delta=delta,
        samples=bound.samples,
        losses=bound.losses,
        gains=bound.gains,
        p_value=bound.p_value,
        path=policies[:proved],
        steps=len(policies),
        classes={name: one.bound(proved, delta) for name, one in of_class.items()},
        samples_needed=_needed(sequence, max_drop / 100, delta) if failed.any() else None,
        looks=looks,
        table=table.hash,
        split=table.provenance.get("split", {}),
        saving_bounds=saving(policies[proved - 1], policies) if proved else {},
        failed=bound.failed,
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
    """P policies tested in order for one budget (points), on all samples or those of a class.

    `p_values` (P,) are 1 behind the first policy that is not proved, where none is needed.
    """

    max_drop: float
    samples: int
    losses: Counts
    gains: Counts
    p_values: npt.NDArray[np.float64]

    @staticmethod
    def of(
        sequence: PolicySequence,
        table: ScoreTable,
        *,
        reference: str,
        max_drop: float,
        delta: float,
    ) -> _SequenceTest:
        losses, gains = losses_and_gains(table, sequence.policies, reference=reference)
        missing = labels_missing(table, sequence.policies, reference=reference)
        p_value = cache(partial(drop_p_value, samples=len(table), max_drop=max_drop, delta=delta))
        p_values = np.ones(len(losses))
        rows = zip(losses.tolist(), gains.tolist(), missing.tolist(), strict=True)
        for row, counts in enumerate(rows):
            p_values[row] = largest_p_value(p_value, *counts, delta=delta)
            if p_values[row] > delta:
                break
        return _SequenceTest(max_drop, len(table), losses, gains, p_values)

    def bound(self, proved: int, delta: float) -> ClassBound:
        """The bound of the last of `proved` policies; for 0, that of the reference itself."""
        failed = proved < len(self.p_values) and bool(self.p_values[proved] > delta)
        needed = self._needed(proved, delta) if failed else None
        losses, gains, p_value = 0, 0, None
        if proved:
            losses, gains = int(self.losses[proved - 1]), int(self.gains[proved - 1])
            p_value = float(self.p_values[proved - 1])
        return ClassBound(self.max_drop, self.samples, losses, gains, p_value, failed, needed)

    def _needed(self, row: int, delta: float) -> int | None:
        """About how many samples would prove a policy, by its counts here."""
        losses, gains = int(self.losses[row]) / self.samples, int(self.gains[row]) / self.samples
        if losses - gains >= self.max_drop / 100:
            return None
        return samples_needed(losses + gains, losses - gains, self.max_drop / 100, delta)


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
