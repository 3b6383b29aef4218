"""Claim: every ordered pair of 1,500 models x 50,000 samples x 5 drops in at most 15 s and 2.5 GB.

    python benchmarks/all_pairs.py [--models 1500 --samples 50000 --threads 2 --json]

Made-up models: accuracies of 60 to 90 %, difficulty shared between them, confidence that knows some
of it; every fourth model is quantised, so that ties occur, and some costs are equal. The time
includes sorting and leaves out compiling. Random pairs are compared with a scan of all prefixes in
NumPy, whose time per pair, taken in the same run, is multiplied by the number of pairs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt

import harness
from understudy.searching.all_pairs import AllPairs, gap_budgets, search_all_pairs

Array = npt.NDArray[Any]
DROPS = (0.0, 0.1, 0.25, 0.5, 1.0)
MOST_SECONDS, MOST_GB = 15.0, 2.5


@dataclass(frozen=True)
class Zoo:
    """Models (M) on samples (N): right answers (M, N), confidences (M, N), costs (M,)."""

    correct: Array
    confidence: Array
    cost: Array


def make_zoo(models: int, samples: int, *, seed: int = 0) -> Zoo:
    """Right answers follow a shared difficulty and each model's own; dearer is mostly better."""
    draw = np.random.default_rng(seed)
    accuracy = draw.uniform(0.6, 0.9, models)
    shared = draw.standard_normal(samples, np.float32)
    zoo = Zoo(
        np.empty((models, samples), bool),
        np.empty((models, samples), np.float32),
        np.exp(10 * accuracy + draw.normal(size=models)).round(-2),
    )
    for model in range(models):
        ease = 0.8 * shared + 0.6 * draw.standard_normal(samples, np.float32)
        margin = ease - np.quantile(ease, 1 - accuracy[model])
        noise = draw.uniform(0.3, 1) * draw.standard_normal(samples, np.float32)
        sure = 1 / (1 + np.exp(-2 * (margin + noise)))
        zoo.correct[model] = margin > 0
        zoo.confidence[model] = sure.round(int(draw.integers(1, 4))) if model % 4 == 0 else sure
    return zoo


def scan_pair(zoo: Zoo, little: int, big: int) -> tuple[list[float], list[int]]:
    """Thresholds and accepted counts of one pair, by the gap after every group of ties."""
    falling = np.argsort(-zoo.confidence[little], kind="stable")
    sure = zoo.confidence[little][falling].astype(np.float64)
    ends = np.append(np.flatnonzero(sure[1:] != sure[:-1]) + 1, len(sure))
    lost = zoo.correct[big][falling].astype(np.int64) - zoo.correct[little][falling]
    gap = np.cumsum(lost)[ends - 1]
    edges = np.concatenate([[np.inf], sure, [-np.inf]])
    thresholds, counts = [], []
    for budget in gap_budgets(np.array(DROPS), len(sure)).tolist():
        count = int(ends[gap <= budget].max(initial=0))
        counts.append(count)
        thresholds.append(float(edges[count : count + 2].mean()))
    return thresholds, counts


def check(zoo: Zoo, found: AllPairs, *, pairs: int, seed: int = 1) -> tuple[int, float]:
    """How many of some random pairs differ from the scan, and the scan's seconds per pair."""
    draw = np.random.default_rng(seed)
    little, big = np.nonzero(zoo.cost[:, None] < zoo.cost[None, :])
    chosen = draw.choice(len(little), min(pairs, len(little)), replace=False)
    wrong, seconds = 0, 0.0
    for a, b in zip(little[chosen].tolist(), big[chosen].tolist(), strict=True):
        start = perf_counter()
        thresholds, counts = scan_pair(zoo, a, b)
        seconds += perf_counter() - start
        same = found.accepted[a, b].tolist() == counts
        wrong += not (same and found.threshold[a, b].tolist() == thresholds)
    return wrong, seconds / max(len(chosen), 1)


def measure(models: int, samples: int, *, threads: int, checked: int) -> dict[str, Any]:
    """All figures of this benchmark, in plain JSON."""
    small = make_zoo(3, 70)
    search_all_pairs(small.correct, small.confidence, small.cost, DROPS, threads=threads)
    zoo = make_zoo(models, samples)
    start, busy = perf_counter(), process_time()
    found = search_all_pairs(zoo.correct, zoo.confidence, zoo.cost, DROPS, threads=threads)
    seconds, busy = perf_counter() - start, process_time() - busy
    peak = harness.peak_gb()
    wrong, per_pair = check(zoo, found, pairs=checked)
    pairs = int(np.count_nonzero(zoo.cost[:, None] < zoo.cost[None, :]))
    return {
        "models": models,
        "samples": samples,
        "threads": threads,
        "pairs": pairs,
        "seconds": round(seconds, 3),
        "processor_seconds": round(busy, 3),
        "peak_rss_gb": round(peak, 3),
        "checked_pairs": min(checked, pairs),
        "differing_pairs": wrong,
        "naive_ms_per_pair": round(1000 * per_pair, 3),
        "naive_seconds_extrapolated": round(per_pair * pairs, 1),
        "times_faster": round(per_pair * pairs / seconds, 1),
        "met": not wrong and seconds <= MOST_SECONDS and peak <= MOST_GB,
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", type=int, default=100, help="random pairs to compare")


if __name__ == "__main__":
    harness.main(
        lambda arguments: measure(
            arguments.models,
            arguments.samples,
            threads=arguments.threads,
            checked=arguments.check,
        ),
        options=options,
        claim=f"1,500 models x 50,000 samples x {len(DROPS)} drops, 2 threads, sorting included: "
        f"at most {MOST_SECONDS:g} s and {MOST_GB:g} GB, equal to a naive scan",
    )
