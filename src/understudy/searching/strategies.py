"""Search strategies: pairs, ensembles, longer cascades; and the choice between all they find.

Every strategy proposes policy sequences that lead from the dear and safe to the cheap. All compete
by what they are expected to cost once certified; that is fair, since none of them has thresholds
that were fitted to the samples which count: a sequence leads through all thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from understudy.ensemble import ensemble_of, models_of
from understudy.frontier import Frontier, PointArrays
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.chains import search_chains
from understudy.searching.equal_loss import EqualLossSearch
from understudy.searching.exits import exit_points, exits_in_order
from understudy.searching.pairs import PairCurve, curve_points, pair_curve, pair_curves
from understudy.searching.policy_sequences import (
    EMPTY,
    PolicySequence,
    pair_sequence,
)
from understudy.searching.search_spec import SearchSpec

MOST_COMPARED = 16  # sequences whose expected cost is computed
SAFE_LOSSES = 4  # certify samples times the budget from which on the safe end can be proved
# What a late start has to save, below and above `SAFE_LOSSES`, and what another stage, as shares of
# the reference's cost.
LATE_START_BELOW, LATE_START_ABOVE, ONE_MORE_STAGE = 0.06, 0.2, 0.003


@dataclass(frozen=True)
class Candidates:
    """What one strategy found on one table: sequences to certify, and points of the frontier."""

    sequences: tuple[PolicySequence, ...]
    points: Sequence[PointArrays]


Strategy = Callable[[ScoreTable, SearchSpec], Candidates]


# -- the strategies -------------------------------------------------------------------------------


def find_pairs(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Every cheaper exit before the reference, at all thresholds up to that exit alone."""
    return _candidates(table, spec, pair_curves(table, **spec.names))


