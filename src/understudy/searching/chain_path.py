"""From one chain to a path of chains of the same shape, from safe to cheap, for certifying."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from understudy.policy import Policy, PolicyStage, accepts
from understudy.scores import ScoreTable
from understudy.searching.certify import STEPS, Path
from understudy.searching.pairs import thresholds_between
from understudy.searching.threshold_sweep import Walk, count_walks


def chain_path(
    table: ScoreTable,
    policy: Policy,
    *,
    reference: str | None = None,
    unit: str | None = None,
    steps: int = STEPS,
) -> Path:
    """The path that leads from the reference through `policy` and on to its first exit alone.

    In `steps` steps every stage comes to accept the share of the table that it accepts in the
    policy, in as many more it comes to accept everybody. A chain that ends before the reference is
    led there with the reference behind it. Only steps that are cheaper than the reference and than
    all before them are kept.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> path = chain_path(table, Policy.pair("tiny", "big", 0.65), steps=2)
    >>> [policy.describe() for policy in path.policies[1:]], path.losses.tolist()
    (['tiny when max_softmax >= 0.65, else big', 'tiny'], [0, 0, 1])

    Raises:
        TableError: an unknown name, or a missing cost.
    """
    unit = table.unit(unit)
    big = table.reference(reference, unit=unit)
    stages = _before(policy, big)
    walks = [_walk(table, step, steps=steps) for step in stages]
    names = [*(walk.exit for walk in walks), big]
    total = len(walks[0].threshold) if walks else 0
    answered, losses, gains = count_walks(table, walks, reference=big, steps=total)
    cost = np.zeros(len(losses))
    for stage, counts in enumerate(answered):
        cost += counts / len(table) * table.cost_of(names[: stage + 1], unit)
    least = np.minimum.accumulate(np.append(table.cost_of([big], unit), cost))[:-1]
    rows = np.flatnonzero(cost < least)
    return Path(
        policies=tuple(_policy(stages, walks, int(row), big) for row in rows),
        losses=losses[rows],
        gains=gains[rows],
        cost=cost[rows],
        samples=len(table),
    )


def _before(policy: Policy, reference: str) -> tuple[PolicyStage, ...]:
    """The stages before the reference; one that the policy ends with accepts everybody."""
    *before, last = policy.stages
    if last.exit == reference:
        return tuple(before)
    return (*before, PolicyStage(last.exit, -np.inf, last.confidence))


def _walk(table: ScoreTable, step: PolicyStage, *, steps: int) -> Walk:
    sure = table.scores(step.confidence)[table.index(step.exit)].astype(np.float64)
    falling = -np.sort(-sure)
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True)) + 1
    own = np.count_nonzero(accepts(sure, step.threshold))
    wanted = np.append(np.linspace(0, own, steps + 1), np.linspace(own, len(sure), steps + 1)[1:])
    level = np.searchsorted(np.append(0, ends), wanted[1:])
    return Walk.of(table, step.exit, step.confidence, thresholds_between(falling, ends)[level])


def _policy(steps: tuple[PolicyStage, ...], walks: list[Walk], row: int, reference: str) -> Policy:
    """The stages at one step; those behind one that accepts everybody are left out."""
    kept: list[PolicyStage] = []
    for step, walk in zip(steps, walks, strict=True):
        threshold = float(walk.threshold[row])
        if threshold == -np.inf:
            return Policy((*kept, PolicyStage(step.exit)))
        kept.append(replace(step, threshold=threshold))
    return Policy((*kept, PolicyStage(reference)))
