"""Several looks at the same samples: how often is the best of ten splits wrong?

    python benchmarks/looks.py [--draws 1000 --json --record]

Samples are drawn with replacement from a real table, which is the population, and split ten times
at random (tune 20 %, certify 60 %, test 20 %). Each split is searched and certified, at delta each,
and at delta / (k (k + 1)) for look k. The result that saves most is kept; it is wrong where its
true drop, that on the whole table, exceeds the budget. The intervals are exact (Clopper and
Pearson).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy.stats import beta

import harness
from certificates import Population
from populations import drawn, tables
from understudy import ScoreTable
from understudy.looks import delta_of_look
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.searching.certify import certify
from understudy.searching.search_spec import SearchSpec
from understudy.searching.strategies import cheapest_expected, find_pairs

DELTA, DROP, SAMPLES, LOOKS = 0.05, 0.5, 2_000, 10
CUTS = (0.2, 0.8)  # of the samples: tune ends, certify ends
EACH, PAID = "delta each", "delta / (k (k + 1))"


def main() -> None:
    harness.main(
        measure,
        claim="the best of ten splits is wrong in at most 5 % of the draws where looks are paid",
        options=lambda parser: parser.add_argument("--draws", type=int, default=1000),
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    found = {
        name: study(Population.of(table, reference), arguments.draws)
        for name, (table, reference) in tables(None).items()
    }
    met = all(ways[PAID]["wrong"] <= DELTA for ways in found.values())
    return {
        "draws": arguments.draws,
        "samples": SAMPLES,
        "looks": LOOKS,
        "tables": found,
        "met": met,
    }


def study(population: Population, draws: int) -> dict[str, dict[str, Any]]:
    """How often the best look is wrong, and what it saves in the mean, by way of testing."""
    rng = np.random.default_rng(0)
    best: dict[str, list[tuple[float, float]]] = {EACH: [], PAID: []}
    for _ in range(draws):
        rows = rng.integers(0, len(population.table), SAMPLES)
        truths: dict[str, list[tuple[float, float]]] = {EACH: [], PAID: []}
        for look in range(1, LOOKS + 1):
            tune, proof, _ = np.split(
                rng.permutation(rows), [round(SAMPLES * share) for share in CUTS]
            )
            for way, delta in ((EACH, DELTA), (PAID, delta_of_look(DELTA, look))):
                parts = drawn(population.table, tune), drawn(population.table, proof)
                truths[way].append(truth(population, *parts, delta=delta))
        for way, looks in truths.items():
            best[way].append(max(looks))
    return {way: summary(looks) for way, looks in best.items()}


def truth(
    population: Population, tune: ScoreTable, proof: ScoreTable, *, delta: float
) -> tuple[float, float]:
    """The true saving and the true drop (points) of what one look certifies."""
    unit, reference = population.table.unit(), population.reference
    spec = SearchSpec(reference, unit, DEFAULT_CONFIDENCE, (DROP,), delta, len(proof))
    sequence = cheapest_expected(find_pairs(tune, spec).sequences, spec, DROP)
    certificate = certify(sequence, proof, reference=reference, max_drop=DROP, delta=delta)
    gap, saving, _ = population.truth(certificate.policy)
    return saving, gap


def summary(looks: list[tuple[float, float]]) -> dict[str, Any]:
    wrong, draws = sum(gap > DROP for _, gap in looks), len(looks)
    low = float(beta.ppf(0.025, wrong, draws - wrong + 1)) if wrong else 0.0
    high = float(beta.ppf(0.975, wrong + 1, draws - wrong))
    saving = float(np.mean([saving for saving, _ in looks]))
    return {"wrong": wrong / draws, "interval": [low, high], "saving": saving}


if __name__ == "__main__":
    main()
