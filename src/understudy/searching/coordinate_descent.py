"""Thresholds of many exits of one network by coordinate descent with exact line search.

With all other thresholds fixed, it is known which later exit answers a sample that passes a group
of exits. One pass over the samples in order of confidence therefore evaluates every threshold of an
exit exactly; all exits of the group and "off" are compared at once. Group after group is set to its
best until none improves, from random starts and along the trade-off between cost and mistakes. The
problem is that of DyCE (arXiv 2403.01695), whose `onepass` applies a smooth optimiser to each step
function and never revisits an exit. Optimising two thresholds at once, also exactly, gained at most
0.02 points of cost after a few starts, so it is left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, listed
from understudy.policy import accepts, midpoint
from understudy.searching.exit_problem import LOW_BITS, OFF, ExitProblem

if TYPE_CHECKING:
    from understudy.searching._coordinate_descent_kernels import ProblemArrays, ThresholdState

PER_ROUND, REACH = 100, 0.06
GOLDEN = (math.sqrt(5) - 1) / 2  # rounds shifted by it never meet the same places
Array = npt.NDArray[Any]
T = TypeVar("T")
_SUM_BITS = 61  # bits of an int64 that a sum over all samples may use
_LEAST = 1e-200
_UNREACHED = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Configuration:
    """Which exits are on at which thresholds, with the resulting cost and mistakes.

    Attributes:
        thresholds: (K,) float64; NaN is off, -inf answers everything.
        cost: mean cost per sample.
        wrong: number of samples answered wrongly.
    """

    thresholds: Array
    cost: float
    wrong: int

    def objective(self, weight: float, samples: int) -> float:
        """Mean cost + weight * share of wrong answers."""
        return self.cost + weight * self.wrong / samples


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Non-dominated points, by rising cost: each differs from a configuration in one group.

    Attributes:
        cost: (F,) mean cost per sample.
        wrong: (F,) number of wrong answers, strictly falling.
        thresholds: (F, K) float64; NaN is off, -inf answers everything.
        answered: (F, J + 1) how many samples each group answers, and the full model.
    """

    cost: Array
    wrong: Array
    thresholds: Array
    answered: Array

    def __len__(self) -> int:
        return len(self.cost)


def evaluate_configuration(problem: ExitProblem, thresholds: Array) -> tuple[float, int]:
    """Mean cost and number of wrong answers of a configuration, (K,) with NaN for off.

    Follows the definition, exit by exit, without the kernels.

    Raises:
        PolicyError: not one threshold per exit, or two exits of a group that are on.
    """
    thresholds = _check_thresholds(problem, thresholds)
    left, cost, wrong = np.ones(problem.samples, bool), 0.0, 0
    paid, heads = np.zeros(len(problem.shared_cost), bool), 0.0
    for exit in np.flatnonzero(~np.isnan(thresholds)):
        paid |= problem.shared[exit]
        heads += problem.head[exit]
        stops = left & accepts(problem.confidence[exit], thresholds[exit])
        each = problem.trunk[exit] + heads + problem.shared_cost[paid].sum()
        cost += np.count_nonzero(stops) * each
        wrong += int(np.count_nonzero(stops & ~problem.correct[exit]))
        left &= ~stops
    paid |= problem.shared[-1]
    each = problem.trunk[-1] + heads + problem.shared_cost[paid].sum()
    cost += np.count_nonzero(left) * each
    wrong += int(np.count_nonzero(left & ~problem.final))
    return float(cost / problem.samples), wrong


def configuration(problem: ExitProblem, thresholds: Array) -> Configuration:
    """The configuration with these thresholds, (K,) with NaN for off; see
    `evaluate_configuration`."""
    thresholds = np.array(thresholds, np.float64)
    thresholds.flags.writeable = False
    return Configuration(thresholds, *evaluate_configuration(problem, thresholds))


