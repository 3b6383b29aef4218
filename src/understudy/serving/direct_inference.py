"""Inference requests between the HTTP parser and the executor, without a task and messages.

Most requests are whole, small and answered at once; through ASGI each costs the event loop twice as
much, which the models lack where they share its cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
        pieces: of the body, as they arrive.
        response_started, response_complete: whether it was answered.
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
        "_length",
        "_number",
        "_request",
        "disconnected",
        "keep_alive",
        "pieces",
        "response_complete",
    )

    def __init__(
        self, app: ServingApp, connection: Connection, length: int | None, accepted: str | None
    ) -> None:
        self._app, self._connection = app, connection
        self._length, self._accepted = length, accepted
        self._cancel: Callable[[], None] | None = None
        self._request: InferRequest | None = None
        self._held, self._number, self._begun = 0, "", 0.0
        self.pieces: list[bytes] = []
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
        if self.disconnected:
            self.leave()

    def add(self, piece: bytes) -> bool:
        """A piece of the body; whether there is room for it."""
        bodies = self._app.bodies
        self.pieces.append(piece)
        self._held += len(piece)
        bodies.held += len(piece)
        return bodies.held <= bodies.max_held_bytes

    def start(self) -> bool:
        """Let the whole request be answered; whether it is one that can be answered directly."""
        app, self._begun = self._app, time.monotonic()
        service = app.service
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        try:
            request, images = app.inference.read(body, self._length)
            samples = list(images)
            if isinstance(images, list) or service.are_large(samples):
                return False
            if not service.has_room(len(samples)):
                return False
            self._request, self._number = request, service.new_id()
            self._cancel = service.submit(
                samples,
                self._answered,
                logits=request.needs_logits,
                request_id=self._number,
            )
        except Exception:  # noqa: BLE001
            return False  # the app finds the same, and says so
        return True

    def leave(self) -> list[bytes]:
        """Hold the body no longer, and give up what is in flight; the pieces of the body."""
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()
        self._app.bodies.held -= self._held
        pieces, self.pieces, self._held = self.pieces, [], 0
        return pieces

    def _answered(self, found: Found) -> None:
        self._cancel = None
        self.leave()
        app, served = self._app, found
        scope = app.infer_scope(self._number)
        if not isinstance(served, Exception):
            assert self._request is not None
            try:
                reply = app.inference.reply(self._request, served, self._number, self._accepted)
            except Exception as error:  # noqa: BLE001
                served = error
        if isinstance(served, Exception):
            reply = app.reply_to(served, scope)
        self.response_complete = True
        self._connection.send_reply(reply, number=self._number, keep_alive=self.keep_alive)
        app.log(scope, reply.status, time.monotonic() - self._begun)
