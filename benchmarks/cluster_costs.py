"""How time grows with models, samples and requests: a small model, and how well it predicts.

    python benchmarks/cluster_costs.py [--only PART] [--json] [--record]

The constants of this machine are fitted to some small measurements, and what they predict of
others is compared with what these take. Processor seconds are compared, which other programs on
the machine disturb less than the clock; times by the clock are compared as well. The networks
are the CIFAR-10 ResNets of cifar10.py, each process with one thread of PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

import cifar10
import harness
from all_pairs import DROPS, make_zoo
from cost_examples import examples
from cost_model import Check, Costs, Measured, Scoring, Searching
from load_client import Phase
from our_server import WITHOUT_SHADOWS, ours, set_point
from parts import add_only, measured
from server_process import loaded
from serving_cascade import NETWORKS, Served, served
from serving_checks import requests_of
from understudy.searching.all_pairs import search_all_pairs
from understudy.zoo.models import load_stage

MOST_ERROR = 0.2
"""By which predictions may be off: goal of all checks of processor seconds."""
CLIENTS, SECONDS, ROUNDS, BATCH = 64, 4.0, 3, 64
CHEAPEST, DEAREST = "drop-1", "drop-0.25"
MACS = {name: macs for name, (_, macs) in cifar10.PUBLISHED.items()}
ALL = tuple(MACS)
FITTED_SCORING = (
    (("resnet8",), 512),
    (("resnet8",), 4096),
    (("resnet56",), 512),
    (("resnet8", "resnet20", "resnet32"), 512),
    (("resnet20", "resnet56"), 2048),
)
FITTED_JOINED = (("resnet8", "resnet20", "resnet32"), 512)  # tells a look from a load
CHECKED_SCORING = ((("resnet44",), 3072), (("resnet32", "resnet44"), 2048), (ALL, 2048))
SHARED_SCORING = (("resnet8", "resnet20", "resnet32"), 8192)
FITTED_SEARCHING = ((100, 20_000), (100, 200_000), (1_500, 2_000), (1_500, 10_000))
CHECKED_SEARCHING = ((500, 100_000), (1_000, 50_000))


class Seconds(NamedTuple):
    """The seconds of some commands: by the clock, and of all cores."""

    wall: float
    cpu: float


def environment() -> dict[str, str]:
    """Variables under which a process has one thread of PyTorch, and finds the networks."""
    paths = (harness.ROOT / "src", harness.ROOT / "benchmarks", os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(map(str, paths))}


def seconds_of(*commands: Sequence[str]) -> Seconds:
    """The seconds of `understudy` commands that run at a time."""
    before, start = _cpu(), perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "understudy", *words],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for words in commands
    ]
    for process in running:
        _, printed = process.communicate()
        if process.returncode:
            sys.exit(f"a command failed: {printed.decode(errors='replace')[-2000:]}")
    return Seconds(perf_counter() - start, _cpu() - before)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Scorer:
    """Scores networks on the first images of CIFAR-10's test set, each time into a new table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.specs = folder, cifar10.specs(harness.shared())
        self.images = pl.read_parquet(harness.shared() / "cifar10" / "test.parquet")
        self.tables = 0

    def __call__(
        self, names: Sequence[str], images: int, *options: str, processes: int = 1
    ) -> Seconds:
        """The seconds of a run."""
        data, self.tables = self.folder / f"{images}.parquet", self.tables + 1
        if not data.exists():
            self.images.head(images).write_parquet(data)
        models = [f"{name}={self.specs[name]}" for name in names]
        into = ["--into", str(self.folder / f"table{self.tables}"), "--measure", "none"]
        words = ["score", *models, "--data", f"parquet:{data}", *into, *options]
        return seconds_of(*([words] * processes))


def work_of(names: Sequence[str], images: int, processes: int = 1) -> Scoring:
    """What a run has to do."""
    return Scoring(tuple(MACS[name] for name in names), images, processes=processes)


