"""The routes of a server's own: state, operating point, classification."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.routing import Route

from understudy.errors import PolicyError
from understudy.serving.bodies import Bodies, Receive, Scope, unless_gone
from understudy.serving.classify import described, files_in
from understudy.serving.open_inference_routes import REQUEST_ID, Endpoint, Reply
from understudy.serving.request_errors import RequestError
from understudy.serving.request_guard import check_allowed, check_json
from understudy.serving.service import Service
from understudy.serving.service_status import operating_points, status

_NO_STORE = {"cache-control": "no-store"}


class ServiceRoutes:
    """What the routes of one service do.

    Args:
        service: what answers.
        bodies: what reads and counts the bodies of requests.
    """

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self.service, self.bodies = service, bodies

    async def classify(self, scope: Scope, receive: Receive) -> Reply:
        """POST /classify."""
        service, number = self.service, request_id_of(scope)
        async with self.bodies.of(scope, receive) as body:
            headers = Headers(scope=scope)
            files = await files_in(body.data, headers, most=service.settings.max_queue)
            work = service.answer_files(files, logits=True, request_id=number)
            found = await unless_gone(work, receive)
        answers = described(found, service.policies)
        first = {"request_id": number, "operating_point": found[0].operating_point}
        return json_reply({**first, "answers": answers})

    async def status(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /status."""
        return json_reply(status(self.service), _NO_STORE)

    async def operating_point(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /operating-point."""
        return json_reply(operating_points(self.service), _NO_STORE)

    async def set_operating_point(self, scope: Scope, receive: Receive) -> Reply:
        """PUT /operating-point."""
        wish = await self._change(scope, receive)
        if not isinstance(wish, dict):
            raise RequestError(
                'an operating point is chosen by an object such as {"max_drop": 0.5}, found '
                f"{type(wish).__name__}"
            )
        try:
            self.service.set_operating_point(wish)
        except PolicyError as error:
            raise RequestError(str(error)) from error
        return json_reply(operating_points(self.service), _NO_STORE)

    async def _change(self, scope: Scope, receive: Receive) -> Any:
        """The JSON of a request that changes something, if it may."""
        check_allowed(scope, self.service.settings.token)
        check_json(scope)
        async with self.bodies.of(scope, receive) as body:
            try:
                return orjson.loads(body.data)
            except orjson.JSONDecodeError as error:
                raise RequestError(f"the body is JSON, found other text: {error}") from None


def service_routes(service: Service, bodies: Bodies) -> list[Route]:
    """The routes for a service."""
    own = ServiceRoutes(service, bodies)
    table = (
        ("POST", "/classify", own.classify),
        ("GET", "/status", own.status),
        ("GET", "/operating-point", own.operating_point),
        ("PUT", "/operating-point", own.set_operating_point),
    )
    return [Route(path, Endpoint(handler), methods=[method]) for method, path, handler in table]


def request_id_of(scope: Scope) -> str:
    """The server's own id of a request."""
    return str(scope[REQUEST_ID])


def json_reply(value: Any, headers: dict[str, str] | None = None) -> Reply:
    """A reply with JSON.

    >>> json_reply({"ready": True}).body
    b'{"ready":true}'
    """
    return Reply(orjson.dumps(value), {"content-type": "application/json", **(headers or {})})
