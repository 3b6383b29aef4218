"""The app: a cascade as an ASGI application, for any server and below any path."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.routing import Router

from understudy.serving.bodies import Bodies, Message, Receive, Scope, Send
from understudy.serving.open_inference_routes import (
    REQUEST_ID,
    Endpoint,
    OpenInference,
    Reply,
    error_reply,
    open_inference_routes,
)
from understudy.serving.page_routes import page_routes
from understudy.serving.replicas import NoPeers, Peers
from understudy.serving.request_errors import NotFound, RequestError, StageError, WrongMethod
from understudy.serving.routes import service_routes
from understudy.serving.service import Service
from understudy.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

_HEADER = b"x-request-id"


class ServingApp:
    """An ASGI application that answers requests with a cascade; see `app`.

    Attributes:
        service: what answers.
        peers: the other replicas of this service.
        bodies: what counts the bodies of requests.
        inference: the protocol of most requests.
        routes: its routes.
        infer_path, infer_url: the path of most requests, and how it is sent.

    >>> import torch
    >>> from understudy import Policy, Preprocess, Stage, build
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10))
    >>> stage = Stage(network, preprocess=Preprocess((4, 4), (0.5,) * 3, (0.5,) * 3))
    >>> cascade = build(Policy.single("net"), {"net": stage})
    >>> sorted(route.path for route in app(cascade).routes)[:2]
    ['/', '/classify']
    """

    def __init__(self, service: Service, peers: Peers | None = None) -> None:
        self.service = service
        self.peers: Peers = NoPeers() if peers is None else peers
        settings = service.settings
        bodies = Bodies(
            max_bytes=settings.max_bytes,
            max_held_bytes=settings.max_held_bytes,
            seconds=settings.arrival,
        )
        self.bodies, self.inference = bodies, OpenInference(service, bodies)
        self.routes = [
            *open_inference_routes(self.inference),
            *service_routes(service, bodies, self.peers),
            *page_routes(service, self.peers),
        ]
        self._router = Router(self.routes, redirect_slashes=False, lifespan=self._lifespan)
        self._infer = Endpoint(self.inference.infer)
        self.infer_path = f"/v2/models/{settings.name}/infer"
        self.infer_url = quote(self.infer_path).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or go through the life of the app."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        # errors come to this app alone, also where it is mounted in another
        scope["app"], scope["starlette.exception_handlers"] = self, ({}, {})
        scope[REQUEST_ID] = number = self.service.new_id()
        own, status, begun = (_HEADER, number.encode()), 0, time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
                if not any(name == _HEADER for name, _ in headers):
                    message["headers"] = [*headers, own]
            await send(message)

        try:
            if scope["path"] == self.infer_path and scope["method"] == "POST":  # most requests
                scope["path_params"] = {"model": self.service.settings.name}
                await self._infer(scope, receive, send_with_id)
            else:
                await self._router(scope, receive, send_with_id)
        except Exception as error:
            if status:
                raise
            reply = self.reply_to(error, scope)

            async def failed(scope: Scope, receive: Receive) -> Reply:  # noqa: ARG001
                return reply

            await Endpoint(failed)(scope, receive, send_with_id)
        finally:
            self.log(scope, status, time.monotonic() - begun)

    def infer_scope(self, number: str) -> Scope:
        """What there is to log of an inference request that did not come through ASGI."""
        return {"method": "POST", "path": self.infer_path, REQUEST_ID: number}

    def log(self, scope: Scope, status: int, seconds: float) -> None:
        """One line about a request, or about a share of them; without its query and headers, which
        may hold secrets."""
        share = self.service.settings.logged
        if share and random.random() < share:
            logger.info(
                "request",
                extra={
                    "request_id": scope[REQUEST_ID],
                    "method": scope["method"],
                    "path": scope["path"][:200],
                    "status": status,
                    "seconds": round(seconds, 6),
                },
            )

    def reply_to(self, error: Exception, scope: Scope) -> Reply:
        """What a client is told of an error that is not its own."""
        if isinstance(error, RequestError):
            return error_reply(error)
        if isinstance(error, HTTPException):
            return error_reply(_http_error(error, scope))
        number = scope[REQUEST_ID]
        logger.error("request failed", exc_info=error, extra={"request_id": number})
        return error_reply(
            StageError(f"this is a fault of the server, found one that its log has as {number}")
        )

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with self.service:
            yield {}


def app(cascade: Any, *, settings: ServingSettings | None = None) -> ServingApp:
    """A cascade as an ASGI application.

    Args:
        cascade: what `build`, `load_cascade` or `load_onnx` returned.
        settings: the limits of the server, and what it reports.

    >>> import torch
    >>> from understudy import Policy, Preprocess, Stage, build
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10))
    >>> stage = Stage(network, preprocess=Preprocess((4, 4), (0.5,) * 3, (0.5,) * 3))
    >>> cascade = build(Policy.single("net"), {"net": stage})
    >>> served = app(cascade, settings=ServingSettings(name="digits"))
    >>> served.infer_path
    '/v2/models/digits/infer'
    """
    return ServingApp(Service(cascade, settings or ServingSettings()))


def _http_error(error: HTTPException, scope: Scope) -> RequestError:
    """What the router refuses, as our own errors are."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return WrongMethod(
            f"the path has the methods {allowed}, found {scope['method'][:20]}",
            headers=((b"allow", allowed.encode()),),
        )
    return NotFound(f"there is no such path, found {scope['path'][:200]!r}")
