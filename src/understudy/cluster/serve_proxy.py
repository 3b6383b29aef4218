"""The door of a proxy of Ray Serve: requests of served cascades become calls of their replicas.

A proxy that is started with `UNDERSTUDY` in its environment has it in front of Serve's own routing,
which answers what is of other applications.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.middleware import Middleware

from understudy.cluster.serve_calls import CallReply, Calls, Replicas, RequestCall
from understudy.errors import UnderstudyError
from understudy.serving.bodies import Bodies, ClientGone, Message, Receive, Scope, Send
from understudy.serving.open_inference_routes import Reply, error_reply
from understudy.serving.settings import ServingSettings

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
ENVIRONMENT = {CALLBACK: f"{__name__}.middleware", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Variables of a proxy that has this door; see `ControllerOptions` of Ray Serve."""

MARK = b"x-understudy-application"
"""The header in which an application says to a proxy that it is ours; clients do not see it."""

DOOR = "/-/understudy"
"""Answers with 200 at a proxy with this door."""

ROUTES = "/-/routes"
_ROUTES_KEPT = 1.0  # seconds
_REQUEST_ID = b"x-request-id"


class ProxyDoor:
    """An ASGI middleware of Serve's proxies.

    Which application has a path Serve's own route table says; whether it is ours it says itself in
    its first answer. From then on its requests are `Calls`.

    Args:
        app: the proxy's own.
        replicas_of: the replicas of an application.
    """

    def __init__(
        self, app: Any, replicas_of: Callable[[str], Awaitable[Replicas]] | None = None
    ) -> None:
        limits = ServingSettings()
        self._app, self._replicas_of = app, replicas_of or _replicas_of
        self._bodies = Bodies(
            max_bytes=limits.max_bytes,
            max_held_bytes=limits.max_held_bytes,
            seconds=limits.arrival,
        )
        self._calls: dict[str, Calls] = {}
        self._routes: dict[str, str] = {}
        self._read = float("-inf")
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of ours, or let the proxy do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == DOOR:
            await _send(send, Reply(b"", {}))
        else:
            prefix, name = await self._application(scope)
            calls = self._calls.get(name)
            if calls is None:
                await self._pass_on(name, scope, receive, send)
            else:
                await self._answer(calls, prefix, scope, receive, send)

    async def _answer(
        self, calls: Calls, prefix: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        plain = [one for one in scope["headers"] if one[0] != b"content-encoding"]
        try:
            calls.check_room(scope["method"], scope["path"])
            async with self._bodies.of({"headers": plain}, receive) as body:
                found = await calls.answer(
                    RequestCall(
                        scope["method"],
                        scope["path"],
                        scope["query_string"],
                        scope["headers"],
                        scope.get("server"),
                        scope.get("root_path", "") + prefix.rstrip("/"),
                        body.data,
                    )
                )
        except ClientGone:
            return
        except UnderstudyError as error:
            number = f"{self._prefix}-{next(self._numbers)}"
            await _send(send, error_reply(error), (_REQUEST_ID, number.encode()))
        else:
            await _send_call(send, found)

    async def _pass_on(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the proxy answer, and learn whether the application is ours."""
        ours = False

        async def listen(message: Message) -> None:
            nonlocal ours
            if message["type"] == "http.response.start":
                headers = message["headers"]
                ours = any(key == MARK for key, _ in headers)
                if ours:
                    message["headers"] = _own(headers)
            await send(message)

        await self._app(scope, receive, listen)
        if ours and name and name not in self._calls:
            replicas = await self._replicas_of(name)
            self._calls.setdefault(name, Calls(replicas, now=time.monotonic))

    async def _application(self, scope: Scope) -> tuple[str, str]:
        """The route prefix and the name of the application that has a path; empty without one."""
        if time.monotonic() - self._read >= _ROUTES_KEPT:
            self._read = time.monotonic()
            self._routes = await self._route_table(scope)
            for name in self._calls.keys() - set(self._routes.values()):
                del self._calls[name]
        path = scope["path"]
        fitting = [one for one in self._routes if _is_below(path, one)]
        prefix = max(fitting, key=len, default="")
        return prefix, self._routes.get(prefix, "")

    async def _route_table(self, scope: Scope) -> dict[str, str]:
        """Prefix -> application, as the proxy says it to anybody."""
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            parts.append(message.get("body", b""))

        asked = {**scope, "method": "GET", "path": ROUTES, "raw_path": ROUTES.encode()}
        await self._app({**asked, "headers": [], "query_string": b""}, receive, send)
        try:
            table = json.loads(b"".join(parts))
        except ValueError:
            return {}
        return dict(table) if isinstance(table, dict) else {}


def middleware() -> list[Middleware]:
    """What a proxy puts in front of its routing, as its environment says (`ENVIRONMENT`)."""
    return [Middleware(ProxyDoor)]


async def _replicas_of(name: str) -> Replicas:
    from understudy.cluster.serve_handle import ServeReplicas

    return await asyncio.to_thread(ServeReplicas.of, name)


def _is_below(path: str, prefix: str) -> bool:
    return prefix in {"/", path} or path.startswith(prefix + "/")


def _own(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer of ours without what the proxy adds, and without the mark."""
    kept, seen = [], False
    for key, value in headers:
        again, seen = key == _REQUEST_ID and seen, seen or key == _REQUEST_ID
        if key != MARK and not again:
            kept.append((key, value))
    return kept


async def _send(send: Send, reply: Reply, *more: tuple[bytes, bytes]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    headers += [*more, (b"content-length", b"%d" % len(reply.body))]
    await _send_call(send, CallReply(reply.status, headers, reply.body))


async def _send_call(send: Send, reply: CallReply) -> None:
    headers = [one for one in reply.headers if one[0] != MARK]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
