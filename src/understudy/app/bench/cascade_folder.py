"""Benchmarks of a cascade on disk, with the peak memory of processes."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_DFL, SIGINT, signal
from typing import Any, NamedTuple

import numpy as np
import torch

from understudy.app.bench.benchmark import LastStage, Progress, bench, run_alone
from understudy.app.bench.result import EXECUTOR, LARGE, Bench
from understudy.app.run import check_data, load_runnable
from understudy.errors import DataError
from understudy.zoo.data import DataSet, batches, open_data

MEASURED = (LARGE, EXECUTOR)


class BenchJob(NamedTuple):
    """A cascade, set to an operating point, on the first images of a data set."""

    cascade: Path
    data: str
    images: int
    batch: int
    max_drop: float | None
    device: str | None


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
    found = _timed(job, rounds=rounds, clients=clients, on_progress=on_progress)
    torch.cuda.empty_cache()  # so that the processes find the memory free
    return replace(found, memory=_memory(job, on_progress))


def _timed(job: BenchJob, *, rounds: int, clients: int, on_progress: Progress) -> Bench:
    data, cascade = open_data(job.data), _loaded(job)
    images, labels = _decoded(data, job.images)
    check_data(data, cascade, images)
    return bench(
        cascade,
        images,
        batch=job.batch,
        rounds=rounds,
        clients=clients,
        labels=labels,
        on_progress=on_progress,
    )


def peak_memory(job: BenchJob, contestant: str) -> int:
    """Peak memory in bytes of this process while it runs a contestant.

    On an accelerator that of its tensors there; otherwise all memory of the process.
    """
    cascade, (images, _) = _loaded(job), _decoded(open_data(job.data), job.images)
    if contestant == LARGE:
        cascade = LastStage(cascade)  # releases the other models
    gc.collect()
    _reset_peak()
    run_alone(cascade, images, contestant=contestant, batch=job.batch)
    devices = range(torch.cuda.device_count())
    return max(map(torch.cuda.max_memory_allocated, devices), default=0) or _resident()


def _reset_peak() -> None:
    """Reset the peaks of memory, after models and images have been loaded."""
    torch.cuda.empty_cache()
    for device in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(device)
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
    cascade = load_runnable(job.cascade, job.device)
    if job.max_drop is not None:
        cascade.set_operating_point(max_drop=job.max_drop)
    return cascade


def _decoded(data: DataSet, count: int) -> tuple[Any, np.ndarray | None]:
    """The first images, or all there are: uint8 (N, C, H, W), or a list where sizes differ; labels.

    Raises:
        DataError: none can be decoded.
    """
    found: list[torch.Tensor] = []
    positions: list[int] = []
    for block in batches(data, size=256):
        free = count - len(found)
        found.extend(islice(block.images, free))
        positions.extend(block.positions[:free].tolist())
        if len(found) == count:
            break
    if not found:
        raise DataError(f"no image of {data.spec!r} can be decoded: check the files")
    same = all(image.shape == found[0].shape for image in found)
    labels = None if data.labels is None else data.labels[positions]
    return torch.stack(found) if same else found, labels
