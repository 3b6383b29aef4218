"""Measuring models: ms per sample of every part, in rounds over all models."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import perf_counter, process_time

import torch

from understudy.errors import ModelError
from understudy.nn.cost import time_parts
from understudy.nn.stage import Images, Stage
from understudy.progress_bars import Advance, no_bar
from understudy.runtime.protocol import is_out_of_memory
from understudy.sitting import Sitting, median_interval

LEAST, MOST = 7, 50  # rounds
PRECISE = 0.05  # half the width of an interval, as a fraction of the time, that ends the rounds
SECONDS, BRIEF = 20.0, 1.5  # after which few rounds have to do: at most, and after brief scoring
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


def seconds_after(scoring: float) -> float:
    """How long the rounds of a unit may take after so many seconds of scoring: no longer than it.

    >>> seconds_after(0.5), seconds_after(12.0), seconds_after(3600.0)
    (1.5, 12.0, 20.0)
    """
    return min(max(scoring, BRIEF), SECONDS)


def measure(
    sources: Sources,
    images: Images,
    *,
    bytes_of: Mapping[str, int],
    device: str,
    seconds: float = SECONDS,
    on_progress: Advance = no_bar,
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
        seconds: after which `FEW` rounds have to do.
        on_progress: called after every round with the rounds that are done, and those that there
            are at most.

    Raises:
        ModelError: a source runs out of memory in batches of this size.

    >>> sources = {"tiny": lambda: {"tiny": Stage(torch.nn.Linear(4, 3))}}
    >>> measure(sources, torch.zeros(2, 4), bytes_of={"tiny": 60}, device="cpu").unit
    'ms@2'
    """
    unit = unit_of(len(images))
    groups = list(groups_in_memory(bytes_of))
    passes = PASSES if len(groups) > 1 else 1
    loads = groups * passes
    times: dict[str, list[float]] = {}
    start, used, before = perf_counter(), process_time(), 0
    for number, group in enumerate(loads):
        loaded = {name: sources[name]() for name in group}
        for done, left, found in _rounds(loaded, images, passes=passes, seconds=seconds):
            for part, ms in found.items():
                times.setdefault(part, []).append(ms)
            most = before + (done + left) * (len(loads) - number)
            on_progress(f"measuring {unit}", before + done, most)
        before += done
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
    sources: Mapping[str, Mapping[str, Stage]], images: Images, *, passes: int, seconds: float
) -> Iterator[tuple[int, int, dict[str, float]]]:
    """The number of each round, how many may follow, and its times; after one to warm up."""
    start, times = perf_counter(), dict[str, list[float]]()
    for name in sources:
        _times(sources, name, images)
    names, done, left = list(sources), 0, 1
    while left:
        first = done % len(names)  # whom a model comes after changes
        found = [_times(sources, name, images) for name in names[first:] + names[:first]]
        done += 1
        rows = {part: ms for one in found for part, ms in one.items()}
        for part, ms in rows.items():
            times.setdefault(part, []).append(ms)
        spent = (perf_counter() - start) * passes
        left = -(-rounds_left(done * passes, spent, seconds, precise=_precise(times)) // passes)
        yield done, left, rows


def _times(
    sources: Mapping[str, Mapping[str, Stage]], name: str, images: Images
) -> dict[str, float]:
    """The times of one source, from one run."""
    try:
        return time_parts(sources[name], images)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"times are measured in batches that fit into memory, {name!r} runs out of memory in "
            f"batches of {len(images)}: measure in smaller ones"
        ) from error


def rounds_left(done: int, spent: float, seconds: float, *, precise: bool) -> int:
    """How many rounds may follow those that are done: none where all times are precise.

    >>> rounds_left(7, 1.0, 20.0, precise=True), rounds_left(7, 1.0, 20.0, precise=False)
    (0, 43)
    >>> rounds_left(2, 10.0, 20.0, precise=False), rounds_left(2, 60.0, 20.0, precise=False)
    (5, 1)
    """
    late = spent > seconds
    least = max((FEW if late else LEAST) - done, 0)
    if late or precise:
        return least
    return max(least, min(math.ceil((seconds - spent) * done / spent), MOST - done))


def _precise(times: Mapping[str, Sequence[float]]) -> bool:
    """Whether all intervals are narrow."""
    ends = {part: median_interval(values) for part, values in times.items()}
    return all(
        high - low <= 2 * PRECISE * statistics.median(times[part])
        for part, (low, high) in ends.items()
    )


def groups_in_memory(bytes_of: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Names in groups whose weights fit into `MEMORY`, in order; a larger one is a group alone.

    >>> list(groups_in_memory({"tiny": 10**6, "big": 10**9, "huge": 10**10}))
    [['tiny', 'big'], ['huge']]
    """
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
