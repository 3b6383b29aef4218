"""Claim: 51 trade-offs over 50,000 samples x 12 positions x 2 types in at most 1 s after sorting.

    python benchmarks/exits.py [--samples 50000 --positions 12 --types 2 --random-starts 200 --json]

And: many starts and fill in at most 20 s, within 0.1 points of the full model's cost of the best of
200 random starts at an equal gap; 1.28 million samples, one warm start, sorting included, in at
most 90 s and 4 GB (--samples 1280000 --starts 1). On three other problems of 10,000 samples the
frontier of `search` (2 starts, 8 rounds of filling) costs at most 0.25 points more than the best
known at any drop up to 4 points: 64 starts, and 30 rounds of filling.

The problem is made up: every sample has a difficulty, exits grow more accurate with depth, their
errors are correlated, and the second type of a position costs more and is right more often. Times
leave out compiling. DyCE's `onepass`, written anew from its paper, runs on a smaller problem, and
the times per trade-off are compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import fminbound

import harness
from understudy.searching.coordinate_descent import (
    Configuration,
    Neighbours,
    configuration,
    descend,
    evaluate_configuration,
    even_weights,
    fill,
    random_start,
    trade_offs,
)
from understudy.searching.exit_problem import ExitProblem
from understudy.searching.exits import ROUNDS

Array = npt.NDArray[Any]
DROPS = (0.0, 0.25, 0.5, 1.0, 2.0)
TRADE_OFFS = 51


def synthetic(samples: int, positions: int, types: int, *, seed: int = 0) -> ExitProblem:
    """A problem of `positions` x `types` exits that looks like that of a real network."""
    generator = np.random.default_rng(seed)
    ease = generator.normal(size=samples) + 0.3 * generator.logistic(size=samples)
    depth = np.linspace(0.15, 1.0, positions + 1)
    skill = 2.0 * depth**0.6 - 0.4
    own = generator.normal(size=samples)
    exits = positions * types
    confidence = np.empty((exits, samples), np.float32)
    correct = np.empty((exits, samples), bool)
    for position in range(positions):
        own = 0.9 * own + 0.44 * generator.normal(size=samples)
        for kind in range(types):
            noise = 0.45 * own + 0.25 * generator.normal(size=samples)
            evidence = ease + skill[position] + 0.1 * kind + noise
            row = position * types + kind
            correct[row] = evidence > 0
            seen = 2.0 * evidence + 1.5 * generator.normal(size=samples)
            confidence[row] = 1 / (1 + np.exp(-np.abs(seen)))
    final = ease + skill[-1] + 0.1 + 0.45 * own + 0.25 * generator.normal(size=samples) > 0
    return ExitProblem(
        confidence=confidence,
        correct=correct,
        final=final,
        group=np.repeat(np.arange(positions), types),
        trunk=np.append(np.repeat(depth[:-1], types), 1.0),
        head=np.tile(0.004 * (1 + np.arange(types)), positions),
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result of the work."""
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def filled(
    problem: ExitProblem, found: Sequence[Configuration], *, rounds: int = ROUNDS
) -> Neighbours:
    """The frontier around these configurations and the full model alone."""
    off = configuration(problem, np.full(problem.exits, np.nan))
    return fill(problem, [off, *found], rounds=rounds)


def costs_within(
    problem: ExitProblem, frontier: Neighbours, drops: Sequence[float] = DROPS
) -> Array:
    """The least cost in percent of the full model at each of `drops` points."""
    allowed = (~problem.final).sum() + np.array(drops) / 100 * problem.samples
    first = np.searchsorted(-frontier.wrong, -allowed)
    cost: Array = 100 * frontier.cost[first] / problem.trunk[-1]
    return cost


