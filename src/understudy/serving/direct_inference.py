"""Inference requests between the HTTP parser and the executor, without a task and messages.

Most requests are whole, small and answered at once; through ASGI each costs the event loop twice as
much, which the models lack where they share its cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from understudy.serving.asgi import ServingApp
from understudy.serving.execution import Found
from understudy.serving.open_inference import InferRequest
from understudy.serving.open_inference_routes import Reply, infer_headers
from understudy.serving.request_errors import RequestError

_DIGITS = 12  # of a length
_SPECIAL = frozenset({b"content-encoding", b"transfer-encoding"})


class Connection(Protocol):
    """What sends the reply to a direct request."""

    def send_reply(self, reply: Reply, *, number: str, keep_alive: bool) -> None:
        """Send it, and take the next request."""


class DirectInference:
    """One inference request; it stands where uvicorn keeps the cycle of an ASGI request.

    What is out of the ordinary is left to the app: `start` is false, and nothing has happened.

    Args:
        app: what would answer it otherwise.
        connection: where it came from.
        length: of the JSON in front of the body; None for all of it.
        accepted: an encoding that the client accepts.

    Attributes:
        response_started, response_complete: whether it was answered, or nobody waits for a reply.
        keep_alive: whether the connection stays open after the reply.
        disconnected: whether nobody waits for a reply.
    """

    __slots__ = (
        "_accepted",
        "_app",
        "_begun",
        "_cancel",
        "_connection",
        "_held",
        "_late",
        "_length",
        "_number",
        "_pieces",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    def __init__(
        self, app: ServingApp, connection: Connection, length: int | None, accepted: str | None
    ) -> None:
        self._app, self._connection = app, connection
        self._length, self._accepted = length, accepted
        self._number, self._begun = app.service.new_id(), time.monotonic()
        self._cancel: Callable[[], None] | None = None
        self._late: asyncio.TimerHandle | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self.response_complete = self.disconnected = False
        self.keep_alive = True

    @classmethod
    def of(
        cls, app: ServingApp, connection: Connection, headers: Sequence[tuple[bytes, bytes]]
    ) -> DirectInference | None:
        """The request with these headers; None where the app is to answer it."""
        found = dict(headers)
        size = found.get(b"content-length", b"")
        if (
            len(found) < len(headers)
            or not _SPECIAL.isdisjoint(found)
            or not size.isdigit()
            or len(size) > _DIGITS
            or int(size) > app.bodies.max_bytes
        ):
            return None
        try:
            return cls(app, connection, *infer_headers(headers))
        except RequestError:
            return None

    @property
    def response_started(self) -> bool:
        """Whether a part of the reply was sent; it is sent as a whole."""
        return self.response_complete

    @property
    def message_event(self) -> DirectInference:
        """What is set when the client has gone."""
        return self

    def set(self) -> None:
        """Give the request up if nobody waits for a reply."""
        if not self.disconnected or self.response_complete:
            return
        self.response_complete = True
        if self._cancel is not None:
            self._cancel()
        self._forget()
        self._log(0)

    def add(self, piece: bytes) -> bool:
        """A piece of the body; whether there is room for it."""
        bodies = self._app.bodies
        self._pieces.append(piece)
        self._held += len(piece)
        bodies.held += len(piece)
        return bodies.held <= bodies.max_held_bytes

    def wait(self) -> None:
        """The rest of the body comes later, within the time that it has."""
        if self._late is None:
            loop, seconds = asyncio.get_running_loop(), self._app.bodies.seconds
            self._late = loop.call_later(seconds, self._too_late)

    def start(self) -> bool:
        """Let the whole request be answered; whether it is one that can be answered directly."""
        app, pieces = self._app, self._pieces
        service = app.service
        self._arrived()
        try:
            request, images = app.inference.read(
                pieces[0] if len(pieces) == 1 else b"".join(pieces), self._length
            )
            samples = list(images)
            if isinstance(images, list) or service.are_large(samples):
                return False
            if not service.has_room(len(samples)):
                return False
            self._cancel = service.submit(
                samples,
                partial(self._answered, request),
                logits=request.needs_logits,
                request_id=self._number,
            )
        except Exception:  # noqa: BLE001
            return False  # the app finds the same, and says so
        return True

    def leave(self) -> list[bytes]:
        """The pieces of the body, which somebody else holds from now on."""
        pieces = self._pieces
        self._forget()
        return pieces

    def _answered(self, request: InferRequest, found: Found) -> None:
        self._forget()
        self._send(self._reply(request, found))

    def _too_late(self) -> None:
        self._forget()
        app = self._app
        self._send(app.reply_to(app.bodies.late(), app.infer_scope(self._number)))

    def _reply(self, request: InferRequest, found: Found) -> Reply:
        app, scope = self._app, self._app.infer_scope(self._number)
        if isinstance(found, Exception):
            return app.reply_to(found, scope)
        try:
            return app.inference.reply(request, found, self._number, self._accepted)
        except Exception as error:  # noqa: BLE001
            return app.reply_to(error, scope)

    def _send(self, reply: Reply) -> None:
        self.response_complete = True
        self._connection.send_reply(reply, number=self._number, keep_alive=self.keep_alive)
        self._log(reply.status)

    def _log(self, status: int) -> None:
        scope = self._app.infer_scope(self._number)
        self._app.log(scope, status, time.monotonic() - self._begun)

    def _arrived(self) -> None:
        """The body is whole, or nobody waits for it."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _forget(self) -> None:
        """Hold the body no longer."""
        self._arrived()
        self._cancel = None
        self._app.bodies.held -= self._held
        self._pieces, self._held = [], 0