def find_ensembles(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Pairs little -> little+reference for every ensemble of the reference and a cheaper exit."""
    pairs = ensembles_with(table, spec.reference)
    return _candidates(table, spec, [pair_curve(table, *pair, **spec.names) for pair in pairs])


def _candidates(table: ScoreTable, spec: SearchSpec, curves: Sequence[PairCurve]) -> Candidates:
    points = curve_points(table, curves, reference=spec.reference, unit=spec.unit)
    return Candidates(tuple(pair_sequence(curve) for curve in curves), points)


def ensembles_with(table: ScoreTable, reference: str) -> list[tuple[str, str]]:
    """The ensembles of one other exit and the reference, as (other, ensemble)."""
    ensembles = {exit.name: ensemble_of(exit.origin) for exit in table.exits}
    return [
        (ensemble.exits[0], name)
        for name, ensemble in ensembles.items()
        if ensemble is not None and len(ensemble.exits) == 2 and ensemble.exits[1] == reference
    ]


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
    return Candidates(tuple(path.sequence() for path in paths), points)


def find_other_networks(table: ScoreTable, spec: SearchSpec) -> Candidates:
    """Cascades of the exits of another network than the reference, which end with that network.

    Such as one that was tuned with its exits, and is compared with the network as it was.
    """
    sequences: list[PolicySequence] = []
    points: list[PointArrays] = []
    for last in networks_beside(table, spec.reference):
        before = [name for name in exits_in_order(table, last, spec.unit) if name != spec.reference]
        pairs = [pair_curve(table, name, last, **spec.names) for name in before]
        found = _candidates(table, spec, pairs)
        sequences += found.sequences
        points += found.points
        if spec.stages > 2:
            paths = EqualLossSearch.of(table, spec, before, last).paths()
            sequences += [path.sequence() for path in paths]
            points += [PointArrays(path.cost, path.drop, path.point) for path in paths]
    return Candidates(tuple(sequences), points)


def networks_beside(table: ScoreTable, reference: str) -> list[str]:
    """The whole networks with exits in a table, without the reference.

    >>> from dataclasses import replace
    >>> from understudy.exit import Exit
    >>> head = Exit("new/2/linear", ("new/2", "new/2/linear"), {"root": "new"})
    >>> whole = Exit("new", ("new/2", "new/(rest)"), {"root": "new"})
    >>> table = ScoreTable.from_predictions(
    ...     {name: ([0], [.9]) for name in ("new/2/linear", "new", "old")}, [0])
    >>> networks_beside(replace(table, exits=(head, whole, Exit("old"))), "old")
    ['new']
    """
    roots = {exit.root for exit in table.exits if exit.root != exit.name}
    return [name for name in table.names if name in roots and name != reference]


def strategies_for(table: ScoreTable, spec: SearchSpec) -> list[Strategy]:
    """The strategies that fit the exits of a table and the number of stages."""
    strategies: list[Strategy] = [find_pairs]
    if len(models_of(table).exits) < len(table.exits):
        strategies.append(find_ensembles)
    if spec.stages > 2 and len(models_of(table).exits) > 2:
        strategies.append(find_equal_loss)
    if networks_beside(table, spec.reference):
        strategies.append(find_other_networks)
    return strategies


def frontier_in_sample(table: ScoreTable, spec: SearchSpec) -> Frontier:
    """The frontier of the pairs and of the cascades whose thresholds are the best on this table.

    Of independent models chains, of exits that share parts all together.
    """
    names = {"reference": spec.reference, "unit": spec.unit}
    points = curve_points(table, pair_curves(table, **spec.names), **names)
    if spec.stages > 2 and len(table.exits) > 2:
        if table.shares_parts:
            points.append(exit_points(table, **spec.names))
            others = networks_beside(table, spec.reference)
            points += [_exits_before(table, last, spec) for last in others]
        else:
            drops, most = spec.drops, spec.stages - 1
            chains = search_chains(table, max_drops=drops, stages=most, **spec.names)
            points.append(PointArrays.of(chains.points))
    return Frontier.of_arrays(points, **names)


def _exits_before(table: ScoreTable, last: str, spec: SearchSpec) -> PointArrays:
    """The points of exits that end with another network than the reference."""
    points = exit_points(table, reference=last, confidence=spec.confidence, unit=spec.unit)
    frontier = Frontier.of_arrays([points], unit=spec.unit, reference=last)
    return PointArrays.of(replace(frontier, reference=spec.reference).measured_on(table).points)


# -- the choice between them ----------------------------------------------------------------------


def choose_sequences(
    tune: ScoreTable, spec: SearchSpec, strategies: Sequence[Strategy]
) -> tuple[list[PolicySequence], Frontier]:
    """For every budget the sequence to certify, and the frontier of all that was found on tune."""
    found = [strategy(tune, spec) for strategy in strategies]
    points = [arrays for one in found for arrays in one.points]
    frontier = Frontier.of_arrays(points, unit=spec.unit, reference=spec.reference)
    sequences = [sequence for one in found for sequence in one.sequences]
    return [cheapest_expected(sequences, spec, drop) for drop in spec.drops], frontier


def cheapest_expected(
    sequences: Sequence[PolicySequence], spec: SearchSpec, drop: float
) -> PolicySequence:
    """The sequence that is expected to end cheapest, from where its test had best start.

    A late start stakes everything on its first test, so it has to be worth something. A sequence
    without policies where there is none.
    """
    filled = [sequence for sequence in sequences if sequence.policies]
    filled = sorted(filled, key=lambda one: spec.least_cost(one, drop))[:MOST_COMPARED]
    provable = spec.certify_samples * drop / 100 >= SAFE_LOSSES
    worth = LATE_START_ABOVE if provable else LATE_START_BELOW
    best, least = EMPTY, np.inf
    for sequence in filled:
        expected = spec.expected_costs(sequence, drop)
        start = int(np.argmin(expected))
        start = start if expected[start] < expected[0] - worth * sequence.full else 0
        stages = max(len(policy.exits) for policy in sequence.policies)
        cost = float(expected[start]) + ONE_MORE_STAGE * sequence.full * stages
        if cost < least:
            best, least = sequence.starting_at(start), cost
    return best


def cheapest_within(frontier: Frontier, drop: float) -> Policy:
    """The cheapest policy of a frontier within a drop; the reference where there is none."""
    within = [point for point in frontier if point.drop <= drop + 1e-6]
    best = min(within, key=lambda point: point.cost, default=None)
    return Policy.single(frontier.reference) if best is None else best.policy
