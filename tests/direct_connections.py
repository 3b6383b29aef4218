"""Connections of a server in this process, byte by byte: a client's end and the server's end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from online_requests import run_callbacks
from understudy.serving.asgi import ServingApp
from understudy.serving.bodies import Receive, Scope, Send
from understudy.serving.http_protocol import LimitedProtocol
from understudy.serving.service import Service
from understudy.serving.settings import ServingSettings


class CountingApp(ServingApp):
    """An app that counts the requests that come through ASGI."""

    asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await super().__call__(scope, receive, send)


@dataclass(frozen=True)
class WireReply:
    """A response as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class ClientEnd:
    """The client's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: LimitedProtocol

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each of which the server has read before the next."""
        for piece in pieces:
            self.writer.write(piece)
            await run_callbacks(3)

    async def reply(self) -> WireReply:
        """The next response, after a wish to go on."""
        whole = await self.reader.readuntil(b"\r\n\r\n")
        if whole.startswith(b"HTTP/1.1 100 "):
            whole = await self.reader.readuntil(b"\r\n\r\n")
        head = whole.decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in head[1:])
        body = await self.reader.readexactly(int(headers["content-length"]))
        return WireReply(int(head[0].split()[1]), headers, body)

    async def close(self) -> None:
        """Go away."""
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()
        await run_callbacks()


@dataclass
class LocalServer:
    """A server without a port.

    Attributes:
        app: what it serves.
        state: as uvicorn keeps it.
        clients: whose connections are open.
    """

    app: CountingApp
    state: ServerState = field(default_factory=ServerState)
    clients: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def connect(self) -> ClientEnd:
        """A new connection."""
        config = uvicorn.Config(
            self.app, http=LimitedProtocol, ws="none", interface="asgi3", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, date_header=False,
        )  # fmt: skip
        config.load()
        ours, theirs = socket.socketpair()
        _, server = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: LimitedProtocol(config, self.state, {}), theirs
        )
        client = ClientEnd(*await asyncio.open_connection(sock=ours), server)
        self.clients.push_async_callback(client.close)
        return client


@asynccontextmanager
async def local_server(cascade: Any, **settings: Any) -> AsyncIterator[LocalServer]:
    """A server of a cascade."""
    service = Service(cascade, ServingSettings(**{"name": "arrays", "max_queue": 512, **settings}))
    async with service:
        server = LocalServer(CountingApp(service))
        async with server.clients:
            yield server
