"""Requests without an answer, in a lane per policy, in front of its first stage."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import BufferedPipeline
from understudy.runtime.places import Admission
from understudy.runtime.protocol import Answer

Outcome = Answer | Exception

logger = logging.getLogger(__name__)

_ANY_SIZE = 32  # rows of a batch up to which it has any size

_NONE: Outcome = LookupError("no outcome yet")


Receiver = Callable[[list[Outcome]], object]
"""Takes the outcomes of a call in the order of its samples; called in the event loop."""


@dataclass(eq=False, slots=True)
class Call:
    """One or several samples that were sent together, and what receives all their outcomes.

    Attributes:
        admission: of the event loop in which they are received.
        done: is called there once there are all, unless the call was cancelled before.
        outcomes: those so far.
        missing: the number of samples without one.
        held: the number of places taken; none in the background.
        logits: whether the answers have logits.
        requests: those of the samples that were taken, until the call ends: requests refer to
            their call, and only a collector of cycles would free them together.
        sending: lets the samples in for which there was no place.
    """

    admission: Admission
    done: Receiver
    outcomes: list[Outcome]
    missing: int
    held: int
    logits: bool
    requests: list[Request]
    sending: asyncio.Task[None] | None = None

    @staticmethod
    def of(count: int, admission: Admission, done: Receiver, *, held: int, logits: bool) -> Call:
        """A call without outcomes."""
        call = Call(admission, done, [_NONE] * count, count, held, logits, [])
        admission.calls.add(call)
        return call

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which the outcomes are received."""
        return self.admission.loop

    def receive(self, place: int, outcome: Outcome) -> None:
        """The outcome of one sample, whose place others may take; called in the event loop."""
        self.outcomes[place] = outcome
        self.missing -= 1
        if self.held:
            self.give_back(1)
        if not self.missing:
            self.finish()

    def finish(self) -> None:
        """Hand the outcomes over, unless the call has ended."""
        if self.end():
            self.done(self.outcomes)

    def end(self) -> bool:
        """Take part in nothing any more; whether it did."""
        calls = self.admission.calls
        if self not in calls:
            return False
        calls.discard(self)
        self.requests.clear()
        return True

    def give_back(self, count: int) -> None:
        """Let others have some of the places."""
        self.held -= count
        self.admission.places.give_back(count)


@dataclass(eq=False, slots=True)
class Request:
    """One sample, and its place in the call that it came in."""

    id: int
    image: Any
    call: Call
    place: int
    lane: PolicyLane
    since: float


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

    def add(self, images: Sequence[Any], lane: PolicyLane, call: Call) -> None:
        """Let further samples of a call wait in a lane; the lock is held."""
        now, start = time.monotonic(), len(call.requests)
        for place, image in enumerate(images, start):
            request = Request(next(self._ids), image, call, place, lane, now)
            self.requests[request.id] = lane.pending[request.id] = request
            call.requests.append(request)
        self.metrics.add_waiting(len(images))

    def take(self, lane: PolicyLane) -> list[Request]:
        """The requests that its first stage runs next, in the order of their arrival."""
        with self._lock:
            limit = self.metrics.limit(lane.pipeline.runners[0].name)
            first = list(itertools.islice(lane.pending, batch_size(len(lane.pending), limit)))
            requests = [lane.pending.pop(number) for number in first]
            self.metrics.remove_waiting(len(requests))
        return requests

    def discard(self, call: Call) -> None:
        """Forget the requests of a call that is no longer waited for; called in its event loop."""
        if call.sending is not None:
            call.sending.cancel()
        with self._lock:
            for request in call.requests:
                self.requests.pop(request.id, None)
                if request.lane.pending.pop(request.id, None) is not None:
                    self.metrics.remove_waiting(1)
            call.end()
            self._lock.notify()  # deferred rows may have waited for their batch
        call.give_back(call.held)

    def deliver(self, results: Iterable[tuple[int, Outcome]]) -> None:
        """Deliver answers and errors in one call of the event loop."""
        with self._lock:
            self.delivered = time.monotonic()
            found = [(self.requests.pop(number, None), result) for number, result in results]
        _hand_over([(request, result) for request, result in found if request is not None])

    def remove_lanes(self, busy: Container[int]) -> None:
        """Remove lanes of former policies, but not those with these ids or with rows that are away;
        the lock is held."""
        if len(self.lanes) > 1:
            kept = [lane for lane in self.lanes if id(lane) in busy or lane.pipeline.away]
            self.lanes = kept

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Deliver an error to all requests; the lock is held."""
        lost = list(self.requests.values())
        self.requests.clear()
        self.metrics.remove_waiting(sum(len(lane.pending) for lane in self.lanes))
        for lane in self.lanes:
            lane.pending.clear()
        _hand_over([(request, error()) for request in lost])


def batch_size(waiting: int, limit: int) -> int:
    """How many of the rows that wait the first stage takes.

    Of more than 32 rows up to a fifth are left for the next batch, so that few sizes occur:
    libraries keep a program for each size of each layer (oneDNN 300 kB on average, 1,024 of them).

    >>> [batch_size(waiting, 100) for waiting in (31, 33, 43, 79, 99, 250)]
    [31, 32, 40, 64, 96, 100]
    """
    if waiting >= limit:
        return limit
    step = 1 << max(0, waiting.bit_length() - 3)
    return waiting if waiting <= _ANY_SIZE else waiting // step * step


def _hand_over(results: Sequence[tuple[Request, Outcome]]) -> None:
    """Deliver results in one call of each event loop; from any thread."""
    for loop in {request.call.loop for request, _ in results}:
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(_receive, loop, results)


def _receive(loop: asyncio.AbstractEventLoop, results: Sequence[tuple[Request, Outcome]]) -> None:
    """Give the results of this event loop to their calls."""
    for request, outcome in results:
        if request.call.loop is loop:
            try:
                request.call.receive(request.place, outcome)
            except Exception:
                logger.exception("what receives answers returns, it raised")