def descend(problem: ExitProblem, weight: float, *, start: Array | None = None) -> Configuration:
    """A configuration that no change of a single group improves, by cost + weight * mistakes.

    Both are means per sample; `weight` is what a mistake may cost, in units of cost. `start` (K,)
    holds thresholds, NaN for off; the result is never worse. Everything is off by default, which is
    a trap: random starts end lower (see `trade_offs`).

    >>> problem = ExitProblem(
    ...     confidence=np.array([[0.75, 0.5, 0.25]]), correct=np.array([[1, 1, 0]]),
    ...     final=np.array([1, 0, 1]), group=np.array([0]), trunk=np.array([1.0, 10.0]),
    ...     head=np.array([0.0]))
    >>> found = descend(problem, 100.0)
    >>> found.thresholds.tolist(), found.cost, found.wrong
    ([0.375], 4.0, 0)

    Raises:
        PolicyError: a weight that is negative or not a number, or a start that does not fit.
    """
    from understudy.searching import _coordinate_descent_kernels as kernels

    setting = _setting(problem, np.full(problem.exits, np.nan) if start is None else start)
    weight = _check_weight(problem, weight)
    quantum = _quantum(problem, weight)
    arrays = _arrays(problem)
    counts = kernels.descend(arrays, setting, kernels.Objective(round(weight / quantum), quantum))
    on = setting.choice != OFF
    thresholds = np.full(problem.exits, np.nan)
    thresholds[setting.choice[on]] = setting.threshold[on]
    thresholds.flags.writeable = False
    paid = counts.reshape(-1, 2).sum(1) * kernels.leave_costs(arrays, setting.choice)
    return Configuration(thresholds, float(paid.sum() / problem.samples), int(counts[::2].sum()))


def even_weights(problem: ExitProblem, count: int = 51) -> Array:
    """Trade-offs (count,) in even ratios, dearest mistakes first: from 300 to 0.3 full models."""
    scale = problem.highest_cost or 1.0
    return scale * np.geomspace(300.0, 0.3, count)


def random_start(problem: ExitProblem, generator: np.random.Generator) -> Array:
    """Thresholds (K,): in half of the groups one exit, accepting a random share of all samples."""
    thresholds = np.full(problem.exits, np.nan)
    for low, high in zip(problem.first[:-1], problem.first[1:], strict=True):
        exit = int(generator.integers(low, high))
        rank = int(generator.integers(0, problem.samples))
        if generator.random() < 0.5:
            confidence = problem.confidence[exit]
            above = confidence[problem.order[exit, rank] >> LOW_BITS]
            below = confidence[confidence < above]
            thresholds[exit] = midpoint(below.max(), above) if len(below) else -np.inf
    return thresholds


def trade_offs(
    problem: ExitProblem,
    weights: Sequence[float] | Array,
    *,
    starts: int = 6,
    seed: int = 0,
    threads: int | None = None,
) -> list[Configuration]:
    """For each weight (W,) the best configuration found.

    The first start is a random one, descended at the first weight; each further weight starts from
    the configuration of the one before. Every further start is a random one at each weight; after
    these, the weights try the configurations of their neighbours, in both directions.
    The same seed gives the same answer with any number of `threads` (all cores by default).

    Raises:
        PolicyError: a weight that is negative or not a number.
    """
    weights = [_check_weight(problem, weight) for weight in weights]
    generators = np.random.default_rng(seed).spawn(len(weights) + 1)
    found: list[Configuration] = []
    tried: list[set[bytes]] = [set() for _ in weights]
    for weight, origins in zip(weights, tried, strict=True):
        start = found[-1].thresholds if found else random_start(problem, generators[-1])
        found.append(descend(problem, weight, start=start))
        origins |= {start.tobytes(), found[-1].thresholds.tobytes()}
    if starts <= 1:
        return found

    def improved(index: int, origins: Iterable[Array]) -> Configuration:
        weight, best = weights[index], found[index]
        for origin in origins:
            if origin.tobytes() not in tried[index]:
                other = descend(problem, weight, start=origin)
                tried[index] |= {origin.tobytes(), other.thresholds.tobytes()}
                best = min(best, other, key=lambda one: one.objective(weight, problem.samples))
        return best

    def from_random_starts(index: int) -> Configuration:
        draws = (random_start(problem, generators[index]) for _ in range(starts - 1))
        return improved(index, draws)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        found = list(pool.map(from_random_starts, range(len(weights))))
    for index in reversed(range(len(weights) - 1)):
        found[index] = improved(index, [found[index + 1].thresholds])
    for index in range(1, len(weights)):
        found[index] = improved(index, [found[index - 1].thresholds])
    return found


