"""Search strategies: pairs, chains, exits of one network, ensembles; and the choice between them.

Every strategy proposes policy sequences that lead from the reference to the cheap. Of one strategy
the sequence is taken that would end cheapest if certify looked just like tune. Between strategies
that comparison would favour the one with more candidates, so it is cross-fitted: each strategy
searches on one half of tune and is measured on the other, both ways.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypedDict

import numpy as np

from understudy.ensemble import ensemble_of, models_of
from understudy.errors import PolicyError
from understudy.frontier import Frontier, Point, PointArrays
from understudy.outcome import Outcome, evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.chains import search_chains
from understudy.searching.exits import exit_points, exits_in_order, search_exits
from understudy.searching.pairs import PairCurve, pair_curve, pair_curves, pairs_frontier
from understudy.searching.policy_sequences import (
    EMPTY,
    PolicySequence,
    losses_and_gains,
    pair_sequence,
    sequence_through,
)
from understudy.split import uniform

FEW = 8  # exits that are searched together; a larger zoo is searched for chains
MOST_ON, CANDIDATES = 3, 8  # exits of `find_few_exits`, and how many are tried behind the first
STARTS = 2  # misses at most hundredths of a point of cost


class SearchNames(TypedDict):
    """Keyword arguments that most searches share."""

    reference: str
    unit: str
    confidence: str


@dataclass(frozen=True)
class SearchSpec:
    """What is searched for: policies within `drops` (points) of the reference's accuracy.

    Raises:
        PolicyError: a level that is no probability.
    """

    reference: str
    unit: str
    confidence: str
    drops: tuple[float, ...]
    delta: float
    certify_samples: int

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise PolicyError(
                f"delta is a probability between 0 and 1, found {self.delta:g}: try 0.05"
            )

    @property
    def names(self) -> SearchNames:
        """The reference, unit and confidence, as keyword arguments."""
        return {"reference": self.reference, "unit": self.unit, "confidence": self.confidence}

    def expected_cost(self, sequence: PolicySequence, drop: float) -> float:
        """The cost of what would be certified if certify looked just like the sequence's counts."""
        samples = self.certify_samples
        proved = sequence.expected_proved(budget=drop / 100, samples=samples, delta=self.delta)
        return float(sequence.cost[proved - 1]) if proved else float("inf")


@dataclass(frozen=True)
class Candidates:
    """What one strategy found on one table: sequences to certify, and the frontier."""

    sequences: tuple[PolicySequence, ...]
    frontier: Frontier


Strategy = Callable[[ScoreTable, SearchSpec], Candidates]


# -- the strategies -------------------------------------------------------------------------------


