"""How much of its ideal speed a cascade reaches: offline, online, exits, ONNX Runtime.

    python benchmarks/execution.py [--only NAME] [--json]

Every setting is one interleaved run of `understudy.app.bench`: the large model alone, the
first stage alone, batch by batch, the executor, and the ideal. Clients are 64, with the executor's
own patience and with more of it at the second stage ("patient"). The exits are those that
cifar_exits.py trains. Networks of timm have random weights; their threshold is the quantile that
defers a fifth. Freed memory is kept by the process, as on the command line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cifar_exits
import exit_speed
import harness
from understudy import Cascade, Policy, build
from understudy.app.bench import bench, run_alone
from understudy.app.bench_result import EXECUTOR, LARGE, Bench
from understudy.early_exit.network import ExitNetwork
from understudy.malloc import keep_freed_memory
from understudy.nn.execution_mode import PLAIN, ExecutionMode, with_mode
from understudy.nn.stage import Stage
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export import export_onnx
from understudy.runtime.protocol import Runnable
from understudy.searching.exits import search_exits
from understudy.searching.search import search_in_sample
from understudy.zoo.batches import batches
from understudy.zoo.data import open_data
from understudy.zoo.models import load_network, load_stage

BATCH, ROUNDS, CLIENTS, THREADS = 256, 5, 64, 2
PATIENT = 40
"""Milliseconds that deferred rows wait for company in the setting of that name."""
FAST = ExecutionMode.parse("folded+channels_last")
SMALL, LARGE_NET = "mobilenetv3_small_050", "resnet50"
DEFERRED = 0.2
SHOWN = ("of_ideal", "speedup", "online_of_ideal", "p99_over_large", "times_torch")
GOALS = {
    "pair": 0.95,
    "pair, patient": 0.95,
    "pair, faster": 0.95,
    "timm": 0.95,
    "exits": 0.92,
    "exits, faster": 0.92,
    "onnx pair": 0.95,
    "onnx exits": 0.95,
}
LEAST_ONLINE, MOST_P99 = 0.90, 2.0


def pictures() -> Tensor:
    data = open_data(f"parquet:{harness.shared() / 'cifar10' / 'test.parquet'}")
    return torch.cat([batch.images for batch in batches(data, size=1000)])


def retrained() -> ExitNetwork:
    """resnet56 with the exits of cifar_exits.py, without those that need a saver."""
    folder = cifar_exits.WORK / f"{cifar_exits.BIG}-exits"
    return exit_speed.without_saver(load_network(f"exits:{folder}", allow_code=["cifar_nets"]))


def pair(variant: ExecutionMode = PLAIN) -> Cascade:
    """resnet20 before resnet56, at the threshold that loses half a point on the test set."""
    table = cifar_exits.scores(harness.shared()).only(["resnet20", "resnet56"])
    (choice,) = search_in_sample(table, max_drop=0.5).choices
    spec = cifar_exits.spec_of("resnet20", cifar_exits.WORK / "resnet20.safetensors")
    little, big = load_stage(spec.partition("=")[2]), retrained().stage
    stages = {"resnet20": with_mode(little, variant), "resnet56": with_mode(big, variant)}
    return build(choice.policy, stages)


def exits(variant: ExecutionMode = PLAIN) -> Cascade:
    """The cheapest plan of exits alone that loses at most half a point."""
    table, big = cifar_exits.scores(harness.shared()), cifar_exits.BIG
    plain = [n for n in table.names if n.startswith(big + "/") and n.endswith("/conv64")]
    points = search_exits(table.only([*plain, big]), reference=big)
    policy = min((p for p in points if p.drop <= 0.5), key=lambda p: p.cost).policy
    stages = retrained().with_mode(variant).stages(big)
    return Cascade({name: stages[name] for name in policy.exits}, policy)


def timm_pair() -> tuple[Cascade, Tensor]:
    """Two networks of very different size and input size; a fifth is deferred."""
    little = load_stage(f"timm:{SMALL}?weights=random&run={FAST.name}")
    big = load_stage(f"timm:{LARGE_NET}?weights=random&run={FAST.name}")
    assert little.preprocess is not None
    small = Stage(little.model, preprocess=replace(little.preprocess, size=(96, 96)))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (512, 3, 160, 160), generator=generator, dtype=torch.uint8)
    sure = torch.cat([small.run(part).confidence for part in images.split(64)])
    threshold = float(np.quantile(sure.double().numpy(), DEFERRED))
    return Cascade({"small": small, "large": big}, Policy.pair("small", "large", threshold)), images


def figures(found: Bench) -> dict[str, Any]:
    told = found.to_dict()
    if found.online:
        large, ours = found.online[LARGE].ms, found.online[EXECUTOR].ms
        told["p99_over_large"] = ours["p99"] / large["p99"]
    return told


def on_torch(
    make: Callable[[], Cascade], *, count: int, clients: int = 0, wait: Any = None
) -> Callable[[], Any]:
    def measure() -> dict[str, Any]:
        images = pictures()[:count]
        return figures(
            bench(make(), images, batch=BATCH, rounds=ROUNDS, clients=clients, max_wait_ms=wait)
        )

    return measure


def on_timm() -> dict[str, Any]:
    cascade, images = timm_pair()
    return figures(bench(cascade, images, batch=64, rounds=ROUNDS))


def timed(cascade: Runnable, images: Any) -> float:
    start = perf_counter()
    run_alone(cascade, images, contestant=EXECUTOR, batch=BATCH)
    return perf_counter() - start


def on_onnx(make: Callable[[], Cascade], *, count: int, clients: int = 0) -> Callable[[], Any]:
    """On ONNX Runtime, and beside PyTorch's executor in turns."""

    def measure() -> dict[str, Any]:
        cascade, images = make(), pictures()[:count]
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "onnx"
            export_onnx(cascade, target)
            exported = load_onnx(target, threads=THREADS)
            found = bench(exported, images.numpy(), batch=BATCH, rounds=ROUNDS, clients=clients)
            ratios = []
            for _ in range(ROUNDS + 1):
                took = [timed(cascade, images), timed(exported, images.numpy())]
                ratios.append(took[0] / took[1])
        return {**figures(found), "times_torch": float(np.median(ratios[1:]))}

    return measure