def scoring() -> dict[str, Any]:
    """Plain runs, joined ones and runs on Ray, predicted from small plain ones and a joined one."""
    with tempfile.TemporaryDirectory() as folder:
        run = Scorer(Path(folder))
        run(("resnet8",), 512)  # files of the libraries come into memory
        measured = {one: run(*one) for one in FITTED_SCORING}
        least = measured[FITTED_SCORING[0]]
        extra = {
            "joined": run(*FITTED_SCORING[0], "--join").cpu - least.cpu,
            "Ray, by the clock": run(*FITTED_SCORING[0], "--ray", "--threads", "1").wall
            - least.wall,
        }
        joined = run(*FITTED_JOINED, "--join", processes=2).cpu - 2 * max(extra["joined"], 0.0)
        fitted = [Measured(work_of(*one), s.cpu) for one, s in measured.items()]
        costs = Costs.fitted([*fitted, Measured(work_of(*FITTED_JOINED, processes=2), joined)])
        checks = [
            Check(f"{_named(*one)}", costs.of(work_of(*one)), run(*one).cpu)
            for one in CHECKED_SCORING
        ]
        ways = {
            "1 process": run(*SHARED_SCORING),
            "2 joined processes": run(*SHARED_SCORING, "--join", processes=2),
            "Ray, 2 actors": run(*SHARED_SCORING, "--ray", "--threads", "1"),
        }
    one, two = (costs.of(work_of(*SHARED_SCORING, processes=count)) for count in (1, 2))
    two += 2 * max(extra["joined"], 0.0)
    checks += [
        Check(_named(*SHARED_SCORING), one, ways["1 process"].cpu),
        Check("the same, 2 joined processes", two, ways["2 joined processes"].cpu),
    ]
    on_ray = two / 2 + extra["Ray, by the clock"]
    walls = [
        Check("2 joined processes", two / 2, ways["2 joined processes"].wall),
        Check("Ray, 2 actors", on_ray, ways["Ray, 2 actors"].wall),
    ]
    return {
        "unit": "processor seconds",
        "fitted_to": {
            **{_named(*one): round(s.cpu, 3) for one, s in measured.items()},
            f"{_named(*FITTED_JOINED)}, 2 joined processes": round(joined, 3),
        },
        "constants": dict(costs.seconds),
        "GMACs_per_core_second": round(1e-9 / costs.seconds["MAC"], 1),
        "extra_seconds": {name: round(value, 3) for name, value in extra.items()},
        "checks": [check.to_dict() for check in checks],
        "by_the_clock": {name: round(seconds.wall, 2) for name, seconds in ways.items()},
        "checks_by_the_clock": [check.to_dict() for check in walls],
        "met": _within(checks),
    }


def _named(names: Sequence[str], images: int) -> str:
    models = "all five networks" if tuple(names) == ALL else ", ".join(names)
    return f"{models} on {images:,} images"


def searching() -> dict[str, Any]:
    """All pairs of larger zoos, predicted from smaller ones."""
    _pairs_seconds(50, 1_000)  # compiles
    measured = [
        Measured(Searching(*size), median(_pairs_seconds(*size) for _ in range(3)))
        for size in FITTED_SEARCHING
    ]
    costs = Costs.fitted(measured)
    checks = [
        Check(
            "{:,} models x {:,} samples".format(*size),
            costs.of(Searching(*size)),
            _pairs_seconds(*size),
        )
        for size in CHECKED_SEARCHING
    ]
    checks += [
        Check(f"{what} ({name})", costs.of(work), seconds)
        for name, what, work, seconds in _recorded_searches()
    ]
    return {
        "unit": "processor seconds",
        "fitted_to": {
            f"{one.work.models:,} models x {one.work.samples:,} samples": round(one.seconds, 3)  # type: ignore[attr-defined]
            for one in measured
        },
        "constants": dict(costs.seconds),
        "checks": [check.to_dict() for check in checks],
        "met": _within(checks),
    }


def _pairs_seconds(models: int, samples: int) -> float:
    zoo = make_zoo(models, samples)
    start = process_time()
    search_all_pairs(zoo.correct, zoo.confidence, zoo.cost, DROPS, threads=1)
    return process_time() - start


