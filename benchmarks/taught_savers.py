"""Little models taught by resnet56, beside the same adapted by cross-entropy, on CIFAR-10 as JPEG.

    python benchmarks/taught_savers.py [--epochs 30 --draws 100 --json]

resnet56 is adapted to the JPEGs first: ``train_zoo.py resnet56 --epochs 20 --peak-lr 0.1``. A
little model begins with the same weights under every objective, and sees the same nine tenths of
the training images for as many epochs. Pairs are searched and certified on draws with replacement
from the 10,000 test images, which nothing was trained on; a saving is the true one, on all of them.
What is trained lies in benchmarks/work and is used again; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

import harness
from best_plan import DROPS, drawn_savings, summed
from cifar_exits import LITTLE
from own_exits import parts
from train_zoo import ADAPTED, ZOO
from understudy import Policy, ScoreTable, evaluate, load_table
from understudy.malloc import keep_freed_memory
from understudy.scoring.on_disk import score_into
from understudy.training.saver import train_saver
from understudy.training.saver_config import TEACHING, SaverConfig
from understudy.training.saver_record import SaverFolder

WORK = harness.ROOT / "benchmarks" / "work"
BIG = "resnet56"
OBJECTIVES = ("labels", "distillation", "gatekeeper")
NETS = {"resnet8": "cifar_nets", "small": "jpeg_nets", "medium": "jpeg_nets"}
PAIRS, PLANS = ("pairs, learned", "pairs"), ("default",)
AT = DROPS.index(0.5)
GAIN, LEAST = 0.08, 0.80
SAMPLES = 10_000


def first_weights(name: str, shared: Path) -> Path:
    if NETS[name] == "jpeg_nets":
        return ZOO / f"{name}.safetensors"
    return shared / "cifar10" / "weights" / f"{LITTLE[name]}.safetensors"


def taught(name: str, objective: str, epochs: int, shared: Path) -> SaverFolder:
    """A little model, taught where it is not there yet."""
    place = WORK / f"taught-{name}-{objective}-{epochs}"
    if not (place / "saver.json").exists():
        console = Console(stderr=True)
        seen, _ = parts(shared)
        teaching = replace(TEACHING, epochs=epochs, patience=epochs, lr=2e-3)
        train_saver(
            f"py:{NETS[name]}:{name}?checkpoint={first_weights(name, shared)}",
            f"py:cifar_nets:{BIG}?checkpoint={ADAPTED / f'{BIG}.safetensors'}",
            f"parquet:{seen}",
            place,
            config=SaverConfig(objective=objective, teaching=teaching),
            on_note=lambda text: console.print(f"{name}, {objective}: {text}"),
        )
    return SaverFolder.load(place / "saver.json")


def scores(folders: dict[str, SaverFolder], shared: Path, epochs: int) -> ScoreTable:
    """All taught models and the large one, scored on the test images."""
    target = WORK / f"taught-table-{epochs}"
    if not (target / "table.json").exists():
        specs = {name: folder.spec for name, folder in folders.items()}
        score_into(
            target,
            {**specs, BIG: f"py:cifar_nets:{BIG}?checkpoint={ADAPTED / f'{BIG}.safetensors'}"},
            f"parquet:{shared / 'cifar10' / 'test.parquet'}",
            measure_batches=(256,),
            keep_logits=True,
            allow_code=["cifar_nets", "jpeg_nets"],
        )
    return load_table(target)


def draws(table: ScoreTable, variants: tuple[str, ...], count: int) -> dict[str, Any]:
    """Mean certified savings of draws, by variant and budget."""
    found = [drawn_savings(table, BIG, SAMPLES, variants, seed) for seed in range(count)]
    return {variant: summed([one[variant] for one in found]) for variant in variants}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    start, shared = perf_counter(), harness.shared()
    wanted = {f"resnet8-{objective}": ("resnet8", objective) for objective in OBJECTIVES}
    wanted |= {f"{name}-gatekeeper": (name, "gatekeeper") for name in NETS if name != "resnet8"}
    folders = {key: taught(*one, arguments.epochs, shared) for key, one in wanted.items()}
    table = scores(folders, shared, arguments.epochs)
    pairs = {key: draws(table.only([key, BIG]), PAIRS, arguments.draws) for key in folders}
    savers = [key for key in folders if key.endswith("gatekeeper")]
    plan = draws(table.only([*savers, BIG]), PLANS, arguments.draws)
    whole = table.rows(np.arange(len(table)))
    at_half = {key: found[PAIRS[0]]["saving"][AT] for key, found in pairs.items()}
    gain = max(at_half[f"resnet8-{o}"] for o in OBJECTIVES[1:]) - at_half["resnet8-labels"]
    best = plan["default"]["saving"][AT]
    return {
        "accuracy": {name: evaluate(whole, Policy.single(name)).accuracy for name in table.names},
        "budgets": DROPS,
        "draws": arguments.draws,
        "pairs": pairs,
        "certified_saving_at_half_a_point": at_half,
        "gain_of_teaching": round(gain, 4),
        "plan_of_taught_savers": plan,
        "curves": {
            key: {
                phase: [[round(one.accuracy, 4), round(one.saving or 0, 4)] for one in epochs]
                for phase, epochs in folder.training.epochs.items()
            }
            for key, folder in folders.items()
        },
        "held_out": {
            key: [pair.to_dict() for pair in folder.training.pairs]
            for key, folder in folders.items()
        },
        "training_seconds": {key: folder.training.seconds for key, folder in folders.items()},
        "seconds": perf_counter() - start,
        "met": gain >= GAIN and best >= LEAST,
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=30, help="of teaching")
    parser.add_argument("--draws", type=int, default=100)


if __name__ == "__main__":
    keep_freed_memory()
    harness.main(
        measure,
        claim="at 0.5 points resnet8 taught by resnet56 saves 8 points more, certified, than the "
        "same adapted by cross-entropy, and the best plan of taught savers saves 80 %",
        options=options,
    )
