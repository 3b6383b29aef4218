"""Single requests to an executor, sent at once from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Answer

T = TypeVar("T")
Requests = list[asyncio.Future[Answer]]


def run_async(work: Awaitable[T]) -> T:
    """The result of `work` in an event loop of its own; fails if it hangs."""

    async def limited() -> T:
        return await asyncio.wait_for(work, timeout=60)

    return asyncio.run(limited())


def send(executor: Executor, images: Iterable[Any], **options: Any) -> Requests:
    """All images at once, one request each, with the options of `Executor.answer`."""
    return [asyncio.ensure_future(executor.answer(image, **options)) for image in images]


def answer_each(executor: Executor, images: Iterable[Any], **options: Any) -> list[Answer]:
    """The answers to single requests that are sent at once; closes the executor."""

    async def work() -> list[Answer]:
        async with executor:
            return await asyncio.gather(*send(executor, images, **options))

    return run_async(work())


async def run_callbacks(count: int = 5) -> None:
    """Let the event loop run what is scheduled."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    while not condition():
        await asyncio.sleep(0.001)
