"""From a path of policies, frozen on tune, to a certificate.

The path runs from the reference (gap 0) towards the cheap. Its policies are tested in order on the
certify split until the first that cannot be proved; each test has the full level delta
(fixed-sequence testing). Fine steps cost nothing and starting at the safe end keeps the walk alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.certificate import Certificate, ClassBound
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.exact_test import drop_p_value, samples_needed
from understudy.searching.pairs import PairCurve
from understudy.searching.threshold_sweep import Counts, Walk, count_walks

STEPS = 200


@dataclass(frozen=True)
class Path:
    """Policies in the order in which they will be tested, with what they did on tune.

    `losses`, `gains` (counts) and `cost` (means) are (P,); `samples` is the size of the tune split.
    """

    policies: tuple[Policy, ...]
    losses: Counts
    gains: Counts
    cost: npt.NDArray[np.float64]
    samples: int


def ladder(curve: PairCurve, *, steps: int = STEPS) -> Path:
    """The path of one pair: thresholds that accept 1/steps more of the tune samples each time.

    The first steps accept so few that the cascade is dearer than the reference; they are skipped.
    """
    wanted = np.linspace(0, curve.samples, steps + 1)[1:]
    rows = np.unique(np.searchsorted(curve.accepted, wanted))
    rows = rows[curve.cost[rows] < curve.cost[0]]
    return Path(
        policies=tuple(curve.policy(int(row)) for row in rows),
        losses=curve.losses[rows],
        gains=curve.gains[rows],
        cost=curve.cost[rows],
        samples=curve.samples,
    )


def expected_steps(path: Path, *, budget: float, samples: int, delta: float) -> int:
    """How many steps would be proved if `samples` certify samples looked just like tune.

    Used to choose between paths before certify is looked at; a normal approximation does.
    """
    if not path.policies:
        return 0
    gap = (path.losses - path.gains) / path.samples
    discordant = (path.losses + path.gains) / path.samples
    z = NormalDist().inv_cdf(1 - delta)
    fails = gap + z * np.sqrt(discordant / samples + 4 / samples**2) > budget
    return int(np.argmax(fails)) if fails.any() else len(fails)


def count_path(
    table: ScoreTable, policies: Sequence[Policy], *, reference: str
) -> tuple[Counts, Counts]:
    """Losses and gains of every policy on a table, each (P,).

    Runs of policies that differ in thresholds alone, none of which rises, take one pass per stage.
    """
    losses, gains = [np.empty(0, np.int64)], [np.empty(0, np.int64)]

    def shape(policy: Policy) -> tuple[Any, ...]:
        return tuple((step.exit, step.confidence) for step in policy.stages)

    for _, run in groupby(policies, key=shape):
        lost, gained = _count_run(table, list(run), reference=reference)
        losses.append(lost)
        gains.append(gained)
    return np.concatenate(losses), np.concatenate(gains)


def certify(
    path: Path,
    table: ScoreTable,
    *,
    reference: str,
    max_drop: float,
    delta: float = 0.05,
    class_drops: Mapping[str, float] = MappingProxyType({}),
    looks: int = 1,
) -> Certificate:
    """Walk the path on `table` (the certify split) and certify the last policy that is proved.

    `max_drop` is in points. A budget that nothing meets is no error: the certificate is then the
    reference's own, and says how many samples would do.

    With `class_drops` (class name -> points) a step is proved when the budget of all samples and
    that of each named class are. The promise is their conjunction, which is wrong only if one of
    them is; so each is tested at the full level delta (intersection-union, Berger 1982).

    Raises:
        TableError: a named class that the table does not know, or has no sample of.
    """
    whole = _Tested.of(path, table, reference, max_drop=max_drop, delta=delta)
    of_class = {
        name: _Tested.of(path, table.of_class(name), reference, max_drop=drop, delta=delta)
        for name, drop in class_drops.items()
    }
    p_values = np.max([one.p_values for one in (whole, *of_class.values())], axis=0)
    failed = p_values > delta
    proved = int(np.argmax(failed)) if failed.any() else len(failed)
    bound = whole.bound(proved)
    return Certificate(
        policy=path.policies[proved - 1] if proved else Policy.single(reference),
        reference=reference,
        kind="disagreement" if table.label is None else "gap",
        budget=max_drop,
        delta=delta,
        samples=bound.samples,
        losses=bound.losses,
        gains=bound.gains,
        p_value=bound.p_value,
        path=path.policies[:proved],
        steps=len(path.policies),
        classes={name: one.bound(proved) for name, one in of_class.items()},
        samples_needed=_needed(path, max_drop / 100, delta) if failed.any() else None,
        looks=looks,
        table=table.hash,
        split=table.provenance.get("split", {}),
    )


def certify_one(
    policy: Policy,
    table: ScoreTable,
    *,
    reference: str,
    delta: float = 0.05,
    looks: int = 1,
) -> Certificate:
    """The smallest budget that `table` proves for one policy fixed beforehand.

    The bound is the edge of the budgets whose test at level delta rejects: a confidence bound, to
    1e-4 points.
    """
    losses, gains = (int(count[0]) for count in count_path(table, [policy], reference=reference))
    alone = policy == Policy.single(reference)
    low, high = (0, 0) if alone else (-1_000_000, 1_000_000)
    while high - low > 1:
        middle = (low + high) // 2
        proved = drop_p_value(losses, gains, len(table), middle / 1e4, delta) <= delta
        low, high = (low, middle) if proved else (middle, high)
    p_value = drop_p_value(losses, gains, len(table), high / 1e4, delta)
    return Certificate(
        policy=policy,
        reference=reference,
        kind="disagreement" if table.label is None else "gap",
        budget=high / 1e4,
        delta=delta,
        samples=len(table),
        losses=losses,
        gains=gains,
        p_value=None if alone else p_value,
        path=() if alone else (policy,),
        steps=1,
        samples_needed=None,
        looks=looks,
        table=table.hash,
        split=table.provenance.get("split", {}),
    )


@dataclass(frozen=True, eq=False)
class _Tested:
    """The P steps of a path tested for one budget (points), on all samples or those of a class.

    `p_values` (P,) are 1 behind the first step that is not proved, where none is needed.
    """

    max_drop: float
    samples: int
    losses: Counts
    gains: Counts
    p_values: npt.NDArray[np.float64]

    @staticmethod
    def of(
        path: Path, table: ScoreTable, reference: str, *, max_drop: float, delta: float
    ) -> _Tested:
        losses, gains = count_path(table, path.policies, reference=reference)
        p_values = np.ones(len(losses))
        for step, (lost, gained) in enumerate(zip(losses.tolist(), gains.tolist(), strict=True)):
            p_values[step] = drop_p_value(lost, gained, len(table), max_drop, delta)
            if p_values[step] > delta:
                break
        return _Tested(max_drop, len(table), losses, gains, p_values)

    def bound(self, proved: int) -> ClassBound:
        """What was proved after that many steps; the reference's own zeros after none."""
        if not proved:
            return ClassBound(self.max_drop, self.samples, 0, 0, None)
        last = proved - 1
        return ClassBound(
            budget=self.max_drop,
            samples=self.samples,
            losses=int(self.losses[last]),
            gains=int(self.gains[last]),
            p_value=float(self.p_values[last]),
        )


