"""The search behind chains, on arrays: pairs for every last exit, three exits, then longer ones.

Every pair of exits is solved exactly. For three exits every pair of models before every last exit
is counted on some samples, on a grid of 16 times 64 levels of confidence; then, before the most
promising last exits, the likely pairs on all samples; the best of these are solved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.searching.chain_zoo import ChainZoo, each

Array = npt.NDArray[Any]
_ENDS = 4
_LIKELY = 512
_SCREENED = 5_000
_PREFIXES = 2


@dataclass(frozen=True)
class Effort:
    """How many pairs are solved exactly for each drop, and in how many threads."""

    keep: int
    threads: int | None


@dataclass(frozen=True)
class Chain:
    """Stages with their thresholds, the last exit, and what all samples pay together."""

    cost: float
    steps: tuple[tuple[str, float], ...]
    last: str


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The best pair for every last exit (the reference is the last row) and budget, (K + 1, D).

    Attributes:
        cost: what all samples pay together; inf where no pair meets the budget.
        first: the first model.
        length: how many samples it answers.
    """

    cost: Array
    first: Array
    length: Array

    def chain(self, zoo: ChainZoo, end: int, drop: int) -> list[Chain]:
        """The pair itself, or nothing."""
        cost = float(self.cost[end, drop])
        if cost == np.inf:
            return []
        step = zoo.step(int(self.first[end, drop]), int(self.length[end, drop]))
        return [Chain(cost, (step,), [*zoo.names, zoo.last][end])]


def best_chains(zoo: ChainZoo, budgets: Array, stages: int, effort: Effort) -> list[Chain]:
    """For each budget the best pair before the reference, and the best chain of each length."""
    pairs = _best_pairs(zoo, budgets, effort)
    drops, ends = range(len(budgets)), pairs.cost.argmin(0)
    found = [chain for drop in drops for chain in pairs.chain(zoo, -1, drop)]
    found += [chain for drop in drops for chain in pairs.chain(zoo, int(ends[drop]), drop)]
    if stages == 2:
        return found
    longest = _best_three(zoo, budgets, pairs, effort)
    for longer in range(3, stages + 1):
        if longer > 3:
            longest = _grown(zoo, budgets, longest, effort)
        found += [chains[0] for chains in longest if chains]
    return found


def _best_pairs(zoo: ChainZoo, budgets: Array, effort: Effort) -> _Pairs:
    from understudy.searching._chain_kernels import longest_prefixes

    models, drops = len(zoo.names), np.arange(len(budgets))
    losses = [*zoo.loss, np.zeros(zoo.samples, np.int8)]
    prices = np.append(zoo.price, zoo.full)
    pairs = _Pairs(
        np.full((models + 1, len(budgets)), np.inf),
        np.zeros((models + 1, len(budgets)), np.int64),
        np.zeros((models + 1, len(budgets)), np.int64),
    )

    def solve(end: int) -> None:
        firsts = np.flatnonzero(zoo.price <= prices[end])
        firsts = firsts[firsts != end]
        if not len(firsts):
            return
        lengths = np.stack(
            [longest_prefixes(zoo.model(int(row)), losses[end], budgets) for row in firsts]
        )
        cost = zoo.samples * zoo.price[firsts, None] + (zoo.samples - lengths) * prices[end]
        cost[lengths == 0] = np.inf
        best = cost.argmin(0)
        pairs.cost[end] = cost[best, drops]
        pairs.first[end], pairs.length[end] = firsts[best], lengths[best, drops]

    each(solve, range(models + 1), threads=effort.threads)
    return pairs


def _best_three(zoo: ChainZoo, budgets: Array, pairs: _Pairs, effort: Effort) -> list[list[Chain]]:
    """For each budget the chains of three exits that are cheaper than any pair, in order; some of
    those that cost more than the best are left out.

    Their last exits are the reference and the most promising others.
    """
    found: list[list[Chain]] = [[] for _ in budgets]
    bound = _bound(zoo, budgets, pairs)
    for end in _promising_ends(zoo, budgets, pairs, effort):
        before, allowed = _ending(zoo, end.row, budgets)
        for drop, chains in enumerate(_best_two(before, allowed, end.likely, bound, effort)):
            found[drop] += chains
            bound[drop] = min([bound[drop], *(chain.cost for chain in chains)])
    return [sorted(chains, key=lambda chain: chain.cost) for chains in found]


@dataclass(frozen=True, eq=False)
class _End:
    """A last exit, by row (K for the reference), and what some of the samples say about it.

    Attributes:
        cost: (D,) the least mean cost that the grid has found for each budget.
        likely: (K', K') which pairs of the K' models before it may be the best.
    """

    row: int
    cost: Array
    likely: Array


def _ending(zoo: ChainZoo, row: int, budgets: Array) -> tuple[ChainZoo, Array]:
    """The chains that end with a model, or with the reference, and their own budgets."""
    if row == len(zoo.names):
        return zoo, budgets
    return zoo.before(row), budgets - zoo.loss[row].sum(dtype=np.int64)


