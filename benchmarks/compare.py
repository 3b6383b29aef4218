"""Two versions of the package on the same work, in turns: no workload becomes slower.

    git worktree add ../base REVISION
    python benchmarks/compare.py --base ../base [--rounds 7 --only search,help --json --record]

Each version runs in a process of its own, from the `src` folder of its tree; one works while the
other waits, in alternating order. A workload's figure is the median over rounds of the time of this
version over the time of the base, so a drift of the machine does not count. Networks are
CIFAR-10's ResNets with random weights; thresholds are quantiles, so that both versions defer the
same rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np

import harness

LIMIT = 1.03
HERE = Path(__file__).resolve()
COMMANDS = ("help", "search")
CALLS = (
    "all_pairs",
    "pair_256",
    "pair_64_clients",
    "exits_off_256",
    "exits_256",
    "exits_1",
    "onnx_pair_256",
)


class Version:
    """A tree of the project, and a process that runs its workloads."""

    def __init__(self, tree: Path, folder: Path) -> None:
        paths = [tree / "src", HERE.parent]
        kept = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self.environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def seconds(self, workload: str) -> float:
        """The time of a workload: of a whole process for a command, of a call otherwise."""
        if workload in COMMANDS:
            words = (
                ["--help"]
                if workload == "help"
                else ["search", str(self.folder / "table"), "--max-drop", ".25,.5,1"]
            )
            return self._command(words)
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, HERE, "--worker", str(self.folder)],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(workload + "\n")
        stdin.flush()
        return float(stdout.readline())

    def _command(self, words: list[str]) -> float:
        program = f"import sys; sys.argv = ['understudy', *{words!r}]\n" + (
            "try:\n    from understudy.app.cli.main import main\n"
            "except ImportError:\n    from understudy.app.cli import main\nmain()"
        )
        start = perf_counter()
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, env=self.environment
        )
        return perf_counter() - start

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    names = [name for name in (*COMMANDS, *CALLS) if name in (arguments.only or name)]
    with tempfile.TemporaryDirectory() as folder:
        from search_speed import make_table
        from understudy import save_table

        save_table(make_table(4, 50_000), Path(folder) / "table")
        base, own = Version(arguments.base, Path(folder)), Version(HERE.parent.parent, Path(folder))
        ratios: dict[str, list[float]] = {name: [] for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            for number in range(arguments.rounds + 1):
                pair = {one: one.seconds(name) for one in ((base, own), (own, base))[number % 2]}
                if number:
                    ratios[name].append(pair[own] / pair[base])
                    times[name].append(pair[own])
        base.close()
        own.close()
    revision = subprocess.run(
        ["git", "-C", arguments.base, "rev-parse", "--short", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    found = {
        name: {
            "of_base": round(statistics.median(ratios[name]), 3),
            "rounds": [round(ratio, 3) for ratio in ratios[name]],
            "seconds": round(statistics.median(times[name]), 4),
        }
        for name in names
    }
    return {
        "base": revision,
        **found,
        "met": all(one["of_base"] <= LIMIT for one in found.values()),
    }


# The process of a version: only names that both versions have.


def workloads(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {}

    def lazily(name: str) -> Any:
        if name not in made:
            made[name] = {"all_pairs": all_pairs}.get(name, cascades)(name, folder)
        return made[name]

    return {name: lambda name=name: lazily(name)() for name in CALLS}


def all_pairs(_name: str, _folder: Path) -> Any:
    try:
        from understudy.searching.all_pairs import search_all_pairs
    except ImportError:
        from understudy.search.allpairs import search_all_pairs

    draw = np.random.default_rng(0)
    ease = draw.standard_normal(50_000)
    skill = draw.uniform(0.3, 1.3, (600, 1))
    margin = skill + 0.8 * ease + 0.6 * draw.standard_normal((600, 50_000))
    cost = np.sort(draw.uniform(1, 100, 600))
    return lambda: search_all_pairs(
        margin > 0, np.abs(margin).astype(np.float32), cost, (0.0, 0.25, 1.0), threads=2
    )


def cascades(name: str, folder: Path) -> Any:
    import asyncio

    import torch

    import cifar_nets
    from understudy import Cascade, Executor, Policy, Stage, attach
    from understudy.nn.preprocess import Preprocess

    try:
        from understudy.malloc import keep_freed_memory
        from understudy.policy import PolicyStage
    except ImportError:
        from understudy.memory import keep_freed_memory

        from understudy.policy import Step as PolicyStage
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1024, 3, 32, 32), dtype=torch.uint8)

    def stage(depth: int) -> Any:
        net = cifar_nets.CifarResNet(depth).eval()
        return Stage(net, preprocess=Preprocess(size=None, mean=net.mean, std=net.std))

    def threshold(model: Any, deferred: float) -> float:
        return float(
            torch.cat([model.run(part).confidence for part in images.split(256)]).quantile(deferred)
        )

    def offline(cascade: Any, batch: int, count: int = 1024) -> Any:
        def run() -> None:
            with Executor(cascade, max_batch=batch) as executor:
                for _ in executor.map(images[:count].split(batch)):
                    pass

        return run

    if name.startswith("exits"):
        heads = {
            f"layer{k}.{n}": "conv64" for k, n in ((1, 4), (1, 8), (2, 3), (2, 8), (3, 1), (3, 5))
        }
        network = attach(stage(56), heads, image=images[0])
        exits = network.stages("net")
        names = list(exits)
        if "off" in name:
            steps = [PolicyStage(one, float("inf")) for one in names[:-1]]
        else:
            steps = [PolicyStage(one, threshold(exits[one], 0.8)) for one in names[:-1]]
        cascade = Cascade({"net": network}, Policy((*steps, PolicyStage(names[-1]))))
        batch = int(name.rsplit("_", 1)[1])
        return offline(cascade, batch, 1024 if batch > 1 else 96)
    little, big = stage(20), stage(56)
    cascade = Cascade(
        {"little": little, "big": big}, Policy.pair("little", "big", threshold(little, 0.2))
    )
    if name == "onnx_pair_256":
        from understudy.onnx import export_onnx, load_onnx

        export_onnx(cascade, folder / f"onnx-{os.getpid()}", image=images[0])
        loaded, arrays = load_onnx(folder / f"onnx-{os.getpid()}"), np.ascontiguousarray(images)

        def on_onnx() -> None:
            with Executor(loaded, max_batch=256) as executor:
                for _ in executor.map(np.split(arrays, 4)):
                    pass

        return on_onnx
    if name == "pair_256":
        return offline(cascade, 256)

    async def serve() -> None:
        waiting = iter(range(1024))

        async def client() -> None:
            for number in waiting:
                await executor.answer(images[number])

        async with Executor(cascade, max_batch=64) as executor:
            await asyncio.gather(*(client() for _ in range(64)))

    return lambda: asyncio.run(serve())


def work(folder: Path, requests: IO[str]) -> None:
    calls, answers = workloads(folder), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints goes to stderr
    ready: set[str] = set()
    for line in requests:
        name = line.strip()
        if name not in ready:
            calls[name]()  # makes and warms what it needs
            ready.add(name)
        start = perf_counter()
        calls[name]()
        answers.write(f"{perf_counter() - start}\n")
        answers.flush()


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, required=True, help="the tree of the other version")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", type=lambda text: set(text.split(",")), help="workloads, by commas"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), sys.stdin)
    else:
        harness.main(
            measure, claim=f"no workload takes more than {LIMIT} x the base", options=options
        )
