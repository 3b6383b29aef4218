"""The Exit Sequence Network of ResNet-56 and ResNet-8 on CIFAR-10: TinySaver's recipe beside ours.

    python benchmarks/esn_recipe.py [--json]

Ours is that of `cifar_exits.py`: 7 taps, 2 layers of 128, cached views, the labels and the
backbone's answers. TinySaver's is the configuration of that name: a tap at every block, 2 layers of
512, crops, AutoAugment, mixup, cutmix, smoothed labels and averaged weights. Backbone and saver are
the same for both, with last layers that were trained anew on the JPEG train set. Plans are searched
on one random half of the test set and measured on the other, both ways round, for 10 cuts.

The weights that are trained lie in benchmarks/work and are used again: half an hour the first time
for `cifar_exits.py`, and about 40 minutes for 10 streamed epochs, on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from safetensors.torch import save_file

import harness
from cifar_exits import (
    BIG,
    MEANT,
    WORK,
    measured,
    policy_of,
    retrained,
    saving_at,
    scores,
    spec_of,
    trained,
)
from understudy import ScoreTable, evaluate, load_table
from understudy.early_exit.serialization import ExitFolder
from understudy.scoring.on_disk import score_into
from understudy.training.named_config import read_config
from understudy.zoo.models import load_network

SAVER, CONFIG, FOLDER = "resnet8", "tinysaver", "resnet56-tinysaver"


def adapted_backbone() -> Path:
    """The weights of the backbone in `cifar_exits.py`, whose last layer was trained anew."""
    file = WORK / f"{BIG}-adapted.safetensors"
    if not file.exists():
        network = load_network(f"exits:{WORK / f'{BIG}-exits'}", allow_code=["cifar_nets"])
        save_file(network.stage.model.state_dict(), file)
    return file


def scores_of_the_recipe(shared: Path) -> ScoreTable:
    """The exits by TinySaver's recipe, scored on the test set."""
    target = WORK / "esn-recipe-table"
    if not target.exists():
        named = read_config(CONFIG)
        exits = trained(
            BIG,
            adapted_backbone(),
            shared,
            taps=named.taps,
            heads=named.heads or (),
            saver=spec_of(SAVER, retrained(SAVER, shared)),
            folder=FOLDER,
            sequence=named.sequence,
            classifier=False,
            config=named.training,
        )
        score_into(
            target,
            {BIG: f"exits:{exits}"},
            f"parquet:{shared / 'cifar10' / 'test.parquet'}",
            measure_batches=(256,),
            keep_logits=True,
            allow_code=["cifar_nets"],
        )
    return load_table(target)


def recipe_of(table: ScoreTable, folder: str) -> dict[str, Any]:
    """What one recipe gives: its exits, the saving of the saver before them, how it was trained."""
    exits = [name for name in table.names if name.startswith(f"{BIG}/") and name.endswith("/esn")]
    whole = table.rows(np.arange(len(table)))
    curve = measured(table, [[SAVER, *exits]])
    written = ExitFolder.read(WORK / folder)
    branch = load_network(f"exits:{WORK / folder}", allow_code=["cifar_nets"]).saver_branch
    assert branch is not None
    size = branch.sequence.spec
    return {
        "saving_at_half_a_point": saving_at(curve, MEANT),
        "curve": curve,
        "accuracy": {name: evaluate(whole, policy_of(name)).accuracy for name in [*exits, BIG]},
        "share_of_MACs": {
            name: table.cost_of([name], "MACs") / table.cost_of([BIG], "MACs") for name in exits
        },
        "sequence": {"layers": size.layers, "dim": size.dim, "heads": size.heads},
        "recipe": written.training["recipe"],
        "training_seconds": written.training["seconds"],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    start = perf_counter()
    shared = harness.shared()
    ours = scores(shared)
    recipes = {
        "ours": recipe_of(ours, f"{BIG}-exits"),
        CONFIG: recipe_of(scores_of_the_recipe(shared), FOLDER),
    }
    pair = saving_at(measured(ours, [[SAVER]]), MEANT)
    same = {recipe["accuracy"][BIG] for recipe in recipes.values()}
    return {
        "pair_saving_at_half_a_point": pair,
        "recipes": recipes,
        "seconds": perf_counter() - start,
        "met": len(same) == 1,
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="TinySaver's recipe for its Exit Sequence Network and ours are recorded side by side "
        "on one backbone and one saver",
    )
