"""Scoring one table by several processes: what it costs, and what is lost when they are killed.

`speed`: five CIFAR-10 ResNets on 10,000 JPEGs, in turns: `understudy score` alone and with
`--join`, with as many threads as there are cores; as many joined processes of one thread each; and
four. The tables are compared byte by byte with those of one process alone.

`kills`: three joined processes score networks on the digits; one of them is killed at a random
moment, 50 times. What is scored twice is counted, in images.

`nodes`: two nodes with network, host name and process numbers of their own (ip netns, unshare) on
one disk; one of them is killed. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import polars as pl

import harness
from cifar10 import specs
from joined_worker import BATCH, work
from parts import add_only, measured
from scoring_speed import Seconds, seconds_of
from understudy.scoring.shards import SHARD_BATCHES

GOAL = 1.05
ROOT = Path(__file__).resolve().parent
DIGITS = {f"net{n}": "py:digit_nets:big" for n in range(3)}
DATA, IMAGES, SHARD = "digits:", 1797, BATCH * SHARD_BATCHES


class Run(NamedTuple):
    """A way to score the table of `speed`: how many processes, each with how many threads."""

    processes: int
    threads: int
    joined: bool

    def __str__(self) -> str:
        how = f"{self.processes} joined" if self.joined else "alone"
        return f"{how}, {self.threads} {'thread' if self.threads == 1 else 'threads'} each"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (*sys.path, str(tests()))))}


def tests() -> Path:
    return harness.ROOT / "tests"


def content(table: Path) -> dict[str, bytes]:
    """All files of a table but its times."""
    files = (file for file in sorted(table.rglob("*")) if file.name != "times.json")
    return {str(file.relative_to(table)): file.read_bytes() for file in files if file.is_file()}


def score(run: Run, models: Mapping[str, str], data: str, into: Path) -> None:
    """The command, in so many processes at once."""
    named = [f"{name}={spec}" for name, spec in models.items()]
    words = ["score", *named, "--data", data, "--into", str(into), "--measure", "none"]
    words += ["--threads", str(run.threads), *(["--join"] if run.joined else [])]
    command = [sys.executable, "-m", "understudy", *words]
    started = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        for _ in range(run.processes)
    ]
    if any(process.wait() for process in started):
        sys.exit(f"{run} failed")


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    shared, cores = harness.shared(), os.cpu_count() or 1
    models = specs(shared)
    alone, one = Run(1, cores, joined=False), Run(1, cores, joined=True)
    split, four, slow = Run(cores, 1, joined=True), Run(4, 1, joined=True), Run(1, 1, joined=False)
    seconds: dict[Run, list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.parquet"
        images = pl.read_parquet(shared / "cifar10" / "test.parquet").head(arguments.images)
        images.write_parquet(file)
        turns = [alone, one, split] * arguments.rounds + [slow, four]
        tables: dict[Run, list[dict[str, bytes]]] = {}
        for number, run in enumerate(turns):
            into = Path(folder) / f"table{number}"
            took = seconds_of(lambda: score(run, models, f"parquet:{file}", into))  # noqa: B023
            seconds.setdefault(run, []).append(took)
            tables.setdefault(run, []).append(content(into))
    equal = {
        str(run): all(table == tables[other][0] for table in tables[run])
        for run, other in ((one, alone), (split, slow), (four, slow))
    }
    overhead = {
        kind: median(
            getattr(joined, kind) / getattr(plain, kind)
            for joined, plain in zip(seconds[one], seconds[alone], strict=True)
        )
        for kind in Seconds._fields
    }
    return {
        "images": arguments.images,
        "networks": len(models),
        "rounds": arguments.rounds,
        "median_seconds": {
            str(run): {k: round(median(getattr(s, k) for s in found), 2) for k in Seconds._fields}
            for run, found in seconds.items()
        },
        "one_joined_to_alone": {kind: round(share, 4) for kind, share in overhead.items()},
        "byte_equal": equal,
        "met": all(equal.values()) and overhead["wall"] <= GOAL,
    }


class Logs:
    """What processes have written down (`joined_worker`)."""

    def __init__(self, folder: Path) -> None:
        self._lines = [
            line.split() for one in folder.glob("*.log") for line in one.read_text().splitlines()
        ]

    @property
    def images(self) -> int:
        """The images that were scored, those of shards that were not kept among them."""
        return sum(int(number) for kind, number in self._lines if kind == "images")

    @property
    def shards(self) -> list[int]:
        """The shards that were kept."""
        return [int(number) for kind, number in self._lines if kind == "shard"]


def kills(arguments: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(tests()))
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    os.environ["OMP_NUM_THREADS"] = "1"
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["joined_worker", "digit_nets", "sklearn.datasets"])
    seeded = random.Random(0)

    def trial(folder: Path, count: int, moment: float | None) -> tuple[float, dict[str, bytes]]:
        folder.mkdir()
        table, start = folder / "table", perf_counter()
        started = [
            processes.Process(target=work, args=(f"{folder}/{n}.log", DIGITS, DATA, str(table)))
            for n in range(count)
        ]
        for process in started:
            process.start()
        killed = None if moment is None else seeded.choice(started)
        if killed is not None and moment is not None:
            time.sleep(moment)
            killed.kill()
        for process in started:
            process.join()
            if process.exitcode and process is not killed:
                sys.exit(f"a process ended with {process.exitcode}")
        return perf_counter() - start, content(table)

    with tempfile.TemporaryDirectory() as name:
        _, expected = trial(Path(name) / "alone", 1, None)
        whole, together = trial(Path(name) / "whole", 3, None)
        outcomes, twice, lost = [together == expected], [], []
        for number in range(arguments.kills):
            folder = Path(name) / f"kill{number}"
            _, found = trial(folder, 3, seeded.uniform(0, whole))
            logs = Logs(folder)
            outcomes.append(found == expected)
            twice.append(len(logs.shards) - len(set(logs.shards)))
            lost.append(logs.images - IMAGES)
    return {
        "kills": arguments.kills,
        "seconds_without_a_kill": round(whole, 2),
        "byte_equal": sum(outcomes[1:]),
        "shards_kept_twice": sum(twice),
        "images_per_shard": SHARD,
        "images_scored_again": {"most": max(lost), "mean": round(sum(lost) / len(lost), 1)},
        "met": all(outcomes) and max(lost) <= SHARD,
    }


@contextmanager
def node(name: str) -> Iterator[Callable[[Sequence[str]], subprocess.Popen[bytes]]]:
    """A network, host name and process numbers of their own; what starts a process there."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    spaces = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    named = ["sh", "-c", f'hostname {name} && exec "$@"', name]
    start = ["ip", "netns", "exec", name, *spaces, *named]
    try:
        yield lambda words: subprocess.Popen(
            [*start, *words], env={**environment(), "OMP_NUM_THREADS": "1"}
        )
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def nodes(_: argparse.Namespace) -> dict[str, Any]:
    worker = str(ROOT / "joined_worker.py")
    arguments = [json.dumps(DIGITS), DATA]
    with (
        tempfile.TemporaryDirectory() as name,
        node("understudy-a") as on_a,
        node("understudy-b") as on_b,
    ):
        folder = Path(name)

        def start(
            on: Callable[[Sequence[str]], subprocess.Popen[bytes]], log: str, table: str
        ) -> subprocess.Popen[bytes]:
            file = str(folder / f"{log}.log")
            return on([sys.executable, worker, file, *arguments, str(folder / table)])

        start(on_a, "alone", "alone").wait()
        expected = content(folder / "alone")
        (folder / "alone.log").unlink()
        both = [start(on_a, "a", "both"), start(on_b, "b", "both")]
        begin = perf_counter()
        codes = [process.wait() for process in both]
        undisturbed = perf_counter() - begin
        equal = [content(folder / "both") == expected]
        for log in folder.glob("*.log"):
            log.unlink()
        killed, other = start(on_a, "a", "killed"), start(on_b, "b", "killed")
        begin = perf_counter()
        while not (folder / "a.log").exists():
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        codes.append(other.wait())
        equal.append(content(folder / "killed") == expected)
        return {
            "exit_codes": codes,
            "byte_equal": equal,
            "seconds_undisturbed": round(undisturbed, 2),
            "seconds_with_a_node_killed": round(perf_counter() - begin, 2),
            "images_scored_again": Logs(folder).images - IMAGES,
            "met": not any(codes) and all(equal),
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
        claim="one joined process scores in at most 1.05 times the time of one alone; several, "
        "also where one is killed, make the same bytes, and score at most one shard again",
        options=options,
    )
