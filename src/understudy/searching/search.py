"""`search`: a pool of models in, a certified cascade out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from understudy.result import Choice, Result, Single
from understudy.scores import ScoreTable
from understudy.searching.baselines import baselines, dominating, verdict
from understudy.searching.certify import certify, certify_one
from understudy.searching.pairs import checked_drops
from understudy.searching.published_rules import published_rules, saver_rules
from understudy.searching.strategies import SearchSpec, Strategy, choose_sequences, strategies_for
from understudy.split import ALL, headline_split

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
    """The cheapest policy whose accuracy drop is proved to lie within each budget.

    Every exit that is cheaper than the reference is tried as the little model, at every threshold,
    exactly, on `tune`; what was chosen there is certified on `certify` and measured once on
    `test`, or on `certify` too where the table has no test split.

    Args:
        max_drop: budget(s) in points against the reference.
        reference: the exit whose accuracy is to be kept; the costliest one if None.
        max_cost: a mean cost per sample; the verdict names policies that exceed it.
        unit: the unit of cost to minimise; the table's first if None.
        confidence: the stored confidence that the little models' thresholds apply to; "deferral"
            learns one on tune that predicts where the reference does better (`with_deferral`).
        delta: the chance, per budget, that the bound is wrong.
        stages: the most models in a chain, where models share no parts; the reference may stand
            behind them as the safe end. Exits that share parts are searched together.
        class_drops: budgets in points of named classes, which every certificate then covers too.
        looks: how often the certify split has been read, this time included; see
            `looks.delta_of_look` for a level that makes up for it.

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
    drops = checked_drops(max_drop)
    options = {"max_cost": max_cost, "confidence": confidence, "stages": stages}
    data = SearchData.of(table, drops, reference, unit, delta=delta, options=options)
    sequences, frontier = choose_sequences(data.tune, data.spec, data.strategies)
    prove = partial(certify, reference=data.spec.reference, delta=delta, looks=looks)
    certificates = [
        prove(sequence, data.splits["certify"], max_drop=drop, class_drops=class_drops)
        for drop, sequence in zip(drops, sequences, strict=True)
    ]
    requested = {"max_drop": list(drops), **options, "class_drops": dict(class_drops)}
    requested["looks"] = looks
    choices = [data.choice(one.policy, one.budget, one) for one in certificates]
    return data.result(choices, frontier, {"by": "search", **requested})


def search_jointly(
    table: ScoreTable, *, max_drop: Sequence[float], delta: float = 0.05, **options: Any
) -> Result:
    """`search`, with certificates that hold all at once: each of k budgets at delta / k.

    For a frontier of operating points that are switched at run time. `options` are those of
    `search`.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> search_jointly(table, max_drop=[1.0, 2.0]).delta
    0.025
    """
    drops = checked_drops(max_drop)
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
    """The most accurate policy whose mean cost per sample lies within `max_cost`.

    It is chosen on `tune`; its certificate proves the smallest drop that the certify samples can,
    which becomes the choice's `max_drop`. The arguments are those of `search`.

    Raises:
        PolicyError: every policy costs more.
    """
    options = {"max_cost": max_cost, "confidence": confidence, "stages": stages}
    data = SearchData.of(table, (0.0,), reference, unit, delta=delta, options=options)
    _, frontier = choose_sequences(data.tune, data.spec, data.strategies)
    policy, reference = frontier.within(max_cost).policy, data.spec.reference
    proof = certify_one(
        policy, data.splits["certify"], reference=reference, delta=delta, looks=looks
    )
    choice = data.choice(policy, proof.budget, proof)
    requested = {"by": "search_within_cost", **options, "looks": looks}
    return data.result([choice], frontier, requested)


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
    """The cheapest policy within each budget on all samples, reported on the same samples.

    For comparison with published figures only: thresholds chosen and measured on one set of samples
    look better than they are. The arguments are those of `search`.
    """
    drops = checked_drops(max_drop)
    options = {"max_cost": max_cost, "confidence": confidence, "stages": stages}
    data = SearchData.of(table, drops, reference, unit, delta=0.5, options=options, splits=[ALL])
    points = [point for find in data.strategies for point in find(data.table, data.spec).frontier]
    frontier = Frontier.of(points, unit=data.spec.unit, reference=data.spec.reference)
    choices = [data.choice(_cheapest_within(frontier, drop), drop) for drop in drops]
    requested = {"by": "search_in_sample", "max_drop": list(drops), **options}
    return data.result(choices, frontier, requested)


def with_learned_score(
    table: ScoreTable, reference: str, *, confidence: str, unit: str, fit_on: str = "tune"
) -> ScoreTable:
    """The table with the learned deferral score where that is the requested confidence."""
    if confidence != LEARNED or LEARNED in table.confidence:
        return table
    return with_deferral(table, reference, fit_on=fit_on, unit=unit)


