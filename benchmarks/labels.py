"""How many labels a certificate needs where they are added as `ask` lists them.

    python benchmarks/labels.py [--draws 50 --json]

Each draw takes 10,000 samples with replacement, 20 % to tune on, 60 % to certify
with and 20 % to measure on, and hides all labels. The samples that `labels_needed` lists are
labelled until none is needed; then the search is compared with that of the draw with all labels:
same policy, same path, same counts, same p-value, same drop on test.

`share_of_labels` is that of tune and certify, which the certificate needs, in all samples. Policies
of max-softmax thresholds need the labels of tune samples where models disagree; a learned score is
fitted to all labels of tune.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

import harness
from populations import drawn, imagenet, rafdb
from understudy import ScoreTable, search
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.result import Result
from understudy.searching.labels_needed import labels_needed

DROP, SAMPLES = 0.5, 10_000
TABLES = {"ResNet50 -> ViT": (imagenet, 1 / 4), "RAF-DB": (rafdb, 1 / 3)}


def labelled_by_need(full: ScoreTable, **arguments: Any) -> tuple[ScoreTable, dict[str, list[int]]]:
    """The table with the labels that were needed, and how many in each round, by split."""
    assert full.label is not None
    label = dict(zip(full.ids.tolist(), full.label.tolist(), strict=True))
    table, rounds = replace(full, label=None), {name: [] for name in ("tune", "certify", "test")}
    while (needed := labels_needed(table, **arguments)).split:
        table = table.with_labels({key: label[key] for key in needed.ids})
        rounds[needed.split].append(len(needed.ids))
    return table, rounds


def decision(result: Result) -> tuple[Any, ...]:
    """What a search decided, and what it measured for it."""
    choice = result.choice()
    assert choice.certificate is not None
    one, outcome = choice.certificate, choice.outcome
    counts = one.losses, one.gains, one.p_value, one.samples_needed
    return choice.policy, one.path, counts, outcome.losses, outcome.gains, choice.verdict


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    start = perf_counter()
    plain, learned = {}, {}
    for name, (population, goal) in TABLES.items():
        table, reference = population()
        spec = {"max_drop": DROP, "reference": reference}
        few = over_draws(table, arguments.draws, confidence=DEFAULT_CONFIDENCE, **spec)
        plain[name] = {"goal": round(goal, 4), **few}
        learned[name] = over_draws(table, arguments.draws, **spec)
    met = all(row["share_of_labels"] <= row["goal"] for row in plain.values())
    met &= all(row["same_decision"] == 1 for row in (*plain.values(), *learned.values()))
    return {
        "draws": arguments.draws,
        "samples": SAMPLES,
        "max_drop": DROP,
        "max_softmax": plain,
        "learned_score": learned,
        "seconds": round(perf_counter() - start, 1),
        "met": met,
    }


def over_draws(population: ScoreTable, draws: int, **spec: Any) -> dict[str, Any]:
    """The labels that were needed, the rounds on certify, and whether the decision is the same."""
    generator = np.random.default_rng(0)
    counts, rounds, same, savings = [], [], [], []
    for _ in range(draws):
        full = drawn(population, generator.integers(0, len(population), SAMPLES))
        table, added = labelled_by_need(full, **spec)
        expected = search(full, **spec)
        same.append(decision(search(table, **spec)) == decision(expected))
        savings.append(expected.choice().on["certify"].saving[full.unit()])
        counts.append([sum(added[name]) for name in added])
        rounds.append(len(added["certify"]))
    by_split = np.array(counts) / SAMPLES
    proof = by_split[:, 0] + by_split[:, 1]
    shares = by_split.mean(0).round(4).tolist()
    return {
        "reference": spec["reference"],
        "share_of_labels": round(float(proof.mean()), 4),
        "largest_share": round(float(proof.max()), 4),
        "by_split": dict(zip(added, shares, strict=True)),
        "rounds_on_certify": round(float(np.mean(rounds)), 2),
        "most_rounds_on_certify": max(rounds),
        "mean_saving": round(float(np.mean(savings)), 4),
        "same_decision": float(np.mean(same)),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=50)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="at 0.5 points, ResNet50 -> ViT and RAF-DB: the labels that a certificate needs are "
        "at most a quarter and a third of all, and the decision is that of all labels in every "
        "draw",
        options=options,
    )
