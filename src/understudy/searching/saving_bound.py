"""A lower bound on what a certified policy saves, next to the bound on what it loses.

The cost of a policy depends on the shares of samples that reach its stages. Along a sequence of
policies thresholds only fall, so the samples that reach a stage in one policy contain those that
reach it in the next: the share that no longer reaches it is an empirical distribution function of
the step, and the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990, for
one side) bounds its error at all steps at once,

    P(for some step: true share reached - observed share > eps) <= exp(-2 n eps^2).

Hence the bound holds for the policy that was selected on the same samples. The proof is in
docs/certificates.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.outcome import decide, units_of
from understudy.policy import Policy
from understudy.priced_exits import PricedExits
from understudy.scores import ScoreTable
from understudy.searching.exact_test import discordance_limit

Stages = tuple[tuple[str, str], ...]


def saving_bounds(
    table: ScoreTable,
    policy: Policy,
    sequence: Sequence[Policy],
    *,
    reference: str,
    delta: float = 0.05,
) -> dict[str, float]:
    """By unit, the fraction of the reference's cost that `policy` saves at least.

    Each holds with probability 1 - delta over the samples of `table`, whichever policy of
    `sequence` was selected, on the same samples or others; the sequence was fixed beforehand.
    Labels play no part. Costs are taken as they are; a search gives the cautious ends of measured
    times (`with_cautious_times`).

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0] * 1000, [.9] * 800 + [.5] * 200), "big": ([0] * 1000, [1.0] * 1000)},
    ...     [0] * 1000, costs={"tiny": 1, "big": 9})
    >>> steps = [Policy.pair("tiny", "big", level) for level in (0.95, 0.7, 0.6)]
    >>> {unit: round(least, 3) for unit, least in
    ...     saving_bounds(table, steps[1], steps, reference="big").items()}
    {'MACs': 0.65}

    Raises:
        TableError: an unknown name, or a missing cost.
        ValueError: a policy that is none of the sequence.
    """
    if policy not in sequence:
        raise ValueError("the policy is one of the sequence, found another one")
    answered = np.bincount(decide(table, policy).stage, minlength=len(policy.stages)).tolist()
    return counted_saving_bounds(
        table, policy, sequence, answered, reference=reference, delta=delta
    )


def counted_saving_bounds(
    exits: PricedExits,
    policy: Policy,
    sequence: Sequence[Policy],
    answered: Sequence[int],
    *,
    reference: str,
    delta: float,
) -> dict[str, float]:
    """`saving_bounds` of a policy whose stages answered so many samples each."""
    reaches, samples = _reaches(sequence), sum(answered)
    count = (samples - np.cumsum(answered)).tolist()
    found = {}
    for unit in units_of(exits, {reference, *(name for one in sequence for name in one.exits)}):
        prices = {
            visited: _price(exits, visited, unit) for one in reaches.values() for visited in one.to
        }
        weight = {key: max(prices[visited] for visited in one.to) for key, one in reaches.items()}
        cost = exits.cost_of(policy.exits[:1], unit)
        for stage in range(1, len(policy.stages)):
            key, price = _passed(policy, stage), prices[policy.exits[: stage + 1]]
            if price > 0:
                level = delta * weight[key] / sum(weight.values())
                cost += price * reaches[key].limit(count[stage - 1], samples, level)
        full = exits.cost_of([reference], unit)
        found[unit] = 1 - cost / full if full else 0.0
    return found


@dataclass(frozen=True, eq=False)
class _Reach:
    """The ways to get behind the same K stages: their thresholds (P, K), and the K + 1 exits that
    are visited then."""

    thresholds: npt.NDArray[np.float64]
    to: frozenset[tuple[str, ...]]

    def limit(self, count: int, samples: int, level: float) -> float:
        """The upper limit of a share of which `count` were observed, at all thresholds at once.

        One way alone is fixed, so the exact binomial limit holds (Clopper and Pearson 1934). Where
        the ways are nested, that of Dvoretzky, Kiefer and Wolfowitz; else each way has a limit of
        its own by Hoeffding's inequality, and the level is shared.
        """
        ways = np.unique(self.thresholds, axis=0)
        if len(ways) == 1:
            return discordance_limit(count, samples, beta=level)
        nested = bool((ways[1:] >= ways[:-1]).all())
        level = min(level, 0.5) / (1 if nested else len(ways))
        return min(count / samples + math.sqrt(-math.log(level) / (2 * samples)), 1.0)


def _reaches(sequence: Sequence[Policy]) -> dict[Stages, _Reach]:
    """By the stages that are passed."""
    passing: dict[Stages, list[Policy]] = {}
    for policy in sequence:
        for stage in range(1, len(policy.stages)):
            passing.setdefault(_passed(policy, stage), []).append(policy)
    return {
        key: _Reach(
            np.array([[one.threshold for one in p.stages[: len(key)]] for p in some], np.float64),
            frozenset(p.exits[: len(key) + 1] for p in some),
        )
        for key, some in passing.items()
    }


def _passed(policy: Policy, stage: int) -> Stages:
    """The first stages of a policy, without their thresholds."""
    return tuple((one.exit, one.confidence) for one in policy.stages[:stage])


def _price(exits: PricedExits, visited: tuple[str, ...], unit: str) -> float:
    """What the last of these exits costs after the others."""
    return exits.cost_of(visited, unit) - exits.cost_of(visited[:-1], unit)
