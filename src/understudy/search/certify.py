"""From a path of policies, frozen on tune, to a certificate.

The path runs from the reference (gap 0) towards the cheap. Its policies are tested in order on the
certify split until the first that cannot be proved; each test has the full level delta
(fixed-sequence testing). Fine steps cost nothing and starting at the safe end keeps the walk alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.certificate import Certificate
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.search.gaptest import gap_p_value, samples_needed
from understudy.search.pairs import PairCurve

STEPS = 200
Counts = npt.NDArray[np.int64]


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
    limit = discordant + 2.576 * np.sqrt(discordant / samples) + 5.3 / samples
    z = NormalDist().inv_cdf(1 - 0.9 * delta)
    fails = gap + z * np.sqrt(limit / samples) > budget
    return int(np.argmax(fails)) if fails.any() else len(fails)


def count_path(
    table: ScoreTable, policies: Sequence[Policy], *, reference: str
) -> tuple[Counts, Counts]:
    """Losses and gains of every policy on a table, each (P,).

    Runs of two-stage policies that differ in their threshold alone take one sort.
    """
    losses: list[int] = []
    gains: list[int] = []

    def shape(policy: Policy) -> tuple[Any, ...]:
        return tuple((step.exit, step.confidence) for step in policy.stages)

    for stages, run in groupby(policies, key=shape):
        if len(stages) == 2 and stages[1][0] == reference:
            counted = _count_pairs(table, list(run), reference=reference)
        else:
            counted = _count_each(table, list(run), reference=reference)
        losses += counted[0]
        gains += counted[1]
    return np.array(losses, np.int64), np.array(gains, np.int64)


def certify(
    path: Path,
    table: ScoreTable,
    *,
    reference: str,
    max_drop: float,
    delta: float = 0.05,
    looks: int = 1,
) -> Certificate:
    """Walk the path on `table` (the certify split) and certify the last policy that is proved.

    `max_drop` is in points. A budget that nothing meets is no error: the certificate is then the
    reference's own, and says how many samples would do.
    """
    budget = max_drop / 100
    losses, gains = count_path(table, path.policies, reference=reference)
    proved, p_value = 0, None
    for lost, gained in zip(losses.tolist(), gains.tolist(), strict=True):
        p = gap_p_value(lost, gained, len(table), budget, beta=delta / 10)
        if p > delta:
            break
        proved, p_value = proved + 1, p
    last = proved - 1
    return Certificate(
        policy=path.policies[last] if proved else Policy.single(reference),
        reference=reference,
        kind="disagreement" if table.label is None else "gap",
        budget=max_drop,
        delta=delta,
        samples=len(table),
        losses=int(losses[last]) if proved else 0,
        gains=int(gains[last]) if proved else 0,
        p_value=p_value,
        path=path.policies[:proved],
        steps=len(path.policies),
        samples_needed=_needed(path, budget, delta) if proved < len(path.policies) else None,
        looks=looks,
        table=table.hash,
        split=table.provenance.get("split", {}),
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


def _count_pairs(
    table: ScoreTable, policies: list[Policy], *, reference: str
) -> tuple[list[int], list[int]]:
    first = policies[0].stages[0]
    row, big, truth = table.index(first.exit), table.index(reference), table.truth(reference)
    order = np.argsort(-table.scores(first.confidence)[row], kind="stable")
    sure = table.scores(first.confidence)[row, order].astype(np.float64)
    little_right = (table.prediction[row] == truth)[order]
    big_right = (table.prediction[big] == truth)[order]
    thresholds = np.array([policy.stages[0].threshold for policy in policies], np.float64)
    accepted = np.searchsorted(-sure, -thresholds, side="right")
    losses, gains = big_right & ~little_right, little_right & ~big_right
    lost, gained = (np.append(0, np.cumsum(marks))[accepted].tolist() for marks in (losses, gains))
    return lost, gained


def _count_each(
    table: ScoreTable, policies: list[Policy], *, reference: str
) -> tuple[list[int], list[int]]:
    truth = table.truth(reference)
    reference_right = table.prediction[table.index(reference)] == truth
    losses, gains = [], []
    for policy in policies:
        right = decide(table, policy).prediction == truth
        losses.append(int((reference_right & ~right).sum()))
        gains.append(int((right & ~reference_right).sum()))
    return losses, gains
