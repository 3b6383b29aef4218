"""Exits of ResNet-56 alone on CIFAR-10 as JPEG: trained in a frozen network, and tuned with it.

    python benchmarks/train_zoo.py resnet56 --epochs 20 --peak-lr 0.1
    python benchmarks/joint_exits.py [--images N] [--epochs N] [--backbone-lr RATE] [--hold WEIGHT]

All exits begin in the same network, whose layers were all adapted to the JPEGs (train_zoo.py), at
the same taps, with the same kind of heads, and are trained on the same nine tenths of the training
images. `frozen`: each by itself; `together`: each learns from later ones; `tuned`: so does the
network, which is held to its old answers. Every drop is measured against the network as it was.
Plans are searched on one random half of the 10,000 test images and measured on the other, both ways
round, for 10 cuts. Trainings resume where they were interrupted; their folders lie in
benchmarks/work and are used again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

import harness
from cifar_exits import CONFIG, MEANT, TAPS, Plan, curve_on_halves, policy_of, saving_at
from own_exits import parts
from train_zoo import ADAPTED
from understudy import ScoreTable, evaluate, load_table, search
from understudy.early_exit.serialization import ExitFolder
from understudy.malloc import keep_freed_memory
from understudy.scoring.on_disk import score_into
from understudy.searching.exits import search_exits
from understudy.training.api import train_exits
from understudy.training.config import TrainingConfig

WORK = harness.ROOT / "benchmarks" / "work"
OLD = "resnet56"
HEADS = ("conv64",)
VIEWS = 64  # of every image, where none is cached
LEAST_SAVING = 50.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, help="train on so many images only, as a trial")
    parser.add_argument("--epochs", type=int, default=8, help="of tuning")
    parser.add_argument("--backbone-lr", type=float, default=5e-4)
    parser.add_argument("--hold", type=float, default=2.0)


def configs(arguments: argparse.Namespace) -> dict[str, TrainingConfig]:
    """How the exits of each network are trained."""
    together = replace(CONFIG, flip=True, targets="exits")
    tuned = replace(
        together,
        epochs=arguments.epochs,
        patience=arguments.epochs,
        views=VIEWS,
        backbone_lr=arguments.backbone_lr,
        hold=arguments.hold,
    )
    return {"frozen": replace(CONFIG, flip=True), "together": together, "tuned": tuned}


def network() -> str:
    """The network in which all exits begin."""
    weights = ADAPTED / f"{OLD}.safetensors"
    if not weights.exists():
        sys.exit(
            f"exits begin in a network that was adapted to the JPEGs, {weights} is missing: run "
            f"python benchmarks/train_zoo.py {OLD} --epochs 20 --peak-lr 0.1"
        )
    return f"py:cifar_nets:{OLD}?checkpoint={weights}&run=channels_last"


def training_images(shared: Path, folder: Path, images: int | None) -> Path:
    seen, _ = parts(shared)
    if images is None:
        return seen
    some = folder / "seen.parquet"
    if not some.exists():
        pl.read_parquet(seen, n_rows=images).write_parquet(some, row_group_size=2000)
    return some


def trained(name: str, config: TrainingConfig, data: Path, folder: Path) -> Path:
    """The folder of exits, trained where it is not there yet."""
    place = folder / name
    if not place.exists():
        console = Console(stderr=True)
        train_exits(
            f"{OLD}={network()}",
            f"parquet:{data}",
            place,
            taps=TAPS,
            heads=HEADS,
            config=config,
            cache_gb=20,
            on_note=lambda text: console.print(f"{name}: {text}"),
        )
    return place


def scores(arguments: argparse.Namespace, folder: Path) -> ScoreTable:
    """The network as it was, and all exits, on the test images."""
    target, shared = folder / "table", harness.shared()
    if not target.exists():
        data = training_images(shared, folder, arguments.images)
        exits = {
            name: f"exits:{trained(name, config, data, folder)}"
            for name, config in configs(arguments).items()
        }
        score_into(
            target,
            {OLD: network(), **exits},
            f"parquet:{shared / 'cifar10' / 'test.parquet'}",
            measure_batches=(),
            allow_code=["cifar_nets"],
        )
    return load_table(target)


def measured(table: ScoreTable, name: str) -> list[dict[str, float]]:
    """The curve of a network's exits: plans end with the network that the exits belong to, drops
    are from the network as it was."""
    plan = [one for one in table.names if one == name or one.startswith(f"{name}/")]

    def searched(tune: ScoreTable) -> list[Plan]:
        lost = evaluate(tune, policy_of(name), reference=OLD).drop
        points = search_exits(tune.only(plan), reference=name)
        return [Plan(point.drop + lost, point.cost, point.policy) for point in points]

    return curve_on_halves(table, searched, OLD)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    start = perf_counter()
    folder = WORK / ("joint" if arguments.images is None else f"joint-{arguments.images}")
    folder.mkdir(parents=True, exist_ok=True)
    table = scores(arguments, folder)
    whole = table.rows(np.arange(len(table)))
    names: Sequence[str] = list(configs(arguments))
    curves = {name: measured(table, name) for name in names}
    at = {name: saving_at(curve, MEANT) for name, curve in curves.items()}
    old = np.asarray(whole.prediction[whole.index(OLD)])
    certified = search(table, reference=OLD, max_drop=MEANT)
    training = {name: ExitFolder.read(folder / name).training for name in names}
    return {
        "accuracy": {name: evaluate(whole, policy_of(name)).accuracy for name in table.names},
        "share_of_MACs": {
            name: table.cost_of([name], "MACs") / table.cost_of([OLD], "MACs")
            for name in table.names
        },
        "agreement_with_old": {
            name: float((np.asarray(whole.prediction[whole.index(name)]) == old).mean())
            for name in names
        },
        "saving_at_half_a_point": at,
        "curves": curves,
        "certified": certified.choices[0].to_dict("MACs") | {"on": None},
        "recipe": {name: one["recipe"] for name, one in training.items()},
        "training_seconds": {name: one["seconds"] for name, one in training.items()},
        "seconds": perf_counter() - start,
        "met": at["tuned"] >= LEAST_SAVING,
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="at a drop of 0.5 points from the network as it was, exits that are tuned with it "
        "save at least 50 % of resnet56's MACs",
        options=options,
    )
