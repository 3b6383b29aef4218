"""Times a cascade and its contestants on the same images, interleaved, in one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from understudy.app.bench.result import EXECUTOR, IDEAL, LARGE, LITTLE, NAIVE, Bench, ClientLoad
from understudy.errors import DataError
from understudy.policy import Policy
from understudy.runtime.buffer import RowBatch
from understudy.runtime.executor import Executor
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.protocol import Array, Runnable, RunnerOutput, StageRunner

KEPT_BATCHES = 4
"""Full batches of each stage that the ideal is timed on, again and again."""

Progress = Callable[[str, int, int], None]


def bench(
    cascade: Runnable,
    images: Any,
    *,
    batch: int = 256,
    rounds: int = 5,
    clients: int = 0,
    max_wait_ms: float | Mapping[str, float] | None = None,
    labels: Array | None = None,
    on_progress: Progress | None = None,
) -> Bench:
    """Measure a cascade and its stages on the same images, interleaved.

    A first round warms up and is not counted.

    Args:
        cascade: what runs; its policy is not switched.
        images: an array or tensor (N, ...) as the stages take them, on the host.
        batch: rows per batch of every stage.
        rounds: how often each contestant is timed.
        clients: how many clients wait for answers at the same time; 0 leaves latencies out.
        max_wait_ms: the max wait of rows while there are clients, as for `Executor`.
        labels: the true class of each image, (N,), for the accuracies.
        on_progress: called with what runs, the number of finished timings, and their total.

    >>> import torch
    >>> from understudy.nn.cascade import Cascade
    >>> from understudy.policy import Policy
    >>> tiny, big = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    >>> cascade = Cascade({"tiny": tiny, "big": big}, Policy.pair("tiny", "big", 0.4))
    >>> bench(cascade, torch.rand(64, 4), batch=16, rounds=1).reached["tiny"]
    64

    Raises:
        DataError: no image, no round, or a batch below 1.
    """
    if not len(images) or rounds < 1 or batch < 1 or clients < 0:
        raise DataError(
            "a benchmark has images, rounds and rows in a batch, found "
            f"{len(images)} images, {rounds} rounds, batches of {batch} and {clients} clients"
        )
    recorded = _recorded(cascade, images, batch)
    contestants: dict[str, Callable[[], _Timing]] = {
        LARGE: lambda: _timed(lambda: _alone(cascade.runners[-1], images, batch)),
        LITTLE: lambda: _timed(lambda: _alone(cascade.runners[0], images, batch)),
        NAIVE: lambda: _timed(lambda: _batch_by_batch(cascade.runners, images, batch)),
        EXECUTOR: lambda: _timed(lambda: _mapped(cascade, images, batch)),
        IDEAL: lambda: _ideal(recorded),
    }
    served: dict[str, Callable[[], _Timing]] = {}
    if clients:
        recorded_few, alone = _recorded(cascade, images, clients), LastStage(cascade)
        served = {
            LARGE: lambda: asyncio.run(_served(alone, images, clients, None)),
            EXECUTOR: lambda: asyncio.run(_served(cascade, images, clients, max_wait_ms)),
            IDEAL: lambda: _ideal(recorded_few),
        }
    online = {name: f"{name}, {clients} clients" for name in served}
    timings = _interleaved(
        contestants | {online[name]: timed for name, timed in served.items()}, rounds, on_progress
    )
    seconds = {name: tuple(one.seconds for one in found) for name, found in timings.items()}
    return Bench(
        images=len(images),
        batch=batch,
        seconds={name: seconds[name] for name in contestants},
        reached={name: recorder.rows for name, recorder in recorded.items()},
        large=cascade.runners[-1].name,
        online={
            name: _client_load(clients, timings[online[name]]) for name in served if name != IDEAL
        },
        ideal_online=seconds[online[IDEAL]] if served else (),
        accuracy={} if labels is None else _accuracies(cascade, images, labels, batch),
    )


def run_alone(cascade: Runnable, images: Any, *, contestant: str, batch: int) -> Array:
    """The predictions of a contestant, (N,): the executor, or the large or first stage alone."""
    if contestant == EXECUTOR:
        return _mapped(cascade, images, batch)
    return _alone(cascade.runners[-1 if contestant == LARGE else 0], images, batch)


def _accuracies(cascade: Runnable, images: Any, labels: Array, batch: int) -> dict[str, float]:
    return {
        name: float((run_alone(cascade, images, contestant=name, batch=batch) == labels).mean())
        for name in (LARGE, LITTLE, EXECUTOR)
    }


class _Timing(NamedTuple):
    """Seconds, and the latency of every request in ms where there are requests."""

    seconds: float
    latencies: Array = np.empty(0)


def _interleaved(
    contestants: Mapping[str, Callable[[], _Timing]], rounds: int, on_progress: Progress | None
) -> dict[str, list[_Timing]]:
    """Each in every round, in alternating order; a first round is not counted."""
    timings: dict[str, list[_Timing]] = {name: [] for name in contestants}
    total = (rounds + 1) * len(contestants)
    for number in range(rounds + 1):
        order = list(contestants)[:: 1 if number % 2 else -1]
        for place, name in enumerate(order, start=1):
            timing = contestants[name]()
            timings[name] += [timing] if number else []
            if on_progress is not None:
                on_progress("bench", number * len(contestants) + place, total)
    return timings


class _Recorder:
    """A stage runner that counts its rows and keeps some full batches of its input."""

    def __init__(self, runner: StageRunner, size: int) -> None:
        self._runner, self._size = runner, size
        self.rows = 0
        self.kept: list[RowBatch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, images: Any, state: Mapping[Any, Any]) -> RunnerOutput:
        self.rows += len(images)
        full = len(images) == self._size
        if (full and len(self.kept) < KEPT_BATCHES) or not self.kept:
            if full and self.kept and len(self.kept[0].ids) < self._size:
                self.kept.clear()
            everything = np.arange(len(images))
            batch = RowBatch(images, state, everything)
            self.kept.append(batch.select(everything, self._runner))
        return self._runner.run(images, state)

    def seconds(self) -> float:
        """The time for all its rows in full batches: the kept ones, again and again."""
        done, start = 0, perf_counter()
        for batch in cycle(self.kept):
            self._runner.run(batch.images, batch.state)
            done += len(batch.ids)
            if done >= self.rows:
                return (perf_counter() - start) * self.rows / done
        return 0.0  # no row reached this stage


@dataclass(frozen=True)
class _Recorded:
    """A cascade whose stages are recorded."""

    exits: tuple[str, ...]
    policy: Policy
    runners: tuple[StageRunner, ...]


class _NoSink:
    """Drops all results."""

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None: ...
    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None: ...


class LastStage:
    """The last stage of a cascade alone, run on all images."""

    def __init__(self, cascade: Runnable) -> None:
        self.runners = cascade.runners[-1:]
        self.exits = cascade.exits
        self.policy = Policy.single(self.runners[0].name)


def _recorded(cascade: Runnable, images: Any, size: int) -> dict[str, _Recorder]:
    recorders = tuple(_Recorder(runner, size) for runner in cascade.runners)
    runners: Any = recorders
    _mapped(_Recorded(cascade.exits, cascade.policy, runners), images, size)
    return {recorder.name: recorder for recorder in recorders}


def _ideal(recorders: Mapping[str, _Recorder]) -> _Timing:
    return _Timing(sum(recorder.seconds() for recorder in recorders.values()))


def _batches(images: Any, size: int) -> Iterator[Any]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _alone(runner: StageRunner, images: Any, size: int) -> Array:
    outputs = (runner.run(batch, {}).prediction for batch in _batches(images, size))
    return np.concatenate(list(outputs))


def _batch_by_batch(runners: tuple[StageRunner, ...], images: Any, size: int) -> None:
    """Every batch goes through all stages by itself, and gets smaller and smaller."""
    for batch in _batches(images, size):
        Pipeline(runners, _NoSink()).run_batch(batch)


def _mapped(cascade: Runnable, images: Any, size: int) -> Array:
    with Executor(cascade, max_batch=size) as executor:
        answers = executor.map(_batches(images, size))
        return np.concatenate([one.prediction for one in answers])


async def _served(
    cascade: Runnable, images: Any, clients: int, wait: float | Mapping[str, float] | None
) -> _Timing:
    """Seconds until all images are answered, and the latency of each in ms."""
    remaining = iter(range(len(images)))
    latencies = np.zeros(len(images))

    async def client() -> None:
        for number in remaining:
            start = perf_counter()
            await executor.answer(images[number])
            latencies[number] = 1000 * (perf_counter() - start)

    async with Executor(cascade, max_batch=clients, max_wait_ms=wait) as executor:
        start = perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return _Timing(perf_counter() - start, latencies)


def _client_load(clients: int, timings: Sequence[_Timing]) -> ClientLoad:
    middle = sorted(timings, key=lambda timing: timing.seconds)[len(timings) // 2].latencies
    ms = {f"p{n}": float(np.percentile(middle, n)) for n in (50, 95, 99)}
    return ClientLoad(clients, len(middle), tuple(timing.seconds for timing in timings), ms)


def _timed(run: Callable[[], Any]) -> _Timing:
    start = perf_counter()
    run()
    return _Timing(perf_counter() - start)
