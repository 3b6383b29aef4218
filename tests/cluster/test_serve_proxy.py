"""The door of a proxy: requests of ours become calls, those of others pass."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from online_requests import run_async
from understudy.cluster.serve_calls import CallReply, Replicas, RequestCall, Room
from understudy.cluster.serve_proxy import DOOR, MARK, ProxyDoor
from understudy.serving.bodies import Receive, Scope, Send

ROUTES = {"/": "ours", "/other": "theirs"}


class Proxy:
    """What is behind the door: Serve's own routing, which takes note of what it gets."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        headers = [(b"x-request-id", b"app-1"), (b"x-request-id", b"serve's")]
        if path == "/-/routes":
            body = json.dumps(ROUTES).encode()
        else:
            self.paths.append(path)
            body = b"proxied"
            if not path.startswith("/other"):
                headers.append((MARK, b"1"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Answering:
    """Replicas that answer with what they got."""

    def __init__(self, room: Sequence[Room]) -> None:
        self.room, self.calls = room, list[RequestCall]()

    async def answer_calls(self, calls: Sequence[RequestCall]) -> Sequence[CallReply]:
        self.calls += calls
        return [CallReply(200, [(MARK, b"1"), (b"x-from", b"call")], one.body) for one in calls]

    async def rooms(self) -> Sequence[Room]:
        return self.room


def with_door(
    work: Callable[[httpx.AsyncClient, Proxy, Answering], Awaitable[None]],
    room: Sequence[Room] = (Room(96, 10.0),),
) -> None:
    async def run() -> None:
        proxy, answering = Proxy(), Answering(room)

        async def replicas_of(name: str) -> Replicas:
            assert name == "ours"
            return answering

        transport = httpx.ASGITransport(ProxyDoor(proxy, replicas_of))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            await work(client, proxy, answering)

    run_async(run())


def test_requests_become_calls_once_the_application_is_known() -> None:
    async def work(client: httpx.AsyncClient, proxy: Proxy, answering: Answering) -> None:
        first = await client.get("/v2/health/ready")
        assert first.text == "proxied"
        assert first.headers.get_list("x-request-id") == ["app-1"]
        assert MARK.decode() not in first.headers
        second = await client.post("/v2/models/m/infer?a=1", content=b"image")
        assert second.content == b"image"
        assert second.headers["x-from"] == "call"
        assert MARK.decode() not in second.headers
        [call] = answering.calls
        assert (call.method, call.path, call.query) == ("POST", "/v2/models/m/infer", b"a=1")
        assert (call.root_path, call.body) == ("", b"image")
        assert proxy.paths == ["/v2/health/ready"]

    with_door(work)


def test_applications_of_others_pass() -> None:
    async def work(client: httpx.AsyncClient, proxy: Proxy, answering: Answering) -> None:
        await client.get("/")
        for path in ("/other", "/other/x", "/other/x"):
            assert (await client.get(path)).text == "proxied"
        assert (await client.get("/otherwise")).text == ""
        assert proxy.paths == ["/", "/other", "/other/x", "/other/x"]
        assert [one.path for one in answering.calls] == ["/otherwise"]

    with_door(work)


def test_a_door_says_that_it_is_there() -> None:
    async def work(client: httpx.AsyncClient, proxy: Proxy, answering: Answering) -> None:
        assert (await client.get(DOOR)).status_code == 200
        assert not proxy.paths
        assert not answering.calls

    with_door(work)


def test_what_finds_no_room_is_refused_as_the_server_does() -> None:
    async def work(client: httpx.AsyncClient, proxy: Proxy, answering: Answering) -> None:
        await client.get("/")
        refused = await client.post("/classify", content=b"x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "found none that runs" in refused.json()["error"]
        assert refused.headers["x-request-id"]

    with_door(work, room=())


def test_bodies_have_limits_and_stay_as_they_are() -> None:
    async def work(client: httpx.AsyncClient, proxy: Proxy, answering: Answering) -> None:
        await client.get("/")
        large = await client.post("/classify", content=bytes(2**25 + 1))
        assert large.status_code == 413
        packed: dict[str, Any] = {"content-encoding": "gzip"}
        same = await client.post("/classify", content=b"not unpacked here", headers=packed)
        assert same.content == b"not unpacked here"

    with_door(work)
