"""Running a cascade for single requests: micro-batches, and one thread that computes.

The event loop accepts requests and receives answers; the thread chooses the stage to run (see
`scheduler`), one stage at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Condition, Lock, RLock, Thread, current_thread
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from understudy.runtime.buffer import RowBatch
from understudy.runtime.delivery import Delivery, Observer
from understudy.runtime.lanes import Call, PolicyLane, Receiver, Request, Traffic
from understudy.runtime.metrics import Metrics
from understudy.runtime.places import Admission, Places
from understudy.runtime.protocol import (
    BackgroundFull,
    ExecutionError,
    ExecutorClosed,
    Runnable,
    StageRunner,
)
from understudy.runtime.remote import RemotePipeline
from understudy.runtime.scheduler import (
    BACKGROUND_SHARE,
    QUIET_TIME,
    ReadyStage,
    background_stages,
    next_stage,
    ready_stages,
)

MAX_SLEEP = 3600.0
"""Seconds that the thread sleeps at most where no request waits."""

CLOSED = "a closed executor takes no requests, found it closed: make a new one"
CANCELLED = (
    "a closed executor answers no requests, found this one without its answer: send it to another "
    "executor"
)


class RequestBatcher:
    """Requests of one event loop at a time, answered by a thread of its own.

    Args:
        cascade: what runs; its policy is read once per request.
        metrics: counts, and holds the number of rows that a stage takes at a time.
        background: the same of requests in the background, which have batches of their own.
        device: held while a stage runs.
        max_wait: stage -> seconds that its oldest row waits while others are run; None for the
            default: 2 ms at the first stage, the time of a batch at later ones.
        max_waiting: how many requests are in flight at most; further ones wait in order.
        max_background: how many requests are in the background at most; further ones are refused.
        observer: takes the confidences of every batch that is not in the background.
    """

    def __init__(
        self,
        cascade: Runnable,
        *,
        metrics: Metrics,
        background: Metrics,
        device: Lock,
        max_wait: Mapping[str, float | None],
        max_waiting: int,
        max_background: int,
        observer: Observer | None,
    ) -> None:
        self._cascade, self._device = cascade, device
        self._max_wait, self._max_waiting = max_wait, max_waiting
        self._max_background, self._observer = max_background, observer
        self._lock = RLock()  # a coroutine that is collected may take it again
        self._wake = Condition(self._lock)
        self._requests = Traffic(metrics, self._wake)
        self._background = Traffic(background, self._wake)
        self._back: deque[Callable[[], None]] = deque()  # rows that were away
        self._rested = 0.0  # when the background may be run while others wait
        self._closed = False
        self._thread: Thread | None = None
        self._admission: Admission | None = None

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._closed

    def start(
        self,
        images: Sequence[Any],
        done: Receiver,
        *,
        runners: tuple[StageRunner, ...] | None,
        logits: bool,
        background: bool,
    ) -> Callable[[], None]:
        """Let images be answered, by these stages or by the policy that is set.

        An outcome is an answer, a `RequestFailed` where a stage raised or the last one returned
        NaN, or an `ExecutorClosed` where the executor was closed before.

        Args:
            images: of the call.
            done: receives the outcomes.
            runners: the stages.
            logits: whether the answers have logits.
            background: whether others go first.

        Returns:
            What drops the samples without an outcome, to be called in this event loop.

        Raises:
            BackgroundFull: these are more than may still be in the background.
            ExecutorClosed: closed before.
            ExecutionError: requests of another event loop are in flight.
        """
        loop = asyncio.get_running_loop()
        admission = self._admitted(loop)
        traffic = self._background if background else self._requests
        stages = self._cascade.runners if runners is None else runners
        count = len(images)
        held = 0 if background else admission.places.take_now(count)
        call = Call.of(count, admission, done, held=held, logits=logits)
        all_at_once = background or held == count
        try:
            self._submit(call, traffic, images if all_at_once else images[:held], stages)
        except BaseException:
            traffic.discard(call)
            raise
        if not all_at_once:
            call.sending = loop.create_task(self._send_rest(call, images, held, stages))
        elif not count:
            loop.call_soon(call.finish)
        return partial(traffic.discard, call)

    def close(self, *, cancel: bool) -> None:
        """Refuse new requests and wait until those in flight are answered, or cancel them."""
        with self._wake:
            self._closed = True
            if cancel:
                self._fail_all(CANCELLED)
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join()

    # Called in the event loop.

    def _admitted(self, loop: asyncio.AbstractEventLoop) -> Admission:
        """The admission of an event loop; one at a time as long as it is in use."""
        with self._lock:
            self._refuse_if_closed()
            admission = self._admission
            if admission is None or admission.loop is not loop:
                if admission is not None and admission.in_use:
                    raise ExecutionError(
                        "an executor answers one event loop at a time, found a second while "
                        f"{len(admission.calls)} calls of the first are inside: make an executor "
                        "for each"
                    )
                admission = Admission(loop, Places(self._max_waiting))
                self._admission = admission
            return admission

    async def _send_rest(
        self, call: Call, images: Sequence[Any], sent: int, runners: tuple[StageRunner, ...]
    ) -> None:
        """Let further images wait for the first stage, as soon as there are places for them."""
        try:
            while sent < len(images):
                taken = await call.admission.places.take(len(images) - sent)
                call.held += taken
                self._submit(call, self._requests, images[sent : sent + taken], runners)
                sent += taken
        except Exception as error:  # noqa: BLE001
            for place in range(sent, len(images)):
                call.receive(place, error)

    def _submit(
        self, call: Call, traffic: Traffic, images: Sequence[Any], runners: tuple[StageRunner, ...]
    ) -> None:
        with self._lock:
            self._refuse_if_closed()
            if (
                traffic is self._background
                and len(traffic.requests) + len(images) > self._max_background
            ):
                raise BackgroundFull(self._max_background)
            lane = self._lane(traffic, runners)
            first = not lane.pending
            traffic.add(images, lane, call)
            if self._thread is None:
                release_threads()  # of this thread, which may have computed before
                self._thread = Thread(target=self._work, name="understudy executor", daemon=True)
                self._thread.start()
            full = len(lane.pending) >= traffic.metrics.limit(runners[0].name)
            if first or full or len(traffic.requests) == self._max_waiting:
                self._wake.notify()

    def _lane(self, traffic: Traffic, runners: tuple[StageRunner, ...]) -> PolicyLane:
        """The lane of the identical stages, a new one where there is none."""
        for lane in traffic.lanes:
            if lane.pipeline.runners is runners:
                return lane
        observer = None if traffic is self._background else self._observer
        sink = Delivery(traffic, runners, observer)
        pipeline = RemotePipeline(
            runners,
            sink,
            metrics=traffic.metrics,
            device=self._device,
            come_back=self._come_back,
            background=traffic is self._background,
        )
        traffic.lanes.append(PolicyLane(pipeline))
        return traffic.lanes[-1]

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExecutorClosed(CLOSED)

    def _come_back(self, work: Callable[[], None]) -> None:
        """Let the thread go on with rows that were away; called from any thread."""
        with self._wake:
            self._back.append(work)
            self._wake.notify()

    # Called in the thread.

    def _work(self) -> None:
        try:
            while (work := self._next()) is not None:
                work()
        except BaseException as error:
            with self._wake:
                self._closed = True
                self._fail_all(f"{CANCELLED}, after {type(error).__name__}: {error}")
            raise

    def _run(self, stage: ReadyStage) -> None:
        start = time.monotonic()
        if stage.position:
            stage.lane.pipeline.flush(stage.position)
        else:
            traffic = self._background if stage.background else self._requests
            _run_first_stage(stage.lane, traffic.take(stage.lane))
        if stage.background:
            end = time.monotonic()
            self._rested = end + (end - start) * (1 / BACKGROUND_SHARE - 1)

    def _next(self) -> Callable[[], None] | None:
        """What to do; waits until there is something. None when closed and done."""
        with self._wake:
            while True:
                if self._back:
                    return self._back.popleft()
                stages, now = self._ready_stages(), time.monotonic()
                if not stages and self._closed and not self._in_flight:
                    return None
                stage = next_stage(stages, now)
                if stage is not None:
                    return partial(self._run, stage)
                self._wake.wait(min([MAX_SLEEP, *(one.idle - now for one in stages)]))

    @property
    def _in_flight(self) -> bool:
        """Whether a request has no answer yet, though its row may be away."""
        return bool(self._requests.requests or self._background.requests)

    def _ready_stages(self) -> list[ReadyStage]:
        """All stages with waiting rows; lanes of former policies are removed when empty."""
        requests, background = self._requests, self._background
        at_once = self._closed or len(requests.requests) >= self._max_waiting
        stages = ready_stages(requests, max_wait=self._max_wait.__getitem__, at_once=at_once)
        requests.remove_lanes({id(stage.lane) for stage in stages})
        if background.lanes:
            quiet = 0.0 if self._closed else requests.delivered + QUIET_TIME
            others = background_stages(
                background, busy=bool(stages), quiet=quiet, rested=self._rested
            )
            background.remove_lanes({id(stage.lane) for stage in others})
            stages += others
        return stages

    def _fail_all(self, reason: str) -> None:
        """Deliver an error to all requests in flight; the lock is held."""
        for traffic in (self._requests, self._background):
            traffic.fail_all(lambda: ExecutorClosed(reason))


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


def _run_first_stage(lane: PolicyLane, requests: Sequence[Request]) -> None:
    """Run the first stage on requests, unless all were cancelled."""
    if not requests:
        return
    images = _stacked(lane.pipeline.runners[0], requests)
    ids = np.array([request.id for request in requests])
    for request in requests:
        request.image = None
    lane.pipeline.run(0, RowBatch(images, {}, ids))


def _stacked(runner: StageRunner, requests: Sequence[Request]) -> Any:
    """The images of requests as one batch, or as a list where shapes or dtypes differ."""
    samples = [request.image for request in requests]
    try:
        same = len({(tuple(sample.shape), sample.dtype) for sample in samples}) == 1
        return runner.stack(samples) if same else samples
    except Exception:  # noqa: BLE001
        return samples  # the stage raises on the samples that are at fault
