"""Requests without an answer, in a lane per policy, in front of its first stage."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import BufferedPipeline
from understudy.runtime.protocol import Answer

Outcome = Answer | Exception


@dataclass(eq=False, slots=True)
class Request:
    """One sample, and the future that receives its answer, with its logits where they are asked."""

    id: int
    image: Any
    future: asyncio.Future[Answer]
    lane: PolicyLane
    since: float
    logits: bool = False


@dataclass(eq=False)
class PolicyLane:
    """The pipeline of one policy, and the requests that wait for its first stage, in order."""

    pipeline: BufferedPipeline
    pending: dict[int, Request] = field(default_factory=dict)

    @property
    def latest(self) -> float:
        """When the last of the requests arrived that wait for the first stage."""
        return next(reversed(self.pending.values())).since

    def waiting(self, position: int) -> tuple[int, float]:
        """The number of rows that wait for a stage, and when the oldest began to wait."""
        if position == 0 and self.pending:
            return len(self.pending), next(iter(self.pending.values())).since
        buffer = self.pipeline.buffers[position]
        return buffer.count, buffer.since


class Traffic:
    """The requests of one priority that have no answer yet. Safe to use from several threads.

    Args:
        metrics: counts of these requests alone, and the number of rows that a stage takes at a
            time.
        lock: guards lanes and requests; several priorities share it.

    Attributes:
        lanes: the pipelines of the policies in use.
        requests: the requests by their ids.
        delivered: when answers were delivered last.
    """

    def __init__(self, metrics: Metrics, lock: Condition) -> None:
        self.metrics = metrics
        self.lanes: list[PolicyLane] = []
        self.requests: dict[int, Request] = {}
        self.delivered = 0.0
        self._lock = lock
        self._ids = itertools.count()

    def add(
        self, image: Any, lane: PolicyLane, future: asyncio.Future[Answer], *, logits: bool
    ) -> Request:
        """Let a request wait in a lane; the lock is held."""
        request = Request(next(self._ids), image, future, lane, time.monotonic(), logits)
        self.requests[request.id] = lane.pending[request.id] = request
        self.metrics.add_waiting(1)
        return request

    def take(self, lane: PolicyLane) -> list[Request]:
        """The requests that its first stage runs next, in the order of their arrival."""
        with self._lock:
            limit = self.metrics.limit(lane.pipeline.runners[0].name)
            first = list(itertools.islice(lane.pending, limit))
            requests = [lane.pending.pop(number) for number in first]
            self.metrics.remove_waiting(len(requests))
        return requests

    def discard(self, request: Request) -> None:
        """Forget a request that is no longer waited for."""
        with self._lock:
            self.requests.pop(request.id, None)
            if request.lane.pending.pop(request.id, None) is not None:
                self.metrics.remove_waiting(1)
                if not request.lane.pending:
                    self._lock.notify()  # deferred rows may have waited for its batch

    def deliver(self, results: Sequence[tuple[int, Outcome]]) -> None:
        """Deliver answers and errors in one call of the event loop."""
        with self._lock:
            self.delivered = time.monotonic()
            found = [(self.requests.pop(number, None), result) for number, result in results]
        _hand_over([(request, result) for request, result in found if request is not None])

    def remove_lanes(self, busy: Container[int]) -> None:
        """Remove lanes of former policies, except for those with these ids; the lock is held."""
        if len(self.lanes) > 1:
            self.lanes = [lane for lane in self.lanes if id(lane) in busy]

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Deliver an error to all requests; the lock is held."""
        lost = list(self.requests.values())
        self.requests.clear()
        self.metrics.remove_waiting(sum(len(lane.pending) for lane in self.lanes))
        for lane in self.lanes:
            lane.pending.clear()
        _hand_over([(request, error()) for request in lost])


def _hand_over(results: Sequence[tuple[Request, Outcome]]) -> None:
    """Deliver results in one call of each event loop; from any thread."""
    for loop in {request.future.get_loop() for request, _ in results}:
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(_set_results, loop, results)


def _set_results(
    loop: asyncio.AbstractEventLoop, results: Sequence[tuple[Request, Outcome]]
) -> None:
    for request, result in results:
        if request.future.done() or request.future.get_loop() is not loop:
            continue
        if isinstance(result, Answer):
            request.future.set_result(result)
        else:
            request.future.set_exception(result)
