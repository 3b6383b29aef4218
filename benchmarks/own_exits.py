"""A backbone, savers and exits of the project's own on CIFAR-10 as JPEG: the full frontier.

    python benchmarks/own_exits.py [--json]

The three networks of jpeg_nets.py were trained (train_zoo.py) without a tenth of the training
images; the exits inside the large one are trained on the same nine tenths. The tenth is what plans
are searched and certified on; the 10,000 test images are what they are measured on. The exits lie
in benchmarks/work and are used again (about a quarter of an hour the first time).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

import harness
from cifar_exits import policy_of, saving_at
from train_zoo import ZOO, set_aside
from understudy import ScoreTable, evaluate, load_table, search
from understudy.early_exit.serialization import ExitFolder
from understudy.malloc import keep_freed_memory
from understudy.scoring.on_disk import score_into
from understudy.searching.exits import search_exits
from understudy.training.api import train_exits
from understudy.training.config import TrainingConfig
from understudy.zoo.data import open_data

WORK = harness.ROOT / "benchmarks" / "work"
BIG, LITTLE = "large", ("small", "medium")
TAPS = ("group1", "group2.bn1", "group2", "group3.bn1")
CONFIG = TrainingConfig(epochs=10, batch=256, views=2, flip=True, targets="both", temperature=2.0)
BUDGETS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
ASKED = (0.5, 1.0, 2.0)
LEAST_ACCURACY, TUNED = 0.91, 0.25


def spec_of(name: str) -> str:
    return f"py:jpeg_nets:{name}?checkpoint={ZOO / f'{name}.safetensors'}"


def parts(shared: Path) -> tuple[Path, Path]:
    """Nine tenths of the training images, and the tenth set aside with the test images."""
    seen, unseen = WORK / "own-seen.parquet", WORK / "own-unseen.parquet"
    if not unseen.exists():
        files = [shared / "cifar10" / f"{part}.parquet" for part in ("train", "test")]
        train, test = (pl.read_parquet(file) for file in files)
        aside = set_aside(open_data(f"parquet:{files[0]}"))
        WORK.mkdir(exist_ok=True)
        train.filter(~aside).write_parquet(seen, row_group_size=2000)
        pl.concat([train.filter(aside), test]).write_parquet(unseen, row_group_size=2000)
    return seen, unseen


def trained(seen: Path) -> Path:
    """The folder of exits, trained where it is not there yet."""
    place = WORK / "own-exits"
    if not place.exists():
        console = Console(stderr=True)
        train_exits(
            f"{BIG}={spec_of(BIG)}",
            f"parquet:{seen}",
            place,
            taps=TAPS,
            heads=["conv64", "conv64+saver"],
            saver=f"small={spec_of('small')}",
            config=CONFIG,
            cache_gb=16,
            on_note=console.print,
            on_progress=lambda what, done, total: (
                console.print(f"{what} {done}/{total}") if done == total else None
            ),
        )
    return place


def scores(shared: Path) -> ScoreTable:
    """All exits on the tenth set aside (`tune`, `certify`) and on the test images (`test`)."""
    target = WORK / "own-table"
    if not target.exists():
        seen, unseen = parts(shared)
        names = open_data(f"parquet:{unseen}").ids
        rng = np.random.default_rng(0)
        split = [
            "test"
            if str(name).startswith("test/")
            else "tune"
            if rng.random() < TUNED
            else "certify"
            for name in names
        ]
        score_into(
            target,
            {BIG: f"exits:{trained(seen)}", "medium": spec_of("medium")},
            f"parquet:{unseen}",
            measure_batches=(256,),
            split=split,
            allow_code=["jpeg_nets"],
        )
    return load_table(target)


def curve(aside: ScoreTable, test: ScoreTable, plan: Sequence[str]) -> list[dict[str, Any]]:
    """For each budget the plan found on the tenth set aside, measured on the test images."""
    frontier = search_exits(aside.only([*plan, BIG]), reference=BIG)
    points = []
    for budget in BUDGETS:
        within = [point for point in frontier if point.drop <= budget]
        if not within:
            continue
        policy = min(within, key=lambda point: point.cost).policy
        outcome = evaluate(test, policy, reference=BIG)
        points.append(
            {
                "budget": budget,
                "saving": 100 * outcome.saving["MACs"],
                "drop": outcome.drop,
                "accuracy": outcome.accuracy,
                "exits": policy.exits,
            }
        )
    return points


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    start = perf_counter()
    table = scores(harness.shared())
    test = table.on("test")
    test = test.rows(np.arange(len(test)))
    aside = table.rows(np.flatnonzero([not str(name).startswith("test/") for name in table.ids]))
    exits = [name for name in table.names if name.startswith(BIG + "/")]
    plain = [name for name in exits if name.endswith("/conv64")]
    told = [name for name in exits if name.endswith("+saver")]
    plans: dict[str, list[str]] = {
        "exits alone": plain,
        "small": ["small"],
        "medium": ["medium"],
        "small, medium": list(LITTLE),
        "small + exits it helps": ["small", *told],
        "medium + exits": ["medium", *plain],
        "all": [*LITTLE, *exits],
    }
    curves = {name: curve(aside, test, plan) for name, plan in plans.items()}
    certified = search(table, reference=BIG, max_drop=list(ASKED))
    accuracy = {name: evaluate(test, policy_of(name)).accuracy for name in table.names}
    training = ExitFolder.read(WORK / "own-exits").training
    full = table.cost_of([BIG], "MACs")
    return {
        "accuracy": accuracy,
        "MACs": full,
        "share_of_MACs": {name: table.cost_of([name], "MACs") / full for name in table.names},
        "saving_at_half_a_point": {name: saving_at(points, 0.5) for name, points in curves.items()},
        "saving_at_one_point": {name: saving_at(points, 1.0) for name, points in curves.items()},
        "curves": curves,
        "certified": [choice.to_dict("MACs") | {"on": None} for choice in certified.choices],
        "backbones": {
            name: json.loads((ZOO / f"{name}.json").read_text())["test"] for name in (*LITTLE, BIG)
        },
        "training_seconds": training["seconds"],
        "seconds": perf_counter() - start,
        "met": accuracy[BIG] >= LEAST_ACCURACY,
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="a backbone of the project's own is right on 91 % of the JPEG test images, and the "
        "frontier of its exits and savers is recorded",
    )
