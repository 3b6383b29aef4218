"""Benchmarks of a cascade and its contestants, interleaved in one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from understudy.app.bench_result import EXECUTOR, IDEAL, LARGE, LITTLE, NAIVE, Bench, ClientLoad
from understudy.errors import DataError
from understudy.label_sets import is_right
from understudy.operating_point import reference_of
from understudy.policy import Policy
from understudy.progress_bars import Advance
from understudy.runtime.base_cascade import BaseCascade
from understudy.runtime.buffer import RowBatch
from understudy.runtime.executor import Executor
from understudy.runtime.loader_batch import ImageInput
from understudy.runtime.pipeline import AnswerSink, Pipeline
from understudy.runtime.protocol import Array, Runnable, RunnerOutput, StageRunner

KEPT_BATCHES = 4
"""Full batches of each stage that the ideal is timed on, again and again."""

ROUNDS, FEW = 5, 3  # of all contestants; and where they take long
SECONDS = 10.0  # after which `FEW` rounds have to do


def bench(
    cascade: Runnable,
    images: Any,
    *,
    batch: int = 256,
    rounds: int | None = None,
    clients: int = 0,
    max_wait_ms: float | Mapping[str, float] | None = None,
    labels: Array | None = None,
    on_progress: Advance | None = None,
) -> Bench:
    """Measure a cascade, its stages and its large model on the same images, interleaved.

    The large model is the reference of the search that the cascade is of, or else its last stage
    (which may be an ensemble that is dearer than the reference). All have run once before the
    first round, for the predictions.

    Args:
        cascade: what runs; its policy is not switched.
        images: an array or tensor (N, ...) as the stages take them, on the host.
        batch: rows per batch of every stage.
        rounds: how often each contestant is timed; by default 5 times, or 3 where that takes more
            than 10 seconds.
        clients: how many clients wait for answers at the same time; 0 leaves latencies out.
        max_wait_ms: the max wait of rows while there are clients, as for `Executor`.
        labels: the true class of each image, (N,), or several, (N, K), for the accuracies.
        on_progress: called with what runs, the number of finished timings, and how many there are
            at most.

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
    if not len(images) or (rounds is not None and rounds < 1) or batch < 1 or clients < 0:
        raise DataError(
            "a benchmark has images, rounds and rows in a batch, found "
            f"{len(images)} images, {rounds} rounds, batches of {batch} and {clients} clients"
        )
    predictions = {
        name: run_alone(cascade, images, contestant=name, batch=batch)
        for name in (LARGE, LITTLE, EXECUTOR)
        if name != LITTLE or len(cascade.runners) > 1
    }
    recorded = _recorded(cascade, images, batch)
    contestants = _contestants(cascade, images, batch, recorded)
    served = _served_contestants(cascade, images, clients, max_wait_ms) if clients else {}
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
        large=large_model(cascade).name,
        online={
            name: _client_load(clients, timings[online[name]]) for name in served if name != IDEAL
        },
        ideal_online=seconds[online[IDEAL]] if served else (),
        accuracy={}
        if labels is None
        else {
            name: float(is_right(found, labels.reshape(len(labels), -1)).mean())
            for name, found in predictions.items()
        },
    )


def _contestants(
    cascade: Runnable, images: Any, batch: int, recorded: Mapping[str, _Recorder]
) -> dict[str, Contestant]:
    """What answers all images, in batches; a single stage is not timed again under other names."""
    large = large_model(cascade)
    found: dict[str, Contestant] = {
        LARGE: lambda: _timed(lambda: _alone(large, images, batch)),
        LITTLE: lambda: _timed(lambda: _alone(cascade.runners[0], images, batch)),
        NAIVE: lambda: _timed(lambda: _batch_by_batch(cascade.runners, images, batch)),
        EXECUTOR: lambda: _timed(lambda: _mapped(cascade, images, batch)),
        IDEAL: lambda: _ideal(recorded),
    }
    same = (LITTLE, NAIVE) if len(cascade.runners) == 1 else ()
    return {name: timed for name, timed in found.items() if name not in same}


def _served_contestants(
    cascade: Runnable, images: Any, clients: int, wait: float | Mapping[str, float] | None
) -> dict[str, Contestant]:
    """What answers all images, one by one, while clients wait."""
    recorded, alone = _recorded(cascade, images, clients), large_alone(cascade)
    return {
        LARGE: lambda: asyncio.run(_served(alone, images, clients, None)),
        EXECUTOR: lambda: asyncio.run(_served(cascade, images, clients, wait)),
        IDEAL: lambda: _ideal(recorded),
    }


def run_alone(cascade: Runnable, images: Any, *, contestant: str, batch: int) -> Array:
    """The predictions of a contestant, (N,): the executor, the large model or the first stage."""
    if contestant == EXECUTOR:
        return _mapped(cascade, images, batch)
    runner = large_model(cascade) if contestant == LARGE else cascade.runners[0]
    return _alone(runner, images, batch)


class _Timing(NamedTuple):
    """Seconds, and the latency of every request in ms where there are requests."""

    seconds: float
    latencies: Array = np.empty(0)


Contestant = Callable[[], _Timing]


def _interleaved(
    contestants: Mapping[str, Contestant], rounds: int | None, on_progress: Advance | None
) -> dict[str, list[_Timing]]:
    """Each in every round, in alternating order."""
    timings: dict[str, list[_Timing]] = {name: [] for name in contestants}
    start, number, most = perf_counter(), 0, ROUNDS if rounds is None else rounds
    while number < most:
        order = list(contestants)[:: 1 if number % 2 else -1]
        for place, name in enumerate(order, start=1):
            timings[name].append(contestants[name]())
            if on_progress is not None:
                done = number * len(contestants) + place
                on_progress("bench", done, most * len(contestants))
        number += 1
        if rounds is None and perf_counter() - start > SECONDS:
            most = max(number, FEW)
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
class _Stages(ImageInput):
    """Stage runners as a cascade."""

    exits: tuple[str, ...]
    policy: Policy
    runners: tuple[StageRunner, ...]


def large_model(cascade: Runnable) -> StageRunner:
    """What a cascade is compared with: the reference of its search, or else its last stage."""
    if isinstance(cascade, BaseCascade):
        reference = reference_of(cascade.operating_points)
        if reference is not None:
            runner: StageRunner = cascade.runner(reference)
            return runner
    return cascade.runners[-1]


def large_alone(cascade: Runnable) -> Runnable:
    """The large model as a cascade of one stage."""
    large = large_model(cascade)
    return _Stages(cascade.exits, Policy.single(large.name), (large,))


def _recorded(cascade: Runnable, images: Any, size: int) -> dict[str, _Recorder]:
    recorders = tuple(_Recorder(runner, size) for runner in cascade.runners)
    runners: Any = recorders
    _mapped(_Stages(cascade.exits, cascade.policy, runners), images, size)
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
        Pipeline(runners, AnswerSink(len(batch), ())).run_batch(batch)


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
