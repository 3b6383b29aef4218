"""Five CIFAR-10 ResNets: scored as published, searched exactly, and run as a cascade at ideal
speed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

import harness
from understudy import Executor, ScoreTable, build
from understudy.nn.cascade import Cascade
from understudy.outcome import decide
from understudy.scoring.on_disk import score_into
from understudy.searching.search import search_in_sample
from understudy.zoo.data import open_data
from understudy.zoo.models import load_stage

PUBLISHED = {
    "resnet8": (75.48, 12.502e6),
    "resnet20": (81.03, 40.551e6),
    "resnet32": (82.56, 68.863e6),
    "resnet44": (82.67, 97.174e6),
    "resnet56": (83.20, 125.486e6),
}
DROPS = (0.0, 0.1, 0.25, 0.5, 1.0)
SHARES = {
    "resnet20": (0.878, 0.884, 0.897, 0.920, 0.943),
    "resnet8": (0.506, None, None, 0.639, 0.693),
}
BATCH = 256


def specs(data: Path) -> dict[str, str]:
    """The networks of benchmarks/cifar_nets.py with their published weights."""
    files = {name: f"{name}.safetensors" for name in PUBLISHED} | {
        "resnet8": "resnet8_mlperftiny.safetensors"
    }
    folder = os.path.relpath(data / "cifar10" / "weights", Path.cwd())
    return {n: f"py:cifar_nets:{n}?checkpoint={folder}/{file}" for n, file in files.items()}


def scored(folder: Path, data: Path) -> ScoreTable:
    sys.path.insert(0, str(harness.ROOT / "benchmarks"))
    return score_into(
        folder,
        specs(data),
        f"parquet:{data}/cifar10/test.parquet",
        batch=BATCH,
        measure_batches=(BATCH,),
    )


def seconds_of(cascade: Cascade, images: torch.Tensor) -> float:
    start = perf_counter()
    for _ in Executor(cascade, max_batch=BATCH).map(images.split(BATCH)):
        pass
    return perf_counter() - start


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    data = harness.shared()
    with tempfile.TemporaryDirectory() as folder:
        table = scored(Path(folder) / "table", data)
    accuracy = {
        n: 100 * float((table.prediction[i] == table.label).mean())
        for i, n in enumerate(table.names)
    }
    shares = {}
    for little in SHARES:
        found = search_in_sample(table.only([little, "resnet56"]), max_drop=DROPS)
        shares[little] = [c.outcome.shares.get(little, 0.0) for c in found.choices]
    found = search_in_sample(table.only(["resnet20", "resnet56"]), max_drop=0.5)
    stages = {n: load_stage(s) for n, s in specs(data).items() if n in ("resnet20", "resnet56")}
    policy = found.choices[0].policy
    cascade = build(policy, stages)
    source = open_data(f"parquet:{data}/cifar10/test.parquet")
    images = torch.stack([source.image(i) for i in range(len(source))])
    answers = list(Executor(cascade, max_batch=BATCH).map(images.split(BATCH)))
    predicted = decide(table, policy)
    exits = np.concatenate([a.exit for a in answers])
    said = np.concatenate([a.prediction for a in answers])
    names = np.array(cascade.exits)[exits]
    differing = int(
        ((said != predicted.prediction) | (names != np.array(policy.exits)[predicted.stage])).sum()
    )
    deferred = int((predicted.stage == 1).sum())
    timed = timing(stages, cascade, images, deferred)
    return {
        "accuracy": {n: round(a, 2) for n, a in accuracy.items()},
        "published_accuracy": {n: p[0] for n, p in PUBLISHED.items()},
        "MACs": {n: table.costs["MACs"][n] for n in table.names},
        "published_MACs": {n: p[1] for n, p in PUBLISHED.items()},
        "max_drop": DROPS,
        "shares_before_resnet56": {n: [round(s, 4) for s in row] for n, row in shares.items()},
        "expected_shares": SHARES,
        "differing_from_evaluate": differing,
        "deferred": deferred,
        **timed,
        "met": all(abs(accuracy[n] - p[0]) <= 0.05 for n, p in PUBLISHED.items())
        and all(abs(table.costs["MACs"][n] / p[1] - 1) <= 1e-3 for n, p in PUBLISHED.items())
        and all(
            expected is None or abs(share - expected) <= 2e-3
            for n, row in shares.items()
            for share, expected in zip(row, SHARES[n], strict=True)
        )
        and differing == 0
        and timed["times_ideal"] <= 1.10,
    }


def timing(
    stages: dict[str, Any], cascade: Cascade, images: torch.Tensor, deferred: int, rounds: int = 3
) -> dict[str, Any]:
    """Little alone, large alone and the cascade, one after another in the same run."""
    alone = {name: build_single(name, stage) for name, stage in stages.items()}
    seconds: dict[str, list[float]] = {name: [] for name in (*alone, "cascade")}
    for _ in range(rounds):
        for name, single in alone.items():
            seconds[name].append(seconds_of(single, images))
        seconds["cascade"].append(seconds_of(cascade, images))
    middle = {name: median(values) for name, values in seconds.items()}
    ratios = [
        c / (a + b * deferred / len(images))
        for a, b, c in zip(
            seconds["resnet20"], seconds["resnet56"], seconds["cascade"], strict=True
        )
    ]
    return {
        "seconds": {name: round(value, 3) for name, value in middle.items()},
        "times_ideal": round(median(ratios), 4),
        "times_faster_than_resnet56": round(middle["resnet56"] / middle["cascade"], 3),
    }


def build_single(name: str, stage: Any) -> Cascade:
    from understudy import Policy

    return build(Policy.single(name), {name: stage})


if __name__ == "__main__":
    harness.main(
        measure,
        claim="CIFAR-10: published accuracies to 0.05 points and MACs to 0.1 %; published "
        "shares to .002; the running cascade equals evaluate on 10,000 images and takes at most "
        "1.10 x the ideal time",
    )
