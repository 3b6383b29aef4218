"""Damaged files of every kind, read by every verb: is each one refused with a sentence?

    python benchmarks/mutations.py [--count 5000 --seed 0 --only NUMBER --json --record]

Every kind of file that the command line reads is made on small data, damaged in a random way
(`mutators`), and read by the verbs that read it. Case NUMBER of a seed is the same each time. Most
cases run in a worker process that calls the command line's `main`, every 50th in a process of its
own. A case ends in one of these ways:

    same       the answer of the undamaged file: the damage was harmless
    refused    exit code 2 and one sentence, or 1 from `verify`
    other      another answer, from a file that a user writes: another input
    CHANGED    another answer, from a file that understudy wrote: damage that nobody noticed
    TRACEBACK  a traceback, or a sentence that calls it a bug
    WORDY      exit code 2 and something else than one sentence
    HANG       no end within the limit
    KILLED     the process died
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import harness
import mutators

LIMIT = 180.0  # seconds per case
CASES_PER_WORKER = 400
OWN_PROCESS = 50  # every so many cases
MEMORY = 12 * 2**30
CODE = ("score", "build", "run", "export", "bench")
GOOD = ("same", "refused", "other")
VOLATILE = {"seconds", "rate", "bytes", "measured", "peak_memory_bytes", "online", "verdict"}
VOLATILE |= {"hash", "versions", "when", "cached"}
VOLATILE |= {"images_per_second", "speedup", "of_ideal", "ms", "ideal_online"}
VOLATILE |= {"online_images_per_second", "online_of_ideal"}

NETS = """
from torch import nn
from understudy.nn.stage import Preprocess, Stage

SIZE = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)

def tiny():
    return Stage(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), preprocess=SIZE)

