"""A client that loads a server: plain asyncio, requests made beforehand, a process of its own.

    python benchmarks/load_client.py JOB.json

It sends and keeps bytes; what they mean is read when all is over. Closed loop: each of N clients
sends its next request when the last one is answered. Open loop: requests arrive at random (Poisson)
times whatever the server does, each on a connection that is free, and a latency counts from the
time of arrival.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import cast

import numpy as np

from load_records import LOST, Records
from load_requests import Requests

SPACING = 0.02
"""Seconds between two attempts to connect."""
MOST = 1024
"""Connections of an open loop."""


@dataclass(frozen=True)
class Phase:
    """A part of a run: so many clients in a closed loop, or so many requests per second."""

    seconds: float
    clients: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class Job:
    """A run of the client; what is left when it is over is waited for `patience` seconds."""

    port: int
    requests: str
    out: str
    phases: tuple[Phase, ...]
    first: int = 0
    seed: int = 0
    patience: float = 30.0

    @classmethod
    def read(cls, text: str) -> Job:
        told = json.loads(text)
        return cls(**{**told, "phases": tuple(Phase(**phase) for phase in told["phases"])})

    def text(self) -> str:
        return json.dumps(asdict(self))


def answer_in(data: bytes) -> tuple[int, bytes, bytes] | None:
    r"""The status and the body of an HTTP answer and what follows it; None where it is not whole.

    >>> answer_in(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    (200, b'ok', b'')
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    head = data[:end].lower()
    if b"transfer-encoding: chunked" in head:
        body = b""
        while (size := _line(data, end)) is not None:
            line, end = size
            length = int(line, 16)
            if len(data) < end + length + 2:
                return None
            body, end = body + data[end : end + length], end + length + 2
            if not length:
                return int(head[9:12]), body, data[end:]
        return None
    at = head.find(b"content-length:") + 15
    length = int(head[at : head.find(b"\r", at)]) if at >= 15 else 0
    whole = end + length
    return (int(head[9:12]), data[end:whole], data[whole:]) if len(data) >= whole else None


def _line(data: bytes, start: int) -> tuple[bytes, int] | None:
    """A line and where the next one begins."""
    end = data.find(b"\r\n", start)
    return (data[start:end], end + 2) if end >= 0 else None


class Connection(asyncio.Protocol):
    """A connection with at most one request in flight."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.number = -1
        self.data = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.client.open.add(self.transport)

    def send(self, number: int) -> None:
        assert self.transport is not None
        self.number = number
        self.transport.write(self.client.request(number))

    def data_received(self, data: bytes) -> None:
        self.data = self.data + data if self.data else data
        found = answer_in(self.data)
        if found is not None:
            status, body, rest = found
            number, self.number, self.data = self.number, -1, rest
            self.client.answered(self, number, status, body)
            if rest:  # nobody asked for more
                self.client.unasked += 1

    def connection_lost(self, _: Exception | None) -> None:
        number, self.number = self.number, -1
        if self.transport is not None:
            self.client.open.discard(self.transport)
        self.transport = None
        self.client.dropped(self, number)


class Client:
    """Sends the requests of a job and keeps what comes back."""

    def __init__(self, job: Job, requests: Requests) -> None:
        self.job, self.requests = job, requests
        self.numbers = job.first
        self.sent: list[tuple[int, float]] = []  # phase, time
        self.came: dict[int, tuple[float, int, bytes]] = {}
        self.unasked = 0
        self.phase = 0
        self.until = 0.0
        self.closed_loop = True
        self.idle: deque[Connection] = deque()
        self.arrived: deque[int] = deque()
        self.connections = self.outstanding = 0
        self.stopped = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.open: set[asyncio.WriteTransport] = set()

    def request(self, number: int) -> bytes:
        image = number % len(self.requests.after)
        return b"%b%012d%b" % (self.requests.before, number, self.requests.after[image])

    def new(self, at: float) -> int:
        """The number of a new request that arrives at a time."""
        number, self.numbers = self.numbers, self.numbers + 1
        self.sent.append((self.phase, at))
        self.outstanding += 1
        return number

    def answered(self, by: Connection, number: int, status: int, body: bytes) -> None:
        if number < 0:
            self.unasked += 1
            return
        self.came[number] = (monotonic(), status, body)
        self.outstanding -= 1
        self.free(by)

    def free(self, connection: Connection) -> None:
        """A connection may send its next request."""
        if connection.transport is None or connection.transport.is_closing():
            return  # `dropped` follows
        if self.arrived:
            connection.send(self.arrived.popleft())
        elif self.closed_loop and (now := monotonic()) < self.until:
            connection.send(self.new(now))
        else:
            self.idle.append(connection)

    def dropped(self, connection: Connection, number: int) -> None:
        self.connections -= 1
        if number >= 0:
            self.outstanding -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if (self.closed_loop or self.arrived) and not self.stopped:
            self.connect()

    def connect(self) -> None:
        self.connections += 1
        self.tasks.add(task := asyncio.ensure_future(self._connect()))
        task.add_done_callback(self.tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopped and monotonic() < self.until + self.job.patience:
            try:
                _, made = await loop.create_connection(
                    lambda: Connection(self), "127.0.0.1", self.job.port
                )
            except OSError:
                await asyncio.sleep(SPACING)
            else:
                return self.free(made)
        self.connections -= 1
        return None

    async def run(self) -> Records:
        begun = process_time()
        for number, phase in enumerate(self.job.phases):
            self.phase = number
            self.until = monotonic() + phase.seconds
            self.closed_loop = phase.clients > 0
            if self.closed_loop:
                await self._closed(phase)
            else:
                await self._open(phase)
        end = monotonic() + self.job.patience
        while self.outstanding and self.connections and monotonic() < end:
            await asyncio.sleep(0.01)
        self.stopped = True
        for task in tuple(self.tasks):
            task.cancel()
        for transport in tuple(self.open):
            transport.abort()
        while self.open:
            await asyncio.sleep(0)
        return self._records(process_time() - begun)

    async def _closed(self, phase: Phase) -> None:
        waiting = [self.idle.popleft() for _ in range(min(phase.clients, len(self.idle)))]
        for connection in waiting:
            self.free(connection)
        for _ in range(phase.clients - len(waiting)):
            self.connect()
        await asyncio.sleep(phase.seconds)
        self.closed_loop = False

    async def _open(self, phase: Phase) -> None:
        draw = random.Random(self.job.seed + self.phase)
        due = monotonic() + draw.expovariate(phase.rate)
        while due < self.until:
            await asyncio.sleep(max(0.0, due - monotonic()))
            while due <= monotonic():
                self.arrive(self.new(due))
                due += draw.expovariate(phase.rate)

    def arrive(self, number: int) -> None:
        """Send a request on a free connection, or as soon as there is one."""
        while self.idle:
            connection = self.idle.popleft()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.send(number)
                return
        self.arrived.append(number)
        if self.connections < MOST:
            self.connect()

    def _records(self, cpu: float) -> Records:
        first, count = self.job.first, len(self.sent)
        numbers = np.arange(first, first + count)
        none = (float("nan"), LOST, b"")
        came = [self.came.get(number, none) for number in range(first, first + count)]
        phases, sent = zip(*self.sent, strict=True) if self.sent else ((), ())
        return Records(
            number=numbers,
            image=numbers % len(self.requests.after),
            phase=np.array(phases, np.int64),
            sent=np.array(sent, np.float64),
            received=np.array([time for time, _, _ in came]),
            status=np.array([status for _, status, _ in came]),
            bodies=tuple(body for _, _, body in came),
            unasked=self.unasked,
            cpu=cpu,
        )


def run(job: Job, requests: Requests) -> Records:
    """A run in this process."""
    return asyncio.run(Client(job, requests).run())


def main() -> None:
    job = Job.read(Path(sys.argv[1]).read_text())
    requests = Requests.load(Path(job.requests))
    gc.freeze()
    gc.disable()  # nothing that it makes has cycles
    run(job, requests).save(Path(job.out))


if __name__ == "__main__":
    main()
