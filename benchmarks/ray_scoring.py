"""Scoring on Ray: what it costs, and what is lost when processes and nodes are killed.

`speed`: five CIFAR-10 ResNets on 10,000 JPEGs, in turns, as whole processes: `understudy score`
alone; with `--ray`, which starts a Ray on this machine; and with `--ray ADDRESS`, on one that runs
already. The tables are compared byte by byte.

`kills`: on a cluster of this machine, one of the actors that score networks on the digits is killed
at a random moment, 50 times. What is scored twice is counted, in images.

`nodes`: two nodes of Ray on this machine; one is killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import polars as pl
import torch

import harness
from cifar10 import specs
from joined_scoring import content, environment, tests
from parts import add_only, measured
from scoring_speed import Seconds, seconds_of

sys.path.insert(0, str(tests()))
from ray_nodes import RayNodes, ray_nodes
from understudy.cluster.connection import connected
from understudy.cluster.scoring_job import on_ray
from understudy.scoring.on_disk import score_into
from understudy.scoring.shards import SHARD_BATCHES

GOAL = 1.10
BATCH, IMAGES = 8, 1797
SHARD = BATCH * SHARD_BATCHES
LOGGED = '''
import os, threading
import digit_nets

def net():
    """A network that writes down how many images an actor has scored."""
    stage = digit_nets.big()
    def log(module, inputs, output):
        if threading.current_thread().name == "understudy-score":
            with open(LOG, "a") as file:
                file.write(f"{len(output)}\\n")
    stage.model.register_forward_hook(log)
    return stage
'''
MODELS = {f"net{number}": "py:logged_nets:net" for number in range(3)}


def score(models: dict[str, str], data: str, into: Path, *ray: str) -> None:
    """The command, as a process."""
    named = [f"{name}={spec}" for name, spec in models.items()]
    words = ["score", *named, "--data", data, "--into", str(into), "--measure", "none", *ray]
    command = [sys.executable, "-m", "understudy", *words]
    subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)


def start_of_ray() -> float:
    """The seconds in which a Ray of this machine starts and ends."""
    code = "from understudy.cluster.connection import connected\nwith connected(None): pass"
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
    return perf_counter() - start


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    shared, cores = harness.shared(), os.cpu_count() or 1
    models = specs(shared)
    ways = {"alone": (), "--ray": ("--ray",), "--ray ADDRESS": ("--ray",)}
    seconds: dict[str, list[Seconds]] = {way: [] for way in ways}
    tables: dict[str, list[dict[str, bytes]]] = {way: [] for way in ways}
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.parquet"
        images = pl.read_parquet(shared / "cifar10" / "test.parquet").head(arguments.images)
        images.write_parquet(file)
        for turn in range(arguments.rounds):
            starts.append(start_of_ray())
            for number, (way, words) in enumerate(ways.items()):
                into = Path(folder) / f"table{turn}-{number}"

                def run(*words: str, into: Path = into) -> Seconds:
                    return seconds_of(lambda: score(models, f"parquet:{file}", into, *words))

                if way == "--ray ADDRESS":
                    with ray_nodes(cores=cores) as nodes:
                        took = run(*words, nodes.address)
                else:
                    took = run(*words)
                seconds[way].append(took)
                tables[way].append(content(into))
    shares = {
        way: median(
            ray.wall / alone.wall for ray, alone in zip(seconds[way], seconds["alone"], strict=True)
        )
        for way in ways
    }
    expected = tables["alone"][0]
    equal = all(table == expected for found in tables.values() for table in found)
    return {
        "images": arguments.images,
        "networks": len(models),
        "rounds": arguments.rounds,
        "median_seconds": {
            way: round(median(one.wall for one in found), 2) for way, found in seconds.items()
        },
        "seconds_to_start_and_end_ray": round(median(starts), 2),
        "to_alone": {way: round(share, 4) for way, share in shares.items()},
        "byte_equal": equal,
        "met": equal and shares["--ray ADDRESS"] <= GOAL,
    }


class Trials:
    """Scoring of logged networks on the digits, again and again, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._log = folder, folder / "images.log"
        (folder / "logged_nets.py").write_text(LOGGED.replace("LOG,", f"{str(self._log)!r},"))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
        torch.set_num_threads(1)
        self.run("plain", by_actors=False)
        self.expected = content(folder / "plain")

    def run(self, name: str, *, by_actors: bool = True, **more: Any) -> bool:
        """Score; whether the table is that of the plain run."""
        self._log.write_text("")
        if by_actors:
            more["place_of"] = on_ray
        score_into(self._folder / name, MODELS, "digits:", batch=BATCH, measure_batches=(), **more)
        return name == "plain" or content(self._folder / name) == self.expected

    @property
    def again(self) -> float:
        """The images that were scored twice in the latest trial."""
        scored = sum(map(int, self._log.read_text().split()))
        return scored / len(MODELS) - IMAGES


