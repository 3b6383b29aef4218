"""The app: a cascade as an ASGI application, for any server and below any path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from understudy.serving.exchange import Exchange, HeldBytes, json_response
from understudy.serving.request_errors import RequestError
from understudy.serving.routes import service_routes
from understudy.serving.service import Service
from understudy.serving.settings import ServingSettings

logger = logging.getLogger(__name__)


class ServingApp:
    """An ASGI application that answers requests with a cascade; see `app`.

    Attributes:
        service: what answers.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._held = HeldBytes()
        self._router = Router(
            [*service_routes(service)], redirect_slashes=False, lifespan=self._lifespan
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or go through the life of the app."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        # errors come to this app alone, also where it is mounted in another
        scope = {**scope, "app": self, "starlette.exception_handlers": ({}, {})}
        service = self.service
        exchange = Exchange(
            scope, receive, send, service.settings, self._held, service.new_id()
        )
        try:
            await self._router(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not exchange.gone or task is None or task.uncancel():
                raise
        except Exception as error:  # noqa: BLE001
            await self._fail(error, exchange, scope)
        finally:
            exchange.close()

    async def _fail(self, error: Exception, exchange: Exchange, scope: Scope) -> None:
        """Send what went wrong, where nothing was sent so far."""
        if exchange.status is not None:
            raise error
        status, headers = 500, dict[str, str]()
        message = "this is a fault of the server, found one that its log has"
        if isinstance(error, RequestError):
            status, message = error.status, str(error)
            headers = {name.decode(): value.decode() for name, value in error.headers}
        elif isinstance(error, HTTPException):
            status, message = error.status_code, _sentence(error, scope)
            headers = dict(error.headers or {})
        elif isinstance(error, ClientDisconnect):
            return
        else:
            logger.error(
                "request failed", exc_info=error, extra={"request_id": exchange.request_id}
            )
        response = json_response({"error": message}, status=status, headers=headers)
        await response(scope, exchange.receive, exchange.send)

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with self.service:
            yield {}


def app(cascade: Any, *, settings: ServingSettings | None = None) -> ServingApp:
    """A cascade as an ASGI application.

    It starts and ends with its server. Mounted in another application, whose server does not tell
    it of either, it starts with its first request; end it by ``await app.service.close()``.

    Args:
        cascade: what `build`, `load_cascade` or `load_onnx` returned.
        settings: the limits of the server, and what it reports.

    """
    return ServingApp(Service(cascade, settings or ServingSettings()))


def _sentence(error: HTTPException, scope: Scope) -> str:
    if error.status_code == 404:
        return f"there is no such path, found {scope['path']!r:.200}"
    if error.status_code == 405:
        return f"the path has other methods, found {scope['method']}"
    return str(error.detail)
