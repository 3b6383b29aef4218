"""Single requests: who waits for them, where they come in, and how they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from understudy.runtime.answers import Answer
from understudy.runtime.errors import NotANumber, RequestFailed, cause_of
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.protocol import StageRunner

Told = Sequence[tuple["Request", Answer | Exception]]


@dataclass(eq=False, slots=True)
class Request:
    """One sample on its way, and who waits for the answer."""

    number: int
    image: Any
    future: asyncio.Future[Answer]
    counter: PolicyLane
    since: float


@dataclass(eq=False)
class PolicyLane:
    """The line of one policy, and the requests that wait for its first stage, in order."""

    line: Pipeline
    pending: dict[int, Request] = field(default_factory=dict)

    @property
    def latest(self) -> float:
        """When the last of the requests came that wait for the first stage."""
        return next(reversed(self.pending.values())).since

    def waiting(self, position: int) -> tuple[int, float]:
        """How many rows wait for a stage, and since when."""
        if position == 0 and self.pending:
            return len(self.pending), next(iter(self.pending.values())).since
        room = self.line.rooms[position]
        return room.count, room.since


@dataclass(eq=False)
class Admission:
    """Where the requests of one event loop come in, at most so many at a time."""

    loop: asyncio.AbstractEventLoop
    places: asyncio.Semaphore
    callers: int = 0

    @property
    def in_use(self) -> bool:
        """Whether somebody is inside or waits; nobody is where the event loop has ended."""
        return self.callers > 0 and not self.loop.is_closed()


def hand(told: Told) -> None:
    """Hand out what became of requests, in one call of their event loop; from any thread."""
    for loop in {request.future.get_loop() for request, _ in told}:
        with suppress(RuntimeError):  # the event loop has ended: nobody is there any more
            loop.call_soon_threadsafe(_deliver, loop, told)


def _deliver(loop: asyncio.AbstractEventLoop, told: Told) -> None:
    for request, what in told:
        if request.future.done() or request.future.get_loop() is not loop:
            continue
        if isinstance(what, Answer):
            request.future.set_result(what)
        else:
            request.future.set_exception(what)


def failure(runner: StageRunner, error: Exception) -> RequestFailed:
    """What a request raises of which a stage could make nothing."""
    if isinstance(error, NotANumber):
        return RequestFailed(str(error))
    failed = RequestFailed(
        f"every sample is answered or says why not, the stage {runner.name!r} raised on this one: "
        f"{cause_of(error)}; mend the sample or the stage"
    )
    failed.__cause__ = error
    return failed


def together(runner: StageRunner, requests: Sequence[Request]) -> Any:
    """The images of requests as one batch, or as a list where they differ."""
    samples = [request.image for request in requests]
    try:
        same = len({(tuple(sample.shape), sample.dtype) for sample in samples}) == 1
        return runner.stack(samples) if same else samples
    except Exception:  # noqa: BLE001
        return samples  # the stage will say what is wrong, with which of them
