"""Where the time of a request goes: CPU time of the server's event loop, part by part.

    python benchmarks/request_profile.py [--json] [--record]

A request is an image of 3,072 bytes as a binary tensor; 64 clients in a process of their own. Three
servers differ in what they leave out: all but HTTP (a fixed answer), the executor (the answer is
there at once), and nothing (models that cost next to nothing). Two parts are timed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import thread_time
from typing import Any

import numpy as np

import harness
from load_client import Phase
from load_requests import DIGITS, Requests, tensor_requests
from server_process import loaded
from understudy.malloc import keep_freed_memory
from understudy.runtime.protocol import Answer
from understudy.serving import ServingApp, ServingSettings, app
from understudy.serving.open_inference import InferRequest
from understudy.serving.served_answers import Served
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
        "http": best(lambda: served(http_alone())),
        "answered at once": best(lambda: served(at_once())),
        "whole": best(lambda: served(whole())),
    }
    parts = parts_of()
    rest = found["answered at once"] - found["http"] - sum(parts.values())
    table = {
        "HTTP: sockets, parser, headers (uvicorn)": found["http"],
        **parts,
        "service: place, deadline, watch, counts": rest,
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


def body_of(requests: Requests) -> tuple[int, bytes]:
    """The length of the JSON of a request, and its body."""
    sent = requests.before + b"0" * DIGITS + requests.after[0]
    head, _, body = sent.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return int(lines[b"Inference-Header-Content-Length"]), body


BODY = body_of(tensor_requests(PATH, IMAGES))


def sample() -> tuple[InferRequest, Any, list[Served]]:
    """A request, its images, and an answer."""
    head, body = BODY
    found = whole()
    request, images = found.inference.read(body, head)
    answer = Answer(1, 0.5, "tiny")
    return request, images, [Served(answer, "a-1", "drop-1", 1.0, found.service.classes)]


def http_alone() -> ServingApp:
    """Everything but what is in a request, and its answer: both are always the same."""
    found, (request, images, answers) = whole(), sample()
    reply = found.inference.reply(request, answers, "a-1", None)

    def submit(_: Any, done: Any, **__: Any) -> Callable[[], None]:
        asyncio.get_running_loop().call_soon(done, answers)
        return lambda: None

    found.inference.read = lambda *_: (request, images)  # type: ignore[method-assign]
    found.inference.reply = lambda *_: reply  # type: ignore[method-assign]
    found.service.submit = submit  # type: ignore[method-assign]
    return found


def whole() -> ServingApp:
    """Everything, with models that cost next to nothing."""
    return app(served_cascade(), settings=ServingSettings(shadow=0.0))


def at_once() -> ServingApp:
    """Everything but the executor."""
    found, answer = whole(), Answer(1, 0.5, "tiny")

    def submit(images: Any, done: Any, **_: Any) -> Callable[[], None]:
        asyncio.get_running_loop().call_soon(done, [answer] * len(images))
        return lambda: None

    found.service.executor.submit = submit  # type: ignore[method-assign]
    return found


def served(one: ServingApp) -> float:
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

    _loop: asyncio.AbstractEventLoop | None = None

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


def parts_of() -> dict[str, float]:
    """Microseconds of the parts that can be called by themselves."""
    request, _, answers = sample()
    protocol = whole().inference
    head, body = BODY
    return {
        "request: JSON and tensor": timed(lambda: protocol.read(body, head)),
        "response: JSON and tensors": timed(lambda: protocol.reply(request, answers, "a-1", None)),
    }


def timed(work: Callable[[], object]) -> float:
    """Microseconds of CPU time of a call."""
    costs = []
    for _ in range(ROUNDS):
        begun = thread_time()
        for _ in range(CALLS):
            work()
        costs.append((thread_time() - begun) / CALLS * 1e6)
    return min(costs)


if __name__ == "__main__":
    main()
