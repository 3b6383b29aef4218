"""Counts of an executor, and the number of rows that its stages take at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExecutorStats:
    """A snapshot of an executor. Mappings go by the name of the stage.

    Attributes:
        rows: rows that the stage has run on.
        batches: the number of batches that these rows came in.
        seconds: the time that these batches took.
        nan: those of the rows whose logits were NaN.
        failed: rows without an answer because the stage raised, or returned NaN as the last stage.
        out_of_memory: how often a batch was halved because memory ran out.
        max_batch: the rows that the stage takes at a time at present.
        waiting: rows that wait for a stage at present.
        peak: the largest number of rows that ever waited at the same time.
    """

    rows: Mapping[str, int]
    batches: Mapping[str, int]
    seconds: Mapping[str, float]
    nan: Mapping[str, int]
    failed: Mapping[str, int]
    out_of_memory: Mapping[str, int]
    max_batch: Mapping[str, int]
    waiting: int
    peak: int


class Metrics:
    """Counters behind `ExecutorStats`; and batch sizes, which fall when memory runs out.

    Safe to use from several threads.
    """

    def __init__(self, max_batch: Mapping[str, int]) -> None:
        self._lock = Lock()
        self._limits = dict(max_batch)
        names = tuple(max_batch)
        self._rows, self._batches = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        self._nan, self._failed = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        self._halved = dict.fromkeys(names, 0)
        self._seconds = dict.fromkeys(names, 0.0)
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=2) for name in names}
        self._waiting = self._peak = 0

    def limit(self, name: str) -> int:
        """The largest number of rows that a stage takes at a time."""
        return self._limits[name]

    def add_batch(self, name: str, rows: int, *, nan: int) -> None:
        """A stage has answered or deferred the rows of a batch."""
        with self._lock:
            self._rows[name] += rows
            self._batches[name] += 1
            self._nan[name] += nan

    def add_seconds(self, name: str, seconds: float) -> None:
        """A stage has computed for so long on a batch."""
        with self._lock:
            self._seconds[name] += seconds
            self._recent[name].append(seconds)

    def batch_seconds(self, name: str) -> float:
        """The seconds that a stage takes for a batch: the smaller of the last two.

        0 before the second batch: the first one includes the cost of initialisation.
        """
        recent = tuple(self._recent[name])
        return min(recent) if len(recent) > 1 else 0.0

    def add_failed(self, name: str, rows: int) -> None:
        """A stage has left rows without an answer."""
        with self._lock:
            self._failed[name] += rows

    def halve_limit(self, name: str, rows: int) -> None:
        """A stage had no memory for so many rows: it gets at most half of them from now on."""
        with self._lock:
            self._halved[name] += 1
            self._limits[name] = max(1, min(self._limits[name], rows // 2))
        logger.warning(
            "out of memory at the stage %r with %d rows: it takes at most %d at a time from now on",
            name,
            rows,
            self._limits[name],
        )

    def add_waiting(self, rows: int) -> None:
        """Rows have begun to wait."""
        with self._lock:
            self._waiting += rows
            self._peak = max(self._peak, self._waiting)

    def remove_waiting(self, rows: int) -> None:
        """Rows wait no longer."""
        with self._lock:
            self._waiting -= rows

    def snapshot(self) -> ExecutorStats:
        """The counts at present."""
        with self._lock:
            return ExecutorStats(
                rows=dict(self._rows),
                batches=dict(self._batches),
                seconds=dict(self._seconds),
                nan=dict(self._nan),
                failed=dict(self._failed),
                out_of_memory=dict(self._halved),
                max_batch=dict(self._limits),
                waiting=self._waiting,
                peak=self._peak,
            )
