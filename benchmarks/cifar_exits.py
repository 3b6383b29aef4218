"""Exits inside ResNet-56 on CIFAR-10: alone, and beside savers, against plain pairs.

    python benchmarks/cifar_exits.py [--json]

The last layers of resnet56 and of both savers are trained anew on the JPEG train set, like the
exits, so that nothing is compared with a stale end. Plans are searched on one random half of the
test set and measured on the other, both ways round, for 10 cuts. The weights that are trained lie
in benchmarks/work and are used again (about half an hour the first time).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from safetensors.torch import save_file

import harness
from understudy import Policy, ScoreTable, evaluate, load_table, search
from understudy.early_exit.serialization import ExitFolder
from understudy.scoring.on_disk import score_into
from understudy.searching.exits import search_exits
from understudy.training.api import train_exits
from understudy.training.config import TrainingConfig
from understudy.zoo.models import load_network

WORK = harness.ROOT / "benchmarks" / "work"
TAPS = ("layer1.4", "layer1.8", "layer2.3", "layer2.8", "layer3.1", "layer3.3", "layer3.5")
CONFIG = TrainingConfig(epochs=10, batch=256, views=2, flip=False, targets="both", temperature=2.0)
BUDGETS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
CUTS = 10
BIG, REFERENCE = "resnet56", "resnet56"
MEANT, LEAST_SAVING, LEAST_GAIN = 0.5, 0.25, 3.0
LITTLE = {"resnet8": "resnet8_mlperftiny", "resnet20": "resnet20"}


def spec_of(name: str, weights: Path) -> str:
    return f"{name}=py:cifar_nets:{name}?checkpoint={weights}"


def retrained(name: str, shared: Path) -> Path:
    """Weights of a network whose last layer was trained anew on the JPEG train set."""
    file = WORK / f"{name}.safetensors"
    if not file.exists():
        weights = shared / "cifar10" / "weights" / f"{LITTLE[name]}.safetensors"
        folder = trained(name, weights, shared, taps=1, heads=["linear"])
        save_file(
            load_network(f"exits:{folder}", allow_code=["cifar_nets"]).stage.model.state_dict(),
            file,
        )
    return file


def trained(
    name: str,
    weights: Path,
    shared: Path,
    *,
    taps: Any,
    heads: Sequence[str],
    saver: str | None = None,
    folder: str = "",
    **settings: Any,
) -> Path:
    """The folder of exits of a network, trained where it is not there yet; further settings are
    those of `train_exits`."""
    place = WORK / (folder or f"{name}-exits")
    if not place.exists():
        console = Console(stderr=True)
        train_exits(
            spec_of(name, weights),
            f"parquet:{shared / 'cifar10' / 'train.parquet'}",
            place,
            taps=taps,
            heads=heads,
            saver=saver,
            **{"classifier": True, "config": CONFIG, "cache_gb": 20, **settings},
            on_note=console.print,
            on_progress=lambda what, done, total: (
                console.print(f"{what} {done}/{total}") if done == total else None
            ),
        )
    return place


def scores(shared: Path) -> ScoreTable:
    """The exits of resnet56 with both savers, scored on the test set."""
    target = WORK / "table"
    if not target.exists():
        big = shared / "cifar10" / "weights" / "resnet56.safetensors"
        saver = spec_of("resnet8", retrained("resnet8", shared))
        exits = trained(BIG, big, shared, taps=TAPS, heads=["conv64", "conv64+saver"], saver=saver)
        other = spec_of("resnet20", retrained("resnet20", shared)).partition("=")[2]
        score_into(
            target,
            {BIG: f"exits:{exits}", "resnet20": other},
            f"parquet:{shared / 'cifar10' / 'test.parquet'}",
            measure_batches=(256,),
            keep_logits=True,
            allow_code=["cifar_nets"],
        )
    return load_table(target)


class Plan(NamedTuple):
    """A policy, and its drop (points) and cost on the samples that it was searched on."""

    drop: float
    cost: float
    policy: Policy


def measured(table: ScoreTable, plans: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """The curve of several plans (sets of exits), of which the one that is cheapest on the searched
    half is taken."""

    def searched(tune: ScoreTable) -> list[Plan]:
        frontiers = [search_exits(tune.only([*plan, BIG]), reference=BIG) for plan in plans]
        return [Plan(p.drop, p.cost, p.policy) for frontier in frontiers for p in frontier]

    return curve_on_halves(table, searched, BIG)


def curve_on_halves(
    table: ScoreTable, searched: Callable[[ScoreTable], Sequence[Plan]], reference: str
) -> list[dict[str, float]]:
    """For each budget the mean saving and drop on the half that was not searched, in points."""
    found: dict[float, list[tuple[float, float]]] = {budget: [] for budget in BUDGETS}
    for cut in range(CUTS):
        order = np.random.default_rng(cut).permutation(len(table))
        halves = np.array_split(order, 2)
        for here, there in (halves, halves[::-1]):
            tune, test = table.rows(np.sort(here)), table.rows(np.sort(there))
            points = searched(tune)
            for budget in BUDGETS:
                within = [point for point in points if point.drop <= budget]
                best = (
                    min(within, key=lambda point: point.cost)
                    if within
                    else min(points, key=lambda point: point.drop)
                )
                outcome = evaluate(test, best.policy, reference=reference)
                found[budget].append((100 * outcome.saving["MACs"], outcome.drop))
    return [
        {
            "budget": budget,
            "saving": float(np.mean([s for s, _ in pairs])),
            "drop": float(np.mean([d for _, d in pairs])),
            "drop_sd": float(np.std([d for _, d in pairs])),
        }
        for budget, pairs in found.items()
    ]


def saving_at(curve: Sequence[dict[str, float]], drop: float) -> float:
    """The saving at a measured mean drop, read off the curve of budgets."""
    order = sorted(curve, key=lambda point: point["drop"])
    return float(np.interp(drop, [p["drop"] for p in order], [p["saving"] for p in order]))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    start = perf_counter()
    table = scores(harness.shared())
    exits = [name for name in table.names if name.startswith(BIG + "/")]
    plain = [name for name in exits if name.endswith("/conv64")]
    told = [name for name in exits if name.endswith("+saver")]
    refined = [name for name in exits if name.endswith("/esn")]
    plans: dict[str, list[list[str]]] = {
        "exits alone": [plain],
        "best plain pair": [[name] for name in LITTLE],
        "chain of both savers": [list(LITTLE)],
        "resnet8 + exits": [["resnet8", *plain]],
        "resnet8 + exits it helps": [["resnet8", *told]],
        "resnet8 + Exit Sequence Network": [["resnet8", *refined]],
        "resnet20 + exits": [["resnet20", *plain]],
        "both savers + exits": [[*LITTLE, *plain, *told]],
    }
    curves = {name: measured(table, sets) for name, sets in plans.items()}
    at = {name: saving_at(curve, MEANT) for name, curve in curves.items()}
    pair = at["best plain pair"]
    mixed = max(at[name] for name in plans if name.startswith(tuple(LITTLE)))
    certified = search(table, reference=BIG, max_drop=MEANT)
    training = ExitFolder.read(WORK / f"{BIG}-exits").training
    whole = table.rows(np.arange(len(table)))
    return {
        "accuracy": {name: evaluate(whole, policy_of(name)).accuracy for name in table.names},
        "share_of_MACs": {
            name: table.cost_of([name], "MACs") / table.cost_of([BIG], "MACs")
            for name in table.names
        },
        "saving_at_half_a_point": at,
        "gain_over_pair": mixed - pair,
        "curves": curves,
        "certified": certified.choices[0].to_dict("MACs") | {"on": None},
        "recipe": training["recipe"],
        "training_seconds": training["seconds"],
        "seconds": perf_counter() - start,
        "met": at["exits alone"] >= 100 * LEAST_SAVING and mixed - pair >= LEAST_GAIN,
    }


def policy_of(name: str) -> Any:
    return Policy.single(name)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="at a drop of 0.5 points exits alone save 25 % of resnet56's MACs, and a saver with "
        "exits at least 3 points more than the best plain pair",
    )