def _recorded_searches() -> list[tuple[str, str, Searching, float]]:
    """The records of searches over zoos: record, what, work, processor seconds."""
    kept = json.loads((harness.RESULTS / "all_pairs.json").read_text())
    work = Searching(kept["models"], kept["samples"])
    what = f"{work.models:,} models x {work.samples:,} samples"
    return [("all_pairs.json", what, work, kept["processor_seconds"])]


def serving() -> dict[str, Any]:
    """Processor time of a request, predicted from two operating points and the networks alone."""
    one = served()
    single, several = (
        requests_of(one.images),
        requests_of(one.images[: len(one.images) // 8 * 8].reshape(-1, 8, *one.images.shape[1:])),
    )
    loads = {point: (point, single, CLIENTS) for point in one.expected}
    loads |= {f"{DEAREST}, 8 images a request": (DEAREST, several, CLIENTS // 8)}
    spent: dict[str, list[float]] = {name: [] for name in loads}
    rates: dict[str, list[float]] = {name: [] for name in loads}
    ratios = []
    with ours(one.folder, *WITHOUT_SHADOWS) as server:
        for _ in range(ROUNDS):
            ratios.append(np.divide(*(_stage_seconds(name, one) for name in NETWORKS)).item())
            for name, (point, requests, clients) in loads.items():
                set_point(server, point)
                loaded(server.port, requests, Phase(1.0, clients=clients))
                server.wait_idle()
                before = server.cpu_seconds()
                records = loaded(server.port, requests, Phase(SECONDS, clients=clients))
                answers = len(records.rows(status=200))
                spent[name].append((server.cpu_seconds() - before) / answers)
                rates[name].append(records.rate(SECONDS))
    seconds = {name: median(found) for name, found in spent.items()}
    reach = {
        point: float(np.mean(expected.exit != NETWORKS[0]))
        for point, expected in one.expected.items()
        if point != "reference"
    }
    ratio = median(ratios)
    large = (seconds["reference"] - seconds[CHEAPEST]) / (1 - ratio - reach[CHEAPEST])
    request = seconds["reference"] - large
    checks = [
        Check(name, request + images * (ratio + reach[point]) * large, seconds[name])
        for name, point, images in (
            *((point, point, 1) for point in reach if point != CHEAPEST),
            (f"{DEAREST}, 8 images a request", DEAREST, 8),
        )
    ]
    return {
        "unit": "processor seconds per request",
        "rounds": ROUNDS,
        "clients": CLIENTS,
        "fitted_to": {
            "resnet20 / resnet56, in batches of 64": round(ratio, 4),
            **{point: round(seconds[point], 6) for point in ("reference", CHEAPEST)},
        },
        "reach_the_large_model": {point: round(share, 4) for point, share in reach.items()},
        "constants": {"request": request, "small model": ratio * large, "large model": large},
        "per_second": {name: round(median(found)) for name, found in rates.items()},
        "checks": [check.to_dict() for check in checks],
        "met": _within(checks),
    }


@torch.inference_mode()
def _stage_seconds(name: str, one: Served) -> float:
    """The processor seconds that a network takes for an image, preprocessing included."""
    stage = load_stage(cifar10.specs(harness.shared())[name])
    batches = [torch.from_numpy(one.images[i : i + BATCH]) for i in range(0, 1024, BATCH)]
    torch.set_num_threads(1)
    found = []
    for _ in range(3):
        start = process_time()
        for batch in batches:
            stage.model(stage.prepare(batch))
        found.append((process_time() - start) / sum(map(len, batches)))
    return min(found)


def _within(checks: Sequence[Check]) -> bool:
    return all(abs(check.error) <= MOST_ERROR for check in checks)


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "scoring": scoring,
    "searching": searching,
    "serving": serving,
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(harness.ROOT / "benchmarks"))
    found = measured(PARTS, arguments.only)
    known = PARTS.keys() <= found["parts"].keys()
    return {
        "most_error": MOST_ERROR,
        "examples": examples(found["parts"]) if known else {},
        **found,
    }


def options(parser: argparse.ArgumentParser) -> None:
    add_only(parser, PARTS)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="processor seconds of scoring, searching and serving that the model of costs was "
        "not fitted to are predicted within 20 %",
        options=options,
    )