class Kill:
    """Kills an actor a moment after so many images are done; called as work proceeds."""

    def __init__(self, nodes: RayNodes, seeded: random.Random) -> None:
        self._nodes, self._seeded = nodes, seeded
        self._images, self._moment = seeded.randrange(IMAGES), seeded.uniform(0, 0.1)
        self._thread: threading.Thread | None = None

    def __call__(self, _: str, done: int, __: int) -> None:
        if done >= self._images and self._thread is None:
            self._thread = threading.Thread(target=self._kill)
            self._thread.start()

    def _kill(self) -> None:
        time.sleep(self._moment)
        if actors := self._nodes.actors:  # else all was scored within that moment
            with suppress(ProcessLookupError):
                os.kill(self._seeded.choice(actors), signal.SIGKILL)

    def join(self) -> None:
        """Wait until it has killed."""
        assert self._thread is not None
        self._thread.join()


def kills(arguments: argparse.Namespace) -> dict[str, Any]:
    seeded, outcomes, again = random.Random(0), [], []
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name))
        with ray_nodes(cores=2) as nodes, connected(nodes.address):
            start = perf_counter()
            outcomes.append(trials.run("whole"))
            whole = perf_counter() - start
            for number in range(arguments.kills):
                kill = Kill(nodes, seeded)
                outcomes.append(trials.run(f"kill{number}", on_progress=kill))
                kill.join()
                again.append(trials.again)
    return {
        "kills": arguments.kills,
        "seconds_without_a_kill": round(whole, 2),
        "byte_equal": sum(outcomes[1:]),
        "images_per_shard": SHARD,
        "images_scored_again": {
            "most": round(max(again), 1),
            "mean": round(sum(again) / len(again), 1),
            "kills_that_cost_some": sum(one > 0 for one in again),
        },
        "met": all(outcomes) and max(again) <= SHARD,
    }


def nodes(_: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name))
        with ray_nodes(cores=1) as head, connected(head.address):
            with head.added(cores=1):
                start = perf_counter()
                equal = [trials.run("both")]
                both = perf_counter() - start
            with head.added(cores=1) as node:
                killed = threading.Event()

                def kill(_: str, done: int, __: int) -> None:
                    if done > IMAGES // 2 and not killed.is_set():
                        killed.set()
                        head.kill(node)

                start = perf_counter()
                equal.append(trials.run("killed", on_progress=kill))
                took = perf_counter() - start
        return {
            "byte_equal": equal,
            "seconds_undisturbed": round(both, 2),
            "seconds_with_a_node_killed": round(took, 2),
            "images_scored_again": round(trials.again, 1),
            "met": all(equal),
        }


PARTS = {"speed": speed, "kills": kills, "nodes": nodes}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    parts = {name: partial(part, arguments) for name, part in PARTS.items()}
    return measured(parts, arguments.only)


def options(parser: argparse.ArgumentParser) -> None:
    add_only(parser, PARTS)
    parser.add_argument("--images", type=int, default=10_000, help="the first so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=50)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="scoring on a Ray that runs takes at most 1.10 times as long as alone; where a "
        "process or a node ends, the table is byte-equal, and a process costs at most one shard",
        options=options,
    )
