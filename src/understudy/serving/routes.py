"""The routes of a server's own: state, operating point, classification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.routing import Route

from understudy.errors import PolicyError
from understudy.serving.bodies import Bodies, Receive, Scope, unless_gone
from understudy.serving.classify import described, files_in
from understudy.serving.open_inference_routes import REQUEST_ID, Endpoint, Reply
from understudy.serving.replicas import NoPeers, Peers, Replica, joined_feedback
from understudy.serving.request_errors import RequestError
from understudy.serving.request_guard import check_allowed, check_json
from understudy.serving.service import Service
from understudy.serving.service_metrics import CONTENT_TYPE, text_of
from understudy.serving.service_status import operating_points, status

MOST_LABELS = 10_000
"""Labels in a request."""

MOST_CLASSES = 2**31
"""Numbers of classes, where it is not known how many there are."""

SHOWN = 100
"""Ids that a reply names."""

_NO_STORE = {"cache-control": "no-store"}


class ServiceRoutes:
    """What the routes of one service do.

    Args:
        service: what answers.
        bodies: what reads and counts the bodies of requests.
        peers: the other replicas of the service.
    """

    def __init__(self, service: Service, bodies: Bodies, peers: Peers) -> None:
        self.service, self.bodies, self.peers = service, bodies, peers
        self._replica = Replica(service, peers.name)

    async def classify(self, scope: Scope, receive: Receive) -> Reply:
        """POST /classify."""
        service, number = self.service, request_id_of(scope)
        service.check_room()
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
        others = await self.peers.ask("counts")
        return json_reply(status(self.service, self._replica.counts(), others), _NO_STORE)

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
        await self.peers.ask("adopt", self.service.choice)
        return json_reply(operating_points(self.service), _NO_STORE)

    async def feedback(self, scope: Scope, receive: Receive) -> Reply:
        """POST /feedback."""
        labels = labels_in(await self._change(scope, receive), self.service.classes)
        self.service.watched()
        own = self._replica.feedback(labels)
        unknown = set(own.unknown)
        rest = [label for label in labels if label[0] in unknown]
        others = await self.peers.ask("feedback", rest) if rest else []
        found = joined_feedback([own, *others])
        return json_reply(
            {
                "counted": found.counted,
                "repeated": found.repeated,
                "unknown": found.unknown[:SHOWN],
                "unknown_count": len(found.unknown),
            }
        )

    async def reset_watch(self, scope: Scope, receive: Receive) -> Reply:
        """POST /watch/reset."""
        wish = await self._change(scope, receive)
        if not (isinstance(wish, dict) and wish.keys() <= {"to_traffic"}) or not isinstance(
            wish.get("to_traffic", False), bool
        ):
            raise RequestError(
                f'a reset is {{}} or {{"to_traffic": true}}, found {str(wish)[:80]!r}'
            )
        to_traffic = wish.get("to_traffic", False)
        self.service.reset_watch(to_traffic=to_traffic)
        await self.peers.ask("reset_watch", self.service.choice, to_traffic)
        return json_reply(self.service.watched().watch.snapshot())

    async def metrics(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /metrics."""
        others = await self.peers.ask("metrics")
        return Reply(text_of([self._replica.metrics(), *others]), {"content-type": CONTENT_TYPE})

    async def _change(self, scope: Scope, receive: Receive) -> Any:
        """The JSON of a request that changes something, if it may."""
        check_allowed(scope, self.service.settings.token)
        check_json(scope)
        async with self.bodies.of(scope, receive) as body:
            try:
                return orjson.loads(body.data)
            except orjson.JSONDecodeError as error:
                raise RequestError(f"the body is JSON, found other text: {error}") from None


def service_routes(service: Service, bodies: Bodies, peers: Peers | None = None) -> list[Route]:
    """The routes for a service."""
    own = ServiceRoutes(service, bodies, NoPeers() if peers is None else peers)
    table = (
        ("POST", "/classify", own.classify),
        ("GET", "/status", own.status),
        ("GET", "/operating-point", own.operating_point),
        ("PUT", "/operating-point", own.set_operating_point),
        ("POST", "/feedback", own.feedback),
        ("POST", "/watch/reset", own.reset_watch),
        ("GET", "/metrics", own.metrics),
    )
    return [Route(path, Endpoint(handler), methods=[method]) for method, path, handler in table]


def labels_in(value: Any, classes: Sequence[str] | None) -> list[tuple[str, int]]:
    """The ids and labels of `/feedback`; a label is a class, by number or by a name that no other
    class has.

    >>> labels_in([{"request_id": "a-1", "label": "dog"}], ["cat", "dog"])
    [('a-1', 1)]

    Raises:
        RequestError: anything else.
    """
    if not isinstance(value, list) or len(value) > MOST_LABELS:
        raise RequestError(
            f"labels are a list of at most {MOST_LABELS:,} objects, found "
            f"{len(value) if isinstance(value, list) else type(value).__name__}"
        )
    names = classes or ()
    counts = Counter(names)
    numbers = {name: number for number, name in enumerate(names) if counts[name] == 1}
    return [_label_in(one, numbers, len(names) or MOST_CLASSES) for one in value]


def _label_in(value: Any, numbers: Mapping[str, int], most: int) -> tuple[str, int]:
    request_id = value.get("request_id") if isinstance(value, dict) else None
    label = value.get("label") if isinstance(value, dict) else None
    number = numbers.get(label, -1) if isinstance(label, str) else label
    if not isinstance(request_id, str) or type(number) is not int or not 0 <= number < most:
        raise RequestError(
            'a label is an object such as {"request_id": "…", "label": 3} with a class of the '
            f"cascade, by its number or by a name of its own, found {str(value)[:80]!r}"
        )
    return request_id, number


def request_id_of(scope: Scope) -> str:
    """The server's own id of a request."""
    return str(scope[REQUEST_ID])


def json_reply(value: Any, headers: dict[str, str] | None = None) -> Reply:
    """A reply with JSON.

    >>> json_reply({"ready": True}).body
    b'{"ready":true}'
    """
    return Reply(orjson.dumps(value), {"content-type": "application/json", **(headers or {})})