def many_random(problem: ExitProblem, weights: Array, starts: int) -> list[Configuration]:
    """The best of so many independent random starts at every weight."""
    draw = np.random.default_rng(1)

    def best(weight: float) -> Configuration:
        tries = (descend(problem, weight, start=random_start(problem, draw)) for _ in range(starts))
        return min(tries, key=lambda one: one.objective(weight, problem.samples))

    return [best(weight) for weight in weights]


def above_best_known(samples: int, starts: int) -> list[dict[str, Any]]:
    """What the frontier costs above the best known at drops from 0 to 4, in points of the full
    model's cost: the most and the mean, with and without rounds of filling."""
    drops = [step / 20 for step in range(81)]
    found = []
    for seed, (positions, types) in enumerate([(12, 2), (24, 1), (8, 3)], start=11):
        problem = synthetic(samples, positions, types, seed=seed)
        weights = even_weights(problem, TRADE_OFFS)
        few = trade_offs(problem, weights, starts=2)
        many = [*few, *trade_offs(problem, weights, starts=starts, seed=seed)]
        best = costs_within(problem, filled(problem, many, rounds=30), drops)
        row: dict[str, Any] = {"positions": positions, "types": types, "samples": samples}
        for rounds in (0, ROUNDS):
            gap = costs_within(problem, filled(problem, few, rounds=rounds), drops) - best
            row[f"{rounds}_rounds"] = {
                "most": round(float(gap.max()), 4),
                "mean": round(float(gap.mean()), 4),
            }
        found.append(row)
    return found


def onepass(problem: ExitProblem, weight: float) -> Configuration:
    """DyCE's `onepass` (arXiv 2403.01695): position by position, a bounded scalar search per type.

    Its rule is `confidence > t`, which is `>=` the next number above t.
    """
    chosen = np.full(problem.exits, np.nan)

    def with_threshold(exit: int, threshold: float) -> Array:
        trial = chosen.copy()
        trial[exit] = np.nextafter(threshold, np.inf)
        return trial

    def value(thresholds: Array) -> float:
        cost, wrong = evaluate_configuration(problem, thresholds)
        return cost + weight * wrong / problem.samples

    for low, high in zip(problem.first[:-1], problem.first[1:], strict=True):
        trials = [chosen]
        for exit in range(low, high):
            best = fminbound(lambda t, exit=exit: value(with_threshold(exit, t)), 0.0, 1.0)
            trials.append(with_threshold(exit, float(best)))
        chosen = min(trials, key=value)
    return configuration(problem, chosen)


def compared_with_onepass(
    positions: int, types: int, *, samples: int, weights: int
) -> dict[str, Any]:
    """Both on the same problem: times, and the extra cost of `onepass` at the gap it reaches."""
    problem = synthetic(samples, positions, types, seed=2)
    problem.order  # noqa: B018 - sorts
    few = even_weights(problem, weights)
    slow, theirs = timed(lambda: [onepass(problem, weight) for weight in few])
    all_weights = even_weights(problem, TRADE_OFFS)
    fast, _ = timed(lambda: trade_offs(problem, all_weights, starts=1))
    frontier = filled(problem, trade_offs(problem, all_weights))
    ours = [frontier.cost[np.searchsorted(-frontier.wrong, -one.wrong)] for one in theirs]
    more = 100 * (np.array([one.cost for one in theirs]) - ours) / problem.trunk[-1]
    return {
        "samples": samples,
        "trade_offs": weights,
        "onepass_seconds_per_trade_off": round(slow / weights, 4),
        "line_search_seconds_per_trade_off": round(fast / TRADE_OFFS, 5),
        "times_faster": round(slow / weights / (fast / TRADE_OFFS), 1),
        "onepass_pays_more_points": more.round(2).tolist(),
    }


