"""Running a cascade for single requests: micro-batches, and one thread that computes.

The event loop accepts requests and receives answers; the thread chooses the stage to run (see
`scheduler`), one stage at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Lock, Thread, current_thread
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from understudy.runtime.buffer import RowBatch
from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import BufferedPipeline, answered_and_failed
from understudy.runtime.protocol import (
    Answer,
    Array,
    ExecutionError,
    ExecutorClosed,
    NotANumber,
    RequestFailed,
    Runnable,
    RunnerOutput,
    StageFailed,
    StageRunner,
    cause_of,
)
from understudy.runtime.scheduler import PolicyLane, ReadyStage, Request, next_stage, ready_stages

MAX_SLEEP = 3600.0
"""Seconds that the thread sleeps at most where no request waits."""

CLOSED = "a closed executor takes no requests, found it closed: make a new one"
CANCELLED = (
    "a closed executor answers no requests, found this one without its answer: send it to another "
    "executor"
)

Outcomes = Sequence[tuple[Request, Answer | Exception]]


@dataclass(eq=False)
class Admission:
    """The requests of one event loop, a limited number of them in flight."""

    loop: asyncio.AbstractEventLoop
    places: asyncio.Semaphore
    callers: int = 0

    @property
    def in_use(self) -> bool:
        """Whether a request is in flight or waits; none does once the event loop has ended."""
        return self.callers > 0 and not self.loop.is_closed()


class RequestBatcher:
    """Requests of one event loop at a time, answered by a thread of its own.

    Args:
        cascade: what runs; its policy is read once per request.
        metrics: counts, and holds the number of rows that a stage takes at a time.
        device: held while a stage runs.
        max_wait: stage -> seconds that its oldest row waits while others are run; None for the
            default: 2 ms at the first stage, the time of a batch at later ones.
        max_waiting: how many requests are in flight at most; further ones wait in order.
    """

    def __init__(
        self,
        cascade: Runnable,
        *,
        metrics: Metrics,
        device: Lock,
        max_wait: Mapping[str, float | None],
        max_waiting: int,
    ) -> None:
        self._cascade, self._metrics, self._device = cascade, metrics, device
        self._max_wait, self._max_waiting = max_wait, max_waiting
        self._ids = itertools.count()
        self._wake = Condition()
        self._in_flight: dict[int, Request] = {}
        self._lanes: list[PolicyLane] = []
        self._closed = False
        self._thread: Thread | None = None
        self._delivered = 0.0  # when answers were delivered last
        self._admission: Admission | None = None

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._closed

    async def answer(
        self, image: Any, *, runners: tuple[StageRunner, ...] | None, logits: bool
    ) -> Answer:
        """The answer to one image, by these stages or by the policy that is set.

        Raises:
            RequestFailed: a stage raised on it, or the last one returned NaN.
            ExecutorClosed: closed before, or meanwhile.
            ExecutionError: requests of another event loop are in flight.
        """
        admission = self._admitted(asyncio.get_running_loop())
        try:
            async with admission.places:
                request = self._submit(image, runners, logits)
                try:
                    return await request.future
                finally:
                    self._discard(request)
        finally:
            with self._wake:
                admission.callers -= 1

    def close(self, *, cancel: bool) -> None:
        """Refuse new requests and wait until those in flight are answered, or cancel them."""
        with self._wake:
            self._closed = True
            if cancel:
                self._fail_all(ExecutorClosed(CANCELLED))
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join()

    # The sink of the pipelines, called by the thread.

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        """Deliver the answers of a stage."""
        rows, _ = answered_and_failed(output)
        if len(rows):
            columns = (ids[rows], output.prediction[rows], output.confidence[rows])
            triples = zip(*(column.tolist() for column in columns), strict=True)
            results: dict[int, Answer | Exception] = {
                n: Answer(top, sure, runner.name) for n, top, sure in triples
            }
            self._add_logits(runner, rows, output, results)
            self._deliver(list(results.items()))

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Deliver errors, a separate one to each request."""
        self._deliver([(number, _failure(runner, error)) for number in ids.tolist()])

    def active(self, ids: Array) -> Array | None:
        """The positions of requests that were not cancelled."""
        kept = [place for place, number in enumerate(ids.tolist()) if number in self._in_flight]
        return None if len(kept) == len(ids) else np.array(kept, np.int64)

    # Called in the event loop.

    def _admitted(self, loop: asyncio.AbstractEventLoop) -> Admission:
        """The admission of an event loop; one at a time as long as it is in use."""
        with self._wake:
            self._refuse_if_closed()
            admission = self._admission
            if admission is None or admission.loop is not loop:
                if admission is not None and admission.in_use:
                    raise ExecutionError(
                        "an executor answers one event loop at a time, found a second while "
                        f"{admission.callers} requests of the first are inside: make an executor "
                        "for each"
                    )
                admission = Admission(loop, asyncio.Semaphore(self._max_waiting))
                self._admission = admission
            admission.callers += 1
            return admission

    def _submit(self, image: Any, runners: tuple[StageRunner, ...] | None, logits: bool) -> Request:
        future = asyncio.get_running_loop().create_future()
        with self._wake:
            self._refuse_if_closed()
            lane = self._lane(self._cascade.runners if runners is None else runners)
            request = Request(next(self._ids), image, future, lane, time.monotonic(), logits)
            self._in_flight[request.id] = lane.pending[request.id] = request
            self._metrics.add_waiting(1)
            if self._thread is None:
                release_threads()  # of this thread, which may have computed before
                self._thread = Thread(target=self._work, name="understudy executor", daemon=True)
                self._thread.start()
            full = len(lane.pending) >= self._metrics.limit(lane.pipeline.runners[0].name)
            if len(lane.pending) == 1 or full or len(self._in_flight) == self._max_waiting:
                self._wake.notify()
            return request

    def _discard(self, request: Request) -> None:
        """Forget a request that was answered or cancelled."""
        with self._wake:
            self._in_flight.pop(request.id, None)
            if request.lane.pending.pop(request.id, None) is not None:
                self._metrics.remove_waiting(1)
                if not request.lane.pending:
                    self._wake.notify()  # deferred rows may have waited for its batch

    def _lane(self, runners: tuple[StageRunner, ...]) -> PolicyLane:
        for lane in self._lanes:
            if lane.pipeline.runners is runners:
                return lane
        pipeline = BufferedPipeline(runners, self, metrics=self._metrics, device=self._device)
        self._lanes.append(PolicyLane(pipeline))
        return self._lanes[-1]

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExecutorClosed(CLOSED)

    # Called in the thread.

    def _work(self) -> None:
        try:
            while (stage := self._next()) is not None:
                if stage.position:
                    stage.lane.pipeline.flush(stage.position)
                else:
                    self._run_first_stage(stage.lane)
        except BaseException as error:
            with self._wake:
                self._closed = True
                self._fail_all(
                    ExecutorClosed(f"{CANCELLED}, after {type(error).__name__}: {error}")
                )
            raise

    def _next(self) -> ReadyStage | None:
        """The stage to run; waits until there is one. None when closed and done."""
        with self._wake:
            while True:
                stages, now = self._ready_stages(), time.monotonic()
                if not stages and self._closed:
                    return None
                stage = next_stage(stages, now)
                if stage is not None:
                    return stage
                self._wake.wait(min([MAX_SLEEP, *(one.idle - now for one in stages)]))

    def _ready_stages(self) -> list[ReadyStage]:
        """All stages with waiting rows; lanes of former policies are removed when empty."""
        stages = ready_stages(
            self._lanes,
            metrics=self._metrics,
            max_wait=self._max_wait.__getitem__,
            delivered=self._delivered,
            at_once=self._closed or len(self._in_flight) >= self._max_waiting,
        )
        if len(self._lanes) > 1:
            busy = {id(stage.lane) for stage in stages}
            self._lanes = [lane for lane in self._lanes if id(lane) in busy]
        return stages

    def _run_first_stage(self, lane: PolicyLane) -> None:
        """Run the first stage on requests that wait for it."""
        runner = lane.pipeline.runners[0]
        with self._wake:
            first = itertools.islice(lane.pending, self._metrics.limit(runner.name))
            requests = [lane.pending.pop(number) for number in list(first)]
            self._metrics.remove_waiting(len(requests))
        if not requests:
            return
        images = _stacked(runner, requests)
        ids = np.array([request.id for request in requests])
        for request in requests:
            request.image = None
        lane.pipeline.run(0, RowBatch(images, {}, ids))

    def _add_logits(
        self,
        runner: StageRunner,
        rows: Array,
        output: RunnerOutput,
        results: dict[int, Answer | Exception],
    ) -> None:
        """Give answers their logits where the request asked for them; others stay where they are.

        Args:
            runner: the stage that answered.
            rows: the rows of its output that `results` has the answers of, in the same order.
            output: the output of the stage.
            results: request -> answer.
        """
        asked = [
            (row, number)
            for row, number in zip(rows.tolist(), results, strict=True)
            if (request := self._in_flight.get(number)) is not None and request.logits
        ]
        if not asked:
            return
        try:
            logits = runner.host_logits(output.logits, np.array([row for row, _ in asked]))
        except Exception as error:  # noqa: BLE001
            results |= {number: _failure(runner, error) for _, number in asked}
            return
        for (_, number), row in zip(asked, logits, strict=True):
            answer = results[number]
            assert isinstance(answer, Answer)
            results[number] = answer.with_logits(row)

    def _deliver(self, results: Sequence[tuple[int, Answer | Exception]]) -> None:
        """Deliver answers and errors in one call of the event loop."""
        with self._wake:
            self._delivered = time.monotonic()
            found = [(self._in_flight.pop(number, None), result) for number, result in results]
            _hand_over([(request, result) for request, result in found if request is not None])

    def _fail_all(self, error: ExecutorClosed) -> None:
        """Deliver an error to all requests in flight; the lock is held."""
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        self._metrics.remove_waiting(sum(len(lane.pending) for lane in self._lanes))
        for lane in self._lanes:
            lane.pending.clear()
        _hand_over([(request, ExecutorClosed(str(error))) for request in lost])


