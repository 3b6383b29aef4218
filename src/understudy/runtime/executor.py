"""The executor: runs a cascade offline over many batches, and online for single requests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from threading import Lock
from types import TracebackType
from typing import Any, NoReturn, Self
from weakref import finalize

from understudy.errors import DataError, PolicyError, unknown
from understudy.html_views import html_table
from understudy.runtime.delivery import Observer
from understudy.runtime.lanes import Outcome, Receiver
from understudy.runtime.metrics import ExecutorStats, Metrics
from understudy.runtime.offline import OfflineRun
from understudy.runtime.online import CLOSED, RequestBatcher
from understudy.runtime.protocol import (
    Answer,
    Answers,
    ExecutionError,
    ExecutorClosed,
    Runnable,
    StageRunner,
)

MAX_BATCH = 256
MAX_WAITING = 4096
MAX_BACKGROUND = 256
BACKGROUND_BATCH = 1 / 8
"""The rows of a batch in the background, as a share of `max_batch`: the others wait for one."""


class Executor:
    """Runs a cascade of any backend, so that every stage works on full batches.

    Rows that a stage defers wait, across incoming batches and requests, until there are enough of
    them for the next stage. The answers are those of `Cascade.answer`, up to floating-point noise
    of other rows in a batch. A batch on which a stage raises is halved and tried again, so that
    only the samples at fault fail; where memory runs out the stage takes smaller batches from then
    on, which is logged and counted. NaN is deferred, and at the last stage a failure.

    One stage is run at a time, by the process that made the executor: a fork of it is refused, and
    makes one of its own. The policy may be switched at any time: a batch or request is
    answered by the policy that was set when it arrived.

    Args:
        cascade: what runs.
        max_batch: the rows that a stage takes at a time, or exit -> rows (256 for the others).
        max_wait_ms: how long the oldest row waits at a stage for its batch to fill, in
            milliseconds, or exit -> milliseconds; by default 2 at the first stage, and the time of
            a batch at later ones. Where no further row is expected a stage is run earlier: the
            first one when no request has arrived for an eighth of that time, later ones when no
            request waits for the first. Online only.
        max_waiting: how many requests are in flight at most; further ones wait in order.
        max_background: how many requests are in the background at most, besides the others; further
            ones are refused.
        observer: is called in the thread that computes after each batch of a stage, with the stages
            that its requests go through, the one that has run, and the confidences (n,) float32
            of its rows in the order of their arrival. Not offline, and not for requests in the
            background. What it raises is logged.

    >>> from understudy import Policy, Cascade
    >>> import torch
    >>> tiny, big = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    >>> cascade = Cascade({"tiny": tiny, "big": big}, Policy.pair("tiny", "big", 0.9))
    >>> with Executor(cascade, max_batch=2) as executor:
    ...     [len(answers) for answers in executor.map([torch.zeros(3, 4), torch.zeros(1, 4)])]
    [3, 1]

    Raises:
        DataError: a size below 1 or a time below 0.
        PolicyError: a size or time for an exit that the cascade lacks.
    """

    def __init__(
        self,
        cascade: Runnable,
        *,
        max_batch: int | Mapping[str, int] = MAX_BATCH,
        max_wait_ms: float | Mapping[str, float] | None = None,
        max_waiting: int = MAX_WAITING,
        max_background: int = MAX_BACKGROUND,
        observer: Observer | None = None,
    ) -> None:
        sizes = _per_exit(max_batch, MAX_BATCH, cascade.exits)
        waits = _per_exit(max_wait_ms, None, cascade.exits)
        _check(sizes, waits, max_waiting, max_background)
        self.cascade = cascade
        self._metrics = Metrics(sizes)
        self._background = Metrics(
            {name: max(1, int(size * BACKGROUND_BATCH)) for name, size in sizes.items()}
        )
        self._device = Lock()
        self._batcher = RequestBatcher(
            cascade,
            metrics=self._metrics,
            background=self._background,
            device=self._device,
            max_wait={n: None if wait is None else wait / 1000 for n, wait in waits.items()},
            max_waiting=max_waiting,
            max_background=max_background,
            observer=observer,
        )
        self._process = os.getpid()
        finalize(self, _close, self._batcher, self._process, cancel=True)  # as programs end, too

    def map(self, batches: Iterable[Any]) -> Iterator[Answers]:
        """The answers to each incoming batch, in order, with every stage run on full batches.

        Memory: besides the incoming batch at most `max_batch` rows wait at each stage, and a few
        bytes for each answer behind a row that waits. Where `batches` raises, the answers to all
        batches before come first.

        Args:
            batches: what a loader yields, such as the loader that was scored: arrays or tensors
                (N, ...) as the stages take them, or lists of (C, H, W) that may differ in size; or
                (images, labels) and dictionaries with them, whose labels are not used.

        Raises:
            ExecutorClosed: the executor is closed.
            ExecutionError: this process is a fork of the one that made the executor.
            DataError: a batch with something else than images, or images and labels.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        self._check_process()
        if self.closed:
            raise ExecutorClosed(CLOSED)
        return self._mapped(batches)

    def _mapped(self, batches: Iterable[Any]) -> Iterator[Answers]:
        run = OfflineRun(self.cascade, metrics=self._metrics, device=self._device)
        source, broken = iter(batches), None
        try:
            while True:
                self._check_process()
                try:
                    batch = next(source)
                except StopIteration:
                    break
                except Exception as error:  # noqa: BLE001
                    broken = error
                    break
                try:
                    run.put(self.cascade.samples_in(batch))
                except DataError as error:
                    broken = error
                    break
                yield from run.ready()
            run.drain()
            yield from run.ready()
        finally:
            run.discard()
        if broken is not None:
            raise broken

    async def answer(
        self,
        image: Any,
        *,
        runners: tuple[StageRunner, ...] | None = None,
        logits: bool = False,
        background: bool = False,
    ) -> Answer:
        """The answer to one image (C, H, W), to one ready row, or to what else the cascade takes.

        Any number may be awaited at the same time, from one event loop; they are run together. A
        request that is cancelled is dropped before the next stage.

        Args:
            image: the sample.
            runners: the stages that it goes through: ``cascade.runners_of(policy)``, kept by the
                caller, since requests are run together where they come with the identical tuple. By
                default those of the policy that is set now.
            logits: whether the answer has its `logits`. They are copied to the host for the
                requests alone that ask for them.
            background: whether others go first, as for a comparison that nobody waits for. It has
                batches of its own, which are run when no other request waits, and else after a
                second, in at most a quarter of the time; it is counted in `background_stats`.

        Raises:
            DataError: no sample that the cascade takes, or no stages.
            PolicyError: a stage that the cascade lacks.
            BackgroundFull: `max_background` requests are in the background.
            RequestFailed: a stage raised on it, which is the cause, or the last one returned NaN.
            ExecutorClosed: the executor is closed, or was closed while the request waited.
            ExecutionError: requests of another event loop are in flight, or this process is a fork
                of the one that made the executor.
        """
        [outcome] = await self.answer_many(
            [image], runners=runners, logits=logits, background=background
        )
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    async def answer_many(
        self,
        images: Iterable[Any],
        *,
        runners: tuple[StageRunner, ...] | None = None,
        logits: bool = False,
        background: bool = False,
    ) -> list[Answer | Exception]:
        """The answers to several samples in their order, each with an answer or the exception that
        `answer` would raise for it; for less time per sample than `answer` takes.

        All go through the same stages. Where there are fewer places than samples, others wait.

        Args:
            images: the samples, or one array or tensor of them.
            runners: as of `answer`.
            logits: as of `answer`.
            background: as of `answer`; all are refused where not all may be in the background.

        Raises:
            DataError: no stages.
            PolicyError: a stage that the cascade lacks.
            BackgroundFull: they are more than may still be in the background.
            ExecutorClosed: the executor is closed.
            ExecutionError: requests of another event loop are in flight, or this process is a fork
                of the one that made the executor.
        """
        answered: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()

        def done(outcomes: list[Outcome]) -> None:
            if not answered.done():
                answered.set_result(outcomes)

        cancel = self.submit(images, done, runners=runners, logits=logits, background=background)
        try:
            return await answered
        except BaseException:
            cancel()
            raise

    def submit(
        self,
        images: Iterable[Any],
        done: Receiver,
        *,
        runners: tuple[StageRunner, ...] | None = None,
        logits: bool = False,
        background: bool = False,
    ) -> Callable[[], None]:
        """As `answer_many`, without a task that waits: for a server, whose event loop this spares a
        third of its work. To be called in the event loop.

        Args:
            images: the samples, or one array or tensor of them.
            done: is called in the event loop with what `answer_many` returns; what it raises is
                logged.
            runners: as of `answer`.
            logits: as of `answer`.
            background: as of `answer_many`.

        Returns:
            What cancels the samples without an outcome, to be called in the event loop; `done` is
            not called after it.

        Raises:
            PolicyError, BackgroundFull, ExecutorClosed, ExecutionError: as `answer_many`.
        """
        self._check_process()
        if runners is not None:
            _check_runners(runners, self.cascade.exits)
        samples, refused = list[Any](), dict[int, Exception]()
        for place, image in enumerate(images):
            try:
                samples.append(self.cascade.request(image))
            except DataError as error:
                refused[place] = error
        return self._batcher.start(
            samples,
            partial(_with_refused, refused, done) if refused else done,
            runners=runners,
            logits=logits,
            background=background,
        )

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}Executor of {self.cascade!r}>"

    def _repr_html_(self) -> str:
        stats = self._metrics.snapshot()
        rows = [
            (name, f"{stats.max_batch[name]:,}", f"{stats.rows[name]:,}")
            for name in self.cascade.exits
        ]
        head = ("exit", "rows at a time", "rows so far")
        return html_table(repr(self)[1:-1], head, rows, left=[True, False, False])

    def __reduce__(self) -> NoReturn:
        raise ExecutionError(
            f"an executor runs in the process that made it, found a copy of {self!r} being made: "
            "copy its cascade, and make an executor in each process"
        )

    @property
    def stats(self) -> ExecutorStats:
        """The counts so far, without those of requests in the background.

        Raises:
            ExecutionError: this process is a fork of the one that made the executor.
        """
        self._check_process()
        return self._metrics.snapshot()

    @property
    def background_stats(self) -> ExecutorStats:
        """The counts of requests in the background so far.

        Raises:
            ExecutionError: this process is a fork of the one that made the executor.
        """
        self._check_process()
        return self._background.snapshot()

    @property
    def closed(self) -> bool:
        """Whether new batches and requests are refused."""
        return self._process != os.getpid() or self._batcher.closed

    def close(self, *, cancel: bool = False) -> None:
        """Refuse new requests, and return when those in flight are answered.

        Inside an event loop `async with` does the same without blocking the loop.

        Args:
            cancel: answer none of the requests in flight; they raise `ExecutorClosed`.
        """
        _close(self._batcher, self._process, cancel=cancel)

    def _check_process(self) -> None:
        """Refuse to wait for a thread, or for a lock, that a fork does not have."""
        if self._process != os.getpid():
            raise ExecutionError(
                f"an executor runs in the process that made it, found process {os.getpid()}, a "
                f"fork of {self._process}: make an executor in each process"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close, cancel=kind is not None)


