"""Search strategies: pairs, ensembles, longer cascades; and the choice between all they find.

Every strategy proposes policy sequences that lead from the dear and safe to the cheap. All compete
by what they are expected to cost once certified; that is fair, since none of them has thresholds
that were fitted to the samples which count: a sequence leads through all thresholds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from understudy.ensemble import ensemble_of, models_of
from understudy.frontier import Frontier, Point, PointArrays
from understudy.outcome import Outcome, evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.chains import search_chains
from understudy.searching.equal_loss import EqualLossSearch
from understudy.searching.exits import exit_points, exits_in_order, search_exits
from understudy.searching.pairs import PairCurve, pair_curve, pair_curves, pairs_frontier
from understudy.searching.policy_sequences import (
    EMPTY,
    PolicySequence,
    pair_sequence,
    sequence_through,
)
from understudy.searching.search_spec import SearchSpec

MOST_COMPARED = 16  # sequences whose expected cost is computed
WORTH_START, WORTH_STAGE = 0.03, 0.01  # of the reference's cost
MOST_ON, CANDIDATES = 3, 8  # exits of `find_few_exits`, and how many are tried behind the first
STARTS = 2  # misses at most hundredths of a point of cost


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


def find_chains(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Chains of independent models whose thresholds are the best on this table."""
    drops = _drops_and_tighter(spec)
    frontier = search_chains(table, max_drops=drops, stages=spec.stages, **spec.names)
    return _sequences_through(frontier, table, spec)


def find_equal_loss(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Cascades of three exits and more whose stages accept the same expected loss per cost saved.

    Behind them stands the reference, or an ensemble with it of one of their exits.
    """
    order = exits_in_order(table, spec.reference, spec.unit)
    ensembles = dict(ensembles_with(table, spec.reference))
    searches = [EqualLossSearch.of(table, spec, order, spec.reference)]
    searches += [
        EqualLossSearch.of(table, spec, order, ensembles[name], member=name)
        for name in order
        if name in ensembles
    ]
    paths = [path for one in searches for path in one.paths()]
    points = [PointArrays(path.cost, path.drop, path.point) for path in paths]
    frontier = Frontier.of_arrays(points, unit=spec.unit, reference=spec.reference)
    return Candidates(tuple(path.sequence() for path in paths), frontier)


def strategies_for(table: ScoreTable, spec: SearchSpec) -> list[Strategy]:
    """The strategies that fit the table's exits and the spec's number of stages."""
    strategies: list[Strategy] = [find_pairs]
    if len(models_of(table).exits) < len(table.exits):
        strategies.append(find_ensembles)
    if spec.stages > 2 and len(models_of(table).exits) > 2:
        strategies.append(find_equal_loss)
    return strategies


# -- the choice between them ----------------------------------------------------------------------


def choose_sequences(
    tune: ScoreTable, spec: SearchSpec, strategies: Sequence[Strategy]
) -> tuple[list[PolicySequence], Frontier]:
    """For every budget the sequence to certify, and the frontier of all that was found on tune."""
    found = [strategy(tune, spec) for strategy in strategies]
    frontier = Frontier.of(
        (point for one in found for point in one.frontier),
        unit=spec.unit,
        reference=spec.reference,
    )
    sequences = [sequence for one in found for sequence in one.sequences]
    return [cheapest_expected(sequences, spec, drop) for drop in spec.drops], frontier


def cheapest_expected(
    sequences: Sequence[PolicySequence], spec: SearchSpec, drop: float
) -> PolicySequence:
    """The sequence that is expected to end cheapest, from where its test had best start.

    A later start and another stage have to be worth something, since both rest on few samples. One
    without policies where there is no sequence.
    """
    filled = [sequence for sequence in sequences if sequence.policies]
    filled = sorted(filled, key=lambda one: spec.least_cost(one, drop))[:MOST_COMPARED]
    best, least = EMPTY, np.inf
    for sequence in filled:
        expected = spec.expected_costs(sequence, drop)
        start = int(np.argmin(expected))
        start = start if expected[start] < expected[0] - WORTH_START * spec.full else 0
        stages = max(len(policy.exits) for policy in sequence.policies)
        cost = expected[start] + WORTH_STAGE * spec.full * (stages - 2)
        if cost < least:
            best, least = sequence.starting_at(start), cost
    return best


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
