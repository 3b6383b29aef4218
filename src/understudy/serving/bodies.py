"""Bodies of requests, read within limits of size and time; and clients that go away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Self, TypeVar

from understudy.errors import UnderstudyError
from understudy.serving.content_encoding import decompressed
from understudy.serving.deadlines import within
from understudy.serving.tensors import ProtocolError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

T = TypeVar("T")

IN_THREAD = 2**16
"""Compressed bodies of more bytes than these are decompressed in a thread."""

_DIGITS = 18  # of a length

UNWATCHED = 0.1
"""Seconds for which nobody looks whether a client is still there."""


class ClientGone(UnderstudyError):
    """The client has closed its connection: nobody waits for an answer."""


class Bodies:
    """The bodies that a server holds: read, decompressed and counted.

    Args:
        max_bytes: of a body, compressed or not.
        max_held_bytes: of all bodies that are held at a time.
        seconds: in which a body arrives.
    """

    def __init__(self, *, max_bytes: int, max_held_bytes: int, seconds: float) -> None:
        self.max_bytes, self.max_held_bytes, self.seconds = max_bytes, max_held_bytes, seconds
        self.held = 0

    def of(self, scope: Scope, receive: Receive) -> Body:
        """The body of a request, held as long as it is entered."""
        return Body(self, scope, receive)

    def late(self) -> ProtocolError:
        """The error of a body that has not arrived in time."""
        return ProtocolError(
            f"a body arrives within {self.seconds:g} s, this one did not: try again", 408
        )


class Body:
    """The body of one request; `async with` reads it and gives its bytes back in the end."""

    __slots__ = ("_bodies", "_receive", "_scope", "_size", "data")

    def __init__(self, bodies: Bodies, scope: Scope, receive: Receive) -> None:
        self._bodies, self._scope, self._receive = bodies, scope, receive
        self._size = 0
        self.data = b""

    async def __aenter__(self) -> Self:
        try:
            await self._read()
        except BaseException:
            self._bodies.held -= self._size
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bodies.held -= self._size
        self.data = b""

    async def _read(self) -> None:
        encoding = ""
        for name, value in self._scope["headers"]:
            if name == b"content-length" and _length(value) > self._bodies.max_bytes:
                raise self._too_large()
            if name == b"content-encoding":
                encoding = value.decode("latin-1")
        try:
            body = await within(self._bodies.seconds, self._received())
        except TimeoutError:
            raise self._bodies.late() from None
        if encoding:
            limit = self._bodies.max_bytes
            if len(body) > IN_THREAD:
                body = await asyncio.to_thread(decompressed, body, encoding, max_bytes=limit)
            else:
                body = decompressed(body, encoding, max_bytes=limit)
            self._hold(max(0, len(body) - self._size))
        self.data = body

    async def _received(self) -> bytes:
        """The body as it is sent, in one piece where it comes so."""
        first, pieces = b"", []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("a client waits for its answer, this one has gone")
            piece = message.get("body", b"")
            self._hold(len(piece))
            if not first:
                first = piece
            else:
                pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join([first, *pieces]) if pieces else first

    def _hold(self, size: int) -> None:
        self._size += size
        self._bodies.held += size
        if self._size > self._bodies.max_bytes:
            raise self._too_large()
        if self._bodies.held > self._bodies.max_held_bytes:
            raise ProtocolError("the server holds as many bytes as it may: try again later", 503)

    def _too_large(self) -> ProtocolError:
        return ProtocolError(
            f"the body of a request has at most {self._bodies.max_bytes:,} bytes, found more: send "
            "several requests",
            413,
        )


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _DIGITS:
        raise ProtocolError("Content-Length is a whole number of bytes, found something else")
    return int(value)


async def unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """The result of some work for a client; it is cancelled where the client goes away.

    Only work that takes a while is watched. To be called when the body has been read.

    Raises:
        ClientGone: the client has gone.
    """
    task = asyncio.current_task()
    assert task is not None
    gone, listeners = [], []

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.append(True)
        task.cancel()

    def watch() -> None:
        listeners.append(asyncio.ensure_future(listen()))

    timer = asyncio.get_running_loop().call_later(UNWATCHED, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise ClientGone("a client waits for its answer, this one has gone") from None
        raise
    finally:
        timer.cancel()
        for one in listeners:
            one.cancel()
            with suppress(asyncio.CancelledError):
                await one
