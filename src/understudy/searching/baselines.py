"""What a cascade must beat: a single exit at the same cost, deferral at random, and the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.outcome import decide
from understudy.policy import Policy
from understudy.result import Baselines
from understudy.scores import ScoreTable

Array = npt.NDArray[Any]


def baselines(
    policy: Policy,
    *,
    tune: ScoreTable,
    measured: ScoreTable,
    reference: str,
    unit: str,
    cost: float,
) -> Baselines:
    """The baselines of a policy whose mean cost is `cost`: chosen on tune, measured on `measured`.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> found = baselines(Policy.pair("tiny", "big", 0.65), tune=table, measured=table,
    ...                   reference="big", unit="MACs", cost=3.25)
    >>> found.single, found.single_drop, found.random_drop, found.oracle_drop
    ('tiny', 25.0, 18.75, 0.0)
    """
    truth = measured.truth(reference)
    right = measured.prediction == truth
    reference_right = right[measured.index(reference)]
    drop = 100.0 * (reference_right.mean() - right.mean(1))
    counts = stage_counts(measured, policy)
    rows = [measured.index(name) for name in policy.exits]
    single = best_single(tune, reference=reference, unit=unit, cost=cost)
    return Baselines(
        single=single,
        single_drop=None if single is None else float(drop[measured.index(single)]),
        random_drop=float(counts @ drop[rows] / counts.sum()),
        oracle_drop=100.0
        * (int(reference_right.sum()) - _oracle_right(right[rows], counts))
        / len(measured),
    )


def best_single(table: ScoreTable, *, reference: str, unit: str, cost: float) -> str | None:
    """The most accurate exit that costs at most `cost`, of equals the cheapest; or None."""
    costs = table.exit_costs(unit)
    right = (table.prediction == table.truth(reference)).sum(1)
    fitting = np.flatnonzero(costs <= cost * (1 + 1e-12))
    if not len(fitting):
        return None
    best = min(fitting.tolist(), key=lambda row: (-right[row], costs[row]))
    return table.names[best]


def dominating(table: ScoreTable, *, reference: str, unit: str) -> str | None:
    """A single exit that costs less than the reference and is right at least as often; or None."""
    best = best_single(table, reference=reference, unit=unit, cost=table.cost_of([reference], unit))
    cheaper = best is not None and table.cost_of([best], unit) < table.cost_of([reference], unit)
    return best if cheaper else None


def stage_counts(table: ScoreTable, policy: Policy) -> Array:
    """How many samples each stage of the policy answers, (S,)."""
    return np.bincount(decide(table, policy).stage, minlength=len(policy.stages))


def _oracle_right(right: Array, counts: Array) -> int:
    """The most right answers when `counts[s]` samples go to stage s, whoever they are."""
    stages, samples = right.shape
    if stages == 1:
        return int(right.sum())
    if stages == 2:
        gains = int((right[0] & ~right[1]).sum())
        losses = int((right[1] & ~right[0]).sum())
        first, big_right = int(counts[0]), int(right[1].sum())
        return big_right + min(first, gains) - max(0, first + losses - int(samples))
    return _transport(right, counts)


def _transport(right: Array, counts: Array) -> int:
    """The same for any number of stages: a transport problem between the patterns of who is right,
    at most 2^S of them, and the stages."""
    from scipy.optimize import linprog

    stages = len(counts)
    patterns, sizes = np.unique(right, axis=1, return_counts=True)
    size = patterns.shape[1]
    equalities = np.concatenate(
        [np.kron(np.ones(stages), np.eye(size)), np.kron(np.eye(stages), np.ones(size))]
    )
    answer = linprog(
        -patterns.astype(float).ravel(),
        A_eq=equalities,
        b_eq=np.concatenate([sizes, counts]),
        method="highs",
    )
    return round(float(-answer.fun))
