"""`understudy search` as a whole process on 50,000 samples, from the second run on: 4 models, and a
network of 24 exits, certified and in-sample."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import harness
from exits import synthetic
from populations import imagenet_zoo
from understudy import ScoreTable, load_table, save_table

RUNS = 5


def make_table(exits: int, samples: int) -> ScoreTable:
    """Models from 65 to 80 % whose confidence knows some of their errors."""
    draw = np.random.default_rng(0)
    ease = draw.standard_normal(samples)
    predictions, costs = {}, {}
    for number, accuracy in enumerate(np.linspace(0.65, 0.8, exits)):
        own = 0.8 * ease + 0.6 * draw.standard_normal(samples)
        margin = own - np.quantile(own, 1 - accuracy)
        sure = 1 / (1 + np.exp(-2 * (margin + draw.standard_normal(samples))))
        answer = np.where(margin > 0, 0, 1)
        predictions[f"model{number}"] = (answer, sure.astype(np.float32))
        costs[f"model{number}"] = 1e8 * 4**number
    return ScoreTable.from_predictions(predictions, np.zeros(samples, int), costs=costs)


def make_record(positions: int, types: int, samples: int) -> ScoreTable:
    """A network with exits on its trunk, made up as in exits.py, of 1,000 classes."""
    problem, draw = synthetic(samples, positions, types), np.random.default_rng(1)
    label = draw.integers(0, 1000, samples)
    other = (label + draw.integers(1, 1000, samples)) % 1000
    steps = np.diff(np.append(problem.trunk[:-1:types], problem.trunk[-1]), prepend=0.0)
    costs = {f"trunk{place}": 1e9 * step for place, step in enumerate(steps.tolist())}
    predictions, parts = {}, {}
    for exit in range(problem.exits):
        name = f"place{exit // types}/type{exit % types}"
        answer = np.where(problem.correct[exit], label, other)
        predictions[name] = (answer, problem.confidence[exit])
        parts[name] = [*(f"trunk{place}" for place in range(exit // types + 1)), f"head {name}"]
        costs[f"head {name}"] = 1e9 * float(problem.head[exit])
    predictions["full"] = (np.where(problem.final, label, other), np.ones(samples, np.float32))
    parts["full"] = [f"trunk{place}" for place in range(positions + 1)]
    return ScoreTable.from_predictions(predictions, label, costs={"MACs": costs}, parts=parts)


def seconds_of(table: Path, *options: str, runs: int = RUNS) -> list[float]:
    """Seconds of each search as a process, the first one included; it must not import torch."""
    program = (
        "import sys; from understudy.app.cli.main import app; "
        "sys.argv = ['understudy', 'search', *sys.argv[1:], '--json']; "
        "app(standalone_mode=False); "
        "sys.exit(1 if {'torch', 'timm'} & set(sys.modules) else 0)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(runs + 1):
        start = perf_counter()
        command = [sys.executable, "-c", program, str(table), *options]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        seconds.append(perf_counter() - start)
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        names = ("table", "wide", "exits", "zoo")
        table, wide, exits, zoo = (Path(folder) / name for name in names)
        save_table(make_table(4, 50_000), table)
        save_table(make_table(8, 50_000), wide)
        save_table(make_record(12, 2, 50_000), exits)
        save_table(imagenet_zoo()[0], zoo)
        start = perf_counter()
        load_table(wide)
        load = perf_counter() - start
        seconds = seconds_of(table, "--max-drop", "0.25,0.5,1")
        large = seconds_of(zoo, "--max-drop", "0.5", "--reference", "resnet152", runs=3)[1:]
        one = seconds_of(exits, "--max-drop", "0.5", runs=3)[1:]
        five = seconds_of(exits, "--max-drop", "0,0.25,0.5,1,2", runs=3)[1:]
        inside = seconds_of(exits, "--in-sample", "--max-drop", "0,0.25,0.5,1,2", runs=3)[1:]
    return {
        "first_seconds": round(seconds[0], 3),
        "median_seconds": round(median(seconds[1:]), 3),
        "worst_seconds": round(max(seconds[1:]), 3),
        "torch_imported": False,
        "load_8x50000_seconds": round(load, 3),
        "zoo_21x50000_seconds": round(median(large), 3),
        "exits_24x50000_one_budget_seconds": round(median(one), 3),
        "exits_24x50000_five_budgets_seconds": round(median(five), 3),
        "exits_24x50000_in_sample_seconds": round(median(inside), 3),
        "met": median(seconds[1:]) <= 3
        and load < 0.5
        and median(large) <= 12
        and max(median(one), median(five), median(inside)) <= 8,
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="`understudy search` on 4 models x 50,000 samples and 3 budgets takes at most 3 s as "
        "a whole process without importing torch; on 21 networks x 50,000 images at most 12 s; on "
        "24 exits x 50,000 at most 8 s, certified and in-sample; a table of 8 x 50,000 loads in "
        "under 0.5 s",
    )