SETTINGS: dict[str, Callable[[], Any]] = {
    "pair": on_torch(pair, count=5_120, clients=CLIENTS),
    "pair, patient": on_torch(
        pair, count=5_120, clients=CLIENTS, wait={"resnet20": 2, "resnet56": PATIENT}
    ),
    "pair, faster": on_torch(lambda: pair(FAST), count=5_120, clients=CLIENTS),
    "timm": on_timm,
    "exits": on_torch(exits, count=5_120),
    "exits, faster": on_torch(lambda: exits(FAST), count=5_120),
    "onnx pair": on_onnx(pair, count=5_120),
    "onnx exits": on_onnx(exits, count=5_120),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    torch.set_num_threads(THREADS)
    found = _recorded() if arguments.only else {}
    for name, taken in SETTINGS.items():
        if arguments.only in ("", name):
            found[name] = taken()
            told = {key: found[name].get(key) for key in SHOWN}
            print(name, json.dumps(told), file=sys.stderr, flush=True)
    missed = [name for name, told in found.items() if told["of_ideal"] < GOALS[name]]
    for name, told in found.items():
        if told["online_of_ideal"] is not None and (
            told["online_of_ideal"] < LEAST_ONLINE or told["p99_over_large"] > MOST_P99
        ):
            missed.append(f"{name}, online")
        if told.get("times_torch", 1.0) < 1.0:
            missed.append(f"{name}, against PyTorch")
    return {"settings": found, "goals": GOALS, "missed": missed, "met": not missed}


def _recorded() -> dict[str, Any]:
    """The settings as recorded before: `--only` measures some of them anew."""
    file = harness.RESULTS / "execution.json"
    return json.loads(file.read_text())["settings"] if file.exists() else {}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", default="", metavar="NAME", help="one setting; the rest stays as recorded"
    )


if __name__ == "__main__":
    harness.main(
        measure,
        claim="a cascade reaches .95 of its ideal throughput offline (.92 with exits inside), .90 "
        "with 64 clients at a p99 of at most twice the large model's, on ONNX Runtime .95 of its "
        "own ideal and no less than PyTorch",
        options=_options,
    )