def _close(batcher: RequestBatcher, process: int, *, cancel: bool) -> None:
    """Close a batcher, in the process whose thread it is."""
    if process == os.getpid():
        batcher.close(cancel=cancel)


def _with_refused(
    refused: Mapping[int, Exception], done: Receiver, outcomes: Sequence[Outcome]
) -> None:
    """The outcomes of all samples, those in their places that were refused at once."""
    answered = iter(outcomes)
    places = range(len(refused) + len(outcomes))
    done([refused[place] if place in refused else next(answered) for place in places])


def _per_exit(given: Any, default: Any, exits: Iterable[str]) -> dict[str, Any]:
    """One value for each exit."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(exits, given)
    values = dict.fromkeys(exits, default)
    for name in given:
        if name not in values:
            raise PolicyError(unknown("stage", name, values) + " in this cascade")
    return {**values, **given}


def _check(
    sizes: Mapping[str, Any], waits: Mapping[str, Any], max_waiting: int, max_background: int
) -> None:
    for size in sizes.values():
        if not _is_count(size):
            raise DataError(
                f"a batch has a whole number of rows, found max_batch={size}: give 1 or more"
            )
    for wait in waits.values():
        if wait is not None and not wait >= 0:
            raise DataError(
                f"a row waits for some milliseconds, found max_wait_ms={wait}: give 0 or more"
            )
    if not _is_count(max_waiting):
        raise DataError(
            f"requests need places inside, found max_waiting={max_waiting}: give 1 or more"
        )
    if not _is_count(max_background):
        raise DataError(
            "requests in the background need places, found max_background="
            f"{max_background}: give 1 or more"
        )


def _check_runners(runners: tuple[StageRunner, ...], exits: tuple[str, ...]) -> None:
    """Refuse what is no sequence of stages of the cascade."""
    if not isinstance(runners, tuple) or not runners:
        raise DataError(
            f"a request goes through one stage or more, found runners={runners!r}: give what "
            "`cascade.runners_of(policy)` returned"
        )
    for runner in runners:
        if runner.name not in exits:
            raise PolicyError(unknown("stage", runner.name, exits) + " in this cascade")


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 1