def fill(
    problem: ExitProblem,
    configurations: Sequence[Configuration],
    *,
    rounds: int = 0,
    threads: int | None = None,
) -> Neighbours:
    """The non-dominated configurations among all that differ from a given one in one group at most.

    Every threshold of every exit, others fixed, is counted exactly. Trade-offs alone find only the
    corners of the convex hull; these points lie between them. Each of the `rounds` goes on from
    `PER_ROUND` points of the frontier found so far, evenly spaced by mistakes up to `REACH` of the
    samples more than the full model makes (Pareto local search, Paquete et al. 2004). The result
    does not depend on `threads` (all cores by default).

    Raises:
        PolicyError: no configuration, or one that does not fit.
    """
    if not configurations:
        raise PolicyError("a frontier is filled from at least one configuration, found none")
    workers = threads or os.cpu_count() or 1
    filling = _Filling.of(problem)
    filling.add([one.thresholds for one in configurations], workers)
    most = np.count_nonzero(~problem.final) + REACH * problem.samples
    for number in range(rounds):
        wrong = filling.frontier()
        share = (np.arange(PER_ROUND) + number * GOLDEN % 1) / PER_ROUND
        places = wrong[0] + share * (most - wrong[0])
        nearest = np.unique(np.searchsorted(wrong, places[places >= wrong[0]], side="right") - 1)
        if not filling.add(filling.thresholds(wrong[nearest]), workers):
            break
    return filling.neighbours(workers)


@dataclass(frozen=True, eq=False)
class _Filling:
    """The least cost found for every number of mistakes, and how it is reached; grows in place.

    `points` (N + 1, 4) are the kernels': cost in quanta, the number of a base, an exit, and how
    many samples that accepts. `bases` are thresholds (K,), by their bytes, in order of number.
    """

    problem: ExitProblem
    arrays: ProblemArrays
    quantum: float
    bases: dict[bytes, Array]
    points: Array

    @staticmethod
    def of(problem: ExitProblem) -> _Filling:
        """Nothing found."""
        points = np.zeros((problem.samples + 1, 4), np.int64)
        points[:, 0] = _UNREACHED
        return _Filling(problem, _arrays(problem), _quantum(problem, 0.0), {}, points)

    def add(self, thresholds: Iterable[Array], threads: int) -> bool:
        """Enter all neighbours of each configuration; whether any is new."""
        from understudy.searching import _coordinate_descent_kernels as kernels

        number = len(self.bases)
        new = {one.tobytes(): one for one in thresholds}
        new = {key: one for key, one in new.items() if key not in self.bases}
        self.bases.update(new)
        jobs = [
            (number + place, _setting(self.problem, one)) for place, one in enumerate(new.values())
        ]

        def entered(part: Array) -> Array:
            points = self.points.copy()
            for index in part.tolist():
                base, setting = jobs[index]
                kernels.fill(self.arrays, setting, self.quantum, base, points)
            return points

        for points in _in_parts(entered, len(jobs), threads):
            better = points[:, 0] < self.points[:, 0]
            self.points[better] = points[better]
        return bool(jobs)

    def frontier(self) -> Array:
        """The numbers of mistakes, rising, at which less is paid than at any below."""
        least = np.minimum.accumulate(self.points[:, 0])
        frontier: Array = np.flatnonzero(self.points[:, 0] < np.append(_UNREACHED, least[:-1]))
        return frontier

    def thresholds(self, wrong: Array) -> Array:
        """The configurations that reach these points, (F, K)."""
        group = self.problem.group
        _, base, exit, accepted = self.points[wrong].T
        out: Array = np.stack(list(self.bases.values()))[base]
        out[group == group[exit][:, None]] = np.nan
        out[np.arange(len(exit)), exit] = _thresholds(self.problem, exit, accepted)
        return out

    def neighbours(self, threads: int) -> Neighbours:
        """The frontier by rising cost, with the samples that each group answers."""
        from understudy.searching import _coordinate_descent_kernels as kernels

        wrong = self.frontier()[::-1]
        cost, base, exit, accepted = self.points[wrong].T
        answered = np.zeros((len(wrong), len(self.problem.first)), np.int64)
        order = np.lexsort((accepted, exit, base))
        runs = np.split(order, np.flatnonzero(np.diff(base[order])) + 1)
        bases = list(self.bases.values())

        def count(part: Array) -> None:
            for rows in [runs[run] for run in part]:
                setting = _setting(self.problem, bases[base[rows[0]]])
                counts = np.zeros((len(rows), answered.shape[1]), np.int64)
                kernels.count_answers(self.arrays, setting, exit[rows], accepted[rows], counts)
                answered[rows] = counts

        _in_parts(count, len(runs), threads)
        per_sample = cost * (self.quantum / self.problem.samples)
        return Neighbours(per_sample, wrong, self.thresholds(wrong), answered)


