"""Requests of a proxy of Ray Serve as calls of its replicas: many at a time, and again where a
replica died.

Serve's own way costs several messages per request, and a request whose replica dies is lost (500).
A call here carries what has arrived; an answer that has not come is asked of another replica, which
is safe, since every request of a server may be repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from understudy.serving.request_errors import DeadlineExceeded, QueueFull, RequestError, StageError

logger = logging.getLogger(__name__)

PER_REPLICA = 4
"""Calls in flight per replica; requests that come meanwhile go together with the next."""

PER_CALL, BYTES_PER_CALL = 32, 2**21
"""Requests in a call, and bytes of their bodies, at most; a larger one goes alone."""

ATTEMPTS = 3
"""Replicas that may die over one request."""

REFRESH, SILENT = 1.0, 5.0
"""Seconds between two questions how many replicas there are, and until one counts as unanswered."""


class RequestCall(NamedTuple):
    """A request as it arrived at a proxy."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    server: Sequence[Any] | None
    root_path: str
    body: bytes

    @property
    def is_inference(self) -> bool:
        """Whether it has images to answer; all else takes no room, and goes first."""
        return is_inference(self.method, self.path)


class CallReply(NamedTuple):
    """What a replica answers."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Room(NamedTuple):
    """What a replica takes: requests in flight, and seconds for one."""

    requests: int
    deadline: float


class ReplicaGone(Exception):
    """A replica ended before it answered."""


class Replicas(Protocol):
    """The replicas of an application; see `ServeReplicas`."""

    async def answer_calls(self, calls: Sequence[RequestCall]) -> Sequence[CallReply]:
        """The answers of one of them.

        Raises:
            ReplicaGone: it ended.
            QueueFull: none has room.
            Exception: it failed.
        """

    async def rooms(self) -> Sequence[Room]:
        """What each of them takes, of those that answer."""


@dataclass(eq=False)
class _WaitingCall:
    """A request until it is answered."""

    call: RequestCall
    reply: asyncio.Future[CallReply]
    attempts: int = field(default=0)


class Calls:
    """Requests of one proxy for the replicas of one application; of one event loop.

    Args:
        replicas: that answer.
        now: seconds since any moment.
    """

    def __init__(self, replicas: Replicas, *, now: Callable[[], float]) -> None:
        self._replicas, self._now = replicas, now
        self._waiting: deque[_WaitingCall] = deque()
        self._flying = self.in_flight = 0
        self._rooms: Sequence[Room] = ()
        self._asked = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, call: RequestCall) -> CallReply:
        """The answer to a request.

        Raises:
            QueueFull: as many are in flight as the replicas take, or there is none.
            DeadlineExceeded: it took longer than they may.
            StageError: a replica failed otherwise than by its end.
        """
        if not self._rooms:
            await self._ask()
        self._refresh()
        self.check_room(call.method, call.path)
        if not self._rooms:
            raise QueueFull("a request needs a replica, found none that runs: try again later")
        waiting = _WaitingCall(call, asyncio.get_running_loop().create_future())
        deadline = max(room.deadline for room in self._rooms)
        self.in_flight += call.is_inference
        try:
            if call.is_inference:
                self._waiting.append(waiting)
            else:
                self._waiting.appendleft(waiting)
            self._send()
            async with asyncio.timeout(deadline):
                return await waiting.reply
        except TimeoutError:
            raise DeadlineExceeded(
                f"a request is answered within {deadline:g} s, found none by then: try again later"
            ) from None
        finally:
            self.in_flight -= call.is_inference

    def check_room(self, method: str, path: str) -> None:
        """Refuse a request that finds no room; before its body is read, so that it costs little.

        Raises:
            QueueFull: as many are in flight as the replicas take.
        """
        limit = sum(room.requests for room in self._rooms)
        if self.in_flight and is_inference(method, path) and self.in_flight >= limit:
            raise QueueFull(
                f"at most {limit:,} requests are in flight, found {self.in_flight:,}: try again "
                "later"
            )

    def _send(self) -> None:
        """Send what waits, while there are few calls in flight."""
        while self._waiting and self._flying < PER_REPLICA * max(1, len(self._rooms)):
            some = self._next()
            if some:
                self._flying += 1
                self._start(self._call(some))

    def _next(self) -> list[_WaitingCall]:
        """The requests of the next call; those that nobody waits for are dropped."""
        some: list[_WaitingCall] = []
        size = 0
        while self._waiting and len(some) < PER_CALL:
            first = self._waiting[0]
            if not first.reply.done():
                size += len(first.call.body)
                if some and size > BYTES_PER_CALL:
                    break
                some.append(first)
            self._waiting.popleft()
        return some

    async def _call(self, some: list[_WaitingCall]) -> None:
        try:
            replies = await self._replicas.answer_calls([one.call for one in some])
            for one, reply in zip(some, replies, strict=True):
                if not one.reply.done():
                    one.reply.set_result(reply)
        except ReplicaGone as error:
            logger.warning("a replica ended, its requests go to another: %s", error)
            self._again(some)
        except RequestError as error:
            _fail(some, error)
        except BaseException as error:
            _fail(some, StageError("this is a fault of the server, the log of the proxy has it"))
            if not isinstance(error, Exception):
                raise
            logger.exception("request failed")
        finally:
            self._flying -= 1
            self._send()

    def _again(self, some: list[_WaitingCall]) -> None:
        """Let others answer what a replica left unanswered, before what came later."""
        for one in reversed(some):
            one.attempts += 1
            if one.attempts < ATTEMPTS:
                self._waiting.appendleft(one)
            else:
                _fail([one], QueueFull("a request needs a replica that lives, found none"))

    def _refresh(self) -> None:
        if self._now() - self._asked >= REFRESH:
            self._asked = self._now()
            self._start(self._ask())

    async def _ask(self) -> None:
        """Learn how many replicas there are."""
        self._asked = self._now()
        try:
            rooms = await asyncio.wait_for(self._replicas.rooms(), SILENT)
        except TimeoutError:
            return
        if rooms:
            self._rooms = rooms
            self._send()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def is_inference(method: str, path: str) -> bool:
    """Whether a request has images to answer.

    >>> is_inference("POST", "/v2/models/digits/infer"), is_inference("PUT", "/operating-point")
    (True, False)
    """
    return method == "POST" and path.endswith(("/infer", "/classify"))


def _fail(some: list[_WaitingCall], error: RequestError) -> None:
    for one in some:
        if not one.reply.done():
            one.reply.set_exception(error)
