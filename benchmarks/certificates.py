"""Certificates on real tables taken as populations: is the guarantee kept, and how sharp is it?

    python benchmarks/certificates.py --cache FOLDER [--draws 2000 --json]

Validity: `tune` (10 %) and `certify` (90 %) are drawn from the table independently and with
replacement; the search runs as it does in the library; the true gap of what it certifies is read
off the whole table. Sharpness: the share of samples that the little model of one pair answers.
Level: the exact chance that the test proves a gap that lies on the budget, and of the rule "mean +
1.645 standard errors". CIFAR-10 is scored once into the folder given by --cache (a minute or more).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

import harness
from populations import drawn, tables
from understudy import Policy, ScoreTable, search
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.searching.exact_test import critical_totals
from understudy.searching.pairs import PairCurve, pair_curves
from understudy.searching.policy_sequences import PolicySequence, losses_and_gains
from understudy.searching.search_spec import SearchSpec
from understudy.searching.strategies import cheapest_expected, find_pairs

DELTA = 0.05
DROPS = (0.25, 0.5, 1.0)
SIZES = (2_000, 10_000, 25_000)
TUNE = 0.1
ALLOWED = 0.06
# (table, little, reference): the optimum at 0.5 points, the target in draws and on the whole table.
PAIRS = {
    ("imagenet", "ResNet50", "ViT"): (0.932, 0.890, 0.912),
    ("cifar10", "resnet20", "resnet56"): (0.920, 0.865, 0.868),
    ("cifar10", "resnet8", "resnet56"): (0.639, 0.539, 0.538),
    ("rafdb", "github_cnn", "microsoft"): (0.523, 0.482, 0.489),
}
SPLITS = {
    "tune .1, certify .9": (0.1, 0.9),
    "tune .2, certify .6, test .2 (the default)": (0.2, 0.6),
}
LEVEL_SAMPLES = (250, 500, 1_000, 2_500, 5_000, 10_000, 25_000)
LEVEL_DISCORDANCE = (0.002, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
Counts = npt.NDArray[np.int64]


# -- populations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """A table whose true gaps, costs and shares are known."""

    table: ScoreTable
    reference: str
    curves: Mapping[str, PairCurve]

    @staticmethod
    def of(table: ScoreTable, reference: str) -> Population:
        scores = {DEFAULT_CONFIDENCE: table.scores(DEFAULT_CONFIDENCE)}
        table = replace(table, confidence=scores, details={})
        curves = pair_curves(table, reference, unit=table.unit())
        return Population(table, reference, {curve.little: curve for curve in curves})

    def truth(self, policy: Policy) -> tuple[float, float, float]:
        """The gap in points, the saving, and the share that the little model answers."""
        if policy.exits == (self.reference,):
            return 0.0, 0.0, 0.0
        curve = self.curves[policy.exits[0]]
        threshold = policy.stages[0].threshold
        least = -np.inf if threshold is None else threshold
        row = int(np.searchsorted(-curve.threshold, -least, side="right")) - 1
        share = float(curve.accepted[row] / curve.samples)
        return float(curve.drop[row]), 1 - float(curve.cost[row] / curve.cost[0]), share


# -- draws ----------------------------------------------------------------------------------------


def with_replacement(samples: int, *, total: int, draws: int) -> Iterator[tuple[Counts, Counts]]:
    """The rows of `tune` and `certify`, draw by draw."""
    generator = np.random.default_rng(total)
    tune = round(TUNE * total)
    for _ in range(draws):
        yield generator.integers(0, samples, tune), generator.integers(0, samples, total - tune)


def without_replacement(
    samples: int, *, shares: tuple[float, float], draws: int
) -> Iterator[tuple[Counts, Counts]]:
    """The rows of `tune` and `certify` when a table is cut anew, draw by draw."""
    generator = np.random.default_rng(samples)
    ends = np.round(np.cumsum(shares) * samples).astype(int)
    for _ in range(draws):
        order = generator.permutation(samples)
        yield order[: ends[0]], order[ends[0] : ends[1]]


def certified(
    population: Population, rows: tuple[Counts, Counts], criticals: Mapping[float, Counts]
) -> list[Policy]:
    """What the search certifies within each budget: its own steps, with tabled critical counts."""
    table, reference = population.table, population.reference
    tune, certify = (drawn(table, part) for part in rows)
    spec = SearchSpec(
        reference, table.unit(), DEFAULT_CONFIDENCE, tuple(criticals), DELTA, len(certify)
    )
    sequences = find_pairs(tune, spec).sequences
    return [
        last_proved(
            cheapest_expected(sequences, spec, drop), certify, critical, reference=reference
        )
        for drop, critical in criticals.items()
    ]


def last_proved(
    sequence: PolicySequence, certify: ScoreTable, critical: Counts, *, reference: str
) -> Policy:
    """The policy that `certify` would certify, by a table of critical counts."""
    losses, gains = losses_and_gains(certify, sequence.policies, reference=reference)
    proved = losses - gains <= critical[losses + gains]
    steps = len(proved) if proved.all() else int(np.argmin(proved))
    return sequence.policies[steps - 1] if steps else Policy.single(reference)


def criticals_of(
    population: Population, samples: int, drops: Sequence[float]
) -> dict[float, Counts]:
    """For every budget the critical counts, by the number of discordant samples that may occur."""
    most = samples * max(
        float((curve.losses + curve.gains).max()) / curve.samples
        for curve in population.curves.values()
    )
    discordant = np.arange(min(int(most + 8 * np.sqrt(most)) + 20, samples) + 1)
    return {drop: critical_totals(samples, drop / 100, DELTA, discordant) for drop in drops}


# -- validity and sharpness -----------------------------------------------------------------------


def validity(population: Population, *, draws: int) -> list[dict[str, Any]]:
    cells = []
    for total in SIZES:
        criticals = criticals_of(population, total - round(TUNE * total), DROPS)
        found = [
            [population.truth(policy) for policy in certified(population, rows, criticals)]
            for rows in with_replacement(len(population.table), total=total, draws=draws)
        ]
        gaps, savings, shares = np.array(found).transpose(2, 1, 0)
        for number, drop in enumerate(DROPS):
            cells.append(
                {
                    "samples": total,
                    "max_drop": drop,
                    "beyond_the_budget": round(float((gaps[number] > drop + 1e-9).mean()), 4),
                    "fell_back": round(float((shares[number] == 0).mean()), 4),
                    "mean_saving": round(float(savings[number].mean()), 4),
                }
            )
    return cells


def sharpness(population: Population, *, total: int, draws: int) -> dict[str, float]:
    """At 0.5 points, in fresh draws with replacement."""
    rows = with_replacement(len(population.table), total=total, draws=draws)
    return shares_of(population, rows, total - round(TUNE * total))


def cut_anew(
    population: Population, shares: tuple[float, float], *, draws: int
) -> dict[str, float]:
    """At 0.5 points, the table itself being cut at random."""
    samples = len(population.table)
    tune, end = np.round(np.cumsum(shares) * samples).astype(int)
    rows = without_replacement(samples, shares=shares, draws=draws)
    return shares_of(population, rows, end - tune)


def shares_of(
    population: Population, draws: Iterator[tuple[Counts, Counts]], certify: int
) -> dict[str, float]:
    criticals = criticals_of(population, certify, [0.5])
    found = [population.truth(certified(population, rows, criticals)[0])[2] for rows in draws]
    return {
        "mean_share": round(float(np.mean(found)), 4),
        "standard_error": round(float(np.std(found) / np.sqrt(len(found))), 4),
        "share_in_the_worst_5_percent": round(float(np.quantile(found, 0.05)), 4),
        "answered_nothing": round(float(np.mean(np.array(found) == 0)), 4),
    }


def searched(population: Population, shares: tuple[float, float]) -> float:
    """The share that the library's own search finds on the table with its keyed split.

    What `shares` leave is the test split.
    """
    table, (tune, certify) = population.table, shares
    cut = ScoreTable.from_predictions(
        {
            name: (table.prediction[row], table.scores(DEFAULT_CONFIDENCE)[row])
            for row, name in enumerate(table.names)
        },
        table.label,
        costs={name: table.cost_of([name], table.unit()) for name in table.names},
        ids=table.ids.tolist(),
        split={"tune": tune, "certify": certify, "test": 1 - tune - certify},
    )
    policy = search(cut, max_drop=0.5, reference=population.reference).choices[0].policy
    return round(population.truth(policy)[2], 4)


# -- level ----------------------------------------------------------------------------------------


def level(samples: int, discordance: float, budget: float) -> dict[str, float]:
    """The exact chance of proving the budget when the gap lies on it, and the naive rule's.

    The number of discordant samples is binomial, and so are the losses among them.
    """
    reach = 9 * np.sqrt(samples * discordance) + 20
    low = max(int(samples * discordance - reach), 0)
    counts = np.arange(low, min(int(samples * discordance + reach) + 1, samples) + 1)
    weights = binom.pmf(counts, samples, discordance)
    loss = (1 + budget / discordance) / 2

    def chance(critical: npt.NDArray[Any]) -> float:
        most = np.floor((critical + counts) / 2)
        return round(float(weights @ binom.cdf(most, counts, loss)), 5)

    return {
        "exact": chance(critical_totals(samples, budget, DELTA, counts)),
        "naive": chance(naive_totals(samples, budget, counts)),
    }


def naive_totals(samples: int, budget: float, discordant: Counts) -> npt.NDArray[np.float64]:
    """The largest losses - gains whose mean + 1.645 standard errors is within the budget."""
    k = 1.645**2 / samples
    root = budget**2 - (1 + k) * (budget**2 - k * discordant / samples)
    most = (budget - np.sqrt(np.maximum(root, 0.0))) / (1 + k)
    return np.floor(samples * np.where(root < 0, budget, most) + 1e-9)


def levels(samples: Sequence[int] = LEVEL_SAMPLES) -> dict[str, Any]:
    cells = [
        {
            "samples": n,
            "discordance": d,
            "max_drop": drop,
            **level(n, d, drop / 100),
        }
        for n in samples
        for d in LEVEL_DISCORDANCE
        for drop in DROPS
        if d >= drop / 100
    ]
    return {
        "worst": max(cells, key=lambda cell: cell["exact"]),
        "worst_of_the_naive_rule": max(cells, key=lambda cell: cell["naive"]),
        "cells": cells,
    }


def of_pair(population: Population, little: str, *, draws: int) -> dict[str, Any]:
    """How sharp the certificates of one pair are, in fresh draws and on its whole table."""
    big = population.reference
    pair = Population.of(population.table.only([little, big]), big)
    return {
        "n_10000": sharpness(pair, total=10_000, draws=draws),
        "whole_table": {
            words: {
                "searched": searched(pair, shares),
                **cut_anew(pair, shares, draws=max(draws // 5, 2)),
            }
            for words, shares in SPLITS.items()
        },
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    draws, start = arguments.draws, perf_counter()
    populations = {n: Population.of(*pair) for n, pair in tables(arguments.cache).items()}
    valid = {name: validity(one, draws=draws) for name, one in populations.items()}
    sharp = {
        f"{name}: {little} -> {big}": {
            **dict(zip(("optimum", "target", "target_whole_table"), figures, strict=True)),
            **of_pair(populations[name], little, draws=draws),
        }
        for (name, little, big), figures in PAIRS.items()
        if name in populations
    }
    on_the_boundary = levels()
    cells = [cell for rows in valid.values() for cell in rows]
    return {
        "draws": draws,
        "delta": DELTA,
        "split": f"tune {TUNE:g}, certify {1 - TUNE:g}",
        "validity": valid,
        "most_beyond_the_budget": max(cell["beyond_the_budget"] for cell in cells),
        "sharpness": sharp,
        "level": on_the_boundary,
        "seconds": round(perf_counter() - start, 1),
        "met": len(populations) == 3
        and all(cell["beyond_the_budget"] <= ALLOWED for cell in cells)
        and all(
            one["n_10000"]["mean_share"] >= one["target"]
            and one["n_10000"]["answered_nothing"] == 0
            for one in sharp.values()
        )
        and bool(on_the_boundary["worst"]["exact"] <= DELTA),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--cache", type=Path, help="folder for the scored CIFAR-10 table")


if __name__ == "__main__":
    harness.main(
        measure,
        claim="certified plans break their promise in at most 6 % of 2,000 draws from real tables "
        "(delta .05), and the little model still answers .890/.865/.539/.482 of 10,000 samples "
        "within 0.5 points; the exact level stays below .05 on the boundary",
        options=options,
    )