def _needed(path: Path, budget: float, delta: float) -> int | None:
    """How many certify samples would prove the cheapest step that tune puts at 3/4 of the
    budget."""
    gap = (path.losses - path.gains) / path.samples
    fitting = np.flatnonzero(gap <= 0.75 * budget)
    if not len(fitting) or budget <= 0:
        return None
    best = fitting[np.argmin(path.cost[fitting])]
    discordant = float(path.losses[best] + path.gains[best]) / path.samples
    return samples_needed(discordant, float(gap[best]), budget, delta)


def _count_run(table: ScoreTable, run: list[Policy], *, reference: str) -> tuple[Counts, Counts]:
    """Losses and gains of policies that differ in their thresholds alone."""
    stages = run[0].stages if run[0].exits[-1] != reference else run[0].stages[:-1]
    thresholds = np.array(
        [[-np.inf if s.threshold is None else s.threshold for s in p.stages] for p in run]
    )
    if (thresholds[1:] > thresholds[:-1]).any():
        return _count_each(table, run, reference=reference)
    walks = [
        Walk.of(table, step.exit, step.confidence, thresholds[:, stage])
        for stage, step in enumerate(stages)
    ]
    return count_walks(table, walks, reference=reference, steps=len(run))[1:]


def _count_each(
    table: ScoreTable, policies: list[Policy], *, reference: str
) -> tuple[Counts, Counts]:
    truth = table.truth(reference)
    reference_right = table.prediction[table.index(reference)] == truth
    rights = [decide(table, policy).prediction == truth for policy in policies]
    losses = np.array([np.count_nonzero(reference_right & ~right) for right in rights])
    gains = np.array([np.count_nonzero(right & ~reference_right) for right in rights])
    return losses, gains