def _cheapest_within(frontier: Frontier, drop: float) -> Policy:
    """The cheapest policy within a drop; the reference where there is none."""
    within = [point for point in frontier if point.drop <= drop + 1e-6]
    best = min(within, key=lambda point: point.cost, default=None)
    return Policy.single(frontier.reference) if best is None else best.policy


@dataclass(frozen=True)
class SearchData:
    """A table with its splits ("all" alone for a search in-sample) and what is searched for."""

    table: ScoreTable
    splits: Mapping[str, ScoreTable]
    spec: SearchSpec
    max_cost: float | None
    strategies: Sequence[Strategy]

    @staticmethod
    def of(
        table: ScoreTable,
        drops: tuple[float, ...],
        reference: str | None,
        unit: str | None,
        *,
        delta: float,
        options: Mapping[str, Any],
        splits: Sequence[str] = (),
    ) -> SearchData:
        """The table's splits, with the learned score where it is requested."""
        splits = splits or table.splits
        max_cost, confidence = options["max_cost"], options["confidence"]
        if max_cost is not None and not max_cost > 0:
            raise PolicyError(f"a cost to stay within is above 0, found {max_cost:g}")
        unit = table.unit(unit)
        reference = models_of(table).reference(reference, unit=unit)
        if len(table.exits) < 2:
            raise TableError(
                f"a cascade needs at least two exits, this table has {reference!r} alone: score "
                "or import a cheaper model into it"
            )
        samples = len(table.on("certify" if "certify" in splits else ALL))
        spec = SearchSpec(reference, unit, confidence, drops, delta, samples)
        table = with_learned_score(table, **spec.names, fit_on=splits[0])
        strategies = strategies_for(table, stages=options["stages"])
        parts = {name: table.on(name) for name in splits}
        return SearchData(table, parts, spec, max_cost, strategies)

    @property
    def tune(self) -> ScoreTable:
        """Where policies are chosen."""
        return self.splits.get("tune", self.table)

    @property
    def measured(self) -> ScoreTable:
        """Where the headline figures are measured."""
        return self.splits[headline_split(self.splits)]

    def choice(
        self, policy: Policy, max_drop: float, certificate: Certificate | None = None
    ) -> Choice:
        """A policy with its figures on every split, its baselines and the verdict."""
        reference, unit, on = self.spec.reference, self.spec.unit, self._outcomes(policy)
        cost = (on.get("tune") or on[ALL]).cost[unit]
        compared = baselines(
            policy,
            tune=self.tune,
            measured=self.measured,
            reference=reference,
            unit=unit,
            cost=cost,
        )
        classes = class_gaps(self.tune, self.measured, policy, reference=reference)
        choice = Choice(max_drop, policy, on, certificate, compared, "", classes)
        better = dominating(self.tune, reference=reference, unit=unit)
        words = verdict(choice, unit=unit, max_cost=self.max_cost, better=better)
        return replace(choice, verdict=words)

    def result(
        self, choices: Sequence[Choice], frontier: Frontier, requested: Mapping[str, Any]
    ) -> Result:
        """All that was found, with every exit alone and what the papers' rules choose."""
        table, spec, models = self.table, self.spec, models_of(self.table)
        rules = published_rules if models.shares_parts else saver_rules
        drops = [choice.max_drop for choice in choices]
        certified = "certify" in self.splits
        return Result(
            unit=spec.unit,
            reference=spec.reference,
            delta=spec.delta if certified else 0.0,
            choices=tuple(choices),
            singles=self._singles(),
            frontier=frontier,
            searched_on="tune" if certified else ALL,
            difficulty=difficulty(models, **spec.names),
            table={
                "hash": table.hash,
                "samples": {name: len(part) for name, part in self.splits.items()},
                "labelled": table.label is not None,
                "labels": {name: int(part.labelled.sum()) for name, part in self.splits.items()},
                "provenance": dict(table.provenance),
            },
            arguments=requested,
            published=rules(
                models_of(self.tune), models_of(self.measured), max_drop=drops, **spec.names
            ),
        )

    def _singles(self) -> tuple[Single, ...]:
        """Every exit alone, cheapest first."""
        order = np.argsort(self.table.exit_costs(self.spec.unit), kind="stable")
        exits = [self.table.exits[row] for row in order]
        return tuple(
            Single(exit.name, exit.origin, self._outcomes(Policy.single(exit.name)))
            for exit in exits
        )

    def _outcomes(self, policy: Policy) -> dict[str, Outcome]:
        reference = self.spec.reference
        return {
            name: evaluate(part, policy, reference=reference) for name, part in self.splits.items()
        }
