"""The routes of the Open Inference Protocol v2, as ASGI apps without a framework around them.

Requests and responses are those of `open_inference`; a request of N images is answered as N samples
of the executor, together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
from starlette.routing import Route

from understudy.errors import UnderstudyError
from understudy.serving.bodies import Bodies, ClientGone, Receive, Scope, Send, unless_gone
from understudy.serving.content_encoding import LEAST_BYTES, accepted_encoding, compressed
from understudy.serving.model_metadata import (
    ImageSpec,
    images_of,
    model_metadata,
    server_metadata,
    statistics,
)
from understudy.serving.open_inference import (
    HEADER_LENGTH,
    InferRequest,
    Outputs,
    read_infer_request,
    write_infer_response,
)
from understudy.serving.openapi import OPENAPI, document
from understudy.serving.served_answers import Served
from understudy.serving.service import Service
from understudy.serving.tensors import ProtocolError

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_DIGITS = 12  # of a length

REQUEST_ID = "understudy.request_id"
"""The key of the server's own id of a request in its ASGI scope."""

UNSUPPORTED = ("systemsharedmemory", "cudasharedmemory", "repository", "trace", "logging")
UNSUPPORTED_OF_MODEL = ("config", "trace/setting", "generate", "generate_stream")
"""Extensions of Triton that a client may ask for, and gets 501."""


class Reply(NamedTuple):
    """A response: its body, headers and status."""

    body: bytes
    headers: dict[str, str]
    status: int = 200


Images = npt.NDArray[Any] | list[bytes]
"""Of a request: an array (N, ...), or N encoded ones."""

Handler = Callable[[Scope, Receive], Awaitable[Reply]]


