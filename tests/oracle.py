"""Slow reference implementations: sample by sample, and by trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from understudy.policy import Policy
from understudy.scores import ScoreTable


class Fate(NamedTuple):
    """The outcome of one sample."""

    stage: int
    prediction: int
    visited: tuple[str, ...]


class Totals(NamedTuple):
    """The figures of a policy on a table, summed sample by sample."""

    right: int
    losses: int
    gains: int
    cost: float
    answered: tuple[int, ...]


def fate(table: ScoreTable, policy: Policy, sample: int) -> Fate:
    """Run the stages on one sample."""
    for number, rule in enumerate(policy.stages):
        row = table.names.index(rule.exit)
        confidence = float(table.confidence[rule.confidence][row, sample])
        if rule.threshold is None or confidence >= rule.threshold:
            return Fate(number, int(table.prediction[row, sample]), policy.exits[: number + 1])
    raise AssertionError("the last stage answers")


def right_answers(table: ScoreTable, reference: str, sample: int) -> set[int]:
    """The labels of a sample, or the reference's answer where it has none."""
    if table.label_sets is not None and table.label_sets[sample, 0] >= 0:
        return {int(one) for one in table.label_sets[sample] if one >= 0}
    if table.label is not None and table.label[sample] >= 0:
        return {int(table.label[sample])}
    return {int(table.prediction[table.names.index(reference), sample])}


def price(table: ScoreTable, exits: Sequence[str], unit: str) -> float:
    """The sum over the union of parts."""
    costs = table.costs.get(unit) or table.times[unit]
    parts = {part for name in exits for part in table.exits[table.names.index(name)].parts}
    return math.fsum(costs[part] for part in parts)


def totals(table: ScoreTable, policy: Policy, *, reference: str, unit: str) -> Totals:
    """Everything that `evaluate` reports, added up one sample at a time."""
    right = losses = gains = 0
    paid = []
    answered = [0] * len(policy.stages)
    row = table.names.index(reference)
    for sample in range(len(table)):
        one = fate(table, policy, sample)
        true = right_answers(table, reference, sample)
        ours, theirs = one.prediction in true, int(table.prediction[row, sample]) in true
        right += ours
        losses += theirs and not ours
        gains += ours and not theirs
        answered[one.stage] += 1
        paid.append(price(table, one.visited, unit))
    return Totals(right, losses, gains, math.fsum(paid) / len(table), tuple(answered))


def thresholds(table: ScoreTable, exit: str, confidence: str) -> list[float]:
    """A threshold between any two distinct confidences of an exit, and outside them all."""
    row = table.names.index(exit)
    levels = sorted({float(value) for value in table.confidence[confidence][row]})
    between = [low / 2 + high / 2 for low, high in itertools.pairwise(levels)]
    return [-math.inf, *between, math.inf]


def pairs(
    table: ScoreTable, *, reference: str, confidence: str, unit: str
) -> Iterator[tuple[Policy, Totals]]:
    """Every two-stage cascade and exit that is cheaper than the reference, and the reference."""
    single = Policy.single(reference)
    yield single, totals(table, single, reference=reference, unit=unit)
    for little in table.names:
        if price(table, [little], unit) < price(table, [reference], unit):
            single = Policy.single(little)
            yield single, totals(table, single, reference=reference, unit=unit)
            for threshold in thresholds(table, little, confidence):
                if math.isfinite(threshold):
                    policy = Policy.pair(little, reference, threshold, confidence=confidence)
                    yield policy, totals(table, policy, reference=reference, unit=unit)


def undominated(points: Sequence[tuple[float, int]]) -> set[tuple[float, int]]:
    """Those (cost, net losses) that no other point beats or equals in both with one better."""
    kept = set()
    for cost, net in points:
        beaten = any(
            other_cost <= cost + 1e-9
            and other_net <= net
            and (other_cost < cost - 1e-9 or other_net < net)
            for other_cost, other_net in points
        )
        if not beaten:
            kept.add((round(cost, 9), net))
    return kept


def gap_distribution(samples: int, *, loss: float, gain: float) -> np.ndarray:
    """P(losses - gains = k - samples), (2 * samples + 1,): one convolution per sample."""
    one = np.array([gain, 1 - loss - gain, loss])
    law = np.ones(1)
    for _ in range(samples):
        law = np.convolve(law, one)
    return law


def trinomial(samples: int, *, loss: float, gain: float) -> Iterator[tuple[int, int, float]]:
    """Every (losses, gains) that can happen, with its probability."""
    for losses in range(samples + 1):
        for gains in range(samples - losses + 1):
            ways = math.comb(samples, losses) * math.comb(samples - losses, gains)
            rest = samples - losses - gains
            yield losses, gains, ways * loss**losses * gain**gains * (1 - loss - gain) ** rest


def most_right(right: np.ndarray, counts: Sequence[int]) -> int:
    """The most right answers when counts[s] samples go to stage s: every assignment is tried."""
    stages, samples = right.shape
    return max(
        sum(int(right[stage, sample]) for sample, stage in enumerate(assignment))
        for assignment in itertools.product(range(stages), repeat=samples)
        if all(assignment.count(stage) == counts[stage] for stage in range(stages))
    )