def find_pairs(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Every cheaper exit before the reference, at all thresholds up to that exit alone."""
    curves = pair_curves(table, **spec.names)
    frontier = pairs_frontier(table, curves, reference=spec.reference, unit=spec.unit)
    return Candidates(tuple(pair_sequence(curve) for curve in curves), frontier)


def find_ensembles(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Pairs little -> little+reference for every ensemble of the reference and a cheaper exit."""
    reference, unit = spec.reference, spec.unit
    full = table.cost_of([reference], unit)
    curves = [
        pair_curve(table, little, name, **spec.names)
        for little, name in ensembles_with(table, reference)
        if table.cost_of([little], unit) < full
    ]
    alone = evaluate(table, Policy.single(reference), reference=reference)
    single = PointArrays.of([Point.of(Policy.single(reference), alone, unit=unit)])
    pairs = [PointArrays(curve.cost, curve.drop, partial(_point, curve, alone)) for curve in curves]
    frontier = Frontier.of_arrays([single, *pairs], unit=unit, reference=reference)
    return Candidates(tuple(pair_sequence(curve) for curve in curves), frontier)


def ensembles_with(table: ScoreTable, reference: str) -> list[tuple[str, str]]:
    """The ensembles of one other exit and the reference, as (other, ensemble)."""
    ensembles = {exit.name: ensemble_of(exit.origin) for exit in table.exits}
    return [
        (ensemble.exits[0], name)
        for name, ensemble in ensembles.items()
        if ensemble is not None and len(ensemble.exits) == 2 and ensemble.exits[1] == reference
    ]


def find_exits(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """The best thresholds of all exits that share parts."""
    return _sequences_through(search_exits(table, starts=STARTS, **spec.names), table, spec)


def find_few_exits(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """The best thresholds of at most `MOST_ON` exits, added one by one, whichever saves most.

    Many thresholds fit the noise of few samples: certify often does not confirm what they reach.
    """
    reference, unit = spec.reference, spec.unit
    candidates = exits_in_order(table, reference, unit)
    chosen: list[str] = []
    points: list[PointArrays] = []

    def with_one_more(name: str) -> PointArrays:
        few = table.only([*chosen, name, reference])
        return exit_points(few, starts=1, rounds=0, threads=1, **spec.names)

    while candidates and len(chosen) < MOST_ON:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tried = dict(zip(candidates, pool.map(with_one_more, candidates), strict=True))
        candidates = sorted(candidates, key=lambda name: _summed_cost(tried[name], spec))
        points += tried.values()
        chosen.append(candidates[0])
        candidates = candidates[1:CANDIDATES]
    frontier = Frontier.of_arrays(points, unit=unit, reference=reference)
    return _sequences_through(frontier, table, spec)


def chains_up_to(stages: int) -> Strategy:
    """The strategy of chains of up to `stages` independent models."""

    def find_chains(table: ScoreTable, spec: SearchSpec) -> Candidates:
        drops = _drops_and_tighter(spec)
        frontier = search_chains(table, max_drops=drops, stages=stages, **spec.names)
        return _sequences_through(frontier, table, spec)

    return find_chains


def on_models(strategy: Strategy) -> Strategy:
    """The strategy on the table without its ensembles."""
    return lambda table, spec: strategy(models_of(table), spec)


def strategies_for(table: ScoreTable, *, stages: int) -> list[Strategy]:
    """The strategies that fit the table's exits.

    Always pairs; exits that share parts all together; with more stages also all exits of a small
    zoo together where at most so many are visited, or chains; and ensembles behind their little
    models.
    """
    models = models_of(table)
    strategies: list[Strategy] = [find_pairs]
    if len(models.exits) > 2 and (models.shares_parts or stages > 2):
        together = models.shares_parts or len(models.exits) <= min(stages, FEW)
        strategies.append(find_exits if together else chains_up_to(stages))
    if models.shares_parts and len(models.exits) > MOST_ON + 1:
        strategies.append(find_few_exits)
    if len(models.exits) == len(table.exits):
        return strategies
    return [*(on_models(strategy) for strategy in strategies), find_ensembles]


# -- the choice between them ----------------------------------------------------------------------


def choose_sequences(
    tune: ScoreTable, spec: SearchSpec, strategies: Sequence[Strategy]
) -> tuple[list[PolicySequence], Frontier]:
    """For every budget the sequence to certify, and the frontier of all that was found on tune."""
    found = [strategy(tune, spec) for strategy in strategies]
    points = [point for one in found for point in one.frontier]
    frontier = Frontier.of(points, unit=spec.unit, reference=spec.reference)
    if len(strategies) == 1:
        sequences = found[0].sequences
        return [cheapest_expected(sequences, spec, drop) for drop in spec.drops], frontier
    first, second = _halves(tune)
    crossed = [(strategy(first, spec), strategy(second, spec)) for strategy in strategies]
    chosen = []
    for drop in spec.drops:
        costs = [
            _held_out_cost(a, second, spec, drop) + _held_out_cost(b, first, spec, drop)
            for a, b in crossed
        ]
        chosen.append(cheapest_expected(found[int(np.argmin(costs))].sequences, spec, drop))
    return chosen, frontier


def cheapest_expected(
    sequences: Sequence[PolicySequence], spec: SearchSpec, drop: float
) -> PolicySequence:
    """The sequence that would end cheapest; one without policies where there is none."""
    filled = [sequence for sequence in sequences if sequence.policies]
    return min(filled, key=lambda one: spec.expected_cost(one, drop), default=EMPTY)


def _held_out_cost(found: Candidates, held_out: ScoreTable, spec: SearchSpec, drop: float) -> float:
    """The expected cost of what was chosen on one half, by the counts of the other."""
    full = held_out.cost_of([spec.reference], spec.unit)
    sequence = cheapest_expected(found.sequences, spec, drop)
    if not sequence.policies:
        return full
    losses, gains = losses_and_gains(held_out, sequence.policies, reference=spec.reference)
    counted = replace(sequence, losses=losses, gains=gains, samples=len(held_out))
    return min(spec.expected_cost(counted, drop), full)


def _halves(tune: ScoreTable) -> tuple[ScoreTable, ScoreTable]:
    order = np.argsort(uniform(tune.ids, salt=b"-halves"), kind="stable")
    middle = max(len(order) // 2, 1)
    return tune.rows(np.sort(order[:middle])), tune.rows(np.sort(order[-middle:]))


def _drops_and_tighter(spec: SearchSpec) -> list[float]:
    """The budgets and tighter ones: what can be proved lies below the budget."""
    shares = (1.0, 0.6, 0.3)
    return sorted({share * drop if drop > 0 else drop for drop in spec.drops for share in shares})


def _summed_cost(points: PointArrays, spec: SearchSpec) -> float:
    """The least costs within the budgets and tighter ones, summed."""
    full = points.cost.max()
    return sum(
        float(np.min(points.cost, where=points.drop <= drop + 1e-9, initial=full))
        for drop in _drops_and_tighter(spec)
    )


def _sequences_through(frontier: Frontier, table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Sequences that lead through the cheapest points within the budgets and tighter ones."""
    cheapest = []
    for drop in _drops_and_tighter(spec):
        within = [point for point in frontier if point.drop <= drop + 1e-9]
        cheapest += [min(within, key=lambda point: point.cost).policy] if within else []
    sequences = (
        sequence_through(table, policy, reference=spec.reference, unit=spec.unit)
        for policy in dict.fromkeys(cheapest)
        if policy != Policy.single(spec.reference)
    )
    return Candidates(tuple(sequences), frontier)


def _point(curve: PairCurve, reference: Outcome, row: int) -> Point:
    """The point of one position of an ensemble's curve."""
    policy, share = curve.policy(row), float(curve.accepted[row] / curve.samples)
    shares = {curve.little: share, curve.last: 1 - share}
    drop = 100.0 * int(curve.losses[row] - curve.gains[row]) / curve.samples
    cost = float(curve.cost[row])
    accuracy = reference.reference_accuracy - drop / 100
    saving = 1 - cost / curve.full if curve.full else 0.0
    visited = {name: shares[name] for name in policy.exits}
    return Point(policy, cost, accuracy, drop, saving, visited)
