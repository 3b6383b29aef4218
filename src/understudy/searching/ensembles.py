"""Pairs whose last stage is the average of both models: averaging on deferral."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.ensemble import ensemble_of
from understudy.frontier import Frontier, Point
from understudy.outcome import Outcome, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable
from understudy.searching.certify import STEPS, Path
from understudy.searching.pairs import PairCurve, pair_curve
from understudy.searching.strategies import Candidates, SearchSpec

Array = npt.NDArray[Any]


def find_averages(table: ScoreTable, question: SearchSpec) -> Candidates:
    """A ladder little -> little+reference for every averaged exit whose little one is cheaper."""
    big, unit = question.reference, question.unit
    full = table.cost_of([big], unit)
    curves = [
        average_curve(table, little, name, reference=big, confidence=question.confidence, unit=unit)
        for little, name in averaged_pairs(table, big)
        if table.cost_of([little], unit) < full
    ]
    alone = evaluate(table, Policy.single(big), reference=big)
    points = [Point.of(Policy.single(big), alone, unit=unit)]
    points += [point for curve in curves for point in _points(curve, alone, full=full)]
    return Candidates(
        tuple(average_ladder(curve, full=full) for curve in curves),
        Frontier.of(points, unit=unit, reference=big),
    )


def averaged_pairs(table: ScoreTable, reference: str) -> list[tuple[str, str]]:
    """The averaged exits of one other exit and the reference, as (other, average)."""
    recipes = {exit.name: ensemble_of(exit.origin) for exit in table.exits}
    return [
        (recipe.exits[0], name)
        for name, recipe in recipes.items()
        if recipe is not None and len(recipe.exits) == 2 and recipe.exits[1] == reference
    ]


def average_curve(
    table: ScoreTable,
    little: str,
    average: str,
    *,
    reference: str,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
) -> PairCurve:
    """The exact trade-off of little -> average at every threshold, compared with the reference.

    The curve's policies end with the average; its losses and gains are against `reference`, also
    those of the samples that the average answers. Position 0 is the average alone.

    >>> from understudy.ensemble import with_ensemble
    >>> table = ScoreTable.from_probabilities(
    ...     {"tiny": [[.9, .1], [.2, .8]], "big": [[.8, .2], [.6, .4]]}, [0, 1],
    ...     costs={"tiny": 1, "big": 9})
    >>> table = with_ensemble(table, ["tiny", "big"], [1, 1])
    >>> average_curve(table, "tiny", "tiny+big", reference="big").gains.tolist()
    [1, 1, 1]

    Raises:
        TableError: unknown names, or a missing cost.
    """
    curve = pair_curve(table, little, average, confidence=confidence, unit=unit)
    order = np.argsort(-table.scores(confidence)[table.index(little)].astype(float), kind="stable")
    right = table.prediction[:, order] == table.truth(reference)[order]
    first, last, big = (right[table.index(name)] for name in (little, average, reference))
    return replace(
        curve,
        losses=_counts(big & ~first, big & ~last, curve.accepted),
        gains=_counts(first & ~big, last & ~big, curve.accepted),
    )


def average_ladder(curve: PairCurve, *, full: float, steps: int = STEPS) -> Path:
    """Steps that accept 1/steps more of the tune samples each, of those that cost less than `full`.

    The walk starts where the average answers most: the safe end, which may well beat the reference.
    """
    rows = np.unique(np.searchsorted(curve.accepted, np.linspace(0, curve.samples, steps + 1)))
    rows = rows[curve.cost[rows] < full]
    return Path(
        policies=tuple(curve.policy(int(row)) for row in rows),
        losses=curve.losses[rows],
        gains=curve.gains[rows],
        cost=curve.cost[rows],
        samples=curve.samples,
    )


def _counts(by_little: Array, by_last: Array, accepted: Array) -> npt.NDArray[np.int64]:
    """Marks among what the little one answers, the first `accepted`, and the last the rest."""
    change = by_little.astype(np.int64) - by_last
    total = int(by_last.sum()) + np.concatenate([[0], np.cumsum(change)])
    return np.asarray(total[accepted], np.int64)


def _points(curve: PairCurve, reference: Outcome, *, full: float) -> list[Point]:
    """What no other threshold of the curve beats in cost and accuracy."""
    count = curve.samples
    found = []
    least = np.inf
    for row in np.lexsort((curve.drop, curve.cost)).tolist():
        if curve.drop[row] >= least:
            continue
        least = curve.drop[row]
        policy, share = curve.policy(row), float(curve.accepted[row] / count)
        shares = {curve.little: share, curve.reference: 1 - share}
        found.append(
            Point(
                policy=policy,
                cost=float(curve.cost[row]),
                accuracy=reference.reference_accuracy - float(curve.drop[row]) / 100,
                drop=float(curve.drop[row]),
                saving=1 - float(curve.cost[row]) / full if full else 0.0,
                shares={name: shares[name] for name in policy.exits},
            )
        )
    return found
