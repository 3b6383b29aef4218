"""Writers that are killed, lose power or run at once: the older or the newer state, never between.

Every verb that writes is killed before each call of Python that changes a disk, and (--strace)
before each such system call of any library; then it must find the older or the newer state, succeed
when it is repeated, and leave nothing else behind. Power cuts are simulated from the record of
those calls.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import harness
from crash_points import (
    content,
    copied,
    in_child,
    killed_before_call,
    killed_before_system_call,
    moments_of,
)
from understudy import ScoreTable, folders, load_table, save_table
from understudy.app.cli.main import app
from understudy.folders import recover

Change = Callable[[Path], object]
ALLOWED = ("--allow-code", "understudy.app.demo")  # where the networks are defined


@dataclass(frozen=True)
class Verb:
    """A command that changes a folder.

    Attributes:
        prepare: makes what the command starts from.
        change: the command.
        repeats: whether it changes what it wrote when it is repeated, as a further look does; then
            each file is the older or the newer one.
    """

    prepare: Change
    change: Change
    repeats: bool = False


def table_of(samples: int, *, labels: bool = True) -> ScoreTable:
    """Two models, one of which is right more often."""
    draw = np.random.default_rng(0)
    right = draw.random((2, samples)) < [[0.7], [0.9]]
    predictions = {
        name: (np.where(right[row], 0, 1), draw.random(samples).astype(np.float32))
        for row, name in enumerate(("little", "big"))
    }
    label = np.zeros(samples, int) if labels else None
    return ScoreTable.from_predictions(predictions, label, costs={"little": 1, "big": 9})


def run(*words: object) -> None:
    """A command, whose answer nobody reads."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app([str(word) for word in words], standalone_mode=False)


def networks(folder: Path) -> None:
    """Two networks for digits, as files of weights."""
    import torch
    from safetensors.torch import save_file

    from understudy.app import demo

    for name in ("linear", "mlp"):
        torch.manual_seed(0)
        save_file(getattr(demo, name)().state_dict(), folder / f"{name}.safetensors")


def score(folder: Path, name: str) -> None:
    """Score a network; one that was scored to the end is refused, as it is without a crash."""
    from understudy.errors import TableError
    from understudy.scoring.on_disk import score_into

    spec = f"py:understudy.app.demo:{name}?checkpoint={folder / name}.safetensors"
    try:
        score_into(
            folder / "table",
            {name: spec},
            "digits:heldout",
            batch=64,
            measure_batches=(),
            workers=0,
        )
    except TableError as error:
        if "names are unique" not in str(error):
            raise


def scored(folder: Path) -> None:
    networks(folder)
    score(folder, "mlp")


def searched(folder: Path) -> None:
    scored(folder)
    score(folder, "linear")
    run("search", folder / "table", "--max-drop", 90, "--out", folder / "result.json")


def build(folder: Path) -> None:
    run("build", folder / "result.json", "--into", folder / "cascade", *ALLOWED)


def built(folder: Path) -> None:
    searched(folder)
    build(folder)


def unlabelled(folder: Path) -> None:
    save_table(table_of(3000, labels=False), folder / "table")
    pl.DataFrame({"id": ["0", "7"], "label": [1, 0]}).write_csv(folder / "labels.csv")


def without_exchange(folder: Path) -> None:
    """What systems do that cannot exchange two folders at once."""
    folders._exchange = lambda *_: False
    save_table(table_of(4000), folder / "table")


VERBS = {
    "save_table": Verb(
        lambda at: save_table(table_of(3000), at / "table"),
        lambda at: save_table(table_of(4000), at / "table"),
    ),
    "save_table without exchange": Verb(
        lambda at: save_table(table_of(3000), at / "table"), without_exchange
    ),
    "import-labels": Verb(
        unlabelled,
        lambda at: run("import-labels", at / "labels.csv", "--into", at / "table"),
    ),
    "search --out": Verb(
        lambda at: save_table(table_of(3000), at / "table"),
        lambda at: run("search", at / "table", "--max-drop", 90, "--out", at / "result.json"),
        repeats=True,
    ),
    "score": Verb(networks, lambda at: score(at, "mlp")),
    "score into a table": Verb(scored, lambda at: score(at, "linear")),
    "build": Verb(searched, build),
    "build over a cascade": Verb(built, build),
    "export": Verb(
        built, lambda at: run("export", at / "cascade", "--onnx", at / "onnx", *ALLOWED)
    ),
}
QUICK = ("save_table", "save_table without exchange", "import-labels")


def state(folder: Path) -> dict[str, bytes]:
    """What a reader finds, without unfinished work and hidden files."""
    recover(folder / "table")
    return {
        name: data
        for name, data in content(folder, without=["times.json"]).items()
        if "/." not in f"/{name}" and not name.startswith("table.partial")
    }


