"""Search for chains of independent models on arrays: pairs, three exits, then longer chains.

Every pair of exits is solved exactly. For three exits every pair of models before every last exit
is counted on some samples, on a grid of 16 times 64 levels of confidence; then, before the most
promising last exits, the likely pairs on all samples; the best of these are solved exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from understudy.policy import accepts, midpoint

if TYPE_CHECKING:
    from understudy.searching._chain_solver_kernels import CodedModels, RankedModel

Array = npt.NDArray[Any]
Item = TypeVar("Item")
Made = TypeVar("Made")
_ENDS = 4
_LIKELY = 512
_SCREENED = 5_000
_PREFIXES = 2


@dataclass(frozen=True, eq=False)
class ChainProblem:
    """K models on N samples, by rising cost, and the last exit of the chains that they may form.

    Attributes:
        names: the models' names.
        last: the last exit's name.
        price: (K,) the cost per sample of each; never more than `full`, that of the last exit.
        confidence: (K, N).
        loss: (K, N) int8, (last exit correct) - (model correct).
        threads: how many to use; all cores if None.
        order: (K, N) the samples by falling confidence; see `sorted`.
        edge: (K, N) whether the prefix of `order` that ends here splits no tie.
    """

    names: tuple[str, ...]
    last: str
    price: Array
    full: float
    confidence: Array
    loss: Array
    threads: int | None
    order: Array = field(default_factory=lambda: np.empty((0, 0), np.int32))
    edge: Array = field(default_factory=lambda: np.empty((0, 0), bool))

    @property
    def samples(self) -> int:
        return int(self.loss.shape[1])

    def sorted(self) -> ChainProblem:
        """The problem with its samples sorted."""
        confidence = self.confidence
        order, edge = np.empty(confidence.shape, np.int32), np.empty(confidence.shape, bool)

        def sort(row: int) -> None:
            order[row] = np.argsort(confidence[row])[::-1]
            falling = confidence[row][order[row]]
            edge[row] = np.append(falling[:-1] != falling[1:], True)

        _in_threads(sort, range(len(confidence)), self.threads)
        return replace(self, order=order, edge=edge)

    def model(self, row: int) -> RankedModel:
        from understudy.searching._chain_solver_kernels import RankedModel

        return RankedModel(self.order[row], self.edge[row], self.loss[row], float(self.price[row]))

    def coded(self) -> CodedModels:
        """All models in codes, for the grid."""
        from understudy.searching._chain_solver_kernels import CodedModels, encode

        codes = np.empty(self.loss.shape, np.uint8)
        rows = range(len(self.names))
        _in_threads(lambda row: encode(self.model(row), codes[row]), rows, self.threads)
        return CodedModels(codes, self.price, self.full)

    def stage(self, row: int, length: int) -> tuple[str, float]:
        """The exit and the threshold that accepts its `length` >= 1 most confident samples."""
        if length == self.samples:
            return self.names[row], -math.inf
        above, below = self.confidence[row, self.order[row, length - 1 : length + 1]]
        return self.names[row], float(midpoint(below, above))

    def ending_with(self, row: int) -> ChainProblem:
        """The chains that end with this model, after models that cost no more."""
        rows = np.flatnonzero(self.price <= self.price[row])
        rows = rows[rows != row]
        return replace(
            self,
            names=tuple(self.names[other] for other in rows),
            last=self.names[row],
            price=self.price[rows],
            full=float(self.price[row]),
            confidence=self.confidence[rows],
            loss=self.loss[rows] - self.loss[row],
            order=self.order[rows],
            edge=self.edge[rows],
        )

    def after(self, stages: Sequence[tuple[str, float]]) -> tuple[ChainProblem | None, float, int]:
        """The models and samples left behind some stages, and the cost and loss until there.

        Models cheaper than those of the stages are left out.
        """
        left, cost, loss = np.ones(self.samples, bool), 0.0, 0
        used = [self.names.index(name) for name, _ in stages]
        for row, (_, limit) in zip(used, stages, strict=True):
            cost += float(self.price[row]) * np.count_nonzero(left)
            accepted = left & accepts(self.confidence[row], limit)
            loss += int(self.loss[row][accepted].sum())
            left &= ~accepted
        rows = np.setdiff1d(np.flatnonzero(self.price >= self.price[used].max()), used)
        if not len(rows) or not left.any():
            return None, cost, loss
        return self._only(rows, np.flatnonzero(left)), cost, loss

    def thinned(self, stride: int) -> ChainProblem:
        """The same models on every `stride`-th sample."""
        return self._only(np.arange(len(self.names)), np.arange(0, self.samples, stride))

    def _only(self, rows: Array, samples: Array) -> ChainProblem:
        at = np.ix_(rows, samples)
        names, price = tuple(self.names[row] for row in rows), self.price[rows]
        confidence, loss = self.confidence[at], self.loss[at]
        return replace(self, names=names, price=price, confidence=confidence, loss=loss).sorted()


@dataclass(frozen=True)
class Chain:
    """Exits with their thresholds, the last exit, and the cost summed over all samples."""

    cost: float
    stages: tuple[tuple[str, float], ...]
    last: str


@dataclass(frozen=True, eq=False)
class _BestPairs:
    """The best pair for every last exit (the reference is the last row) and budget, (K + 1, D): its
    cost over all samples (inf for none), the first model, and how many samples that answers."""

    cost: Array
    first: Array
    length: Array

    def chain(self, problem: ChainProblem, end: int, drop: int) -> list[Chain]:
        """The pair itself, or nothing."""
        cost = float(self.cost[end, drop])
        if cost == np.inf:
            return []
        stage = problem.stage(int(self.first[end, drop]), int(self.length[end, drop]))
        return [Chain(cost, (stage,), [*problem.names, problem.last][end])]


def best_chains(problem: ChainProblem, budgets: Array, stages: int, keep: int) -> list[Chain]:
    """For each budget the best pair before the reference, and the best chain of each length.

    `keep` is how many pairs before a last exit are solved exactly for each budget.
    """
    pairs = _best_pairs(problem, budgets)
    drops, ends = range(len(budgets)), pairs.cost.argmin(0)
    found = [chain for drop in drops for chain in pairs.chain(problem, -1, drop)]
    found += [chain for drop in drops for chain in pairs.chain(problem, int(ends[drop]), drop)]
    if stages == 2:
        return found
    longest = _best_three(problem, budgets, pairs, keep)
    for longer in range(3, stages + 1):
        if longer > 3:
            longest = _grown(problem, budgets, longest, keep)
        found += [chains[0] for chains in longest if chains]
    return found


def _best_pairs(problem: ChainProblem, budgets: Array) -> _BestPairs:
    from understudy.searching._chain_solver_kernels import longest_prefixes

    models, drops = len(problem.names), np.arange(len(budgets))
    losses = [*problem.loss, np.zeros(problem.samples, np.int8)]
    prices = np.append(problem.price, problem.full)
    first, length = np.zeros((2, models + 1, len(budgets)), np.int64)
    pairs = _BestPairs(np.full(first.shape, np.inf), first, length)

    def solve(end: int) -> None:
        firsts = np.flatnonzero(problem.price <= prices[end])
        firsts = firsts[firsts != end]
        if not len(firsts):
            return
        lengths = np.stack(
            [longest_prefixes(problem.model(int(row)), losses[end], budgets) for row in firsts]
        )
        cost = problem.samples * problem.price[firsts, None]
        cost = cost + (problem.samples - lengths) * prices[end]
        cost[lengths == 0] = np.inf
        best = cost.argmin(0)
        pairs.cost[end] = cost[best, drops]
        pairs.first[end], pairs.length[end] = firsts[best], lengths[best, drops]

    _in_threads(solve, range(models + 1), problem.threads)
    return pairs


def _best_three(
    problem: ChainProblem, budgets: Array, pairs: _BestPairs, keep: int
) -> list[list[Chain]]:
    """For each budget the chains of three exits that are cheaper than any pair, in order; some of
    those that cost more than the best are left out.

    Their last exits are the reference and the most promising others.
    """
    found: list[list[Chain]] = [[] for _ in budgets]
    bound = _bound(problem, budgets, pairs)
    for end in _screened_ends(problem, budgets, pairs):
        before, allowed = _ending(problem, end.row, budgets)
        for drop, chains in enumerate(_best_two(before, allowed, end.likely, bound, keep)):
            found[drop] += chains
            bound[drop] = min([bound[drop], *(chain.cost for chain in chains)])
    return [sorted(chains, key=lambda chain: chain.cost) for chains in found]


@dataclass(frozen=True, eq=False)
class _LastExit:
    """A last exit, by row (K for the reference), as screened on a subset of the samples: the least
    cost (D,) on the grid for each budget, and which pairs (K', K') before it may be the best."""

    row: int
    cost: Array
    likely: Array


def _ending(problem: ChainProblem, row: int, budgets: Array) -> tuple[ChainProblem, Array]:
    """The chains that end with a model, or with the reference, and their own budgets."""
    if row == len(problem.names):
        return problem, budgets
    return problem.ending_with(row), budgets - problem.loss[row].sum(dtype=np.int64)


def _bound(problem: ChainProblem, budgets: Array, pairs: _BestPairs) -> Array:
    """The cost to beat for each budget: that of the best pair and of the reference."""
    full = np.where(budgets >= 0, problem.samples * problem.full, np.inf)
    return np.asarray(np.minimum(pairs.cost.min(0), full))


def _screened_ends(problem: ChainProblem, budgets: Array, pairs: _BestPairs) -> list[_LastExit]:
    """The reference and the last exits of the best pairs and, on some samples, of the best chains,
    the best first."""
    thin = problem.thinned(max(1, problem.samples // _SCREENED))
    share = thin.samples / problem.samples
    ends = []
    for row in range(len(problem.names) + 1):
        before, _ = _ending(thin, row, budgets)
        _, allowed = _ending(problem, row, budgets)
        pair = _by_cost(before, _bound(problem, budgets, pairs) * share)
        cost = _on_grid(before, np.floor(allowed * share), pair)
        likely = _cheapest(cost, pair, _LIKELY)
        ends.append(_LastExit(row, cost.min((0, 1), initial=np.inf), likely))
    screened = np.stack([end.cost for end in ends])
    ranked = [np.argsort(cost, axis=0, kind="stable")[:_ENDS] for cost in (pairs.cost, screened)]
    rows = np.unique(np.append(np.concatenate(ranked), len(problem.names)))
    return sorted((ends[row] for row in rows), key=lambda end: float(end.cost.min()))


def _best_two(
    problem: ChainProblem, budgets: Array, likely: Array, bound: Array, keep: int
) -> list[list[Chain]]:
    """For each budget the two models before the last exit that cost less than `bound`.

    Those of the likely ones are solved exactly that are cheapest on the grid at any budget.
    """
    from understudy.searching._chain_solver_kernels import refine

    pairs = likely & _by_cost(problem, bound)
    chosen = _cheapest(_on_grid(problem, budgets, pairs), pairs, keep)

    def solve(pair: list[int]) -> list[list[Chain]]:
        best, (first, second) = bound.copy(), map(problem.model, pair)
        lengths = refine(first, second, problem.full, budgets, best)
        return [
            [Chain(cost, tuple(map(problem.stage, pair, length)), problem.last)]
            if length[0]
            else []
            for cost, length in zip(best.tolist(), lengths.tolist(), strict=True)
        ]

    solved = _in_threads(solve, np.argwhere(chosen).tolist(), problem.threads)
    return [[chain for one in solved for chain in one[drop]] for drop in range(len(budgets))]


def _on_grid(problem: ChainProblem, budgets: Array, pairs: Array) -> Array:
    """The least cost of the given pairs of models before the last exit, on the grid, (K, K, D)."""
    from understudy.searching._chain_solver_kernels import screen

    models = len(problem.names)
    cost = np.full((models, models, len(budgets)), np.inf)
    coded, whole = problem.coded(), budgets.astype(np.int64)

    def count(first: int) -> None:
        screen(coded, first, pairs[first], whole, cost[first])

    _in_threads(count, np.flatnonzero(pairs.any(1)).tolist(), problem.threads)
    return cost


def _cheapest(cost: Array, pairs: Array, most: int) -> Array:
    """Which of the given pairs (K, K) are, for any budget, among so many cheapest ones."""
    rows = np.argwhere(pairs)
    ranked = np.argsort(cost[pairs], axis=0, kind="stable")[:most]
    out = np.zeros_like(pairs)
    out[tuple(rows[np.unique(ranked)].T)] = True
    return out


def _by_cost(problem: ChainProblem, bound: Array) -> Array:
    """(K, K) which model may precede which: it costs no more, and alone less than some bound."""
    cheap = (problem.samples * problem.price < bound.max())[:, None]
    rising = (problem.price[:, None] <= problem.price) & ~np.eye(len(problem.names), dtype=bool)
    return np.asarray(cheap & rising)


def _grown(
    problem: ChainProblem, budgets: Array, found: list[list[Chain]], keep: int
) -> list[list[Chain]]:
    """For each budget the chains of one exit more, grown from the best ones found so far."""
    grown: list[list[Chain]] = []
    for budget, chains in zip(budgets, found, strict=True):
        longer: list[Chain] = []
        for prefix in list(dict.fromkeys(chain.stages[:-1] for chain in chains))[:_PREFIXES]:
            rest, cost, loss = problem.after(prefix)
            if rest is not None:
                allowed = np.array([budget - loss])
                (ends,) = _best_three(rest, allowed, _best_pairs(rest, allowed), keep)
                longer += [Chain(cost + e.cost, prefix + e.stages, e.last) for e in ends]
        grown.append(sorted(longer, key=lambda chain: chain.cost))
    return grown


def _in_threads(
    work: Callable[[Item], Made], items: Iterable[Item], threads: int | None
) -> list[Made]:
    """`work(item)` for every item, in order; on all cores by default."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(work, items))
