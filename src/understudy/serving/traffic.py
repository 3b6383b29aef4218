"""Counts of what a server answered, as a whole and in each of the last 300 seconds."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SECONDS = 300
"""Seconds that the series go back."""

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; those of OpenTelemetry's `http.server.request.duration`."""

_PER_DECADE = 32  # cells of a latency, 7.5 % wide
_FINE = [10.0 ** (k / _PER_DECADE) for k in range(-4 * _PER_DECADE, 2 * _PER_DECADE + 1)]
EDGES = sorted({*_FINE, *LATENCY_BUCKETS})
"""Upper ends of the cells in which latencies are counted, in seconds."""

QUANTILES = (0.5, 0.95, 0.99)
_FAILURES = ("rejected", "late", "failed", "cancelled")


def latency_quantiles(counts: Array) -> Array:
    """The quantiles 50, 95 and 99 % of latencies by their cells, in seconds; NaN without any.

    Args:
        counts: (..., cells) how many latencies lie in each cell.

    >>> cells = np.zeros(len(EDGES) + 1)
    >>> cells[bisect_left(EDGES, 0.05)] = 7
    >>> latency_quantiles(cells).round(2)
    array([0.05, 0.05, 0.05])
    """
    upper = np.array([*EDGES, EDGES[-1]])
    total = counts.sum(-1)
    seen = np.cumsum(counts, -1)
    found = [upper[(seen < q * total[..., None]).sum(-1).clip(max=len(EDGES))] for q in QUANTILES]
    return np.where(total[..., None] > 0, np.stack(found, -1), np.nan)


@dataclass
class _Second:
    """What happened since the last full second."""

    exits: list[int]
    latencies: list[int]
    cost: float = 0.0
    reference: float = 0.0


