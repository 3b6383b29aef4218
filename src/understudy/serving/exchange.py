"""One HTTP request and its response: its id, limits on its body, and a client that goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from understudy.serving.request_errors import (
    BodyTooLarge,
    QueueFull,
    RequestError,
    UnsupportedMediaType,
)
from understudy.serving.settings import ServingSettings

WATCH_AFTER = 0.2
"""Seconds after which it is looked whether the client is still there; shorter requests cost no
task for that."""

REQUEST_ID = "understudy.request_id"
"""The key of the request's id in the ASGI scope."""


class HeldBytes:
    """The bytes of the bodies of all requests in flight."""

    count = 0


class Exchange:
    """A request with the `receive` and `send` of its server between it and the app.

    Args:
        scope: of ASGI.
        receive: of the server.
        send: of the server.
        settings: the limits.
        held: the bytes of the bodies of all requests.
        request_id: of the server's own, which the response has as `X-Request-Id`.
    """

    __slots__ = (
        *("_held", "_own", "_receive", "_send", "_settings", "_task", "_timer", "_watcher"),
        *("complete", "gone", "request_id", "since", "size", "status"),
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: ServingSettings,
        held: HeldBytes,
        request_id: str,
    ) -> None:
        self._receive, self._send = receive, send
        self._settings, self._held = settings, held
        self.request_id = scope[REQUEST_ID] = request_id
        self._own = (b"x-request-id", request_id.encode())
        self.since = time.monotonic()
        self.size = 0
        self.status: int | None = None
        self.complete = self.gone = False
        self._watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = loop.call_later(WATCH_AFTER, self._watch)

    async def receive(self) -> Message:
        """The next message of the server.

        Raises:
            BodyTooLarge: the body has more bytes than it may.
            QueueFull: the bodies of all requests together do.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.size += size
            self._held.count += size
            if self.size > self._settings.max_bytes:
                raise BodyTooLarge(
                    f"a body has at most {self._settings.max_bytes:,} bytes, found more: send "
                    "fewer or smaller images"
                )
            if self._held.count > self._settings.max_held_bytes:
                raise QueueFull(
                    f"the bodies of all requests have at most {self._settings.max_held_bytes:,} "
                    f"bytes, found {self._held.count:,}: try again later"
                )
            self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, with the id among the headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._own]
        await self._send(message)

    def close(self) -> None:
        """The request is over, however."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        self._held.count -= self.size

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if self.complete:
            self._watcher = loop.create_task(self._until_gone())
        else:  # the app is still reading
            self._timer = loop.call_later(WATCH_AFTER, self._watch)

    async def _until_gone(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._task is not None:
            self.gone = True
            self._task.cancel()


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with JSON.

    >>> json_response({"ready": True}).body
    b'{"ready":true}'
    """
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


async def json_body(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        UnsupportedMediaType: the body is not said to be JSON. (A web page may not send that to
            another server without being asked by the browser first.)
        RequestError: it is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(
            f"the body has the Content-Type application/json, found {kind!r:.80}: add the header"
        )
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is JSON, found {error}") from error
