"""Times of models measured in rounds, each model in turn, until they are precise."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import perf_counter, process_time

from understudy.errors import DataError
from understudy.sitting import Sitting, median_interval

LEAST, MOST = 7, 50  # rounds
PRECISE = 0.05  # half the width of an interval, as a fraction of the time, that ends the rounds
SECONDS, BRIEF = 20.0, 1.5  # after which few rounds have to do: at most, and after brief scoring
FEW = 3

Timer = Callable[[], Mapping[str, float]]
"""Runs a model once: part -> ms per sample."""


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


def batch_sizes(measure: int | Sequence[int]) -> tuple[int, ...]:
    """The batch sizes at which times are measured, of one or of several.

    >>> batch_sizes(32), batch_sizes(())
    ((32,), ())

    Raises:
        DataError: a size below 1.
    """
    sizes = (measure,) if isinstance(measure, int) else tuple(measure)
    if any(size < 1 for size in sizes):
        raise DataError(f"times are measured for batches of 1 sample and more, found {sizes}")
    return sizes


def seconds_after(scoring: float) -> float:
    """How long the rounds of a unit may take after so many seconds of scoring: no longer than it.

    >>> seconds_after(0.5), seconds_after(12.0), seconds_after(3600.0)
    (1.5, 12.0, 20.0)
    """
    return min(max(scoring, BRIEF), SECONDS)


class RoundTimes:
    """The times of rounds, from now on.

    >>> times = RoundTimes()
    >>> times.add({"tiny": 1.5})
    >>> times.sitting("ms@8", device="cpu", threads=1).median
    {'tiny': 1.5}
    """

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}
        self._start, self._used = perf_counter(), process_time()

    def add(self, found: Mapping[str, float]) -> None:
        """Add a round: part -> ms per sample."""
        for part, ms in found.items():
            self._times.setdefault(part, []).append(ms)

    def sitting(self, unit: str, *, device: str, threads: int) -> Sitting:
        """The medians and intervals of all rounds."""
        intervals = {part: median_interval(values) for part, values in self._times.items()}
        return Sitting(
            unit=unit,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            device=device,
            cores=os.cpu_count() or 1,
            threads=threads,
            load=_load(),
            cpu=round((process_time() - self._used) / (perf_counter() - self._start), 3),
            rounds=min(map(len, self._times.values())),
            median={part: statistics.median(values) for part, values in self._times.items()},
            low={part: low for part, (low, _) in intervals.items()},
            high={part: high for part, (_, high) in intervals.items()},
        )


def rounds(
    timers: Mapping[str, Timer], *, passes: int = 1, seconds: float
) -> Iterator[tuple[int, int, dict[str, float]]]:
    """The number of each round, how many may follow, and its times; after one to warm up.

    Args:
        timers: the name of each model, and what times its parts once.
        passes: how often these models get such rounds, which share the seconds.
        seconds: after which `FEW` rounds have to do.

    >>> [number for number, _, _ in rounds({"tiny": lambda: {"tiny": 1.0}}, seconds=1.0)][-1]
    7
    """
    start, times = perf_counter(), dict[str, list[float]]()
    for timer in timers.values():
        timer()
    names, done, left = list(timers), 0, 1
    while left:
        first = done % len(names)  # whom a model comes after changes
        found = [timers[name]() for name in names[first:] + names[:first]]
        done += 1
        rows = {part: ms for one in found for part, ms in one.items()}
        for part, ms in rows.items():
            times.setdefault(part, []).append(ms)
        spent = (perf_counter() - start) * passes
        left = -(-rounds_left(done * passes, spent, seconds, precise=_precise(times)) // passes)
        yield done, left, rows


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


def _load() -> float:
    """Tasks that wanted a core in the last minute, their mean; 0 where the system counts none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return 0.0
