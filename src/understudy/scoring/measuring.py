"""Measuring models: ms per sample of every part, in rounds over all models."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import perf_counter, process_time

import torch

from understudy.nn.cost import time_parts
from understudy.nn.stage import Images, Stage
from understudy.sitting import Sitting, median_interval
from understudy.zoo.data import Progress, no_progress

LEAST, MOST = 7, 50  # rounds
PRECISE = 0.05  # half the width of an interval, as a fraction of the time, that ends the rounds
SECONDS = 20.0  # after which few rounds have to do
FEW = 3
MEMORY = 2 << 30  # bytes of weights that are in memory at once
PASSES = 3  # over the groups of models that are not in memory at once

Sources = Mapping[str, Callable[[], Mapping[str, Stage]]]


def unit_of(size: int) -> str:
    """The unit of times measured at a batch size.

    >>> unit_of(32)
    'ms@32'
    """
    return f"ms@{size}"


def size_of(unit: str) -> int | None:
    """The batch size of a unit of measured times; None for any other.

    >>> size_of("ms@32"), size_of("MACs")
    (32, None)
    """
    size = unit.removeprefix("ms@")
    return int(size) if size != unit and size.isdecimal() else None


def measure(
    sources: Sources,
    images: Images,
    *,
    bytes_of: Mapping[str, int],
    device: str,
    on_progress: Progress = no_progress,
) -> Sitting:
    """The times of all parts of some sources, for batches of these images.

    Every round runs each source once, so that all of them feel a load that changes, and it shows as
    spread. The rounds end when all times are precise, or have taken long. Sources whose weights
    exceed `MEMORY` are loaded in groups, several times, so that no group has a sitting for itself.

    Args:
        sources: name -> what loads its stages, on their device.
        images: one batch.
        bytes_of: name -> the size of its weights.
        device: for the record.
        on_progress: called after every round, with the most rounds there may be.

    >>> sources = {"tiny": lambda: {"tiny": Stage(torch.nn.Linear(4, 3))}}
    >>> measure(sources, torch.zeros(2, 4), bytes_of={"tiny": 60}, device="cpu").unit
    'ms@2'
    """
    unit, total = unit_of(len(images)), MOST * len(images) * len(bytes_of)
    groups = list(_groups(bytes_of))
    passes = PASSES if len(groups) > 1 else 1
    times: dict[str, list[float]] = {}
    start, used, done = perf_counter(), process_time(), 0
    for group in groups * passes:
        loaded = {name: sources[name]() for name in group}
        for rows in _rounds(loaded, images, shared=passes):
            for part, ms in rows.items():
                times.setdefault(part, []).append(ms)
            done += len(images) * len(group)
            on_progress(f"measuring {unit}", min(done, total), total)
    on_progress(f"measuring {unit}", total, total)
    intervals = {part: median_interval(values) for part, values in times.items()}
    return Sitting(
        unit=unit,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        load=_load(),
        cpu=round((process_time() - used) / (perf_counter() - start), 3),
        rounds=min(map(len, times.values())),
        median={part: statistics.median(values) for part, values in times.items()},
        low={part: low for part, (low, _) in intervals.items()},
        high={part: high for part, (_, high) in intervals.items()},
    )


def _rounds(
    sources: Mapping[str, Mapping[str, Stage]], images: Images, *, shared: int
) -> Iterator[dict[str, float]]:
    """The times of each round, after one to warm up; as many as are needed, in `shared` passes."""
    start, times = perf_counter(), dict[str, list[float]]()
    for stages in sources.values():
        time_parts(stages, images)
    names = list(sources)
    for number in range(-(-MOST // shared)):
        first = number % len(names)  # whom a model comes after changes
        found = [time_parts(sources[name], images) for name in names[first:] + names[:first]]
        rows = {part: ms for one in found for part, ms in one.items()}
        for part, ms in rows.items():
            times.setdefault(part, []).append(ms)
        yield rows
        late = (perf_counter() - start) * shared > SECONDS
        if number + 1 >= (FEW if late else LEAST) / shared and (late or _precise(times)):
            return


def _precise(times: Mapping[str, Sequence[float]]) -> bool:
    """Whether all intervals are narrow."""
    ends = {part: median_interval(values) for part, values in times.items()}
    return all(
        high - low <= 2 * PRECISE * statistics.median(times[part])
        for part, (low, high) in ends.items()
    )


def _groups(bytes_of: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Names in groups whose weights fit into `MEMORY`, in order; a larger one is a group alone."""
    group: list[str] = []
    held = 0
    for name, size in bytes_of.items():
        if group and held + size > MEMORY:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


def _load() -> float:
    """Tasks that wanted a core in the last minute, their mean; 0 where the system counts none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return 0.0
