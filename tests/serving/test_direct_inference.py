"""Inference requests without ASGI: as through the app, whatever comes with them or in pieces."""

from __future__ import annotations

import asyncio
import gc
import re
import zlib
from typing import Any

import numpy as np
import pytest

from array_cascade import array_cascade, image
from direct_connections import LocalServer, WireReply, local_server
from infer_messages import infer_request
from lookup_cascade import LookupCascade, random_table
from online_requests import Block, run_async, run_callbacks, until
from sample_rows import chain
from served_cascades import random_images, served_cascade
from understudy.errors import DataError
from understudy.serving import http_protocol
from understudy.serving.execution import Found
from understudy.serving.open_inference import HEADER_LENGTH, InferRequest

TABLE = random_table(50, seed=3)
IMAGES = np.stack([image(3), image(5, easy=False, seed=1)])
TWICE = {"X-A": "1", "x-a": "1"}
"""A header that is there twice, which alone brings a request to the app."""
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
ASK = b"POST /v2/models/arrays/infer HTTP/1.1\r\nHost: a\r\n"


def posted(body: bytes, headers: dict[str, str], *, length: bool = True) -> bytes:
    """A request of inference as it is sent."""
    if length:
        headers = {"Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return ASK + lines.encode() + b"\r\n" + body


def asked(images: Any = IMAGES, more: dict[str, str] | None = None, **fields: Any) -> bytes:
    """A request for images."""
    body, headers = infer_request(images, **fields)
    return posted(body, {**headers, **(more or {})})


def row(number: int) -> np.ndarray:
    """One image whose first pixel is a row of the table."""
    pixels = np.zeros((1, 3, 4, 4), np.uint8)
    pixels[0, 0, 0, 0] = number
    return pixels


def blocked() -> tuple[LookupCascade, Block]:
    """A cascade, and what blocks the row 7 at its first stage."""
    block = Block(row=7)
    return LookupCascade(TABLE, chain(0.3, 0.3), hook=block, record=False), block


def same(reply: WireReply) -> tuple[int, dict[str, str], bytes]:
    """A response without its ids, and without its length, which is that of its ids too."""
    headers, body = dict(reply.headers), reply.body
    if "content-encoding" in headers:
        body = zlib.decompress(body, 32 + zlib.MAX_WBITS)
    headers.pop("x-request-id", None)
    headers.pop("content-length")
    headers.pop(HEADER_LENGTH.lower(), None)
    return reply.status, headers, re.sub(rb"[0-9a-f]{12}-\d+", b"ID", body)


async def idle(server: LocalServer) -> None:
    """Return when nothing is in flight; nothing may be held then."""
    service = server.app.service
    await until(lambda: service.in_flight == 0)
    assert server.app.bodies.held == 0


def requests() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Bodies and headers of requests of all kinds, good and bad."""
    good, headers = infer_request(IMAGES, id="ä")
    text, _ = infer_request(IMAGES, binary=False)
    logits = [{"name": "logits"}, {"name": "prediction", "parameters": {"classification": 10}}]
    long = infer_request(np.repeat(IMAGES, 60, 0), outputs=logits)
    length = next(iter(headers))
    return {
        "binary": (good, headers),
        "json": (text, {}),
        "binary outputs": infer_request(IMAGES, parameters={"binary_data_output": True}),
        "logits": infer_request(IMAGES, outputs=logits),
        "gzip": (long[0], {**long[1], "Accept-Encoding": "br, gzip"}),
        "deflate": (long[0], {**long[1], "Accept-Encoding": "deflate"}),
        "raw": (IMAGES[0].tobytes(), {length: "0"}),
        "files": infer_request([b"no image"]),
        "empty": (b"", {}),
        "no json": (b"{", {}),
        "cut off": (good[:-1], headers),
        "long": (good + b"x", headers),
        "bad length": (good, {length: "x"}),
        "none": infer_request(IMAGES[:0]),
        "shape": infer_request(IMAGES[:, :, :4]),
        "dtype": infer_request(IMAGES.astype(np.float32)),
        "unknown output": infer_request(IMAGES, outputs=[{"name": "x"}]),
        "too many": infer_request(np.repeat(IMAGES, 300, 0)),
        "too large": (b"x" * 200_001, {}),
        "encoded": (good, {**headers, "Content-Encoding": "gzip"}),
        "closed": (good, {**headers, "Connection": "close"}),
        "expected": (good, {**headers, "Expect": "100-continue"}),
    }


DIRECT = {"binary", "json", "binary outputs", "logits", "gzip", "deflate", "raw"}


def test_a_request_is_answered_as_by_the_app() -> None:
    async def work() -> None:
        async with local_server(array_cascade(), max_bytes=200_000) as server:
            for kind, (body, headers) in requests().items():
                found, through = [], []
                for more in ({}, TWICE):
                    before, client = server.app.asked, await server.connect()
                    await client.send(posted(body, {**headers, **more}))
                    found.append(same(await client.reply()))
                    through.append(server.app.asked - before)
                    await client.close()
                assert found[0] == found[1], kind
                assert through == [kind not in DIRECT, 1], kind
                await idle(server)

    run_async(work())


PIPELINED = {
    "direct": asked(),
    "get": GET,
    "chunked": ASK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "app": asked(more=TWICE),
}
STATUS = {"direct": 200, "get": 200, "chunked": 400, "app": 200}


@pytest.mark.parametrize("second", PIPELINED)
def test_requests_of_one_connection_are_answered_in_order_whatever_their_pieces(
    second: str,
) -> None:
    kinds = ["direct", second, "direct"]
    sent = b"".join(PIPELINED[kind] for kind in kinds)

    async def ask(server: LocalServer, cut: int) -> None:
        client = await server.connect()
        await client.send(sent[:cut], sent[cut:])
        replies = [await client.reply() for _ in kinds]
        assert [one.status for one in replies] == [STATUS[kind] for kind in kinds], cut
        assert len({one.headers["x-request-id"] for one in replies}) == len(kinds)
        await client.close()

    async def work() -> None:
        async with local_server(array_cascade()) as server:
            cuts = range(1, len(sent), 9)
            for start in range(0, len(cuts), 40):
                await asyncio.gather(*(ask(server, cut) for cut in cuts[start : start + 40]))
            client = await server.connect()
            await client.send(*(sent[k : k + 1] for k in range(len(sent))))
            assert [(await client.reply()).status for _ in kinds] == [STATUS[k] for k in kinds]
            await idle(server)

    run_async(work())


def test_a_client_that_goes_away_frees_its_place_once() -> None:
    """Before its body is there, and in flight."""
    cascade, block = blocked()

    async def work() -> None:
        async with local_server(cascade, logged=1.0) as server:
            service, failures = server.app.service, server.app.service.traffic.failures
            client = await server.connect()
            await client.send(asked(row(1))[:-5])
            assert server.app.bodies.held > 0
            await client.close()
            await until(lambda: server.app.bodies.held == 0)
            assert failures["cancelled"] == 0
            client = await server.connect()
            await client.send(asked(row(7)))
            await until(block.reached.is_set)
            assert (service.in_flight, server.app.asked) == (1, 0)
            await client.close()
            await idle(server)
            assert failures["cancelled"] == 1
            block.release.set()
            await answered(server)
            assert failures["cancelled"] == 1

    run_async(work())


async def answered(server: LocalServer) -> None:
    """A good request is answered by then."""
    client = await server.connect()
    await client.send(asked(row(2)))
    assert (await client.reply()).status == 200
    await client.close()
    await idle(server)


def test_what_is_no_http_ends_the_request_before_it() -> None:
    cascade, block = blocked()

    async def work() -> None:
        async with local_server(cascade) as server:
            client = await server.connect()
            await client.send(asked(row(7)) + b"\x00nonsense\r\n\r\n")
            assert (await client.reply()).status == 400
            await client.close()
            assert server.app.service.traffic.failures["cancelled"] == 1
            block.release.set()
            await answered(server)

    run_async(work())


class Refusing(LookupCascade):
    """A cascade that finds by itself that it takes no image."""

    def request(self, sample: Any) -> Any:
        raise DataError("images are others, found this one")


def test_an_image_that_the_cascade_refuses_frees_its_place_once() -> None:
    """Also where the client sends no HTTP behind it, before the refusal is sent."""

    async def work() -> None:
        async with local_server(Refusing(TABLE, chain(0.3, 0.3))) as server:
            for after, status in ((b"", 400), (b"\x00nonsense\r\n\r\n", 400)):
                client = await server.connect()
                await client.send(asked(row(1)) + after)
                assert (await client.reply()).status == status
                await run_callbacks()
                assert server.app.service.in_flight == 0
                assert server.app.bodies.held == 0
                await client.close()

    run_async(work())


def test_a_body_that_does_not_arrive_is_refused_in_time() -> None:
    async def work() -> None:
        async with local_server(array_cascade(), arrival=0.03) as server:
            found = []
            for more in ({}, TWICE):
                client = await server.connect()
                await client.send(asked(more=more)[:-1])
                found.append(same(await asyncio.wait_for(client.reply(), 5)))
                assert await client.reader.read() == b""
                await idle(server)
            assert found[0] == found[1]
            assert found[0][0] == 408

    run_async(work())


def test_bodies_beyond_what_may_be_held_are_refused() -> None:
    async def work() -> None:
        async with local_server(array_cascade(), max_held_bytes=400) as server:
            client = await server.connect()
            whole = asked()
            await client.send(whole[:300], whole[300:], asked(IMAGES[:1]))
            assert [(await client.reply()).status for _ in range(2)] == [503, 200]
            await idle(server)

    run_async(work())


@pytest.mark.parametrize("more", [{}, TWICE])
def test_what_is_late_or_finds_no_room_is_refused_and_the_connection_goes_on(
    more: dict[str, str],
) -> None:
    cascade, block = blocked()

    async def work() -> None:
        async with local_server(cascade, max_queue=1, deadline=0.1) as server:
            service, client = server.app.service, await server.connect()
            other = await server.connect()
            await client.send(asked(row(7), more))
            await until(lambda: service.in_flight == 1)
            await other.send(asked(row(1), more))
            assert (await other.reply()).status == 503
            late = await client.reply()
            assert (late.status, late.headers["retry-after"]) == (503, "1")
            assert b"within 0.1 s" in late.body
            block.release.set()
            for one in (client, other):
                await one.send(asked(row(2), more))
                assert (await one.reply()).status == 200
            failures = service.traffic.failures
            assert (failures["late"], failures["rejected"]) == (1, 1)
            await idle(server)

    run_async(work())


@pytest.mark.parametrize("more", [{}, TWICE])
def test_a_stage_that_fails_is_a_fault_of_the_server(more: dict[str, str]) -> None:
    cascade = LookupCascade(TABLE, chain(0.3, 0.3), nan={"big": set(range(50))})
    cascade.policy = chain(1.1, 1.1)

    async def work() -> None:
        async with local_server(cascade) as server:
            client = await server.connect()
            await client.send(asked(row(1), more))
            reply = await client.reply()
            assert reply.status == 500, reply
            await client.send(GET)
            assert (await client.reply()).status == 200
            assert server.app.service.traffic.failures["failed"] == 1
            await idle(server)

    run_async(work())


def test_a_server_that_stops_answers_what_is_in_flight_and_closes() -> None:
    cascade, block = blocked()

    async def work() -> None:
        async with local_server(cascade) as server:
            client = await server.connect()
            await client.send(asked(row(7)))
            await until(block.reached.is_set)
            client.server.shutdown()
            block.release.set()
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.reader.read() == b""
            assert not server.state.connections

    run_async(work())


def test_a_request_that_is_given_up_loses_its_shadow() -> None:
    async def work() -> None:
        async with local_server(served_cascade(), shadow=1.0) as server:
            service, found = server.app.service, list[Found]()
            assert service.watching is not None
            cancel = service.submit(
                list(random_images(3)), found.append, logits=False, request_id="a"
            )
            cancel()
            await run_callbacks()
            assert service.watching.shadows == {"answered": 0, "dropped": 3}
            assert (service.in_flight, found) == (0, [])

    run_async(work())


def test_a_request_that_the_executor_cannot_take_loses_its_shadow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(sample: Any) -> Any:
        raise TypeError("no image")

    async def work() -> None:
        cascade = served_cascade()
        async with local_server(cascade, shadow=1.0) as server:
            service = server.app.service
            assert service.watching is not None
            monkeypatch.setattr(cascade, "request", broken)
            with pytest.raises(TypeError, match="no image"):
                service.submit(list(random_images(3)), lambda _: None, logits=False, request_id="a")
            assert service.watching.shadows["dropped"] == 3
            assert service.in_flight == 0

    run_async(work())


def test_headers_that_come_too_slowly_after_a_request_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "ARRIVAL", 0.1)

    async def work() -> None:
        async with local_server(array_cascade()) as server:
            for first in (asked(), asked(more=TWICE)):
                client = await server.connect()
                await client.send(first)
                assert (await client.reply()).status == 200
                await client.send(ASK)
                assert (await client.reply()).status == 408

    run_async(work())


def test_a_connection_that_waits_for_a_request_holds_no_body() -> None:
    async def work() -> None:
        async with local_server(array_cascade()) as server:
            client, before = await server.connect(), requests_held()
            await client.send(asked())
            assert (await client.reply()).status == 200
            await run_callbacks()
            for _ in range(100):  # the executor's thread lets go of it a moment after the reply
                if requests_held() <= before:
                    break
                await asyncio.sleep(0.02)
            assert requests_held() <= before

    run_async(work())


def requests_held() -> int:
    """The number of requests, with their tensors, that are in memory."""
    return sum(type(one) is InferRequest for one in gc.get_objects())


def test_requests_leave_no_cycles() -> None:
    """All is freed as requests and connections end, without the collector."""

    async def ask(server: LocalServer, status: int, sent: bytes) -> None:
        client = await server.connect()
        for _ in range(20):
            await client.send(sent)
            assert (await client.reply()).status == status
        await client.send(sent)
        await client.close()

    async def work() -> list[Any]:
        nan = LookupCascade(TABLE, chain(1.1, 1.1), nan={"big": {1}}, record=False)
        async with local_server(nan) as server:
            await ask(server, 200, asked(row(2)))
            gc.freeze()  # what other tests have left
            gc.set_debug(gc.DEBUG_SAVEALL)
            for _ in range(5):
                await ask(server, 200, asked(row(2)))
                await ask(server, 500, asked(row(1)))
            await idle(server)
            gc.collect()
            return [one for one in gc.garbage if is_ours(one)]

    gc.disable()
    try:
        assert run_async(work()) == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def is_ours(found: object) -> bool:
    """Whether it is an object or a function of this package, or of an image."""
    module = getattr(found, "__module__", None) or ""
    return module.startswith("understudy") or isinstance(found, np.ndarray)