def measure(
    samples: int, positions: int, types: int, *, starts: int, random_starts: int, threads: int
) -> dict[str, Any]:
    """All figures of this benchmark, in plain JSON."""
    small = synthetic(100, positions, types)
    compiling, _ = timed(lambda: filled(small, trade_offs(small, even_weights(small, 2))))
    problem = synthetic(samples, positions, types)
    weights = even_weights(problem, TRADE_OFFS)
    sorting, _ = timed(lambda: problem.order)
    busy = process_time()
    one, _ = timed(lambda: trade_offs(problem, weights, starts=1))
    busy = process_time() - busy
    found: dict[str, Any] = {
        "samples": samples,
        "positions": positions,
        "types": types,
        "compile_seconds": round(compiling, 2),
        "sort_seconds": round(sorting, 3),
        "one_start_seconds": round(one, 3),
        "one_start_processor_seconds": round(busy, 3),
        "one_start_peak_rss_gb": round(harness.peak_gb(), 3),
    }
    if starts > 1:
        many, chosen = timed(lambda: trade_offs(problem, weights, starts=starts, threads=threads))
        filling, frontier = timed(lambda: filled(problem, chosen))
        cost = costs_within(problem, frontier)
        found |= {
            "starts": starts,
            "threads": threads,
            "many_starts_seconds": round(many, 3),
            "fill_seconds": round(filling, 3),
            "points": len(frontier),
            "percent_of_cost_by_drop": dict(zip(DROPS, cost.round(3).tolist(), strict=True)),
            "peak_rss_gb": round(harness.peak_gb(), 3),
        }
        if random_starts:
            seconds, best = timed(lambda: many_random(problem, weights, random_starts))
            reference = costs_within(problem, filled(problem, best))
            found |= {
                "random_starts": random_starts,
                "random_starts_seconds": round(seconds, 1),
                "points_above_random_starts": (cost - reference).round(4).tolist(),
            }
    return found


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=1_280_000, help="samples; 0: leave it out")
    parser.add_argument("--positions", type=int, default=12)
    parser.add_argument("--types", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--starts", type=int, default=6, help="1: one warm start, no fill")
    parser.add_argument("--random-starts", type=int, default=200, help="to compare with; slow")
    parser.add_argument("--onepass-samples", type=int, default=5_000, help="0: leave it out")
    parser.add_argument("--onepass-weights", type=int, default=5)
    parser.add_argument("--best-known-starts", type=int, default=64, help="0: leave it out")


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    shape = (arguments.positions, arguments.types)
    found = measure(
        arguments.samples,
        *shape,
        starts=arguments.starts,
        random_starts=arguments.random_starts,
        threads=arguments.threads,
    )
    if arguments.onepass_samples:
        found["onepass"] = compared_with_onepass(
            *shape, samples=arguments.onepass_samples, weights=arguments.onepass_weights
        )
    met = found["one_start_seconds"] <= 1.0
    if "many_starts_seconds" in found:
        met &= found["many_starts_seconds"] + found["fill_seconds"] <= 20
    if "points_above_random_starts" in found:
        met &= max(found["points_above_random_starts"]) <= 0.1
    if arguments.best_known_starts:
        found["above_best_known"] = above_best_known(10_000, arguments.best_known_starts)
        rows = found["above_best_known"]
        met &= max(row[f"{ROUNDS}_rounds"]["most"] for row in rows) <= 0.25
    if arguments.large:
        large = measure(
            arguments.large, *shape, starts=1, random_starts=0, threads=arguments.threads
        )
        found["large"] = large
        met &= large["sort_seconds"] + large["one_start_seconds"] <= 90
        met &= large["one_start_peak_rss_gb"] <= 4
    return {**found, "met": bool(met)}


if __name__ == "__main__":
    harness.main(
        measure_all,
        options=options,
        claim="51 trade-offs over 50,000 samples x 12 positions x 2 types: one warm start in at "
        "most 1 s after sorting; many starts and fill in at most 20 s and within 0.1 points of the "
        "best of 200 random starts; over 1.28 million samples at most 90 s with sorting, and 4 GB; "
        "at most 0.25 points of cost above the best known at any drop up to 4 points",
    )
