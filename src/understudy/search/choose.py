"""`search`: pool in, certified cascade out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from understudy.certificate import Certificate
from understudy.difficulty import difficulty
from understudy.errors import PolicyError, TableError
from understudy.outcome import Outcome, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.result import Choice, Result, Single
from understudy.scores import ScoreTable
from understudy.search.baselines import baselines
from understudy.search.certify import Path, certify, expected_steps, ladder
from understudy.search.pairs import PairCurve, pair_curves, pairs_frontier
from understudy.search.verdict import certified_verdict, in_sample_verdict
from understudy.split import ALL, SPLITS

Drops = float | Sequence[float]


def search(
    table: ScoreTable,
    *,
    max_drop: Drops,
    reference: str | None = None,
    max_cost: float | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    delta: float = 0.05,
    looks: int = 1,
) -> Result:
    """The cheapest plan whose accuracy drop is proved to lie within each budget.

    Every exit that is cheaper than the reference is tried as the little model, at every threshold,
    exactly, on `tune`; what was chosen there is certified on `certify`, measured once on `test`.

    Args:
        max_drop: budget(s) in points against the reference.
        reference: the exit to keep up with; the costliest one if None.
        max_cost: a mean cost per sample; a plan that stays above it is said to.
        unit: the unit of cost to minimise; the table's first if None.
        confidence: the stored confidence that the little models are judged by.
        delta: the chance, per budget, that the bound is wrong.
        looks: how often the certify split has been read, this time included.

    Raises:
        TableError: an unknown name, a missing cost, a single exit, an empty split.
        PolicyError: a budget or level that makes no sense.

    Source: pairs as in TinySaver (arXiv 2403.17726) and Little-Big (2406.17117), searched exactly;
    fixed-sequence testing as in Learn then Test (2110.01052).

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> result = search(table, max_drop=2.0)
    >>> result.choices[0].policy.describe()
    'tiny when max_softmax >= 0.75, else big'
    """
    drops = _drops(max_drop)
    if not 0 < delta < 1:
        raise PolicyError(f"delta is a probability between 0 and 1, found {delta:g}: try 0.05")
    unit, big = _check(table, reference, unit)
    splits = {name: table.on(name) for name in SPLITS}
    tune = splits["tune"]
    curves = pair_curves(tune, big, confidence=confidence, unit=unit)
    paths = _paths(curves)
    choices = []
    for drop in drops:
        path = _most_promising(paths, drop=drop, samples=len(splits["certify"]), delta=delta)
        certificate = certify(
            path, splits["certify"], reference=big, max_drop=drop, delta=delta, looks=looks
        )
        choices.append(_certified_choice(certificate, splits, unit=unit, max_cost=max_cost))
    return _result(
        table,
        splits,
        choices,
        curves,
        reference=big,
        unit=unit,
        confidence=confidence,
        delta=delta,
        searched_on="tune",
    )


def search_in_sample(
    table: ScoreTable,
    *,
    max_drop: Drops,
    reference: str | None = None,
    max_cost: float | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> Result:
    """The cheapest plan within each budget on all samples, reported on the same samples.

    For comparison with published figures alone: thresholds chosen and measured on one set of
    samples promise too much. The arguments are those of `search`.
    """
    drops = _drops(max_drop)
    unit, big = _check(table, reference, unit)
    curves = pair_curves(table, big, confidence=confidence, unit=unit)
    choices = []
    for drop in drops:
        policy = _best_within(curves, drop, reference=big)
        outcome = evaluate(table, policy, reference=big)
        beside = baselines(
            policy, tune=table, measured=table, reference=big, unit=unit, cost=outcome.cost[unit]
        )
        words = in_sample_verdict(
            policy, outcome, beside, max_drop=drop, unit=unit, max_cost=max_cost
        )
        choices.append(Choice(drop, policy, {ALL: outcome}, None, beside, words))
    return _result(
        table,
        {ALL: table},
        choices,
        curves,
        reference=big,
        unit=unit,
        confidence=confidence,
        delta=0.0,
        searched_on=ALL,
    )


def _drops(max_drop: Drops) -> list[float]:
    drops = [float(d) for d in (max_drop if isinstance(max_drop, Sequence) else [max_drop])]
    if not drops:
        raise PolicyError("a search has at least one budget, found none: --max-drop 0.5")
    for drop in drops:
        if not -100 <= drop <= 100:
            raise PolicyError(f"a drop lies between -100 and 100 points, found {drop:g}")
    return drops


def _check(table: ScoreTable, reference: str | None, unit: str | None) -> tuple[str, str]:
    unit = table.unit(unit)
    big = table.reference(reference, unit=unit)
    if len(table.exits) < 2:
        raise TableError(
            f"a cascade needs at least two exits, this table has {big!r} alone: score or import a "
            "cheaper model into it"
        )
    return unit, big


def _paths(curves: list[PairCurve]) -> list[Path]:
    """Every way to walk from the reference to the cheap: a ladder per pair, and each exit alone."""
    ladders = [ladder(curve) for curve in curves]
    alone = [
        Path(
            policies=(Policy.single(curve.little),),
            losses=curve.losses[-1:],
            gains=curve.gains[-1:],
            cost=curve.cost[-1:],
            samples=curve.samples,
        )
        for curve in curves
    ]
    return [*ladders, *alone]


def _most_promising(paths: list[Path], *, drop: float, samples: int, delta: float) -> Path:
    """The path that would end cheapest if certify looked just like tune."""
    best, best_cost = Path((), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 1), np.inf
    for path in paths:
        steps = expected_steps(path, budget=drop / 100, samples=samples, delta=delta)
        cost = float(path.cost[steps - 1]) if steps else float(np.inf)
        if cost < best_cost or not best.policies:
            best, best_cost = path, cost
    return best


def _certified_choice(
    certificate: Certificate,
    splits: Mapping[str, ScoreTable],
    *,
    unit: str,
    max_cost: float | None,
) -> Choice:
    policy, big = certificate.policy, certificate.reference
    on = {name: evaluate(part, policy, reference=big) for name, part in splits.items()}
    beside = baselines(
        policy,
        tune=splits["tune"],
        measured=splits["test"],
        reference=big,
        unit=unit,
        cost=on["tune"].cost[unit],
    )
    words = certified_verdict(certificate, on["test"], beside, unit=unit, max_cost=max_cost)
    return Choice(certificate.budget, policy, on, certificate, beside, words)


def _best_within(curves: list[PairCurve], drop: float, *, reference: str) -> Policy:
    best, best_cost = Policy.single(reference), float("inf")
    for curve in curves:
        position = curve.cheapest_within(drop)
        cost = float(curve.cost[position])
        if cost < min(best_cost, float(curve.cost[0])):
            best, best_cost = curve.policy(position), cost
    return best


def _result(
    table: ScoreTable,
    splits: Mapping[str, ScoreTable],
    choices: list[Choice],
    curves: list[PairCurve],
    *,
    reference: str,
    unit: str,
    confidence: str,
    delta: float,
    searched_on: str,
) -> Result:
    order = np.argsort(table.exit_costs(unit), kind="stable")
    return Result(
        unit=unit,
        reference=reference,
        delta=delta,
        choices=tuple(choices),
        singles=tuple(
            Single(exit.name, exit.origin, _alone(exit.name, splits, reference))
            for exit in (table.exits[row] for row in order)
        ),
        frontier=pairs_frontier(splits[searched_on], curves, reference=reference, unit=unit),
        searched_on=searched_on,
        difficulty=difficulty(table, reference=reference, unit=unit, confidence=confidence),
        table=_about(table, splits),
    )


def _alone(name: str, splits: Mapping[str, ScoreTable], reference: str) -> dict[str, Outcome]:
    policy = Policy.single(name)
    return {split: evaluate(part, policy, reference=reference) for split, part in splits.items()}


def _about(table: ScoreTable, splits: Mapping[str, ScoreTable]) -> dict[str, Any]:
    return {
        "hash": table.hash,
        "samples": {name: len(part) for name, part in splits.items()},
        "labelled": table.label is not None,
        "provenance": dict(table.provenance),
    }