def big():
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    return Stage(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 3)), preprocess=SIZE)
"""


@dataclass(frozen=True)
class Target:
    """Files of one kind, and the commands that read them.

    Attributes:
        files: a pattern; one of the files is damaged.
        needs: the files and folders that the commands need besides.
        commands: the words of each.
        weight: how often it is drawn.
        own: whether understudy wrote the files, so that damage has to be noticed.
    """

    files: str
    needs: tuple[str, ...]
    commands: tuple[str, ...]
    weight: int = 4
    own: bool = False


IMPORT = (
    "import t --labels {labels} --key id --label label --exit tiny={tiny} --exit big=big.csv "
    "--cost tiny=1 --cost big=10 --json"
)
IMPORT_EXITS = "import-exits record.npz --macs macs.json --into t --json"
ON_TABLE = (
    "search table --max-drop 5 --json",
    "search table --max-drop 5 --in-sample --json",
    "savers table --max-drop 5 --json",
    "ask table --max-drop 5 --json",
    "difficulty table --json",
    "optimism table --max-drop 5 --resamples 2 --json",
    "verify result.json table --json",
    "import-labels labels.csv --into table --json",
    "score tiny=py:mutation_nets:tiny?checkpoint=tiny.pt --data folder:images --into scored --json",
)
RUNS = ("run {} --data folder:images --out a.csv --workers 0 --json",)
BENCH = "bench {} --data folder:images --images 9 --batch 9 --rounds 1 --clients 2 --json"
TRAIN = (
    "train-exits net=py:mutation_nets:big?checkpoint=big.pt --data {} --into e --taps 1 "
    "--config recipe.toml --workers 0 --json"
)
MODELS = ("mutation_nets.py", "tiny.pt", "big.pt", "tiny.safetensors")
TARGETS = {
    "predictions (CSV)": Target(
        "tiny.csv",
        ("labels.csv", "big.csv"),
        (IMPORT.format(labels="labels.csv", tiny="tiny.csv"),),
        16,
    ),
    "predictions (Parquet)": Target(
        "tiny.parquet",
        ("labels.csv", "big.csv"),
        (IMPORT.format(labels="labels.csv", tiny="tiny.parquet"),),
        16,
    ),
    "labels": Target(
        "labels.*",
        ("tiny.csv", "big.csv", "table"),
        (
            IMPORT.format(labels="{file}", tiny="tiny.csv"),
            "import-labels {file} --into table --json",
        ),
        16,
    ),
    "record of exits": Target(
        "record.npz", ("macs.json",), (IMPORT_EXITS,), 12
    ),
    "MACs of a record": Target(
        "macs.json", ("record.npz",), (IMPORT_EXITS,), 12
    ),
    "table": Target(
        "table/**/*", ("result.json", "labels.csv"), ON_TABLE[:-1], weight=24, own=True
    ),
    "scored table": Target(
        "scored/**/*",
        (*MODELS, "images"),
        (*(words.replace(" table", " scored") for words in ON_TABLE[:2]), ON_TABLE[-1]),
        weight=8,
        own=True,
    ),
    "result": Target(
        "result.json", ("table",), ("report result.json --json", "verify result.json table --json"),
        weight=16,
        own=True,
    ),
    "result of models": Target(
        "models.json",
        MODELS,
        ("build models.json --into c --json",),
        weight=6,
        own=True,
    ),
    "figures of a benchmark": Target(
        "bench.json", ("result.json",), ("report result.json --bench bench.json --json",), 4, True
    ),
    "cascade": Target(
        "cascade/**/*",
        (*MODELS, "images"),
        (*RUNS * 12, "export cascade --onnx o --json", BENCH),
        weight=10,
        own=True,
    ),
    "ONNX folder": Target(
        "onnx/**/*", ("images",), RUNS, weight=8, own=True
    ),
    "exits": Target(
        "exits/**/*",
        (*MODELS, "images"),
        ("score exits:exits --data folder:images --into t --measure 1 --json",),
        weight=3,
        own=True,
    ),
    "training settings": Target(
        "recipe.toml", (*MODELS, "images"), (TRAIN.format("folder:images"),), 2
    ),
    "images": Target(
        "images/**/*.*",
        (*MODELS, "cascade"),
        (
            *RUNS * 4,
            "score tiny=py:mutation_nets:tiny?checkpoint=tiny.pt --data folder:images --into t "
            "--measure 1 --json",
        ),
        weight=8,
    ),
    "images (Parquet)": Target(
        "images.parquet",
        (*MODELS, "cascade"),
        ("run cascade --data parquet:images.parquet --out a.csv --workers 0 --json",),
        weight=8,
    ),
    "weights": Target(
        "tiny.*t*",
        (*MODELS, "images"),
        (
            "score m=py:mutation_nets:tiny?checkpoint={file} --data folder:images --into t "
            "--measure 1 --json",
            "taps py:mutation_nets:big?checkpoint={file} --json",
        ),
        weight=6,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One damaged file and the command that reads it."""

    number: int
    kind: str
    file: str
    way: str
    command: str


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it printed, what it wrote, and what it raised."""

    code: int
    stdout: str
    stderr: str
    answers: str = ""
    raised: str = ""


def main() -> None:
    harness.main(
        measure,
        claim="no damaged file makes a traceback, a hang, or a change that nobody notices",
        options=options,
    )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=5000, help="how many damaged files")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--kind", help="one kind of file")
    parser.add_argument("--files", type=Path, help="where the files lie, or are made")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    place = arguments.files or Path(tempfile.mkdtemp(prefix="understudy-mutations-"))
    if not (place / "ready").exists():
        make_files(place)
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    worker = Worker(place, arguments.seed, arguments.kind)
    start, counts, bad = time.perf_counter(), Counter[str](), []
    by_kind: dict[str, Counter[str]] = {}
    for number in numbers:
        case, ending, detail = worker.result(number)
        counts[ending] += 1
        by_kind.setdefault(case.kind, Counter())[ending] += 1
        if ending not in GOOD:
            bad.append({**vars(case), "ending": ending, "detail": detail})
            print(f"{number} {ending} {case} {detail[-700:]}", file=sys.stderr, flush=True)
        elif arguments.only is not None:
            print(case, ending, detail, file=sys.stderr)
    worker.stop()
    return {
        "cases": len(numbers),
        "seed": arguments.seed,
        "in_processes_of_their_own": sum(number % OWN_PROCESS == 0 for number in numbers),
        "endings": dict(counts.most_common()),
        "by_kind": {kind: dict(one) for kind, one in sorted(by_kind.items())},
        "not_good": bad,
        "seconds": round(time.perf_counter() - start),
        "met": not bad,
    }


class Worker:
    """A process that runs cases one by one, and is replaced when it hangs, dies or grows old."""

    def __init__(self, place: Path, seed: int, kind: str | None) -> None:
        self.place, self.seed, self.kind = place, seed, kind
        self.process: Any = None
        self.done = 0

    def result(self, number: int) -> tuple[Case, str, str]:
        """The case, how it ended, and what it printed."""
        if self.process is None or self.done >= CASES_PER_WORKER:
            self.stop()
            self.start()
        self.done += 1
        self.pipe.send(number)
        case = Case(number, "?", "?", "?", "?")
        try:
            for limit in (LIMIT, LIMIT):
                if not self.pipe.poll(limit):
                    self.stop()
                    return case, "HANG", f"no end within {limit:g} s"
                received = self.pipe.recv()
                if len(received) == 1:
                    case = received[0]
                    continue
                return case, *received
        except EOFError:
            code = self.process.exitcode
            self.stop()
            return case, "KILLED", f"exit code {code}"
        raise AssertionError

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.place, self.seed, self.kind))
        self.process.start()
        theirs.close()
        self.done = 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def work(pipe: Any, place: Path, seed: int, kind: str | None) -> None:
    """Run the cases whose numbers arrive; report each case, then its ending."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.insert(0, str(place))
    normal: dict[tuple[str, str], Ended] = {}
    while (number := pipe.recv()) is not None:
        random = Random(f"{seed}:{number}")
        with tempfile.TemporaryDirectory(prefix="understudy-case-") as folder:
            here = Path(folder)
            case = prepare(number, place, here, random, kind)
            pipe.send((case,))
            key = (case.kind, case.command)
            if key not in normal:
                normal[key] = undamaged(case, place)
            ended = run(case.command, here, own_process=number % OWN_PROCESS == 0)
            pipe.send(verdict(case, ended, normal[key]))


