"""Where the time of a request goes: CPU time of the server's event loop, part by part.

    python benchmarks/request_profile.py [--json] [--record]

A request is an image of 3,072 bytes as a binary tensor; 64 clients in a process of their own. Three
servers differ in what they leave out: everything but HTTP (a raw ASGI app that reads the body and
sends a fixed answer), the models (the answer is there at once), and nothing (models that cost next
to nothing). Parts of the second are timed by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from time import thread_time
from typing import Any

import numpy as np
import uvicorn
import uvloop

import harness
from load_client import Phase
from load_requests import tensor_requests
from server_process import loaded
from understudy.malloc import keep_freed_memory
from understudy.runtime.protocol import Answer
from understudy.serving import ServingApp, ServingSettings, app
from understudy.serving.bodies import Bodies
from understudy.serving.model_metadata import images_of
from understudy.serving.open_inference import read_infer_request, write_infer_response
from understudy.serving.open_inference_routes import _outputs
from understudy.serving.server import DrainingServer, listening_socket

sys.path.insert(0, str(harness.ROOT / "tests"))
from served_cascades import served_cascade

CLIENTS, SECONDS, ROUNDS, CALLS = 64, 2.0, 5, 2000
MOST = 200.0  # microseconds, beside some 1,300 of the models of CIFAR-10
PATH = "/v2/models/cascade/infer"
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)


def main() -> None:
    harness.main(measure, claim=f"a request costs the event loop at most {MOST:g} us of CPU time")


def measure(_: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    found = {
        "http": best(lambda: served(RawApp())),
        "answered at once": best(lambda: served(at_once())),
        "whole": best(lambda: served(whole())),
    }
    parts = uvloop.run(parts_of())
    rest = found["answered at once"] - found["http"] - sum(parts.values())
    table = {
        "HTTP: sockets, parsing, ASGI (uvicorn)": found["http"],
        **parts,
        "routing, ids, headers, the rest": rest,
        "executor: to its thread and back": found["whole"] - found["answered at once"],
    }
    return {
        "clients": CLIENTS,
        "us": {name: round(cost, 1) for name, cost in table.items()},
        "us_in_all": round(found["whole"], 1),
        "met": found["whole"] <= MOST,
    }


def best(cost: Callable[[], float]) -> float:
    """The least of some rounds: the machine has other work."""
    return min(cost() for _ in range(ROUNDS))


class RawApp:
    """Reads the body and sends an answer of the usual size."""

    infer_url = b""  # none is refused before the app

    def __init__(self) -> None:
        self.body, self.service = b"x" * 420, whole().service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        length = str(len(self.body)).encode()
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def whole() -> ServingApp:
    """Everything, with models that cost next to nothing."""
    return app(served_cascade(), settings=ServingSettings(shadow=0.0))


def at_once() -> ServingApp:
    """Everything but the executor."""
    found, answer = whole(), Answer(1, 0.5, "tiny")

    async def answer_many(images: Any, **_: Any) -> list[Answer]:
        return [answer] * len(images)

    found.service.executor.answer_many = answer_many  # type: ignore[method-assign, assignment]
    return found


def served(one: Any) -> float:
    """Microseconds of CPU time that a request costs the event loop."""
    costs: list[float] = []
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = ProfiledServer(one, listener, lambda: None)

        def drive() -> None:
            requests = tensor_requests(PATH, IMAGES)
            loaded(port, requests, Phase(0.5, clients=CLIENTS))
            begun = server.loop_time()
            records = loaded(port, requests, Phase(SECONDS, clients=CLIENTS))
            costs.append((server.loop_time() - begun) / len(records.number) * 1e6)
            assert set(records.status.tolist()) == {200}
            server.should_exit = True

        thread = threading.Thread(target=drive)
        server.on_started = thread.start
        server.serve_until_stopped()
        thread.join()
    return costs[0]


class ProfiledServer(DrainingServer):
    """A server that tells the CPU time of its event loop."""

    on_started: Callable[[], None]

    def __init__(self, one: Any, listener: Any, started: Callable[[], None]) -> None:
        if isinstance(one, ServingApp):
            super().__init__(one, listener, started)
        else:
            super().__init__(whole(), listener, started)
            self.config = uvicorn.Config(
                one, http=self.config.http, ws="none", lifespan="on", interface="asgi3",
                log_config=None, access_log=False, proxy_headers=False, server_header=False,
            )  # fmt: skip
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self.on_started()

    def loop_time(self) -> float:
        """Seconds of CPU time of the thread of the event loop."""
        found: Future[float] = Future()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(lambda: found.set_result(thread_time()))
        return found.result()


async def parts_of() -> dict[str, float]:
    """Microseconds of the parts that can be called by themselves."""
    one = at_once()
    service, protocol = one.service, one._infer._handler.__self__  # type: ignore[attr-defined]
    sent = tensor_requests(PATH, IMAGES)
    head, _, body = (sent.before + b"0" * 12 + sent.after[0]).partition(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    headers = [(name.lower(), value) for name, value in lines]
    length = int(dict(headers)[b"inference-header-content-length"])
    bodies = Bodies(max_bytes=2**25, max_held_bytes=2**28, seconds=30)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read_body() -> None:
        async with bodies.of({"headers": headers}, receive):
            pass

    async def read() -> None:
        images_of(read_infer_request(body, length), protocol.images, max_images=128)

    request = read_infer_request(body, length)
    images = list(images_of(request, protocol.images, max_images=128))

    async def answer() -> None:
        await service.answer_all(images, request_id="a-1")

    served = await service.answer_all(images, request_id="a-1")

    async def write() -> None:
        write_infer_response(request, _outputs(served, "a-1"), model="cascade", version="1")

    parts = {
        "body: limits, a timer": await timed(read_body),
        "request: JSON and tensor": await timed(read),
        "service: place, deadline, watch, counts": await timed(answer),
        "response: JSON and tensors": await timed(write),
    }
    await service.close()
    return parts


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    """Microseconds of CPU time of a call."""
    costs = []
    for _ in range(ROUNDS):
        begun = thread_time()
        for _ in range(CALLS):
            await work()
        costs.append((thread_time() - begun) / CALLS * 1e6)
    return min(costs)


if __name__ == "__main__":
    main()
