"""The server under load, by the client of the benchmark: each answer once, and of one policy."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from load_client import Job, Phase, answer_in, run
from load_records import LOST, Records
from load_requests import json_requests
from lookup_cascade import LookupCascade, random_table
from sample_rows import Array, chain
from serving_checks import INFER, MODEL, Expected, inconsistent, misplaced, requests_of, tally
from understudy.operating_point import OperatingPoint
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.serving import ServingSettings, app
from understudy.serving.server import DrainingServer, listening_socket

ROWS = 200
TABLE = random_table(ROWS, seed=3)
POINTS = (
    OperatingPoint(chain(0.3, 0.3), 1.0, 0.05, 20.0, "MACs"),
    OperatingPoint(chain(0.6, 0.9), 0.5, 0.05, 60.0, "MACs"),
    OperatingPoint(Policy.single("big"), 0.0, 0.0, 100.0, "MACs"),
)
IMAGES = np.zeros((ROWS, 3, 4, 4), np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(ROWS)  # a row number in the first pixel


class ServedLookup(LookupCascade):
    """A cascade that looks its answers up, with operating points."""

    operating_points = POINTS


def sleeping(seconds: float) -> LookupCascade:
    """A cascade that sleeps before each batch."""

    def sleep(stage: str, rows: Array) -> None:
        time.sleep(seconds)

    return ServedLookup(TABLE, POINTS[0].policy, hook=sleep, record=False)


@contextmanager
def listening(cascade: LookupCascade, *, max_queue: int = 128) -> Iterator[int]:
    """A server in a thread; its port."""
    served = app(cascade, settings=ServingSettings(name=MODEL, max_queue=max_queue))
    started = threading.Event()
    with listening_socket("127.0.0.1", 0) as listener:
        server: uvicorn.Server = DrainingServer(served, listener, started.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert started.wait(30)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def load(port: int, *phases: Phase, first: int = 0) -> Records:
    """What a client saw."""
    return run(Job(port, "", "", phases, first), requests_of(IMAGES))


def expected() -> dict[str, Expected]:
    """What each operating point answers, as `evaluate` has it."""
    found = {}
    for point in POINTS:
        decided = decide(TABLE, point.policy)
        exits = np.array(point.policy.exits)[decided.stage]
        found[point.name] = Expected(exits, decided.prediction, decided.confidence)
    return found


def test_every_answer_is_of_the_policy_that_it_names() -> None:
    """The operating point is switched under load, by requests."""
    switches: list[tuple[float, float, str]] = []
    ended = threading.Event()

    def switch(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for point in cycle(POINTS[::-1]):
                if ended.is_set():
                    return
                asked = time.monotonic()
                client.put("/operating-point", json={"name": point.name}).raise_for_status()
                switches.append((asked, time.monotonic(), point.name))

    with listening(sleeping(0.001)) as port:
        switching = threading.Thread(target=switch, args=(port,))
        switching.start()
        records = load(port, Phase(1.0, clients=16))
        ended.set()
        switching.join()
    found = tally([records])
    assert len(switches) > 3
    assert set(found.statuses) == {200}
    assert found.twice == 0
    assert inconsistent(records, expected()) == []
    assert misplaced(records, switches) == 0


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    """More than there is room for, by clients and at random times; then no more."""
    with listening(sleeping(0.005), max_queue=8) as port:
        records = load(port, Phase(0.3, clients=40), Phase(0.3, rate=2000.0))
        after = load(port, Phase(0.2, clients=4), first=len(records.number))
        refused = httpx.post(f"http://127.0.0.1:{port}{INFER}", content=b"{}").status_code
    found = tally([records, after])
    assert set(found.statuses) == {200, 503}
    assert found.twice == 0
    assert inconsistent(records, expected()) == []
    assert set(tally([after]).statuses) == {200}
    assert refused == 400
    for row in records.rows(status=503):
        assert b"at most 8 images are in flight" in records.bodies[row]


def test_records_are_kept_in_a_file(tmp_path: Path) -> None:
    with listening(sleeping(0)) as port:
        records = load(port, Phase(0.1, clients=2))
    records.save(tmp_path / "records.npz")
    again = Records.load(tmp_path / "records.npz")
    assert again.bodies == records.bodies
    assert np.array_equal(again.received, records.received)
    assert (again.unasked, again.cpu) == (records.unasked, records.cpu)
    job = Job(1, "a", "b", (Phase(1.0, rate=3.0), Phase(2.0, clients=1)))
    assert Job.read(job.text()) == job


def careless(listener: socket.socket, replies: list[bytes]) -> None:
    """A server that sends something for each request, or closes the connection."""
    for reply in replies:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)


@pytest.mark.parametrize("twice", [False, True])
def test_the_client_notices_what_is_lost_or_answered_twice(twice: bool) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=careless, args=(listener, [whole * 2 if twice else b""]))
        server.start()
        job = Job(listener.getsockname()[1], "", "", (Phase(0.05, clients=1),), patience=0.2)
        records = run(job, json_requests("/", [b"{}"]))
        server.join()
    assert records.unasked == twice
    assert records.status[0] == (200 if twice else LOST)


def test_answers_are_read_in_any_pieces() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n"
    plain = b"HTTP/1.1 503 Busy\r\ncontent-length: 3\r\n\r\nok!"
    for answer, status in ((chunked, 200), (plain, 503)):
        for end in range(len(answer)):
            assert answer_in(answer[:end]) is None
        assert answer_in(answer + b"HTTP") == (status, b"ok!", b"HTTP")


def test_a_connection_that_found_no_room_goes_on() -> None:
    """Refused before the app sees it, as the app refuses: on the same connection, with an id."""
    with listening(sleeping(0.3), max_queue=1) as port:
        busy = threading.Thread(target=load, args=(port, Phase(0.3, clients=1)))
        busy.start()
        sent, url = IMAGES[:1].tolist(), f"http://127.0.0.1:{port}{INFER}"
        body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 3, 4, 4]}]}
        body["inputs"][0]["data"] = sent
        with httpx.Client() as client:
            replies = [client.post(url, json=body)]
            while replies[-1].status_code == 200:  # the other one was not yet inside
                replies.append(client.post(url, json=body))
            refused = replies[-1]
            while replies[-1].status_code == 503:
                replies.append(client.post(url, json=body))
                time.sleep(0.02)
            counted = client.get(f"http://127.0.0.1:{port}/status").json()["requests"]["rejected"]
        busy.join()
    assert refused.json()["error"].startswith("at most 1 images are in flight, found 1 and 1 more")
    assert refused.headers["retry-after"] == "1"
    assert len({reply.headers["x-request-id"] for reply in replies}) == len(replies)
    assert replies[-1].status_code == 200
    assert counted >= sum(reply.status_code == 503 for reply in replies)
