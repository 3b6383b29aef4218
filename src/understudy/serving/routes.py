"""The routes of a server's own: state, operating point, classification."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy.errors import PolicyError
from understudy.serving.classify import classify
from understudy.serving.exchange import json_body, json_response
from understudy.serving.request_errors import RequestError
from understudy.serving.request_guard import check_allowed
from understudy.serving.service import Service
from understudy.serving.service_status import operating_points, status

Handler = Callable[[Request, Service], Awaitable[Response]]


def service_routes(service: Service) -> list[Route]:
    """The routes for a service."""
    table: list[tuple[str, str, Handler]] = [
        ("POST", "/classify", classify),
        ("GET", "/status", _status),
        ("GET", "/operating-point", _operating_point),
        ("PUT", "/operating-point", _set_operating_point),
    ]
    methods: dict[str, dict[str, Handler]] = {}
    for method, path, handler in table:
        methods.setdefault(path, {})[method] = handler
    return [
        Route(path, partial(_handled, service, handlers), methods=list(handlers))
        for path, handlers in methods.items()
    ]


async def _handled(service: Service, handlers: dict[str, Handler], request: Request) -> Response:
    method = "GET" if request.method == "HEAD" else request.method
    return await handlers[method](request, service)


async def _status(request: Request, service: Service) -> Response:
    return json_response(status(service), headers={"cache-control": "no-store"})


async def _operating_point(request: Request, service: Service) -> Response:
    return json_response(operating_points(service), headers={"cache-control": "no-store"})


async def _set_operating_point(request: Request, service: Service) -> Response:
    check_allowed(request, service.settings.token)
    wish = await json_body(request)
    if not isinstance(wish, dict):
        raise RequestError(
            f'an operating point is chosen by an object such as {{"max_drop": 0.5}}, found '
            f"{type(wish).__name__}"
        )
    try:
        service.set_operating_point(wish)
    except PolicyError as error:
        raise RequestError(str(error)) from error
    return json_response(operating_points(service))
