"""What scoring costs beyond the networks themselves: five CIFAR-10 ResNets on 10,000 JPEGs.

In every round, one after another: the bare forward passes of the networks on ready tensors,
decoding alone, `score_into` (decoding, preprocessing, networks, confidences, the table on disk),
`score` of ready tensors in memory, and `understudy score` as a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

import harness
from cifar10 import BATCH, specs
from understudy.nn.stage import Stage
from understudy.scoring.in_memory import score
from understudy.scoring.on_disk import score_into
from understudy.zoo.batches import batches
from understudy.zoo.data import open_data
from understudy.zoo.models import load_stage

GOAL = 0.95
BARE = "bare forward"


class Seconds(NamedTuple):
    """The seconds of some work: by the clock, and of all cores."""

    wall: float
    cpu: float


def seconds_of(work: Callable[[], object]) -> Seconds:
    """The seconds of some work, with those of its processes."""
    before, start = _cpu(), perf_counter()
    work()
    return Seconds(perf_counter() - start, _cpu() - before)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ready_tensors(stages: Mapping[str, Stage], data: str) -> dict[str, list[Tensor]]:
    """The batches as each network takes them."""
    decoded = [batch.images for batch in batches(open_data(data), size=BATCH)]
    return {name: [stage.prepare(images) for images in decoded] for name, stage in stages.items()}


@torch.inference_mode()
def forward(stages: Mapping[str, Stage], ready: Mapping[str, Sequence[Tensor]]) -> None:
    for name, stage in stages.items():
        for batch in ready[name]:
            stage.model(batch)


def command(models: Mapping[str, str], data: str, into: Path) -> list[str]:
    """`understudy score` with its defaults, but without times."""
    named = [f"{name}={spec}" for name, spec in models.items()]
    words = ["score", *named, "--data", data, "--into", str(into), "--measure", "none"]
    return [sys.executable, "-m", "understudy", *words]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    shared = harness.shared()
    sys.path.insert(0, str(harness.ROOT / "benchmarks"))
    models = specs(shared)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.parquet"
        pl.read_parquet(shared / "cifar10" / "test.parquet").head(arguments.images).write_parquet(
            file
        )
        rounds = rounds_of(models, f"parquet:{file}", Path(folder), arguments.rounds)
    shares = {
        name: {
            kind: round(median(getattr(r[BARE], kind) / getattr(r[name], kind) for r in rounds), 4)
            for kind in Seconds._fields
        }
        for name in rounds[0]
        if name not in (BARE, "decoding")
    }
    return {
        "images": arguments.images,
        "rounds": arguments.rounds,
        "torch_threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "seconds": {
            name: {
                kind: round(median(getattr(r[name], kind) for r in rounds), 2)
                for kind in Seconds._fields
            }
            for name in rounds[0]
        },
        "share_of_bare_throughput": shares,
        "met": all(shares[name]["wall"] >= GOAL for name in ("score_into", "score")),
    }


def rounds_of(
    models: Mapping[str, str], data: str, folder: Path, rounds: int
) -> list[dict[str, Seconds]]:
    """The seconds of all work, in every round."""
    stages = {name: load_stage(spec) for name, spec in models.items()}
    ready = ready_tensors(stages, data)
    raw = [batch.images for batch in batches(open_data(data), size=BATCH)]
    forward(stages, {name: some[:1] for name, some in ready.items()})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = []
    for number in range(rounds):
        whole, inside = folder / f"command{number}", folder / f"inside{number}"
        work: dict[str, Callable[[], object]] = {
            BARE: lambda: forward(stages, ready),
            "decoding": lambda: [None for _ in batches(open_data(data), size=BATCH)],
            "score_into": lambda into=inside: score_into(into, models, data, measure_batches=()),  # type: ignore[misc]
            "score": lambda: score(stages, raw, progress=False),
            "understudy score": lambda into=whole: subprocess.run(  # type: ignore[misc]
                command(models, data, into), env=environment, check=True, capture_output=True
            ),
        }
        found.append({name: seconds_of(one) for name, one in work.items()})
    return found


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=10_000, help="the first so many")
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="scoring 10,000 JPEGs with five networks runs at 0.95 or more of the throughput of "
        "their bare forward passes, from files to a table and in memory",
        options=options,
    )