class Endpoint:
    """An ASGI app that sends the reply of a function, or its error as `{"error": "..."}`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body, headers, status = await self._handler(scope, receive)
        except ClientGone:
            return
        except UnderstudyError as error:
            body, headers, status = error_reply(error)
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        sent.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})


def error_reply(error: UnderstudyError) -> Reply:
    """An error as the protocol has it; the connection ends where the body was not read.

    >>> error_reply(ProtocolError("no model 'x'", 404)).body
    b'{"error":"no model \\'x\\'"}'
    """
    status = getattr(error, "status", 500)
    headers = {"content-type": "application/json"}
    headers |= {name.decode(): value.decode() for name, value in getattr(error, "headers", ())}
    if status in {408, 413}:
        headers["connection"] = "close"
    if status == 503:
        headers.setdefault("retry-after", "1")
    if status == 415:
        headers["accept-encoding"] = "gzip, deflate"
    return Reply(orjson.dumps({"error": str(error)}), headers, status)


class OpenInference:
    """The protocol for one service.

    Args:
        service: what answers.
        bodies: what reads and counts the bodies of requests.
    """

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self.service, self.bodies = service, bodies
        self.name, self.version = service.settings.name, service.settings.version
        self.images = ImageSpec.of(service.cascade)

    async def infer(self, scope: Scope, receive: Receive) -> Reply:
        """POST …/infer."""
        self._check_model(scope)
        length, accepted = infer_headers(scope["headers"])
        service, number = self.service, scope[REQUEST_ID]
        service.check_room()
        async with self.bodies.of(scope, receive) as body:
            request, images = self.read(body.data, length)
            answer = service.answer_files if isinstance(images, list) else service.answer_all
            work = answer(list(images), logits=request.needs_logits, request_id=number)
            served = await unless_gone(work, receive)
        return self.reply(request, served, number, accepted)

    def read(self, body: bytes, length: int | None) -> tuple[InferRequest, Images]:
        """A request, and its images.

        Args:
            body: of the request.
            length: of the JSON in front; None for all of it.

        Raises:
            ProtocolError: it is no request, or has other images than the cascade takes.
        """
        limit = self.service.settings.max_queue
        request = read_infer_request(body, length, max_elements=limit)
        return request, images_of(request, self.images, max_images=limit)

    def reply(
        self, request: InferRequest, served: Sequence[Served], number: str, accepted: str | None
    ) -> Reply:
        """The response to a request.

        Args:
            request: what was asked for.
            served: the answers to its images.
            number: the id that the server gave the request.
            accepted: an encoding that the client accepts.

        Raises:
            ProtocolError: an output that is not there.
        """
        sent, headers = write_infer_response(
            request, _outputs(served, number), model=self.name, version=self.version
        )
        if accepted is not None and len(sent) >= LEAST_BYTES:
            sent = compressed(sent, accepted)
            headers = {**headers, "content-encoding": accepted, "vary": "accept-encoding"}
        return Reply(sent, headers)

    async def live(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /v2/health/live."""
        return _json({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /v2/health/ready, and that of the model."""
        model = "model" in scope["path_params"]
        if model:
            self._check_model(scope)
        if not self.service.ready:
            raise ProtocolError("a server takes requests while it runs, this one is stopping", 503)
        return _json({"name": self.name, "ready": True} if model else {"live": True, "ready": True})

    async def server(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /v2."""
        return _json(server_metadata())

    async def model(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /v2/models/…"""
        self._check_model(scope)
        classes = self.service.classes
        return _json(
            model_metadata(
                self.service.cascade,
                name=self.name,
                version=self.version,
                classes=None if classes is None else len(classes),
            )
        )

    async def stats(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET …/stats."""
        if "model" in scope["path_params"]:
            self._check_model(scope)
        counts, executed = self.service.counts(), self.service.executor.stats
        return _json(statistics(counts, executed, name=self.name, version=self.version))

    async def document(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """GET /openapi.json."""
        below = scope.get("root_path", "")
        return _json(document(name=self.name, version=self.version, below=below))

    async def unsupported(self, scope: Scope, receive: Receive) -> Reply:  # noqa: ARG002
        """What other servers have, and this one lacks."""
        raise ProtocolError(
            f"a server has the extensions that GET /v2 lists, found {scope['path'][:80]}, which "
            "this one does not support",
            501,
        )

    def _check_model(self, scope: Scope) -> None:
        named = scope["path_params"]
        if named["model"] != self.name or named.get("version", self.version) != self.version:
            raise ProtocolError(
                f"this server has the model {self.name!r} in version {self.version!r}, found "
                f"{named['model'][:80]!r} in version {named.get('version', self.version)[:20]!r}",
                404,
            )


def open_inference_routes(protocol: OpenInference) -> list[Route]:
    """The routes of the protocol, and the document of all routes."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    get: dict[str, Handler] = {
        OPENAPI: protocol.document,
        "/v2": protocol.server,
        "/v2/": protocol.server,
        "/v2/health/live": protocol.live,
        "/v2/health/ready": protocol.ready,
        "/v2/models/stats": protocol.stats,
        **dict.fromkeys((model, version), protocol.model),
        **{f"{one}/ready": protocol.ready for one in (model, version)},
        **{f"{one}/stats": protocol.stats for one in (model, version)},
    }
    infer = Endpoint(protocol.infer)
    unsupported = Endpoint(protocol.unsupported)
    return [
        *(Route(f"{one}/infer", infer, methods=["POST"]) for one in (model, version)),
        *(Route(path, Endpoint(handler), methods=["GET"]) for path, handler in get.items()),
        *(Route(path, unsupported, methods=["GET", "POST"]) for path in unsupported_paths()),
    ]


def unsupported_paths() -> list[str]:
    """The paths of other servers' extensions."""
    models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        *(f"/v2/{name}" for name in UNSUPPORTED),
        *(f"/v2/{name}/{{rest:path}}" for name in UNSUPPORTED),
        *(f"{one}/{name}" for one in models for name in UNSUPPORTED_OF_MODEL),
    ]


def infer_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int | None, str | None]:
    """The length of the JSON in front, if it is given, and an encoding that the client accepts.

    >>> infer_headers([(b"inference-header-content-length", b"12"), (b"accept-encoding", b"gzip")])
    (12, 'gzip')

    Raises:
        ProtocolError: the length is no number, or is there twice.
    """
    lengths, accepted = set(), None
    for name, value in headers:
        if name == _HEADER_LENGTH:
            lengths.add(value)
        elif name == b"accept-encoding":
            accepted = accepted_encoding(value.decode("latin-1"))
    if not lengths:
        return None, accepted
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > _DIGITS:
        raise ProtocolError(f"{HEADER_LENGTH} is one whole number of bytes, found something else")
    return int(length), accepted


def _outputs(served: Sequence[Served], number: str) -> Outputs:
    answers = [one.answer for one in served]
    costs = [one.cost for one in served]
    logits = [one.logits for one in answers if one.logits is not None]
    first = served[0]
    point = {} if first.operating_point is None else {"operating_point": first.operating_point}
    return Outputs(
        prediction=[one.prediction for one in answers],
        confidence=[one.confidence for one in answers],
        exit=[one.exit for one in answers],
        request_id=[one.request_id for one in served],
        cost=None if None in costs else costs,  # type: ignore[arg-type]
        logits=np.stack(logits) if logits else None,
        classes=first.classes,
        parameters={"request_id": number, **point},
    )


def _json(value: Any) -> Reply:
    return Reply(orjson.dumps(value), {"content-type": "application/json"})
