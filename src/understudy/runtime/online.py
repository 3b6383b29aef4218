"""Running a cascade for requests that come one by one: micro-batches, and one thread that computes.

The event loop takes requests and hands out answers; the thread picks what to run (see `turns`), one
stage at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from threading import Condition, Lock, Thread, current_thread
from typing import Any

import numpy as np

from understudy.runtime.answers import Answer
from understudy.runtime.buffer import RowBatch
from understudy.runtime.errors import ExecutionError, ExecutorClosed
from understudy.runtime.metrics import Metrics
from understudy.runtime.openmp import release_threads
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.protocol import Array, Runnable, RunnerOutput, StageRunner
from understudy.runtime.request import Admission, PolicyLane, Request, failure, hand, together
from understudy.runtime.scheduler import ReadyStage, next_stage

FOREVER = 3600.0
"""Seconds that the thread sleeps at most where nothing waits."""


FIRST = 0.002
"""Seconds that requests wait for company at the first stage, where nothing was said."""

QUIET = 1 / 8
"""The share of its patience after which the first stage expects nobody else, with time to spare."""

RETURN = 0.00025
"""Seconds in which clients that have their answers may come back, before deferred rows are run."""

CLOSED = "a closed executor takes no requests, found it closed: make a new one"
CANCELLED = (
    "a closed executor answers nobody, found this request without its answer: ask another executor"
)


class RequestBatcher:
    """Requests of one event loop at a time, answered by a thread of its own.

    Args:
        cascade: what runs; its policy is read once per request.
        tally: where it is counted, and how many rows a stage takes at a time.
        device: held while a stage runs.
        max_wait: stage -> seconds that its oldest row waits for company while others are run; None
            leaves that to the service.
        max_waiting: how many requests are inside at most; more wait at the door, in order.
    """

    def __init__(
        self,
        cascade: Runnable,
        *,
        tally: Metrics,
        device: Lock,
        max_wait: Mapping[str, float | None],
        max_waiting: int,
    ) -> None:
        self._cascade, self._tally, self._device = cascade, tally, device
        self._max_wait, self._max_waiting = max_wait, max_waiting
        self._numbers = itertools.count()
        self._wake = Condition()
        self._inside: dict[int, Request] = {}
        self._counters: list[PolicyLane] = []
        self._closed = False
        self._thread: Thread | None = None
        self._told = 0.0  # when answers were handed out last
        self._door: Admission | None = None

    async def answer(self, image: Any) -> Answer:
        """The answer to one image, when it is there.

        Raises:
            RequestFailed: a stage raised on it, or the last one said NaN.
            ExecutorClosed: closed before, or meanwhile.
            ExecutionError: requests of another event loop are inside.
        """
        door = self._entered(asyncio.get_running_loop())
        try:
            async with door.places:
                request = self._submit(image)
                try:
                    return await request.future
                finally:
                    self._forget(request)
        finally:
            with self._wake:
                door.callers -= 1

    def close(self, *, cancel: bool) -> None:
        """Refuse new requests and wait until those inside are answered, or cancel them."""
        with self._wake:
            self._closed = True
            if cancel:
                self._fail_all(ExecutorClosed(CANCELLED))
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join()

    # The desk of the lines: called by the thread.

    def answered(self, runner: StageRunner, ids: Array, said: RunnerOutput, rows: Array) -> None:
        """Hand out answers."""
        columns = (ids, said.prediction[rows], said.confidence[rows])
        triples = zip(*(column.tolist() for column in columns), strict=True)
        self._tell([(n, Answer(top, sure, runner.name)) for n, top, sure in triples])

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Hand out errors, one of its own for each request."""
        self._tell([(number, failure(runner, error)) for number in ids.tolist()])

    def wanted(self, ids: Array) -> Array | None:
        """The places of requests that were not cancelled."""
        kept = [place for place, number in enumerate(ids.tolist()) if number in self._inside]
        return None if len(kept) == len(ids) else np.array(kept, np.int64)

    # The side of the event loop.

    def _entered(self, loop: asyncio.AbstractEventLoop) -> Admission:
        """The door, which belongs to one event loop as long as somebody is there."""
        with self._wake:
            self._refuse_if_closed()
            door = self._door
            if door is None or door.loop is not loop:
                if door is not None and door.in_use:
                    raise ExecutionError(
                        "an executor answers one event loop at a time, found a second while "
                        f"{door.callers} requests of the first are inside: make an executor for "
                        "each"
                    )
                door = self._door = Admission(loop, asyncio.Semaphore(self._max_waiting))
            door.callers += 1
            return door

    def _submit(self, image: Any) -> Request:
        loop = asyncio.get_running_loop()
        with self._wake:
            self._refuse_if_closed()
            counter = self._counter(self._cascade.runners)
            request = Request(
                next(self._numbers), image, loop.create_future(), counter, time.monotonic()
            )
            self._inside[request.number] = counter.pending[request.number] = request
            self._tally.came(1)
            if self._thread is None:
                release_threads()  # of this thread, which may have computed before
                self._thread = Thread(target=self._work, name="understudy executor", daemon=True)
                self._thread.start()
            first = counter.line.runners[0].name
            full = len(counter.pending) >= self._tally.limit(first)
            if len(counter.pending) == 1 or full or len(self._inside) == self._max_waiting:
                self._wake.notify()
            return request

    def _forget(self, request: Request) -> None:
        """A request that was cancelled leaves; of one that was answered nothing is left."""
        with self._wake:
            self._inside.pop(request.number, None)
            if request.counter.pending.pop(request.number, None) is not None:
                self._tally.went(1)
                if not request.counter.pending:
                    self._wake.notify()  # deferred rows may have waited for its company

    def _counter(self, runners: tuple[StageRunner, ...]) -> PolicyLane:
        for counter in self._counters:
            if counter.line.runners is runners:
                return counter
        line = Pipeline(runners, self, tally=self._tally, device=self._device)
        self._counters.append(PolicyLane(line))
        return self._counters[-1]

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExecutorClosed(CLOSED)

    # The side of the thread.

    def _work(self) -> None:
        try:
            while (turn := self._next()) is not None:
                if turn.position:
                    turn.owner.line.flush(turn.position)
                else:
                    self._start(turn.owner)
        except BaseException as error:
            with self._wake:
                self._closed = True
                lost = ExecutorClosed(f"{CANCELLED}, after {type(error).__name__}: {error}")
                self._fail_all(lost)
            raise

    def _next(self) -> ReadyStage[PolicyLane] | None:
        """What to run; waits until there is something. None when closed and done."""
        with self._wake:
            while True:
                turns, now = self._turns(), time.monotonic()
                if not turns and self._closed:
                    return None
                turn = next_stage(turns, now)
                if turn is not None:
                    return turn
                self._wake.wait(min([FOREVER, *(one.idle - now for one in turns)]))

    def _turns(self) -> list[ReadyStage[PolicyLane]]:
        """All stages with waiting rows; lines of former policies go when they are empty.

        Where the thread is idle, a stage does not wait for company that will not come: the first
        one when no request has come for a while, later ones when none waits for the first.
        """
        hurry = self._closed or len(self._inside) >= self._max_waiting
        turns = []
        for counter in self._counters:
            for position, runner in enumerate(counter.line.runners):
                rows, since = counter.waiting(position)
                if rows:
                    limit = self._tally.limit(runner.name)
                    due = since if hurry else since + self._patience(runner, position)
                    idle = due
                    if position == 0:
                        idle = min(due, counter.latest + QUIET * (due - since))
                    elif not counter.pending:
                        idle = min(due, max(since, self._told) + RETURN)
                    turns.append(ReadyStage(counter, position, rows, limit, since, due, idle))
        if len(self._counters) > 1:
            busy = {id(turn.owner) for turn in turns}
            self._counters = [one for one in self._counters if id(one) in busy]
        return turns

    def _patience(self, runner: StageRunner, position: int) -> float:
        """Seconds that the oldest row of a stage waits for company.

        Where nothing was said, a later stage waits as long as a batch of it took of late: what
        waiting costs a row is then about what it was to pay anyway.
        """
        told = self._max_wait[runner.name]
        if told is not None:
            return told
        return self._tally.took(runner.name) if position else FIRST

    def _start(self, counter: PolicyLane) -> None:
        """Run the first stage on requests that wait for it."""
        runner = counter.line.runners[0]
        with self._wake:
            some = itertools.islice(counter.pending, self._tally.limit(runner.name))
            requests = [counter.pending.pop(number) for number in list(some)]
            self._tally.went(len(requests))
        if not requests:
            return
        images = together(runner, requests)
        ids = np.array([request.number for request in requests])
        for request in requests:
            request.image = None
        counter.line.run(0, RowBatch(images, {}, ids))

    def _tell(self, told: Sequence[tuple[int, Answer | Exception]]) -> None:
        """Hand out what became of requests, in one call of their event loop."""
        with self._wake:
            self._told = time.monotonic()
            found = [(self._inside.pop(number, None), what) for number, what in told]
            hand([(request, what) for request, what in found if request is not None])

    def _fail_all(self, error: ExecutorClosed) -> None:
        """Tell all inside that they will not be answered; the lock is held."""
        lost = list(self._inside.values())
        self._inside.clear()
        self._tally.went(sum(len(counter.pending) for counter in self._counters))
        for counter in self._counters:
            counter.pending.clear()
        hand([(request, ExecutorClosed(str(error))) for request in lost])
