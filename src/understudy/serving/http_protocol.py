"""HTTP/1.1 with limits; requests that find no room are refused before the app (uvicorn)."""

from __future__ import annotations

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from understudy.serving.asgi import ServingApp
from understudy.serving.direct_inference import DirectInference
from understudy.serving.open_inference_routes import Reply, error_reply

MAX_HEADERS = 2**16
"""Bytes of the headers of a request, at most."""

ARRIVAL = 30.0
"""Seconds in which a request has to arrive, headers and body."""

LINGER = 2.0
"""Seconds that a refused connection stays open, so that the client can read why."""

KEEP_ALIVE = 75
"""Seconds that a connection stays open without a request: longer than those of common proxies,
which would otherwise send a request as it closes."""

MAX_CONNECTIONS = 2048
"""Connections at a time."""


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits: a request arrives within some seconds, what is not its body (headers,
    and trailers of chunks) is of some size, and there are so many connections. Errors are JSON,
    like all others."""

    _direct: DirectInference | None = None
    _arriving: asyncio.TimerHandle | None = None
    _partial = _in_body = _refused = _shed = False
    _header_bytes = _shed_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection beyond the limit."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, f"at most {MAX_CONNECTIONS:,} connections are open, found more")
        else:
            self._arriving = self.loop.call_later(ARRIVAL, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request that was arriving or is answered; they refer to each other."""
        self._arrived()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._direct = self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse some bytes of a request."""
        if self._refused or self.transport.is_closing():
            return
        self._in_body = False
        super().data_received(data)
        if self._partial and not self._refused:
            if self._arriving is None:
                self._arriving = self.loop.call_later(ARRIVAL, self._late)
            if self._direct is not None:
                self._direct.wait()
            self._header_bytes = 0 if self._in_body else self._header_bytes + len(data)
            if self._header_bytes > MAX_HEADERS:
                self._refuse(431, f"headers have at most {MAX_HEADERS:,} bytes, found more")

    def on_message_begin(self) -> None:
        """A request starts."""
        self._partial, self._header_bytes = True, 0
        self._unset_keepalive_if_required()  # which a reply to a request before it has set
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle = None  # type: ignore[assignment]
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin to answer a request, unless it is one for which there is no room."""
        self._shed, self._shed_bytes = False, 0
        if self._is_plain_inference():
            self._shed = not self._app.service.has_room()
            if not self._shed:
                self._direct = DirectInference.of(self._app, self, self.headers)
        if self._direct is not None:
            self.cycle = self._direct  # type: ignore[assignment]
        elif not self._shed:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._in_body = True
        if self._direct is not None:
            if not self._direct.add(body):
                self._leave_to_app()
        elif self._shed:
            self._shed_bytes += len(body)
            limit = self._app.bodies.max_bytes
            if self._shed_bytes > limit and not self._refused:
                self._refuse(413, f"the body of a request has at most {limit:,} bytes, found more")
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._partial = False
        if self._arriving is not None:
            self._arrived()
        if self._direct is not None:
            if self._direct.start():
                self._direct = None
                return
            self._leave_to_app()
        if not self._shed:
            super().on_message_complete()
        elif not self._refused:
            self._send_no_room()

    @property
    def _app(self) -> ServingApp:
        app: ServingApp = self.app
        return app

    def _is_plain_inference(self) -> bool:
        """Whether an inference request comes by itself on a connection that stays open. Under
        overload most requests do, and are refused here at a fifth of what it costs the app."""
        return (
            self.url == self._app.infer_url
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _leave_to_app(self) -> None:
        """Let the app answer what has arrived of a direct request."""
        assert self._direct is not None
        pieces, self._direct = self._direct.leave(), None
        self.cycle = None  # type: ignore[assignment]
        super().on_headers_complete()
        for piece in pieces:
            super().on_body(piece)

    def send_reply(self, reply: Reply, *, number: str, keep_alive: bool) -> None:
        """Send the reply to a direct request, and take the next one."""
        if self._refused or self.transport.is_closing():
            return
        keep_alive = keep_alive and "connection" not in reply.headers
        lines = [
            STATUS_LINE[reply.status],
            *(b"%b: %b\r\n" % header for header in self.server_state.default_headers),
            *(f"{name}: {value}\r\n".encode() for name, value in reply.headers.items()),
            b"content-length: %d\r\nx-request-id: %b\r\n" % (len(reply.body), number.encode()),
            b"\r\n" if keep_alive else b"connection: close\r\n\r\n",
            reply.body,
        ]
        self.transport.write(b"".join(lines))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _send_no_room(self) -> None:
        """Answer as the app does where the queue is full; the connection stays open."""
        app, service = self._app, self._app.service
        service.traffic.fail("rejected")
        reply, number = error_reply(service.no_room()), service.new_id()
        self.send_reply(reply, number=number, keep_alive=True)
        app.log(app.infer_scope(number), reply.status, 0.0)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, f"a request is HTTP/1.1, found another ({msg.rstrip('.').lower()})")

    def _refuse(self, status: int, message: str) -> None:
        """Send an error, and end the connection once the client has read it."""
        body = orjson.dumps({"error": message})
        head = (
            b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(body)).encode()
        )
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the app, which may be reading, says nothing more
            self.cycle.message_event.set()
        self.transport.write(STATUS_LINE[status] + head + b"\r\n\r\n" + body)
        if self.transport.can_write_eof():  # to close would drop what was not read yet, and more
            self.transport.write_eof()
        self._arrived()
        self._arriving = self.loop.call_later(LINGER, self.transport.abort)

    def _arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _late(self) -> None:
        if self.cycle is not None and self.cycle.response_started and not self._shed:
            self.transport.abort()  # the rest of a body that was refused
        else:
            self._refuse(408, f"a request arrives within {ARRIVAL:g} s, found a part of one")