def prepare(number: int, place: Path, here: Path, random: Random, kind: str | None) -> Case:
    """Copy what a command needs and damage one file of it."""
    names = list(TARGETS)
    kind = kind or random.choices(names, [TARGETS[name].weight for name in names])[0]
    target = TARGETS[kind]
    copy_files(target, place, here)
    files = sorted(
        path for path in here.glob(target.files) if path.is_file() and path.name[0] != "."
    )
    file = random.choice(files)
    command = random.choice(target.commands)
    words = command.replace("{file}", file.name).replace("{}", target.files.split("/")[0])
    words = words.replace("run images", "run cascade")
    return Case(number, kind, str(file.relative_to(here)), mutators.damage(file, random), words)


def copy_files(target: Target, place: Path, here: Path) -> None:
    """Copy the files of a target and what its commands need."""
    for name in {target.files.split("/")[0], *target.needs}:
        for source in place.glob(name):
            if source.is_dir():
                shutil.copytree(source, here / source.name)
            else:
                shutil.copyfile(source, here / source.name)


def undamaged(case: Case, place: Path) -> Ended:
    """What the command answers on the undamaged files."""
    with tempfile.TemporaryDirectory(prefix="understudy-case-") as folder:
        copy_files(TARGETS[case.kind], place, Path(folder))
        return run(case.command, Path(folder))


def run(command: str, here: Path, *, own_process: bool = False) -> Ended:
    """Run a command in a folder."""
    words = command.split()
    if words[0] in CODE:  # they would load the module of the models
        words += ["--allow-code", "mutation_nets"]
    if own_process:
        paths = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [sys.executable, "-m", "understudy", *words],
            cwd=here,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr, written(here))
    from understudy.app.cli.main import main as command_line

    stdout, stderr, code, raised = io.StringIO(), io.StringIO(), 0, ""
    sys.argv = ["understudy", *words]
    importlib.invalidate_caches()
    with chdir(here), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            command_line()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001
            raised = traceback.format_exc()
    return Ended(code, stdout.getvalue(), stderr.getvalue(), written(here), raised)


def written(here: Path) -> str:
    """The answers that `run` wrote."""
    file = here / "a.csv"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def verdict(case: Case, ended: Ended, normal: Ended) -> tuple[str, str]:
    """How a case ended, and what tells so."""
    words = ended.stderr.strip()
    if ended.raised or ended.code == 70 or "Traceback (most recent" in words:
        return "TRACEBACK", f"{words} {bug_report(words)} {ended.raised}"
    if ended.code in (1, 2):
        lines = words.splitlines()
        if ended.code == 1 and case.command.startswith("verify"):
            return "refused", words
        one = lines and lines[-1].startswith("error: ") and "error: " not in "".join(lines[:-1])
        return ("refused" if one else "WORDY"), words
    if ended.code:
        return "KILLED", f"exit code {ended.code}: {words}"
    if (said(ended.stdout), ended.answers) == (said(normal.stdout), normal.answers):
        return "same", words
    kind = "CHANGED" if TARGETS[case.kind].own else "other"
    return kind, f"{ended.stdout[:300]} instead of {normal.stdout[:300]} {words}"


