"""A server that listens, drains and ends as orchestrators expect (uvicorn)."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from understudy.errors import UnderstudyError
from understudy.serving.asgi import ServingApp
from understudy.switching import switch_threads_often

logger = logging.getLogger(__name__)

DRAIN = 5.0
"""Seconds that a server goes on answering after SIGTERM, while others stop sending to it."""

FINISH = 20
"""Seconds after which requests are given up that are still in flight."""

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


class CannotListen(UnderstudyError):
    """The address cannot be listened at."""


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits: a request arrives within some seconds, what is not its body (headers,
    and trailers of chunks) is of some size, and there are so many connections. Errors are JSON,
    like all others."""

    _arriving: asyncio.TimerHandle | None = None
    _partial = _in_body = _refused = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection beyond the limit."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, f"at most {MAX_CONNECTIONS:,} connections are open, found more")
        else:
            self._arriving = self.loop.call_later(ARRIVAL, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request that was arriving."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse some bytes of a request."""
        if self._refused or self.transport.is_closing():
            return
        self._in_body = False
        super().data_received(data)
        if self._partial and not self._refused:
            if self._arriving is None:
                self._arriving = self.loop.call_later(ARRIVAL, self._late)
            self._header_bytes = 0 if self._in_body else self._header_bytes + len(data)
            if self._header_bytes > MAX_HEADERS:
                self._refuse(431, f"headers have at most {MAX_HEADERS:,} bytes, found more")

    def on_message_begin(self) -> None:
        """A request starts."""
        self._partial = True
        self._header_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._in_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._partial = False
        if self._arriving is not None:
            self._arrived()
        super().on_message_complete()

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
        if self.cycle is not None and self.cycle.response_started:
            self.transport.abort()  # the rest of a body that was refused
        else:
            self._refuse(408, f"a request arrives within {ARRIVAL:g} s, found a part of one")


class DrainingServer(uvicorn.Server):
    """A server that stops in three steps.

    After SIGTERM it is not ready any more, but answers for `DRAIN` seconds; then it takes no new
    connection, and answers what is in flight for at most `FINISH` seconds. SIGINT, or a second
    signal, leaves out the first step. It ends with the exit code 0.

    Args:
        app: what is served.
        listener: a bound socket.
        started: called once requests are taken.
    """

    def __init__(
        self, app: ServingApp, listener: socket.socket, started: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=LimitedProtocol,
                ws="none",
                lifespan="on",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=FINISH,
            )
        )
        self._service, self._listener, self._on_start = app.service, listener, started
        self._drained = float("inf")

    def serve_until_stopped(self) -> None:
        """Answer requests until a signal ends it.

        Raises:
            CannotListen: another server has begun to listen there since the socket was bound.
        """
        host, port = self._listener.getsockname()[:2]
        try:
            self._listener.listen(self.config.backlog)
        except OSError as error:
            raise CannotListen(
                f"a server listens at a free port of this machine, {host!r} port {port} was taken "
                "meanwhile: choose another --port"
            ) from error
        switch_threads_often()
        gc.collect()
        gc.freeze()  # modules and models: to look through them takes as long as many requests
        try:
            self.run(sockets=[self._listener])
        finally:
            gc.unfreeze()
        logger.info("stopped")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests once the app has started."""
        await super().startup(sockets=sockets)
        if self.started:
            service = self._service
            host, port = self._listener.getsockname()[:2]
            found = {"model": service.settings.name, "operating_point": service.current.name}
            logger.info("serving", extra={"host": host, "port": port, **found})
            self._on_start()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now."""
        if time.monotonic() >= self._drained:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain, or stop."""
        again = not self._service.ready
        self._service.ready = False
        if sig == signal.SIGTERM and not again:
            logger.info("draining", extra={"seconds": DRAIN})
            self._drained = time.monotonic() + DRAIN
        else:
            logger.info("stopping")
            self.force_exit = self.should_exit
            self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and do not raise them again when done: to be stopped is no failure."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address, and does not listen yet.

    Raises:
        CannotListen: there is no such host, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"a server listens at a free port of this machine, {host!r} port {port} cannot be "
            f"bound ({reason}): choose another --host or --port"
        ) from error
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """The URL of what listens."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
