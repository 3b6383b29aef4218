"""A client of an app in this process, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from online_requests import run_async
from served_cascades import served_cascade
from understudy.nn.cascade import Cascade
from understudy.serving import ServingApp, ServingSettings, app

Client = httpx.AsyncClient


@asynccontextmanager
async def serving(
    cascade: Cascade | None = None, **settings: Any
) -> AsyncIterator[tuple[Client, ServingApp]]:
    """A client of an app that has started."""
    made = app(cascade or served_cascade(), settings=ServingSettings(**settings))
    transport = httpx.ASGITransport(made, raise_app_exceptions=False)
    async with made.service, Client(transport=transport, base_url="http://localhost") as client:
        yield client, made


def with_client(work: Callable[[Client, ServingApp], Awaitable[None]], **settings: Any) -> None:
    """Run a test with a client of an app."""

    async def run() -> None:
        async with serving(**settings) as (client, made):
            await work(client, made)

    run_async(run())