def _in_parts(work: Callable[[Array], T], count: int, threads: int) -> list[T]:
    """The work on the numbers below `count`, divided among threads, in order."""
    parts = [part for part in np.array_split(np.arange(count), threads) if len(part)]
    if len(parts) <= 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, parts))


def _arrays(problem: ExitProblem) -> ProblemArrays:
    """The problem as the kernels read it."""
    from understudy.searching._coordinate_descent_kernels import ProblemArrays

    exit, part = np.nonzero(problem.shared)
    return ProblemArrays(
        confidence=problem.confidence,
        correct=problem.correct.view(np.uint8),
        final=problem.final.view(np.uint8),
        order=problem.order,
        first=problem.first,
        code=np.empty(0, np.min_scalar_type(2 * len(problem.first) - 1)),
        trunk=problem.trunk,
        head=problem.head,
        part_first=np.searchsorted(exit, np.arange(problem.exits + 2)),
        part=part,
        part_price=problem.shared_cost,
    )


def _setting(problem: ExitProblem, thresholds: Array) -> ThresholdState:
    """Checked thresholds (K,) by group, as the kernels work on them."""
    from understudy.searching._coordinate_descent_kernels import ThresholdState

    thresholds = _check_thresholds(problem, thresholds)
    groups = len(problem.first) - 1
    setting = ThresholdState(np.full(groups, OFF, np.int64), np.full(groups, np.nan))
    on = np.flatnonzero(~np.isnan(thresholds))
    group = np.searchsorted(problem.first, on, side="right") - 1
    setting.choice[group], setting.threshold[group] = on, thresholds[on]
    return setting


def _thresholds(problem: ExitProblem, exit: Array, accepted: Array) -> Array:
    """The thresholds that accept the first so many samples of each exit; NaN (off) for none."""
    after = np.minimum(accepted, problem.samples - 1)
    above = problem.confidence[exit, problem.order[exit, accepted - 1] >> LOW_BITS]
    below = problem.confidence[exit, problem.order[exit, after] >> LOW_BITS]
    some = np.where(accepted == problem.samples, -np.inf, midpoint(below, above))
    return np.where(accepted == 0, np.nan, some)


def _quantum(problem: ExitProblem, weight: float) -> float:
    """A power of two, as small as sums over all samples that fit into 64 bits allow."""
    span = (problem.highest_cost + weight) * problem.samples
    return float(2.0 ** (math.ceil(math.log2(max(span, _LEAST))) - _SUM_BITS))


def _check_weight(problem: ExitProblem, weight: float) -> float:
    if not weight >= 0:
        raise PolicyError(f"a mistake costs 0 or more, found the weight {weight}")
    return min(float(weight), 2 * (problem.highest_cost or 1.0) * problem.samples)


def _check_thresholds(problem: ExitProblem, thresholds: Array) -> Array:
    thresholds = np.asarray(thresholds, np.float64)
    if thresholds.shape != (problem.exits,):
        raise PolicyError(
            f"a configuration has one threshold per exit (NaN for off), {problem.exits} in all, "
            f"found the shape {thresholds.shape}"
        )
    groups = problem.group[~np.isnan(thresholds)]
    double = groups[1:][groups[1:] == groups[:-1]]
    if len(double):
        raise PolicyError(
            f"at most one exit of a group is on, the groups {listed(double)} have more: "
            "set the others to NaN"
        )
    return thresholds
