"""The benchmark of a cascade on disk, and the peak memory of processes that run it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIG_DFL, SIGINT, signal
from typing import Any, NamedTuple

import numpy as np

from understudy.app.bench import bench, large_alone, run_alone
from understudy.app.bench_result import EXECUTOR, LARGE, Bench
from understudy.app.run_cascade import batches_for, check_data
from understudy.errors import DataError
from understudy.onnx.bundle import is_onnx_bundle
from understudy.progress_bars import Advance, no_bar
from understudy.runtime.protocol import Runnable
from understudy.zoo.batches import stacked
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.hub_names import HUBS
from understudy.zoo.runnables import load_runnable

MEASURED = (LARGE, EXECUTOR)
FAILED = (RuntimeError, MemoryError, OSError, ImportError, EOFError)  # of a process


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
    job: BenchJob,
    *,
    rounds: int | None = None,
    clients: int = 0,
    on_progress: Advance = no_bar,
) -> Bench:
    """Measure a cascade on the first images of a data set, which are decoded before.

    Its peak memory and the large model's are those of two processes, one after the other.

    Raises:
        DataError: no image that can be decoded, or data of other classes.
        ModelError: the folder is no cascade, or there is no such device.
        PolicyError: no operating point within `max_drop`.
    """
    with _processes(job.cascade) as processes:
        data, cascade = open_data(job.data), _loaded(job)
        images, labels = _decoded(data, job.images, cascade)
        check_data(data, cascade, images)
        _wait_for(processes)  # what they import is no load on the timings
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
        return replace(found, memory=_memory(job, processes, on_progress))


def peak_memory(job: BenchJob, contestant: str) -> int:
    """Peak memory in bytes of this process while it runs a contestant.

    On an accelerator that of its tensors there; otherwise all memory of the process.
    """
    cascade = _loaded(job)
    images, _ = _decoded(open_data(job.data), job.images, cascade)
    if contestant == LARGE:
        cascade = large_alone(cascade)  # releases the other models
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


@contextmanager
def _processes(cascade: Path) -> Iterator[Mapping[str, Connection]]:
    """A fresh process per contestant, all of which import what the cascade needs meanwhile; they
    end with the block."""
    context, modules = get_context("spawn"), _imports_of(cascade)
    with ExitStack() as stack:
        found: dict[str, Connection] = {}
        for name in MEASURED:
            found[name], theirs = context.Pipe()
            process = context.Process(target=_measure, args=(theirs, modules), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            stack.callback(process.join)
            stack.callback(process.terminate)
        yield found


def _measure(parent: Connection, modules: Sequence[str]) -> None:
    """The work of a process: slow imports, and then the peak memory of one contestant."""
    signal(SIGINT, SIG_DFL)  # an interrupt ends it silently
    for name in modules:
        with suppress(ImportError):
            import_module(name)
    parent.send(None)
    job, contestant = parent.recv()
    with suppress(*FAILED):
        parent.send(peak_memory(job, contestant))


def _imports_of(cascade: Path) -> list[str]:
    """The modules that loading a cascade takes longest to import."""
    if is_onnx_bundle(cascade):
        return ["onnxruntime"]
    with suppress(OSError, UnicodeError):
        text = (cascade / "cascade.json").read_text(encoding="utf-8")
        hubs = [hub for hub in HUBS if f'"{hub}:' in text]
        return ["understudy.zoo.saved_cascades", *hubs]
    return []


def _wait_for(processes: Mapping[str, Connection]) -> None:
    """Wait until all processes have imported what they need."""
    for process in processes.values():
        with suppress(*FAILED):
            process.recv()


def _memory(
    job: BenchJob, processes: Mapping[str, Connection], on_progress: Advance
) -> dict[str, int]:
    """The peak memory of contestants, each in a process of its own; without those that fail."""
    found = {}
    for done, (name, process) in enumerate(processes.items()):
        on_progress("memory", done, len(processes))
        with suppress(*FAILED):
            process.send((job, name))
            found[name] = process.recv()
    on_progress("memory", len(processes), len(processes))
    return found


def _loaded(job: BenchJob) -> Any:
    cascade = load_runnable(job.cascade, job.device, allow_code=job.allow_code)
    if job.max_drop is not None:
        cascade.set_operating_point(max_drop=job.max_drop)
    return cascade


def _decoded(data: DataSet, count: int, cascade: Runnable) -> tuple[Any, np.ndarray | None]:
    """The first images, or all there are, as a cascade takes them, and their right answers, (N, K).

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
    right = data.right_answers
    return stacked(found), None if right is None else right[positions]
