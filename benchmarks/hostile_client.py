"""A client that sends hostile requests over sockets of its own, and reads what comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hostile_messages import Attack

GIVEN_UP = 60.0
"""Seconds after which a server hangs that does not answer."""

PATIENCE = 0.5
"""Seconds that a client waits which leaves then."""

ALLOWED = {501, 503}
"""Statuses from 500 that are no fault: what is not supported, and a server that is full."""


class Reply(NamedTuple):
    """What came back: the status, 0 where the connection was closed without one, and the body.

    `seconds` counts from the first byte that was sent.
    """

    attack: Attack
    status: int
    body: bytes
    seconds: float

    @property
    def fault(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.status >= 500 and self.status not in ALLOWED:
            return f"status {self.status}"
        if self.attack.kind == "honest" and self.status not in {200, 503}:
            return f"an honest request has the status {self.status}"
        if self.status == -1:
            return f"no answer within {GIVEN_UP:g} s"
        if self.status >= 400 and self.body and not _is_error(self.body):
            return "an error in another form"
        return None


def _is_error(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and [*found] == ["error"]


async def sent(attack: Attack, address: tuple[str, int]) -> Reply:
    """The reply to an attack."""
    started = time.perf_counter()

    def reply(status: int, body: bytes = b"") -> Reply:
        return Reply(attack, status, body, time.perf_counter() - started)

    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError:
        return reply(0)
    try:
        async with asyncio.timeout(GIVEN_UP):
            bare = attack.pieces[0].startswith(b"HEAD ")
            reading = asyncio.ensure_future(_read(reader, bare=bare))
            try:
                await _write(writer, attack, reading)
                if attack.end == "leave":
                    await asyncio.wait([reading], timeout=PATIENCE)
                if attack.end == "wait" or reading.done():
                    return reply(*await reading)
                return reply(0)
            finally:
                reading.cancel()
    except TimeoutError:
        return reply(-1)
    except (OSError, EOFError):
        return reply(0)
    finally:
        if attack.end == "reset":
            linger = struct.pack("ii", 1, 0)
            found = writer.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort() if attack.end == "reset" else writer.close()


async def _write(
    writer: asyncio.StreamWriter, attack: Attack, reading: asyncio.Future[tuple[int, bytes]]
) -> None:
    for place, piece in enumerate(attack.pieces):
        if place and attack.pause:
            await asyncio.wait([reading], timeout=attack.pause)
        if reading.done():
            return
        writer.write(piece)
        try:
            await writer.drain()
        except OSError:  # it was refused meanwhile, and may have said why
            return


async def _read(reader: asyncio.StreamReader, *, bare: bool) -> tuple[int, bytes]:
    """The status and the body of a response, which a bare one lacks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    sizes = [int(one[15:]) for one in head if one.lower().startswith("content-length:")]
    return status, await reader.readexactly(sizes[0]) if sizes and not bare else b""


async def all_sent(
    attacks: Iterable[Attack], address: tuple[str, int], *, clients: int
) -> list[Reply]:
    """The replies to attacks of some clients at a time; slow ones go on beside them."""
    places, replies = asyncio.Semaphore(clients), []

    async def one(attack: Attack) -> None:
        if attack.pause:
            replies.append(await sent(attack, address))
            return
        async with places:
            replies.append(await sent(attack, address))

    async with asyncio.TaskGroup() as group:
        for attack in attacks:
            group.create_task(one(attack))
    return replies


def summary(replies: Iterable[Reply]) -> dict[str, dict[str, int]]:
    """Kind -> status -> how many; 0 is a connection that ended without a response."""
    counts: dict[str, Counter[str]] = {}
    for one in replies:
        counts.setdefault(one.attack.kind, Counter())[str(one.status)] += 1
    return {kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())}


def faults(replies: Iterable[Reply]) -> dict[str, int]:
    """What is wrong -> how often."""
    found = [f"{one.attack.kind}: {one.fault}" for one in replies if one.fault is not None]
    return dict(sorted(Counter(found).items()))
