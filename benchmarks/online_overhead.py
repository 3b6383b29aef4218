"""What the executor costs a request besides the models, and an event loop that works beside it.

    python benchmarks/online_overhead.py [--json] [--record]

Overhead: processor time per sample of a cascade that computes nothing, of 64 requests at a time and
of 64 samples in one call. Beside a loop: requests per second of 64 clients where the loop computes
for every request, as a server does, at several switch intervals of Python; relative to a loop that
does nothing else. The stage takes 0.3 ms a sample in 40 steps without the interpreter lock, as a
network of PyTorch does, or in one, as ONNX Runtime. All in turns; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

import harness
from understudy import Executor, Policy
from understudy.callables.cascade import build_callables
from understudy.switching import SWITCH_SECONDS

CLIENTS, ROUNDS = 64, 200
SECONDS, STEPS, LOOP_SECONDS = 0.0003, 40, 0.0001
INTERVALS = (0.005, 0.001, SWITCH_SECONDS, 0.0001)
SAMPLES = np.zeros((CLIENTS, 4), np.float32)
CHEAPER = 2.0


def of(stage: Callable[[Any], Any]) -> Any:
    return build_callables(Policy.single("stage"), {"stage": stage})


def nothing(rows: Any) -> Any:
    return np.full((len(rows), 2), 0.5)


def sleeping(steps: int) -> Callable[[Any], Any]:
    """A stage that takes its time in so many steps."""

    def stage(rows: Any) -> Any:
        for _ in range(steps):
            time.sleep(max(0.0, SECONDS * len(rows) / steps - 6e-5))  # what a sleep takes longer
        return nothing(rows)

    return stage


async def overhead() -> dict[str, Any]:
    """Processor time per sample in microseconds, of the event loop's thread and of both."""
    found: dict[str, list[tuple[float, float]]] = {"single": [], "many": []}
    async with Executor(of(nothing), max_batch=CLIENTS) as executor:

        async def single() -> None:
            await asyncio.gather(*(executor.answer(sample) for sample in SAMPLES))

        async def many() -> None:
            await executor.answer_many(SAMPLES)

        ways: dict[str, Callable[[], Awaitable[None]]] = {"single": single, "many": many}
        for _ in range(ROUNDS):
            for name, send in ways.items():
                thread, process = time.thread_time(), time.process_time()
                await send()
                took = time.thread_time() - thread, time.process_time() - process
                found[name].append(took)
    columns = {name: 1e6 / CLIENTS * np.median(rows, axis=0) for name, rows in found.items()}
    return {name: {"loop_us": loop, "us": both} for name, (loop, both) in columns.items()}


def work(count: int) -> int:
    """Some Python."""
    return sum(number & 1 for number in range(count))


def per_second() -> float:
    """How much of such work is done in a second."""

    def once() -> float:
        start = time.perf_counter()
        work(20_000)
        return 20_000 / (time.perf_counter() - start)

    return max(once() for _ in range(20))


async def rate(cascade: Any, count: int, each: int = 8) -> float:
    """Requests per second of all clients, for each of which the loop works first."""

    async def client(executor: Executor, requests: int) -> None:
        for _ in range(requests):
            work(count)
            await executor.answer(SAMPLES[0])

    async with Executor(cascade, max_batch=CLIENTS) as executor:
        await asyncio.gather(*(client(executor, 1) for _ in range(CLIENTS)))
        start = time.perf_counter()
        await asyncio.gather(*(client(executor, each) for _ in range(CLIENTS)))
        return CLIENTS * each / (time.perf_counter() - start)


def beside_a_loop(rounds: int) -> dict[str, Any]:
    """The share of the throughput that is left, by the steps of the stage and the interval."""
    count, before = int(LOOP_SECONDS * per_second()), sys.getswitchinterval()
    shares: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for steps in (STEPS, 1):
            cascade = of(sleeping(steps))
            alone = asyncio.run(rate(cascade, 0))
            for interval in INTERVALS:
                sys.setswitchinterval(interval)
                share = asyncio.run(rate(cascade, count)) / alone
                found = shares.setdefault(f"{steps} steps", {})
                found.setdefault(f"{1000 * interval:g} ms", []).append(share)
            sys.setswitchinterval(before)
    return {
        steps: {interval: float(np.median(values)) for interval, values in found.items()}
        for steps, found in shares.items()
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    costs, left = asyncio.run(overhead()), beside_a_loop(arguments.rounds)
    print(json.dumps(costs), json.dumps(left), file=sys.stderr)
    cheaper = costs["single"]["us"] / costs["many"]["us"]
    met = bool(cheaper >= CHEAPER)
    return {"overhead": costs, "cheaper": cheaper, "share_left": left, "met": met}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="rounds beside a loop")


if __name__ == "__main__":
    harness.main(
        measure,
        claim="several samples in one call cost less than half as much as single requests; and "
        "what a loop that works leaves of the throughput",
        options=_options,
    )
