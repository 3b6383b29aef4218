"""How much time exits inside ResNet-56 really save, and what splitting the network costs.

    python benchmarks/exit_speed.py [--json]

Runs on the exits that cifar_exits.py trains, with the cheapest plan of exits alone that loses at
most 0.5 points on the test set. Each round runs the plain network, the split one with every exit
off, and the cascade over the same images, one after another; figures are medians of the ratios.
Freed memory is kept by
the process, as on the command line; without that page faults take a third of the time of all three.
The ideal is the share of the trunk's MACs that are left, times the plain network's time, and the
heads' own time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import cifar_exits
import harness
from understudy import Executor, Policy, evaluate, keep_freed_memory, search_exits
from understudy.nn import Cascade, ExitNetwork, measure_parts
from understudy.nn.stage import Stage
from understudy.zoo import batches, load_network, open_data

BIG = cifar_exits.BIG
SIZES = {1: 200, 16: 1600, 64: 4000, 256: 10_000}
ROUNDS = 5
DROP, MOST_OVER_IDEAL, MOST_OVER_PLAIN = 0.5, 1.10, 1.03


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def without_saver(network: ExitNetwork) -> ExitNetwork:
    heads = {point: network.head(point) for point in network.points if point.head == "conv64"}
    return ExitNetwork(network.stage, network.taps, heads, image=network.image)


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
    plain = [n for n in table.names if n.startswith(BIG + "/") and n.endswith("/conv64")]
    table = table.only([*plain, BIG])
    points = search_exits(table, reference=BIG)
    policy = min((p for p in points if p.drop <= DROP), key=lambda p: p.cost).policy
    stages = without_saver(load_network(f"exits:{cifar_exits.WORK / f'{BIG}-exits'}")).stages(BIG)
    network = stages[BIG].network
    cascade = Cascade({name: stages[name] for name in policy.exits}, policy)
    data = open_data(f"parquet:{shared / 'cifar10' / 'test.parquet'}")
    images = torch.cat([batch.images for batch in batches(data, size=1000)])
    outcome = evaluate(table, policy, reference=BIG)
    reached = _reached(outcome.shares, policy)
    trunk = _trunk_share(table, policy, reached)
    sizes = {}
    for size, count in SIZES.items():
        some = images[:count]
        ratios: dict[str, list[float]] = {"split, exits off": [], "cascade": [], "ideal": []}
        for number in range(ROUNDS + 1):
            full = seconds(over(network.stage, some, size))
            off = seconds(over(stages[BIG], some, size))
            ran = seconds(streamed(cascade, some, size))
            times = measure_parts(stages, some[:size], repeats=3)
            heads = count * sum(reached[n] * times[n] for n in policy.exits[:-1]) / 1000
            if number:
                ratios["split, exits off"].append(off / full)
                ratios["cascade"].append(ran / full)
                ratios["ideal"].append(trunk + heads / full)
        medians = {name: statistics.median(values) for name, values in ratios.items()}
        sizes[size] = {
            **medians,
            "over_ideal": medians["cascade"] / medians["ideal"],
            "images_per_second_plain": count / full,
        }
    answers = cascade.answer(images)
    return {
        "policy": policy.to_dict(),
        "drop": outcome.drop,
        "saving": outcome.saving["MACs"],
        "shares": dict(outcome.shares),
        "shares_when_run": {
            name: answers.exit_names().count(name) / len(answers) for name in policy.exits
        },
        "trunk_share": trunk,
        "by_batch": sizes,
        "met": sizes[256]["over_ideal"] <= MOST_OVER_IDEAL
        and sizes[256]["split, exits off"] <= MOST_OVER_PLAIN,
    }


def _reached(shares: Any, policy: Policy) -> dict[str, float]:
    """The share of the samples that each stage is asked about."""
    left, found = 1.0, {}
    for name in policy.exits:
        found[name] = left
        left -= shares[name]
    return found


def _trunk_share(table: Any, policy: Policy, reached: dict[str, float]) -> float:
    """The share of the trunk's MACs that are run, heads left out."""
    macs, full, done, spent = table.costs["MACs"], table.cost_of([BIG], "MACs"), set(), 0.0
    for name in policy.exits:
        parts = set(table.exits[table.index(name)].parts) - {name} - done
        spent += reached[name] * sum(macs[part] for part in parts)
        done |= parts
    return spent / full


if __name__ == "__main__":
    harness.main(
        measure,
        claim="with exits on, ResNet-56 takes at most 1.10 x the ideal time at batch 256, and "
        "split with every exit off at most 1.03 x the plain network's",
    )
