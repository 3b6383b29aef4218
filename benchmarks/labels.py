"""How many labels a certificate needs where they are added as `ask` lists them.

    python benchmarks/labels.py [--draws 50 --json]

Each draw takes 10,000 samples with replacement, 20 % to tune on, 60 % to certify
with and 20 % to measure on, and hides all labels. The samples that `labels_needed` lists are
labelled until none is needed; then the search is compared with that of the draw with all labels:
same policy, same counts, same p-value, same drop on test.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import harness
from understudy import ScoreTable, search
from understudy.import_predictions import LabelFile, import_predictions
from understudy.result import Result
from understudy.searching.labels_needed import labels_needed

DROP = 0.5
SHARES = (0.2, 0.6, 0.2)
RAFDB = {"github_cnn": 0.01, "facepp": 5.0, "microsoft": 10.0, "google": 15.0}


def imagenet(data: Path) -> tuple[ScoreTable, str, int]:
    folder = data / "imagenet"
    table = import_predictions(
        LabelFile(folder / "labels.parquet", "file_name", "label"),
        {name: folder / f"{name}.parquet" for name in ("ResNet50", "ViT")},
        costs={"ResNet50": 4.11e9, "ViT": 17.58e9},
    )
    return table, "ViT", 10_000


def rafdb(data: Path) -> tuple[ScoreTable, str, int]:
    file = data / "apis" / "rafdb.parquet"
    table = import_predictions(
        LabelFile(file, "sample_id", "label"),
        dict.fromkeys(RAFDB, file),
        costs=RAFDB,
        unit="USD",
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )
    return table, "microsoft", 10_000


TABLES: dict[str, tuple[Callable[[Path], tuple[ScoreTable, str, int]], float]] = {
    "ResNet50 -> ViT": (imagenet, 1 / 4),
    "RAF-DB": (rafdb, 1 / 3),
}


def drawn(table: ScoreTable, samples: int, generator: np.random.Generator) -> ScoreTable:
    """A table of samples drawn with replacement, with a split and ids of its own."""
    rows = generator.integers(0, len(table), samples)
    return replace(
        table,
        prediction=table.prediction[:, rows],
        confidence={name: values[:, rows] for name, values in table.confidence.items()},
        label=None if table.label is None else table.label[rows],
        ids=np.arange(samples).astype(str),
        split=np.searchsorted(np.cumsum(SHARES)[:2] * samples, np.arange(samples), side="right"),
    )


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
    rows = {name: one_table(*made, arguments) for name, made in TABLES.items()}
    met = all(row["same_decision"] == 1 and row["within_goal"] for row in rows.values())
    return {
        "draws": arguments.draws,
        "max_drop": DROP,
        "tables": rows,
        "seconds": round(perf_counter() - start, 1),
        "met": met,
    }


def one_table(
    make: Callable[[Path], tuple[ScoreTable, str, int]], goal: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    population, reference, samples = make(harness.shared())
    spec = {"max_drop": arguments.max_drop, "reference": reference}
    generator = np.random.default_rng(0)
    counts, rounds, same, savings = [], [], [], []
    for _ in range(arguments.draws):
        full = drawn(population, samples, generator)
        table, asked = labelled_by_need(full, **spec)
        results = search(table, **spec), search(full, **spec)
        same.append(decision(results[0]) == decision(results[1]))
        savings.append(results[1].choice().outcome.saving[full.unit()])
        counts.append([sum(asked[name]) for name in asked])
        rounds.append([len(asked[name]) for name in asked])
    by_split = np.array(counts) / samples
    proof = by_split[:, :2].sum(1)
    tune = SHARES[0]
    return {
        "reference": reference,
        "samples": samples,
        "goal": round(goal, 4),
        "share_of_labels": round(float(proof.mean()), 4),
        "most": round(float(proof.max()), 4),
        "with_all_of_tune": round(float((by_split[:, 1] + tune).mean()), 4),
        "of_all_samples_on": dict(
            zip(("tune", "certify", "test"), by_split.mean(0).round(4).tolist(), strict=True)
        ),
        "rounds_on_certify": round(float(np.mean([row[1] for row in rounds])), 2),
        "most_rounds_on_certify": int(max(row[1] for row in rounds)),
        "mean_saving": round(float(np.mean(savings)), 4),
        "same_decision": float(np.mean(same)),
        "within_goal": bool(proof.mean() <= goal),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--max-drop", type=float, default=DROP)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="at 0.5 points, ResNet50 -> ViT and RAF-DB: the labels that a certificate needs are "
        "at most a quarter and a third of all, and the decision is that of all labels in every "
        "draw",
        options=options,
    )