def bug_report(words: str) -> str:
    """The end of the file that the sentence about a bug names."""
    file = Path(words.rpartition("details in ")[2].strip() or "none")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    file.unlink(missing_ok=True) if text else None
    return text[-1500:]


def said(stdout: str) -> Any:
    """An answer without what differs from run to run."""
    try:
        return _steady(json.loads(stdout))
    except ValueError:
        return stdout


def _steady(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _steady(value) for key, value in data.items() if key not in VOLATILE}
    return [_steady(value) for value in data] if isinstance(data, list) else data


def make_files(place: Path) -> None:
    """Make a file of every kind in a folder."""
    import numpy as np
    import polars as pl
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    place.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(place))
    (place / "mutation_nets.py").write_text(NETS)
    (place / "recipe.toml").write_text(
        'epochs = 1\nviews = 1\nbatch = 16\nheld_out = 0.2\nlr = 0.01\ntargets = "both"\n'
    )
    random = np.random.default_rng(0)
    rows = []
    for label, name in enumerate(("dark", "grey", "light")):
        (place / "images" / name).mkdir(parents=True)
        for number in range(12):
            shade = 64 * (label + 1) + random.normal(0, 30, (8, 8, 3))
            file = place / "images" / name / f"{number:02}.{('png', 'jpg')[number % 2]}"
            Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(file)
            rows.append((f"{name}{number}", {"bytes": file.read_bytes()}, label))
    frame = pl.DataFrame(rows, schema=["name", "image", "label"], orient="row")
    frame.write_parquet(place / "images.parquet")
    torch.manual_seed(0)
    nets = importlib.import_module("mutation_nets")
    for name in ("tiny", "big"):
        state = getattr(nets, name)().model.state_dict()
        torch.save(state, place / f"{name}.pt")
        save_file(state, place / f"{name}.safetensors")
    _predictions(place, random)
    for line in made_by_commands():
        ended = run(line, place)
        if ended.code or ended.raised:
            raise SystemExit(f"{line}: {ended.stderr} {ended.raised}")
    (place / "ready").touch()


def _predictions(place: Path, random: Any) -> None:
    """Predictions and labels of 400 samples, and the record of a network with exits."""
    import numpy as np
    import polars as pl

    count = 400
    label = random.integers(0, 3, count)
    ids = [f"s{number}" for number in range(count)]
    columns = {}
    for name, accuracy in (("tiny", 0.85), ("big", 0.97)):
        right = random.random(count) < accuracy
        sure = np.where(right, random.uniform(0.5, 1, count), random.uniform(0.3, 0.8, count))
        answer = np.where(right, label, (label + 1) % 3)
        columns[name] = answer, sure.round(4)
        frame = pl.DataFrame({"id": ids, "prediction": answer, "confidence": sure.round(4)})
        frame.write_csv(place / f"{name}.csv")
        frame.write_parquet(place / f"{name}.parquet")
    frame = pl.DataFrame({"id": ids, "label": label})
    frame.write_csv(place / "labels.csv")
    frame.write_parquet(place / "labels.parquet")
    preds = np.stack([columns[name][0] for name in ("tiny", "tiny", "big")])[..., None]
    confs = np.stack([columns[name][1] for name in ("tiny", "tiny", "big")])[..., None]
    np.savez(place / "record.npz", label=label[:, None], preds=preds, confs=confs)
    backbone = {"name": "net", "macs": [5, 10], "ori_macs": 20}
    heads = [{"name": "linear", "macs": [1, 1]}]
    (place / "macs.json").write_text(json.dumps({"head": heads, "backbone": backbone}))


def made_by_commands() -> Iterator[str]:
    """The commands that make the files that understudy writes."""
    score = (
        "score tiny=py:mutation_nets:tiny?checkpoint=tiny.pt "
        "big=py:mutation_nets:big?checkpoint=big.pt --data folder:images --measure 1"
    )
    yield IMPORT.format(labels="labels.csv", tiny="tiny.csv").replace("import t ", "import table ")
    yield "search table --max-drop 5 --out result.json"
    yield f"{score} --into scored"
    yield "search scored --max-drop 90 --out models.json"
    yield "build models.json --into cascade"
    yield "export cascade --onnx onnx"
    yield f"{BENCH.format('cascade')} --out bench.json"
    yield TRAIN.format("folder:images").replace("--into e ", "--into exits ")


if __name__ == "__main__":
    main()
