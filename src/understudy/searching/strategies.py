"""Which path to walk: ladders of pairs, chains, exits of one network, averages.

Every candidate is a path from the reference to the cheap. Within a family the one is taken that
would end cheapest if certify looked just like tune. Between families that comparison would flatter
the larger one, so there each family is searched on one half of tune and judged on the other, both
ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from understudy.ensemble import models_of
from understudy.frontier import Frontier, Point
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.certify import Path, count_path, expected_steps, ladder
from understudy.searching.pairs import pair_curves, pairs_frontier
from understudy.split import uniform

FEW = 8  # exits that are searched together; a larger zoo is searched for chains
MOST_ON, CANDIDATES = 3, 8  # exits of the family of few, and how many are tried behind the first
STARTS = 2  # misses at most hundredths of a point of cost
NOWHERE = Path((), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 1)


@dataclass(frozen=True)
class SearchSpec:
    """What is searched for: plans that keep up with `reference` within `drops` (points)."""

    reference: str
    unit: str
    confidence: str
    drops: tuple[float, ...]
    delta: float
    certify_samples: int

    def cost(self, path: Path, drop: float) -> float:
        """Where the walk would end if certify looked just like the counts of the path."""
        steps = expected_steps(
            path, budget=drop / 100, samples=self.certify_samples, delta=self.delta
        )
        return float(path.cost[steps - 1]) if steps else float("inf")


@dataclass(frozen=True)
class Candidates:
    """What one family found on one table: paths to walk, and all that is worth asking."""

    paths: tuple[Path, ...]
    frontier: Frontier


Family = Callable[[ScoreTable, SearchSpec], Candidates]


def find_pairs(table: ScoreTable, question: SearchSpec) -> Candidates:
    """A ladder for every cheaper exit before the reference; it ends with that exit alone."""
    big, unit = question.reference, question.unit
    curves = pair_curves(table, big, confidence=question.confidence, unit=unit)
    return Candidates(
        tuple(ladder(curve) for curve in curves),
        pairs_frontier(table, curves, reference=big, unit=unit),
    )


def find_exits(table: ScoreTable, question: SearchSpec) -> Candidates:
    """Paths through the best settings of exits that share parts."""
    from understudy.searching.exits import search_exits

    frontier = search_exits(
        table,
        reference=question.reference,
        confidence=question.confidence,
        unit=question.unit,
        starts=STARTS,
    )
    return _through(frontier, table, question)


def find_few_exits(table: ScoreTable, question: SearchSpec) -> Candidates:
    """The same with at most `MOST_ON` exits, taken one by one, whichever saves most.

    Many thresholds fit the noise of few samples: what all exits together promise on tune, certify
    often does not confirm.
    """
    from understudy.searching.exits import exits_in_order, search_exits

    big, unit = question.reference, question.unit
    candidates = exits_in_order(table, big, unit)
    chosen: list[str] = []
    points: list[Point] = []
    while candidates and len(chosen) < MOST_ON:
        tried = {
            name: search_exits(
                table.only([*chosen, name, big]),
                reference=big,
                confidence=question.confidence,
                unit=unit,
                starts=1,
            )
            for name in candidates
        }
        candidates = sorted(candidates, key=lambda name: _promise(tried[name], question))
        points += [point for frontier in tried.values() for point in frontier]
        chosen.append(candidates[0])
        candidates = candidates[1:CANDIDATES]
    return _through(Frontier.of(points, unit=unit, reference=big), table, question)


def _promise(frontier: Frontier, question: SearchSpec) -> float:
    """The costs within the budgets and tighter ones, summed."""
    full = max(point.cost for point in frontier)
    return sum(
        min((point.cost for point in frontier if point.drop <= drop + 1e-9), default=full)
        for drop in _all_seeds(question)
    )


def chains_of(stages: int) -> Family:
    """The family of chains of up to `stages` independent models."""

    def find_chains(table: ScoreTable, question: SearchSpec) -> Candidates:
        from understudy.searching.chains import search_chains

        frontier = search_chains(
            table,
            reference=question.reference,
            max_drops=_all_seeds(question),
            stages=stages,
            confidence=question.confidence,
            unit=question.unit,
        )
        return _through(frontier, table, question)

    return find_chains


def families_for(table: ScoreTable, *, stages: int) -> list[Family]:
    """What the table's exits allow.

    Always pairs; exits that share parts all together; with more stages also all exits of a small
    zoo together where so many may be asked, or chains; and averaged exits behind their little ones.
    """
    models = models_of(table)
    families: list[Family] = [find_pairs]
    if len(models.exits) > 2 and (models.shares_parts or stages > 2):
        together = models.shares_parts or len(models.exits) <= min(stages, FEW)
        families.append(find_exits if together else chains_of(stages))
    if models.shares_parts and len(models.exits) > MOST_ON + 1:
        families.append(find_few_exits)
    if len(models.exits) == len(table.exits):
        return families

    from understudy.searching.ensembles import find_averages

    return [*(_of_models(family) for family in families), find_averages]


def _of_models(family: Family) -> Family:
    def find(table: ScoreTable, question: SearchSpec) -> Candidates:
        return family(models_of(table), question)

    return find


def choose_paths(
    tune: ScoreTable, question: SearchSpec, families: Sequence[Family]
) -> tuple[list[Path], Frontier]:
    """For every budget the path to walk, and the frontier of all that was found on tune."""
    found = [family(tune, question) for family in families]
    points = [point for one in found for point in one.frontier]
    frontier = Frontier.of(points, unit=question.unit, reference=question.reference)
    if len(families) == 1:
        paths = found[0].paths
        return [most_promising(paths, question, drop) for drop in question.drops], frontier
    first, second = _halves(tune)
    tried = [(family(first, question), family(second, question)) for family in families]
    chosen = []
    for drop in question.drops:
        ends = [
            _ends(a, second, question, drop) + _ends(b, first, question, drop) for a, b in tried
        ]
        chosen.append(most_promising(found[int(np.argmin(ends))].paths, question, drop))
    return chosen, frontier


def most_promising(paths: Sequence[Path], question: SearchSpec, drop: float) -> Path:
    """The path that would end cheapest; one without steps where there is none."""
    walkable = [path for path in paths if path.policies]
    return min(walkable, key=lambda path: question.cost(path, drop), default=NOWHERE)


def _ends(found: Candidates, judged_on: ScoreTable, question: SearchSpec, drop: float) -> float:
    """Where the choice of one half would end by the counts of the other."""
    full = judged_on.cost_of([question.reference], question.unit)
    path = most_promising(found.paths, question, drop)
    if not path.policies:
        return full
    losses, gains = count_path(judged_on, path.policies, reference=question.reference)
    judged = replace(path, losses=losses, gains=gains, samples=len(judged_on))
    return min(question.cost(judged, drop), full)


def _halves(tune: ScoreTable) -> tuple[ScoreTable, ScoreTable]:
    order = np.argsort(uniform(tune.ids, salt=b"-halves"), kind="stable")
    middle = max(len(order) // 2, 1)
    return tune.rows(np.sort(order[:middle])), tune.rows(np.sort(order[-middle:]))


def _all_seeds(question: SearchSpec) -> list[float]:
    """The budgets and tighter ones: what can be proved lies below what is asked."""
    parts = (1.0, 0.6, 0.3)
    return sorted({part * drop if drop > 0 else drop for drop in question.drops for part in parts})


def _through(frontier: Frontier, table: ScoreTable, question: SearchSpec) -> Candidates:
    """Paths that lead through the cheapest points within the budgets and tighter ones."""
    from understudy.searching.chain_path import chain_path

    seeds = []
    for drop in _all_seeds(question):
        within = [point for point in frontier if point.drop <= drop + 1e-9]
        seeds += [min(within, key=lambda point: point.cost).policy] if within else []
    paths = (
        chain_path(table, policy, reference=question.reference, unit=question.unit)
        for policy in dict.fromkeys(seeds)
        if policy != Policy.single(question.reference)
    )
    return Candidates(tuple(paths), frontier)