def kills(verb: Verb, place: Path, killed: Callable[..., bool], every: int) -> dict[str, int]:
    """Kill a command at its points, or at every nth, and count what went wrong."""
    start, disk = place / "start", place / "disk"
    disk.mkdir(parents=True)
    made = in_child(lambda: verb.prepare(disk))
    assert made == 0, "a command starts from something"
    copied(disk, start)
    older = state(disk)
    assert in_child(lambda: verb.change(disk)) == 0
    newer, names = state(disk), set(content(disk))
    found = {"points": 0, "between": 0, "blocked": 0, "litter": 0}
    for number in count(1, every):
        copied(start, disk)
        if not killed(lambda: verb.change(disk), number):
            break
        found["points"] += 1
        now = state(disk)
        whole = [one for one in (older, newer) if one == now]
        mixed = all(data in (older.get(name), newer.get(name)) for name, data in now.items())
        found["between"] += not (whole or (verb.repeats and mixed))
        found["blocked"] += in_child(lambda: verb.change(disk)) != 0
        found["blocked"] += not verb.repeats and state(disk) != newer
        found["litter"] += set(content(disk)) != names or any(disk.rglob(".*"))
    shutil.rmtree(place)
    return found


def cuts(verb: Verb, place: Path, seeds: int) -> dict[str, int]:
    """Cut the power at every moment of a command, and count what went wrong."""
    start, disk = place / "start", place / "disk"
    disk.mkdir(parents=True)
    verb.prepare(disk)
    copied(disk, start)
    older = state(disk)
    moments = moments_of(lambda: verb.change(disk), disk)
    newer, names = state(disk), set(content(disk))
    found = {"points": len(moments), "cuts": 0, "between": 0, "blocked": 0, "litter": 0}
    for number, moment in enumerate(moments):
        for seed in range(seeds):
            shutil.rmtree(disk)
            moment.after_a_cut(disk, number * seeds + seed)
            found["cuts"] += 1
            found["between"] += state(disk) not in ([older] * (moment != moments[-1]) + [newer])
            try:
                verb.change(disk)
                found["blocked"] += state(disk) != newer
            except Exception as error:  # noqa: BLE001
                print(f"after a power cut: {error}", file=sys.stderr)
                found["blocked"] += 1
            found["litter"] += set(content(disk)) != names or any(disk.rglob(".*"))
    shutil.rmtree(place)
    return found


def together(place: Path, processes: int) -> dict[str, int]:
    """Processes that score different networks into one table at the same time."""
    place.mkdir()
    networks(place)
    spec = f"py:understudy.app.demo:linear?checkpoint={place / 'linear'}.safetensors"
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "understudy", "score", f"net{number}={spec}"),
                *("--data", "digits:heldout", "--into", str(place / "table"), "--json"),
            ],
            stdout=subprocess.DEVNULL,
        )
        for number in range(processes)
    ]
    codes = [one.wait() for one in running]
    exits = sorted(load_table(place / "table").names)
    left = [path.name for path in place.iterdir() if path.name.startswith((".", "table."))]
    return {
        "processes": processes,
        "failed": sum(code != 0 for code in codes),
        "missing": len({f"net{number}" for number in range(processes)} - set(exits)),
        "litter": len(left),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    verbs = {name: VERBS[name] for name in arguments.verb or (QUICK if arguments.quick else VERBS)}
    if not arguments.quick:
        import torch

        import understudy.scoring.on_disk  # noqa: F401

        torch.set_num_threads(1)
    found: dict[str, Any] = {"kills before calls": {}}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, verb in verbs.items():
            found["kills before calls"][name] = kills(
                verb, place / "kills", killed_before_call, arguments.every
            )
            print(name, found["kills before calls"][name], file=sys.stderr)
        if arguments.strace:
            found["kills before system calls"] = {}
            for name, verb in verbs.items():
                counts = kills(verb, place / "kills", killed_before_system_call, arguments.every)
                found["kills before system calls"][name] = counts
                print(name, counts, file=sys.stderr)
        if not arguments.quick:
            found["power cuts"] = {
                name: cuts(verbs[name], place / "cuts", 3)
                for name in (*QUICK, "score", "score into a table", "build")
                if name in verbs
            }
            found["at once"] = {"score": together(place / "together", 4)}
    wrong = [
        counts[key]
        for kind in found.values()
        for counts in kind.values()
        for key in counts.keys() - {"points", "cuts", "processes"}
    ]
    return {**found, "met": not any(wrong)}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a few verbs, without PyTorch")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only this one; repeat it")
    parser.add_argument("--strace", action="store_true", help="also before each system call")
    parser.add_argument("--every", type=int, default=1, help="only every nth point")


if __name__ == "__main__":
    harness.main(
        measure,
        claim="killed, cut off from power or run at once: the older or the newer state is there, "
        "the command can be repeated, and nothing else is left",
        options=options,
    )
