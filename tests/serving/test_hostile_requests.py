"""Some of the hostile requests of benchmarks/hostile_requests.py, against a real server."""

from __future__ import annotations

import asyncio
import random

from array_cascade import SHAPE
from array_server import running_server
from hostile_client import all_sent, faults
from hostile_messages import Attack, Target, attacks, infer, valid

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
        before = server.resident()
        found = [unfinished, *attacks(target, COUNT, 0)]
        replies = asyncio.run(all_sent(found, address, clients=16))
        [last] = asyncio.run(all_sent([honest], address, clients=1))
        assert server.process.poll() is None
        assert server.resident() - before < GROWTH
    assert faults(replies) == {}
    assert [one.status for one in replies if one.attack is unfinished] == [408]
    assert first.status == last.status == 200
