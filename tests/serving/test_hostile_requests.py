"""Some of the hostile requests of benchmarks/hostile_requests.py, against a real server."""

from __future__ import annotations

import asyncio
import random

from array_cascade import SHAPE
from array_server import running_server
from hostile_client import all_sent, faults
from hostile_messages import CHUNKED, Attack, Target, attacks, http, infer, valid

COUNT = 300
GROWTH = 2**26
"""Bytes that the server may hold more than before: among others the largest body, decompressed."""


def test_hostile_requests_are_refused_and_leave_nothing() -> None:
    with running_server() as server:
        host, _, port = server.address.rpartition(":")
        address, target = (host, int(port)), Target(server.address, "arrays", SHAPE)
        whole = infer(target, *valid(target, random.Random(0)))
        honest = Attack("honest", (whole,))
        unfinished = Attack("slow clients", (whole[:-1],))
        [first] = asyncio.run(all_sent([honest], address, clients=1))
        assert asyncio.run(refused_and_still_there(address, target, unfinished)) == 408
        before = server.resident()
        replies = asyncio.run(all_sent(attacks(target, COUNT, 0), address, clients=16))
        [last] = asyncio.run(all_sent([honest], address, clients=1))
        assert server.process.poll() is None
        assert server.resident() - before < GROWTH
        assert "Traceback" not in server.log.read_text()
    assert faults(replies) == {}
    assert len(replies) == COUNT
    assert first.status == last.status == 200


async def refused_and_still_there(
    address: tuple[str, int], target: Target, unfinished: Attack
) -> int:
    """A client whose chunk is none, and who stays: the app reads on until its time is over. The
    status of a request that ends later."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(http(target, target.infer, b"zz\r\n", CHUNKED, length=""))
    assert b" 400 " in await reader.readline()
    [later] = await all_sent([unfinished], address, clients=1)
    writer.close()
    return later.status
