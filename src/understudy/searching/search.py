"""`search`: pool in, certified cascade out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from understudy.certificate import Certificate
from understudy.deciles import difficulty
from understudy.deferral import LEARNED, with_deferral
from understudy.ensemble import models_of
from understudy.errors import PolicyError, TableError
from understudy.frontier import Frontier
from understudy.outcome import Outcome, class_gaps, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.result import Choice, Published, Result, Single
from understudy.scores import ScoreTable
from understudy.searching.baselines import baselines, dominating
from understudy.searching.certify import certify, certify_one
from understudy.searching.published import published_rules, saver_rules
from understudy.searching.strategies import SearchSpec, choose_paths, families_for
from understudy.searching.verdict import certified_verdict, in_sample_verdict
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
    stages: int = 2,
    class_drops: Mapping[str, float] = MappingProxyType({}),
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
        confidence: the stored confidence that the little models are judged by; "deferral" learns
            one on tune that tells where the reference would do better (`with_deferral`).
        delta: the chance, per budget, that the bound is wrong.
        stages: the most models in a chain, where models share no parts; the reference may stand
            behind them as the safe end. Exits that share parts are searched together.
        class_drops: budgets in points of named classes, which every certificate then covers too.
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
    _check_delta(delta)
    _check_cost(max_cost)
    unit, big = _check(table, reference, unit)
    table = prepared(table, big, confidence=confidence, unit=unit)
    splits = {name: table.on(name) for name in SPLITS}
    question = SearchSpec(big, unit, confidence, tuple(drops), delta, len(splits["certify"]))
    paths, frontier = choose_paths(splits["tune"], question, families_for(table, stages=stages))
    choices = [
        _certified_choice(
            certify(
                path,
                splits["certify"],
                reference=big,
                max_drop=drop,
                delta=delta,
                class_drops=class_drops,
                looks=looks,
            ),
            splits,
            unit=unit,
            max_cost=max_cost,
        )
        for drop, path in zip(drops, paths, strict=True)
    ]
    asked = {
        "by": "search",
        "max_drop": drops,
        "max_cost": max_cost,
        "confidence": confidence,
        "stages": stages,
        "class_drops": dict(class_drops),
    }
    return _result(table, splits, choices, frontier, asked=asked, delta=delta)


def search_jointly(
    table: ScoreTable, *, max_drop: Sequence[float], delta: float = 0.05, **options: Any
) -> Result:
    """`search`, with certificates that hold all at once: each of k budgets at delta / k.

    For a frontier that is dialled while it runs. `options` are those of `search`.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> search_jointly(table, max_drop=[1.0, 2.0]).delta
    0.025
    """
    drops = _drops(max_drop)
    return search(table, max_drop=drops, delta=delta / len(drops), **options)


def search_within_cost(
    table: ScoreTable,
    *,
    max_cost: float,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    delta: float = 0.05,
    stages: int = 2,
    looks: int = 1,
) -> Result:
    """The most accurate plan whose mean cost per sample lies within `max_cost`.

    It is chosen on `tune`; its certificate proves the smallest drop that the certify samples can,
    which stands as the choice's `max_drop`. The arguments are those of `search`.

    Raises:
        PolicyError: every plan costs more.
    """
    unit, big = _check(table, reference, unit)
    _check_delta(delta)
    _check_cost(max_cost)
    table = prepared(table, big, confidence=confidence, unit=unit)
    splits = {name: table.on(name) for name in SPLITS}
    question = SearchSpec(big, unit, confidence, (0.0,), delta, len(splits["certify"]))
    _, frontier = choose_paths(splits["tune"], question, families_for(table, stages=stages))
    policy = frontier.within(max_cost).policy
    certificate = certify_one(policy, splits["certify"], reference=big, delta=delta, looks=looks)
    choice = _certified_choice(certificate, splits, unit=unit, max_cost=max_cost)
    asked = {
        "by": "search_within_cost",
        "max_cost": max_cost,
        "confidence": confidence,
        "stages": stages,
    }
    return _result(table, splits, [choice], frontier, asked=asked, delta=delta)


def search_in_sample(
    table: ScoreTable,
    *,
    max_drop: Drops,
    reference: str | None = None,
    max_cost: float | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    stages: int = 2,
) -> Result:
    """The cheapest plan within each budget on all samples, reported on the same samples.

    For comparison with published figures alone: thresholds chosen and measured on one set of
    samples promise too much. The arguments are those of `search`.
    """
    drops = _drops(max_drop)
    _check_cost(max_cost)
    unit, big = _check(table, reference, unit)
    table = prepared(table, big, confidence=confidence, unit=unit, fit_on=ALL)
    question = SearchSpec(big, unit, confidence, tuple(drops), 0.5, len(table))
    found = [family(table, question) for family in families_for(table, stages=stages)]
    points = [point for one in found for point in one.frontier]
    frontier = Frontier.of(points, unit=unit, reference=big)
    choices = [_in_sample_choice(table, frontier, drop, max_cost=max_cost) for drop in drops]
    asked = {
        "by": "search_in_sample",
        "max_drop": drops,
        "max_cost": max_cost,
        "confidence": confidence,
        "stages": stages,
    }
    return _result(table, {ALL: table}, choices, frontier, asked=asked, delta=0.0)


def prepared(
    table: ScoreTable, reference: str, *, confidence: str, unit: str, fit_on: str = "tune"
) -> ScoreTable:
    """The table with the learned deferral score where that is the confidence asked for."""
    if confidence != LEARNED or LEARNED in table.confidence:
        return table
    return with_deferral(table, reference, fit_on=fit_on, unit=unit)


def _drops(max_drop: Drops) -> list[float]:
    drops = [float(d) for d in (max_drop if isinstance(max_drop, Sequence) else [max_drop])]
    if not drops:
        raise PolicyError("a search has at least one budget, found none: --max-drop 0.5")
    for drop in drops:
        if not -100 <= drop <= 100:
            raise PolicyError(f"a drop lies between -100 and 100 points, found {drop:g}")
    return drops


def _check_cost(max_cost: float | None) -> None:
    if max_cost is not None and not max_cost > 0:
        raise PolicyError(f"a cost to stay within is above 0, found {max_cost:g}")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PolicyError(f"delta is a probability between 0 and 1, found {delta:g}: try 0.05")


def _check(table: ScoreTable, reference: str | None, unit: str | None) -> tuple[str, str]:
    unit = table.unit(unit)
    big = models_of(table).reference(reference, unit=unit)
    if len(table.exits) < 2:
        raise TableError(
            f"a cascade needs at least two exits, this table has {big!r} alone: score or import a "
            "cheaper model into it"
        )
    return unit, big


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
    words = certified_verdict(
        certificate,
        on["test"],
        beside,
        unit=unit,
        max_cost=max_cost,
        better=dominating(splits["tune"], reference=big, unit=unit),
    )
    classes = class_gaps(splits["test"], policy, reference=big)
    return Choice(certificate.budget, policy, on, certificate, beside, words, classes)


def _in_sample_choice(
    table: ScoreTable, frontier: Frontier, drop: float, *, max_cost: float | None
) -> Choice:
    policy, big, unit = _best_within(frontier, drop), frontier.reference, frontier.unit
    outcome = evaluate(table, policy, reference=big)
    beside = baselines(
        policy, tune=table, measured=table, reference=big, unit=unit, cost=outcome.cost[unit]
    )
    words = in_sample_verdict(
        policy,
        outcome,
        beside,
        max_drop=drop,
        unit=unit,
        max_cost=max_cost,
        better=dominating(table, reference=big, unit=unit),
    )
    classes = class_gaps(table, policy, reference=big)
    return Choice(drop, policy, {ALL: outcome}, None, beside, words, classes)


def _best_within(frontier: Frontier, drop: float) -> Policy:
    """The cheapest policy within a drop; the reference where nothing else is."""
    within = [point for point in frontier if point.drop <= drop + 1e-6]
    best = min(within, key=lambda point: point.cost, default=None)
    return Policy.single(frontier.reference) if best is None else best.policy


def _result(
    table: ScoreTable,
    splits: Mapping[str, ScoreTable],
    choices: list[Choice],
    frontier: Frontier,
    *,
    asked: Mapping[str, Any],
    delta: float,
) -> Result:
    unit, reference, confidence = frontier.unit, frontier.reference, asked["confidence"]
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
        frontier=frontier,
        searched_on=ALL if ALL in splits else "tune",
        difficulty=difficulty(
            models_of(table), reference=reference, unit=unit, confidence=confidence
        ),
        table=_about(table, splits),
        arguments=asked,
        published=_published(table, splits, choices, confidence, unit=unit, reference=reference),
    )


def _published(
    table: ScoreTable,
    splits: Mapping[str, ScoreTable],
    choices: Sequence[Choice],
    confidence: str,
    *,
    unit: str,
    reference: str,
) -> tuple[Published, ...]:
    """What the papers' rules choose: TinySaver's always, DyCE's where exits share parts."""
    rules = published_rules if models_of(table).shares_parts else saver_rules
    return rules(
        models_of(splits.get("tune", table)),
        models_of(splits.get("test", table)),
        reference=reference,
        unit=unit,
        max_drop=[choice.max_drop for choice in choices],
        confidence=confidence,
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
