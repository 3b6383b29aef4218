"""Benchmarks of a cascade and its contestants: interleaved in one run, memory in processes."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_DFL, SIGINT, signal
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from understudy.app.bench_result import EXECUTOR, IDEAL, LARGE, LITTLE, NAIVE, Bench, ClientLoad
from understudy.app.run_cascade import batches_for, check_data, load_runnable
from understudy.errors import DataError
from understudy.policy import Policy
from understudy.runtime.buffer import RowBatch
from understudy.runtime.executor import Executor
from understudy.runtime.pipeline import AnswerSink, Pipeline
from understudy.runtime.protocol import Array, Runnable, RunnerOutput, StageRunner
from understudy.zoo.data import DataSet, open_data, stacked

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
        recorded_few, alone = _recorded(cascade, images, clients), _last_stage(cascade)
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
class _Stages:
    """Stage runners as a cascade."""

    exits: tuple[str, ...]
    policy: Policy
    runners: tuple[StageRunner, ...]


def _last_stage(cascade: Runnable) -> Runnable:
    """The last stage of a cascade alone, run on all images."""
    last = cascade.runners[-1]
    return _Stages(cascade.exits, Policy.single(last.name), (last,))


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


MEASURED = (LARGE, EXECUTOR)


class BenchJob(NamedTuple):
    """A cascade, set to an operating point, on the first images of a data set."""

    cascade: Path
    data: str
    images: int
    batch: int
    max_drop: float | None
    device: str | None
    allow_code: Sequence[str] = ()


def bench_cascade(
    job: BenchJob, *, rounds: int, clients: int, on_progress: Progress = lambda *_: None
) -> Bench:
    """Measure a cascade on the first images of a data set, which are decoded before.

    Its peak memory and the large model's are those of two processes, one after the other.

    Raises:
        DataError: no image that can be decoded, or data of other classes.
        ModelError: the folder is no cascade, or there is no such device.
        PolicyError: no operating point within `max_drop`.
    """
    data, cascade = open_data(job.data), _loaded(job)
    images, labels = _decoded(data, job.images, cascade)
    check_data(data, cascade, images)
    found = bench(
        cascade,
        images,
        batch=job.batch,
        rounds=rounds,
        clients=clients,
        labels=labels,
        on_progress=on_progress,
    )
    del cascade, images
    _free_cached()  # so that the processes find the memory free
    return replace(found, memory=_memory(job, on_progress))


def peak_memory(job: BenchJob, contestant: str) -> int:
    """Peak memory in bytes of this process while it runs a contestant.

    On an accelerator that of its tensors there; otherwise all memory of the process.
    """
    cascade = _loaded(job)
    images, _ = _decoded(open_data(job.data), job.images, cascade)
    if contestant == LARGE:
        cascade = _last_stage(cascade)  # releases the other models
    gc.collect()
    _reset_peak()
    run_alone(cascade, images, contestant=contestant, batch=job.batch)
    cuda = _cuda()
    devices = range(cuda.device_count()) if cuda else ()
    return max((cuda.max_memory_allocated(one) for one in devices), default=0) or _resident()


def _cuda() -> Any:
    """`torch.cuda` where this process has PyTorch loaded; an exported cascade runs without."""
    return getattr(sys.modules.get("torch"), "cuda", None)


def _free_cached() -> None:
    """Release the memory of accelerators that PyTorch keeps for later."""
    cuda = _cuda()
    if cuda:
        cuda.empty_cache()


def _reset_peak() -> None:
    """Reset the peaks of memory, after models and images have been loaded."""
    _free_cached()
    cuda = _cuda()
    for device in range(cuda.device_count() if cuda else 0):
        cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM falls to what is used now


def _resident() -> int:
    """Peak resident memory of this process in bytes.

    From /proc on Linux, where `getrusage` starts with the parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if sys.platform == "darwin" else 1024
    return getrusage(RUSAGE_SELF).ru_maxrss * unit


def _memory(job: BenchJob, on_progress: Progress) -> dict[str, int]:
    """The peak memory of contestants, each in a process of its own; without those that fail."""
    found = {}
    for done, name in enumerate(MEASURED):
        on_progress("memory", done, len(MEASURED))
        with (
            suppress(RuntimeError, MemoryError, OSError, ImportError),
            ProcessPoolExecutor(
                1,
                mp_context=get_context("spawn"),
                initializer=signal,
                initargs=(SIGINT, SIG_DFL),  # an interrupt ends it silently
            ) as process,
        ):
            found[name] = process.submit(peak_memory, job, name).result()
    on_progress("memory", len(MEASURED), len(MEASURED))
    return found


def _loaded(job: BenchJob) -> Any:
    cascade = load_runnable(job.cascade, job.device, allow_code=job.allow_code)
    if job.max_drop is not None:
        cascade.set_operating_point(max_drop=job.max_drop)
    return cascade


def _decoded(data: DataSet, count: int, cascade: Runnable) -> tuple[Any, np.ndarray | None]:
    """The first images, or all there are, as a cascade takes them, and their labels.

    Images are uint8 (N, C, H, W), or a list where sizes differ, or where they have been resized.

    Raises:
        DataError: none can be decoded.
    """
    found: list[Any] = []
    positions: list[int] = []
    for block in batches_for(cascade, data, size=256):
        free = count - len(found)
        found.extend(islice(block.images, free))
        positions.extend(block.positions[:free].tolist())
        if len(found) == count:
            break
    if not found:
        raise DataError(f"no image of {data.spec!r} can be decoded: check the files")
    labels = None if data.labels is None else data.labels[positions]
    return stacked(found), labels