def release_threads() -> bool:
    """Release the threads that OpenMP keeps for the calling thread; whether any library did.

    OpenMP gives every thread that computes a team of its own. With a second team there are more
    threads than cores, and GNU's OpenMP then lets all of them sleep between two loops: a small
    network took 1.8 times as long in a second thread on two cores, as long as the first kept its
    team. The team is made again when the calling thread computes again.

    >>> release_threads() in (True, False)
    True
    """
    soft = 1
    released = False
    for library in ThreadpoolController().select(user_api="openmp").lib_controllers:
        with suppress(AttributeError):  # a library older than OpenMP 5.0
            released |= library.dynlib.omp_pause_resource_all(soft) == 0
    return released


def _hand_over(results: Outcomes) -> None:
    """Deliver results in one call of each event loop; from any thread."""
    for loop in {request.future.get_loop() for request, _ in results}:
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(_set_results, loop, results)


def _set_results(loop: asyncio.AbstractEventLoop, results: Outcomes) -> None:
    for request, result in results:
        if request.future.done() or request.future.get_loop() is not loop:
            continue
        if isinstance(result, Answer):
            request.future.set_result(result)
        else:
            request.future.set_exception(result)


def _failure(runner: StageRunner, error: Exception) -> RequestFailed:
    """The error of a request that a stage could not answer."""
    if isinstance(error, NotANumber):
        return RequestFailed(str(error))
    failed = RequestFailed(
        str(error)
        if isinstance(error, StageFailed)
        else f"every sample is answered or says why not, the stage {runner.name!r} raised on this "
        f"one: {cause_of(error)}; mend the sample or the stage"
    )
    failed.__cause__ = error
    return failed


def _stacked(runner: StageRunner, requests: Sequence[Request]) -> Any:
    """The images of requests as one batch, or as a list where shapes or dtypes differ."""
    samples = [request.image for request in requests]
    try:
        same = len({(tuple(sample.shape), sample.dtype) for sample in samples}) == 1
        return runner.stack(samples) if same else samples
    except Exception:  # noqa: BLE001
        return samples  # the stage raises on the samples that are at fault
