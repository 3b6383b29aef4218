"""A server that listens, drains and ends as orchestrators expect (uvicorn)."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from understudy.errors import UnderstudyError
from understudy.serving.asgi import ServingApp
from understudy.serving.http_protocol import KEEP_ALIVE, LimitedProtocol
from understudy.switching import switch_threads_often

logger = logging.getLogger(__name__)

DRAIN = 5.0
"""Seconds that a server goes on answering after SIGTERM, while others stop sending to it."""

FINISH = 20
"""Seconds after which requests are given up that are still in flight."""


class CannotListen(UnderstudyError):
    """The address cannot be listened at."""


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
