"""Single requests to an executor, sent at once from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from sample_rows import Array
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Answer

T = TypeVar("T")
Requests = list[asyncio.Future[Answer]]


def run_async(work: Awaitable[T], *, seconds: float = 60) -> T:
    """The result of `work` in an event loop of its own; fails if it hangs."""

    async def limited() -> T:
        return await asyncio.wait_for(work, timeout=seconds)

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


class Block:
    """A hook that blocks the batches of a stage, or those with a certain row, until released."""

    def __init__(self, name: str = "tiny", row: int | None = None) -> None:
        self.name, self.row = name, row
        self.reached, self.release = threading.Event(), threading.Event()

    def __call__(self, name: str, rows: Array) -> None:
        if name == self.name and self.row in (None, *rows):
            self.reached.set()
            assert self.release.wait(30)

    async def send(self, executor: Executor, images: Iterable[Any]) -> Requests:
        """Send images, the first of which are blocked until all are in flight."""
        requests = send(executor, images)
        await until(self.reached.is_set)
        await run_callbacks()
        self.release.set()
        return requests


async def run_callbacks(count: int = 5) -> None:
    """Let the event loop run what is scheduled."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    while not condition():
        await asyncio.sleep(0.001)