def _bound(zoo: ChainZoo, budgets: Array, pairs: _Pairs) -> Array:
    """What a chain must cost less than, for each budget: the best pair and the reference."""
    full = np.where(budgets >= 0, zoo.samples * zoo.full, np.inf)
    return np.asarray(np.minimum(pairs.cost.min(0), full))


def _promising_ends(zoo: ChainZoo, budgets: Array, pairs: _Pairs, effort: Effort) -> list[_End]:
    """The last exits of the best pairs and, on some samples, of the best chains; the best first.

    The reference is among them.
    """
    thin = zoo.thinned(max(1, zoo.samples // _SCREENED), threads=effort.threads)
    share = thin.samples / zoo.samples
    ends = []
    for row in range(len(zoo.names) + 1):
        before, _ = _ending(thin, row, budgets)
        _, allowed = _ending(zoo, row, budgets)
        pair = _by_cost(before, _bound(zoo, budgets, pairs) * share)
        cost = _on_grid(before, np.floor(allowed * share), pair, effort)
        likely = _cheapest(cost, pair, _LIKELY)
        ends.append(_End(row, cost.min((0, 1), initial=np.inf), likely))
    screened = np.stack([end.cost for end in ends])
    ranked = [np.argsort(cost, axis=0, kind="stable")[:_ENDS] for cost in (pairs.cost, screened)]
    rows = np.unique(np.append(np.concatenate(ranked), len(zoo.names)))
    return sorted((ends[row] for row in rows), key=lambda end: float(end.cost.min()))


def _best_two(
    zoo: ChainZoo, budgets: Array, likely: Array, bound: Array, effort: Effort
) -> list[list[Chain]]:
    """For each budget the two models before the last exit that cost less than `bound`.

    Those of the likely ones are solved exactly that are cheapest on the grid at any budget.
    """
    from understudy.searching._chain_kernels import refine

    pairs = likely & _by_cost(zoo, bound)
    chosen = _cheapest(_on_grid(zoo, budgets, pairs, effort), pairs, effort.keep)

    def solve(pair: list[int]) -> list[list[Chain]]:
        best = bound.copy()
        lengths = refine(zoo.model(pair[0]), zoo.model(pair[1]), zoo.full, budgets, best)
        return [
            [Chain(cost, tuple(map(zoo.step, pair, length)), zoo.last)] if length[0] else []
            for cost, length in zip(best.tolist(), lengths.tolist(), strict=True)
        ]

    solved = each(solve, np.argwhere(chosen).tolist(), threads=effort.threads)
    return [[chain for one in solved for chain in one[drop]] for drop in range(len(budgets))]


def _on_grid(zoo: ChainZoo, budgets: Array, pairs: Array, effort: Effort) -> Array:
    """The least cost of the given pairs of models before the last exit, on the grid, (K, K, D)."""
    from understudy.searching._chain_kernels import screen

    models = len(zoo.names)
    cost = np.full((models, models, len(budgets)), np.inf)
    field = zoo.field(threads=effort.threads)
    whole = budgets.astype(np.int64)

    def count(first: int) -> None:
        screen(field, first, pairs[first], whole, cost[first])

    each(count, np.flatnonzero(pairs.any(1)).tolist(), threads=effort.threads)
    return cost


def _cheapest(cost: Array, pairs: Array, most: int) -> Array:
    """Which of the given pairs (K, K) are, for any budget, among so many cheapest ones."""
    rows = np.argwhere(pairs)
    ranked = np.argsort(cost[pairs], axis=0, kind="stable")[:most]
    out = np.zeros_like(pairs)
    out[tuple(rows[np.unique(ranked)].T)] = True
    return out


def _by_cost(zoo: ChainZoo, bound: Array) -> Array:
    """(K, K) which model may come before which: no dearer, and not alone above every bound."""
    cheap = (zoo.samples * zoo.price < bound.max())[:, None]
    rising = (zoo.price[:, None] <= zoo.price) & ~np.eye(len(zoo.names), dtype=bool)
    return np.asarray(cheap & rising)


def _grown(
    zoo: ChainZoo, budgets: Array, found: list[list[Chain]], effort: Effort
) -> list[list[Chain]]:
    """For each budget the chains of one exit more, grown from the best ones found so far."""
    grown: list[list[Chain]] = []
    for budget, chains in zip(budgets, found, strict=True):
        longer: list[Chain] = []
        for prefix in list(dict.fromkeys(chain.steps[:-1] for chain in chains))[:_PREFIXES]:
            rest = zoo.after(prefix, threads=effort.threads)
            if rest.zoo is not None:
                allowed = np.array([budget - rest.loss])
                pairs = _best_pairs(rest.zoo, allowed, effort)
                (ends,) = _best_three(rest.zoo, allowed, pairs, effort)
                longer += [Chain(rest.cost + e.cost, prefix + e.steps, e.last) for e in ends]
        grown.append(sorted(longer, key=lambda chain: chain.cost))
    return grown