class TrafficCounts:
    """Counts of requests and of the images in them. Not for several threads.

    Args:
        policies: the number of policies that may answer.
        exits: the names of the exits.
        clock: seconds since any moment.

    >>> traffic = TrafficCounts(1, ["tiny", "big"], clock=lambda: 0.0)
    >>> traffic.answer(0, 1, cost=9.0, reference=9.0)
    >>> traffic.done(0.02)
    >>> traffic.answered.tolist(), traffic.requests
    ([[0, 1]], 1)
    """

    def __init__(
        self, policies: int, exits: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.exits = tuple(exits)
        self.requests = 0
        self.failures = dict.fromkeys(_FAILURES, 0)
        self.seconds_total = 0.0
        self._clock = clock
        self._since_epoch = time.time() - clock()
        self._started = self._second = int(clock())
        self._policies = [[0] * len(self.exits) for _ in range(policies)]
        self._latencies = np.zeros(len(EDGES) + 1, np.int64)
        self._last = 0.0
        self._now = self._empty()
        self._exits = np.zeros((SECONDS, len(self.exits)), np.int64)
        self._cells = np.zeros((SECONDS, len(EDGES) + 1), np.int32)
        self._costs = np.zeros((SECONDS, 2))
        self._cached: tuple[int, dict[str, Any]] = (-1, {})

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def last(self) -> int:
        """When the last request was answered, in milliseconds since the epoch; 0 before any."""
        return int(1000 * (self._last + self._since_epoch)) if self.requests else 0

    @property
    def answered(self) -> Array:
        """Images by policy and exit, (policies, exits)."""
        return np.array(self._policies, np.int64)

    @property
    def latencies(self) -> Array:
        """Requests by the cell of their latency, (cells,)."""
        total: Array = self._latencies + np.array(self._now.latencies)
        return total

    def answer(self, policy: int, exit: int, *, cost: float, reference: float) -> None:
        """An exit has answered an image under a policy, at a cost, beside that of the reference."""
        if int(self._clock()) != self._second:
            self._roll()
        self._policies[policy][exit] += 1
        now = self._now
        now.exits[exit] += 1
        now.cost += cost
        now.reference += reference

    def done(self, seconds: float) -> None:
        """A request has been answered in so many seconds."""
        self._last = self._clock()
        if int(self._last) != self._second:
            self._roll()
        self.requests += 1
        self.seconds_total += seconds
        self._now.latencies[bisect_left(EDGES, seconds)] += 1

    def fail(self, how: str) -> None:
        """A request was `rejected`, `late`, `failed` or `cancelled`."""
        self.failures[how] += 1

    def recent_quantiles(self, seconds: int = 60) -> Array:
        """The quantiles 50, 95 and 99 % of the latencies of the last full seconds; or NaN."""
        self._roll()
        rows = self._rows(min(seconds, SECONDS))
        return latency_quantiles(self._cells[rows].sum(0))

    def series(self) -> dict[str, Any]:
        """The last full seconds as plain lists: epoch seconds, images per second, as a whole and by
        exit, latency quantiles and the saving; None where nothing was answered."""
        self._roll()
        second, found = self._cached
        if second != self._second:
            found = self._series()
            self._cached = (self._second, found)
        return found

    def with_others(self, others: Sequence[TrafficCounts]) -> TrafficCounts:
        """These counts and those of other servers with the same policies and exits, together.

        >>> here = TrafficCounts(1, ["tiny"], clock=lambda: 0.0)
        >>> there = TrafficCounts(1, ["tiny"], clock=lambda: 7.0)
        >>> there.answer(0, 0, cost=1.0, reference=9.0)
        >>> here.with_others([there]).answered.tolist(), here.answered.tolist()
        ([[1]], [[0]])
        """
        self._roll()
        total = deepcopy(self)
        for other in others:
            total._add(other)
        return total

    def _add(self, other: TrafficCounts) -> None:
        """Count what another has counted, second by second; clocks may differ."""
        self.requests += other.requests
        self.seconds_total += other.seconds_total
        self.failures = {how: n + other.failures[how] for how, n in self.failures.items()}
        self._policies = (self.answered + other.answered).tolist()
        self._latencies += other.latencies
        ahead = other._since_epoch - self._since_epoch
        self._last = max(self._last, other._last + ahead if other.requests else 0.0)
        self._started = min(self._started, int(other._started + ahead))
        seconds = np.arange(self._second - SECONDS, self._second)
        theirs = seconds - round(ahead)
        known = (theirs >= other._second - SECONDS) & (theirs < other._second)
        rows, others = seconds[known] % SECONDS, theirs[known] % SECONDS
        self._exits[rows] += other._exits[others]
        self._cells[rows] += other._cells[others]
        self._costs[rows] += other._costs[others]
        self._cached = (-1, {})

    def _series(self) -> dict[str, Any]:
        rows = self._rows(min(SECONDS, self._second - self._started))
        quantiles = latency_quantiles(self._cells[rows])
        exits, (cost, reference) = self._exits[rows], self._costs[rows].T
        known = reference > 0
        saving = np.where(known, 1 - cost / np.where(known, reference, 1), np.nan)
        start = self._second - len(rows) + self._since_epoch
        return {
            "t": [round(start + k, 3) for k in range(len(rows))],
            "throughput": exits.sum(1).tolist(),
            "exits": {name: exits[:, k].tolist() for k, name in enumerate(self.exits)},
            **{f"p{100 * q:.0f}": plain(quantiles[:, k]) for k, q in enumerate(QUANTILES)},
            "saving": plain(saving),
        }

    def _rows(self, count: int) -> Array:
        """The rows of the last full seconds, the oldest first."""
        return np.arange(self._second - count, self._second) % SECONDS

    def _empty(self) -> _Second:
        return _Second([0] * len(self.exits), [0] * (len(EDGES) + 1))

    def _roll(self) -> None:
        """Write the second that has ended, and those without traffic after it."""
        now = int(self._clock())
        if now <= self._second:
            return
        row, ended = self._second % SECONDS, self._now
        self._exits[row] = ended.exits
        self._cells[row] = ended.latencies
        self._costs[row] = ended.cost, ended.reference
        self._latencies += self._cells[row]
        silent = np.arange(max(self._second + 1, now - SECONDS), now) % SECONDS
        for ring in (self._exits, self._cells, self._costs):
            ring[silent] = 0
        self._now, self._second = self._empty(), now


def plain(values: Array) -> list[float | None]:
    """Numbers as JSON has them, None for NaN.

    >>> plain(np.array([0.5, np.nan]))
    [0.5, None]
    """
    return [None if isnan(value) else value for value in values.tolist()]
