"""How much time exits inside ResNet-56 really save, and what splitting the network costs.

    python benchmarks/exit_speed.py [--json]

Runs on the exits that cifar_exits.py trains, with the cheapest plan of exits alone that loses at
most 0.5 points on the test set. Each round runs the plain network, the split one with every exit
off, and the cascade over the same images, in turns; figures are medians of the ratios to the plain
network's time (split with exits off: to the whole network run in the same way). Freed memory is
kept by the process, as on the command line; without that page faults take a third of the time.

The ideal by MACs is the share of the trunk's MACs that are left, times the plain network's time,
and the heads' own time. The ideal by time takes each segment's own time on the images that reach
it: early segments take more time per MAC than late ones. Both variants, the network as it is and
`folded+channels_last`, are compared with the plain network as it is.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import cifar_exits
import harness
from understudy import Executor, Policy, ScoreTable, evaluate
from understudy.early_exit.network import ExitNetwork
from understudy.malloc import keep_freed_memory
from understudy.nn.cascade import Cascade
from understudy.nn.cost import measure_parts
from understudy.nn.execution_mode import PLAIN, ExecutionMode
from understudy.nn.stage import Stage
from understudy.searching.exits import search_exits
from understudy.zoo.batches import batches
from understudy.zoo.data import open_data
from understudy.zoo.models import load_network

BIG = cifar_exits.BIG
SIZES = {1: 100, 16: 640, 64: 1280, 256: 2560}
ROUNDS = 5
FAST = ExecutionMode.parse("folded+channels_last")
DROP, MOST_OVER_IDEAL, MOST_OVER_PLAIN = 0.5, 1.10, 1.03


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def loaded() -> ExitNetwork:
    folder = cifar_exits.WORK / f"{BIG}-exits"
    return without_saver(load_network(f"exits:{folder}", allow_code=["cifar_nets"]))


def without_saver(network: ExitNetwork) -> ExitNetwork:
    heads = {at: network.head(at) for at in network.locations if at.head == "conv64"}
    return ExitNetwork(network.stage, network.taps, heads, image=network.image)


def in_segments(stage: Stage, images: Tensor, size: int) -> Callable[[], None]:
    """The whole network segment by segment, with no row leaving in between."""

    def run() -> None:
        for batch in images.split(size):
            state = {}
            for piece in stage.parts(BIG):
                state = piece.run(batch, state)

    return torch.inference_mode()(run)


def over(stage: Stage, images: Tensor, size: int) -> Callable[[], None]:
    def run() -> None:
        for batch in images.split(size):
            stage(batch)

    return run


def streamed(cascade: Cascade, images: Tensor, size: int) -> Callable[[], None]:
    def run() -> None:
        for _ in Executor(cascade, max_batch=size).map(images.split(size)):
            pass

    return run


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    shared = harness.shared()
    table = cifar_exits.scores(shared)
    heads = [n for n in table.names if n.startswith(BIG + "/") and n.endswith("/conv64")]
    table = table.only([*heads, BIG])
    points = search_exits(table, reference=BIG)
    policy = min((p for p in points if p.drop <= DROP), key=lambda p: p.cost).policy
    data = open_data(f"parquet:{shared / 'cifar10' / 'test.parquet'}")
    images = torch.cat([batch.images for batch in batches(data, size=1000)])
    outcome = evaluate(table, policy, reference=BIG)
    reached = _reached(outcome.shares, policy)
    by_batch, fast = (
        {
            size: _measured(
                loaded(),
                mode,
                table=table,
                policy=policy,
                reached=reached,
                images=images,
                size=size,
            )
            for size in SIZES
        }
        for mode in (PLAIN, FAST)
    )
    answers = Cascade(_some(loaded().stages(BIG), policy), policy).answer(images)
    return {
        "policy": policy.to_dict(),
        "drop": outcome.drop,
        "saving": outcome.saving["MACs"],
        "shares": dict(outcome.shares),
        "shares_when_run": {
            name: answers.exit_names().count(name) / len(answers) for name in policy.exits
        },
        "trunk_share": _trunk_share(table, policy, reached),
        "by_batch": by_batch,
        "by_batch_folded_channels_last": fast,
        "met": by_batch[256]["over_ideal"] <= MOST_OVER_IDEAL
        and by_batch[256]["split, exits off"] <= MOST_OVER_PLAIN,
    }


def _some(stages: Mapping[str, Stage], policy: Policy) -> dict[str, Stage]:
    return {name: stages[name] for name in policy.exits}


def _measured(
    network: ExitNetwork,
    mode: ExecutionMode,
    *,
    table: ScoreTable,
    policy: Policy,
    reached: Mapping[str, float],
    images: Tensor,
    size: int,
) -> dict[str, float]:
    """Ratios to the time of the plain network, at a batch size."""
    plain = loaded().stage  # its weights keep their layout
    stages = network.with_mode(mode).stages(BIG)
    cascade = Cascade(_some(stages, policy), policy)
    some, trunk = images[: SIZES[size]], _trunk_share(table, policy, reached)
    names = ("whole, this way", "split, exits off", "cascade", "ideal", "ideal by time")
    ratios: dict[str, list[float]] = {name: [] for name in names}
    fulls = []
    ways = {
        "full": over(plain, some, size),
        "whole": over(stages[BIG], some, size),
        "off": in_segments(stages[BIG], some, size),
        "ran": streamed(cascade, some, size),
    }
    for number in range(ROUNDS + 1):
        order = list(ways) if number % 2 else list(reversed(ways))
        took = {name: seconds(ways[name]) for name in order}
        full, whole, off, ran = (took[name] for name in ways)
        times = measure_parts(stages, some[:size], repeats=3)
        heads = sum(reached[n] * times[n] for n in policy.exits[:-1])
        parts = _shares_of_parts(table, policy, reached)
        ideal = sum(share * times[part] for part, share in parts.items())
        if number:
            fulls.append(full)
            ratios["whole, this way"].append(whole / full)
            ratios["split, exits off"].append(off / whole)
            ratios["cascade"].append(ran / full)
            ratios["ideal"].append(trunk + len(some) * heads / 1000 / full)
            ratios["ideal by time"].append(len(some) * ideal / 1000 / full)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    return {
        **medians,
        "over_ideal": medians["cascade"] / medians["ideal"],
        "over_ideal_by_time": medians["cascade"] / medians["ideal by time"],
        "images_per_second_plain": len(some) / statistics.median(fulls),
    }


def _reached(shares: Mapping[str, float], policy: Policy) -> dict[str, float]:
    """The share of the samples that reaches each stage."""
    left, found = 1.0, {}
    for name in policy.exits:
        found[name] = left
        left -= shares[name]
    return found


def _trunk_share(table: ScoreTable, policy: Policy, reached: Mapping[str, float]) -> float:
    """The share of the trunk's MACs that are run, heads left out."""
    macs = table.costs["MACs"]
    parts = _shares_of_parts(table, policy, reached)
    spent = sum(
        share * macs[part] for part, share in parts.items() if part not in policy.exits[:-1]
    )
    return spent / table.cost_of([BIG], "MACs")


def _shares_of_parts(
    table: ScoreTable, policy: Policy, reached: Mapping[str, float]
) -> dict[str, float]:
    """Part -> the share of the samples that it is run for."""
    shares: dict[str, float] = {}
    for name in policy.exits:
        for part in table.exits[table.index(name)].parts:
            shares.setdefault(part, reached[name])
    return shares


if __name__ == "__main__":
    harness.main(
        measure,
        claim="with exits on, ResNet-56 takes at most 1.10 x the ideal time at batch 256, and "
        "split with every exit off at most 1.03 x the plain network's",
    )
