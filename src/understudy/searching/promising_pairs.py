"""Which little models are worth a sequence: the expected ends of all pairs of a zoo, counted fast.

A sequence of policies takes milliseconds per pair, and a zoo of M models has M (M - 1) / 2. Here
the samples are sorted once per little model, and counted for all large ones together.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.scores import ScoreTable
from understudy.searching.policy_sequences import STEPS
from understudy.searching.search_spec import SearchSpec

PROMISING = 3  # little models per large one, budget and order of testing
Array = npt.NDArray[Any]


def promising_littles(
    tune: ScoreTable, bigs: Sequence[str], spec: SearchSpec
) -> dict[str, list[str]]:
    """For every large model the few cheaper ones whose sequences may end cheapest on certify.

    Both are ranked: where a test from the safe end would stop, and the cheapest step that would be
    proved by itself. `spec` gives the budgets, the level and the number of certify samples; its
    reference is not used.

    >>> table = ScoreTable.from_predictions(
    ...     {"poor": ([1] * 900, [.9] * 900), "good": ([0] * 900, [.9] * 900),
    ...      "big": ([0] * 900, [.9] * 900)},
    ...     [0] * 900, costs={"poor": 1, "good": 2, "big": 9})
    >>> spec = SearchSpec("big", "MACs", "max_softmax", (1.0,), 0.05, 900)
    >>> promising_littles(table, ["big"], spec)
    {'big': ['poor', 'good']}

    Raises:
        TableError: an unknown name, or a missing cost.
    """
    costs, rows = tune.exit_costs(spec.unit), [tune.index(big) for big in bigs]
    ends = np.full((len(tune.names), len(bigs), 2 * len(spec.drops)), np.inf)
    for little in range(len(tune.names)):
        dearer = np.flatnonzero(costs[rows] > costs[little]).tolist()
        if dearer:
            ends[little, dearer] = _expected_ends(
                tune, little, [bigs[number] for number in dearer], spec
            )
    best = np.argsort(ends, axis=0, kind="stable")[:PROMISING]
    return {
        big: [
            tune.names[little]
            for little in np.unique(best[:, number])
            if costs[little] < costs[rows[number]]
        ]
        for number, big in enumerate(bigs)
    }


def _expected_ends(tune: ScoreTable, little: int, bigs: Sequence[str], spec: SearchSpec) -> Array:
    """Shares of each large model's cost at which its test would end, (B, 2 D); 1 for nothing.

    First from the safe end, then step by step, for every budget.
    """
    n, z = spec.certify_samples, NormalDist().inv_cdf(1 - spec.delta)
    order, accepted = _steps(tune, little, spec.confidence)
    share = accepted / len(tune)
    right = [tune.right(big, [tune.index(big), little]).astype(np.int8) for big in bigs]
    net = np.stack([big - small for big, small in right])
    losses, gains = (_counts(marks[:, order], accepted) for marks in (net > 0, net < 0))
    gap, discordant = (losses - gains) / len(tune), (losses + gains) / len(tune)
    bound = gap + z * np.sqrt(discordant / n + 4 / n**2)
    cost = np.stack([_cost(tune, little, big, share, spec.unit) for big in bigs])
    proved = bound <= np.array(spec.drops)[:, None, None] / 100
    in_order = np.logical_and.accumulate(proved | (cost >= 1), axis=2)
    cheapest = [np.where(some & (cost < 1), cost, 1.0).min(2) for some in (in_order, proved)]
    return np.concatenate(cheapest).T


def _steps(tune: ScoreTable, little: int, confidence: str) -> tuple[Array, Array]:
    """The samples by falling confidence, and how many of them each step accepts: ties together."""
    scores = tune.scores(confidence)[little]
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True)) + 1
    steps = np.searchsorted(ends, np.linspace(0, len(scores), STEPS + 1)[1:])
    return order, ends[np.unique(steps)]


def _counts(marks: Array, accepted: Array) -> npt.NDArray[np.int64]:
    """How many of the first `accepted` samples are marked, (B, P)."""
    starts = np.append(0, accepted[:-1])
    return np.cumsum(np.add.reduceat(marks, starts, axis=1, dtype=np.int64), axis=1)


def _cost(tune: ScoreTable, little: int, big: str, share: Array, unit: str) -> Array:
    """The cost of every step as a share of the large model's."""
    name = tune.names[little]
    alone, both = tune.cost_of([name], unit), tune.cost_of([name, big], unit)
    return (share * alone + (1 - share) * both) / tune.cost_of([big], unit)
