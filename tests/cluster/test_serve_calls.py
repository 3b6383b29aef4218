"""Requests go to replicas in calls, and to another one where one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from online_requests import run_async
from understudy.cluster.serve_calls import CallReply, Calls, ReplicaGone, RequestCall, Room
from understudy.serving.request_errors import DeadlineExceeded, QueueFull, StageError

ROOM = Room(requests=8, deadline=5.0)


def call(number: int, size: int = 1) -> RequestCall:
    body = b"%d" % number + bytes(size)
    return RequestCall("POST", "/v2/models/m/infer", b"", [], None, "", body)


def echo(one: RequestCall) -> CallReply:
    return CallReply(200, [], one.body)


@dataclass
class Fakes:
    """Replicas that answer when they are let, or fail."""

    room: Sequence[Room] = (ROOM,)
    failures: list[Exception] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    sizes: list[int] = field(default_factory=list)

    async def answer_calls(self, calls: Sequence[RequestCall]) -> Sequence[CallReply]:
        self.sizes.append(len(calls))
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return [echo(one) for one in calls]

    async def rooms(self) -> Sequence[Room]:
        return self.room


def with_calls(
    work: Callable[[Calls, Fakes], Awaitable[None]], *, room: Sequence[Room] = (ROOM,)
) -> None:
    async def run() -> None:
        fakes = Fakes(room)
        await work(Calls(fakes, now=lambda: 0.0), fakes)

    run_async(run())


async def sent(calls: Calls, numbers: range, size: int = 1) -> list[asyncio.Task[CallReply]]:
    """Requests that have been sent as far as they can be."""
    tasks = [asyncio.ensure_future(calls.answer(call(one, size))) for one in numbers]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def test_what_comes_while_calls_are_in_flight_goes_together() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        tasks = await sent(calls, range(8))
        assert fakes.sizes == [1, 1, 1, 1]
        fakes.gate.set()
        replies = await asyncio.gather(*tasks)
        assert [one.body for one in replies] == [call(number).body for number in range(8)]
        assert sum(fakes.sizes) == 8
        assert max(fakes.sizes) > 1
        assert calls.in_flight == 0

    with_calls(work)


def test_large_bodies_go_alone() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        tasks = await sent(calls, range(8), size=2**20 + 2**19)
        fakes.gate.set()
        await asyncio.gather(*tasks)
        assert set(fakes.sizes) == {1}

    with_calls(work)


def test_requests_of_a_replica_that_died_go_to_another() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        fakes.failures = [ReplicaGone("died"), ReplicaGone("died")]
        tasks = await sent(calls, range(6))
        fakes.gate.set()
        replies = await asyncio.gather(*tasks)
        assert [one.body for one in replies] == [call(number).body for number in range(6)]

    with_calls(work)


def test_a_request_does_not_kill_replicas_for_ever() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        fakes.failures = [ReplicaGone("died") for _ in range(3)]
        fakes.gate.set()
        with pytest.raises(QueueFull, match="a request needs a replica that lives"):
            await calls.answer(call(0))
        assert fakes.sizes == [1, 1, 1]

    with_calls(work)


def test_more_than_there_is_room_for_is_refused_at_once() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        tasks = await sent(calls, range(16))
        with pytest.raises(QueueFull, match="at most 16 requests are in flight, found 16"):
            await calls.answer(call(16))
        operator = call(99)._replace(method="PUT", path="/operating-point")
        tasks.append(asyncio.ensure_future(calls.answer(operator)))
        await asyncio.sleep(0)
        fakes.gate.set()
        await asyncio.gather(*tasks)
        assert (await calls.answer(call(17))).status == 200

    with_calls(work, room=(ROOM, ROOM))


def test_no_replica_is_said_at_once() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        with pytest.raises(QueueFull, match="found none that runs"):
            await calls.answer(call(0))

    with_calls(work, room=())


def test_a_request_has_a_deadline() -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
            await calls.answer(call(0))
        assert calls.in_flight == 0

    with_calls(work, room=(Room(8, 0.01),))


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (QueueFull("no room"), QueueFull),
        (ValueError("a bug"), StageError),
    ],
)
def test_other_failures_are_not_repeated(failure: Exception, error: type[Exception]) -> None:
    async def work(calls: Calls, fakes: Fakes) -> None:
        fakes.failures = [failure]
        fakes.gate.set()
        with pytest.raises(error):
            await calls.answer(call(0))
        assert fakes.sizes == [1]
        assert (await calls.answer(call(1))).status == 200

    with_calls(work)
