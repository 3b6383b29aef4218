"""What a test split costs: the certified saving for shares of the splits, on small tables.

    python benchmarks/shares.py --cache FOLDER [--draws 25 --json]

Tables are drawn with replacement from real ones, taken as populations; the default search runs on
them. The saving is the true one of what is certified. CIFAR-10 is scored once into the folder given
by --cache.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import harness
from populations import drawn, tables
from understudy import ScoreTable, evaluate, search
from understudy.split import MANY_SAMPLES, default_shares

DROPS = (0.25, 0.5, 1.0)
SIZES = (1_000, 2_000, 4_000, 10_000)
SHARES = {
    "20/60/20": {"tune": 0.2, "certify": 0.6, "test": 0.2},
    "20/70/10": {"tune": 0.2, "certify": 0.7, "test": 0.1},
    "20/80": {"tune": 0.2, "certify": 0.8, "test": 0.0},
    "30/70": {"tune": 0.3, "certify": 0.7, "test": 0.0},
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    savings: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, (table, reference) in tables(arguments.cache).items():
        for samples in SIZES:
            found = {shares: np.zeros(len(DROPS)) for shares in SHARES}
            for seed in range(arguments.draws):
                rows = np.random.default_rng((seed, samples)).integers(0, len(table), samples)
                for shares in SHARES:
                    found[shares] += certified(table, reference, rows, shares) / arguments.draws
            savings.setdefault(name, {})[f"{samples:,}"] = {
                shares: found[shares].round(3).tolist() for shares in SHARES
            }
    few = [f"{samples:,}" for samples in SIZES if samples < MANY_SAMPLES]
    gain = {size: _gain(savings, [size]) for size in map("{:,}".format, SIZES)}
    return {
        "draws": arguments.draws,
        "max_drop": DROPS,
        "saving": savings,
        "gain_without_test": gain,
        "met": default_shares(MANY_SAMPLES - 1) == SHARES["20/80"] and _gain(savings, few) >= 0.03,
    }


def certified(table: ScoreTable, reference: str, rows: Any, shares: str) -> Any:
    """The true savings of what is certified for every budget on some rows of a table."""
    small = drawn(table, rows, tuple(SHARES[shares].values()))
    result = search(small, max_drop=DROPS, reference=reference)
    population, unit = result.with_fitted(table), result.unit
    policies = (choice.policy for choice in result.choices)
    return np.array([evaluate(population, p, reference=reference).saving[unit] for p in policies])


def _gain(savings: dict[str, dict[str, dict[str, list[float]]]], sizes: list[str]) -> float:
    """How much more is saved without a test split, in the mean."""
    cells = [by_size[size] for by_size in savings.values() for size in sizes]
    gains = [np.subtract(cell["20/80"], cell["20/60/20"]) for cell in cells]
    return round(float(np.mean(gains)), 3)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, help="where CIFAR-10 is, or will be, scored")
    parser.add_argument("--draws", type=int, default=25)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="below 5,000 samples a search without a test split certifies at least 3 points more "
        "of the cost, in the mean",
        options=options,
    )
