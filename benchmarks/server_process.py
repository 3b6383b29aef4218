"""A server in a process group of its own: started, waited for, measured, stopped or killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import harness
from load_client import Job, Phase
from load_records import Records
from load_requests import Requests

START, STOP, IDLE = 120.0, 30.0, 30.0
"""Seconds that a server has to start, to stop, and to rest after its load."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def request(
    port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass(frozen=True)
class Server:
    """A running server: its port, its process, and the file of what it prints."""

    port: int
    process: subprocess.Popen[bytes]
    printed: Path

    def members(self) -> list[int]:
        """The processes of its group."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.process.pid:
                found.append(int(status.parent.name))
        return found

    def rss_mb(self) -> float:
        """Resident memory of all its processes."""
        pages = 0
        for member in self.members():
            try:
                pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
            except OSError:
                continue
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        ticks = 0
        for member in self.members():
            with suppress(OSError):
                fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait_idle(self) -> None:
        """Return when it computes no more, such as comparisons that nobody waits for: beside its
        threads those of another process on the same cores are up to forty times as slow."""
        end, before = time.monotonic() + IDLE, self.cpu_seconds()
        while time.monotonic() < end:
            time.sleep(0.25)
            now = self.cpu_seconds()
            if now - before < 0.03:
                return
            before = now
        sys.exit(f"a server rests after its load, this one computes for {IDLE:g} s more")

    def stop(self) -> None:
        """End it as an operator does; kill what is left after a while."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP)
        self.kill()

    def kill(self) -> None:
        """End it at once, with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    ready: str,
    variables: Mapping[str, str] | None = None,
    kill: bool = False,
) -> Iterator[Server]:
    """A server that answers GET `ready` with 200; it is stopped, or killed, at the end."""
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        with printed.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(variables or {})},
                start_new_session=True,
                cwd=folder,
            )
        server = Server(port, process, printed)
        try:
            _wait(server, ready)
            yield server
        finally:
            if kill:
                server.kill()
            else:
                server.stop()


def _wait(server: Server, ready: str) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        try:
            if request(server.port, "GET", ready)[0] == 200:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.05)
    sys.exit(f"a server does not start:\n{server.printed.read_text(errors='replace')[-4000:]}")


@contextmanager
def loading(job: Job, requests: Requests) -> Iterator[Loading]:
    """The client at work, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = replace(job, requests=str(folder / "requests.npz"), out=str(folder / "records.npz"))
        requests.save(Path(job.requests))
        (folder / "job.json").write_text(job.text())
        client = harness.ROOT / "benchmarks" / "load_client.py"
        command = [sys.executable, str(client), str(folder / "job.json")]
        with subprocess.Popen(command) as process:
            yield Loading(process, Path(job.out))
            process.kill()


@dataclass(frozen=True)
class Loading:
    """A client that runs."""

    process: subprocess.Popen[bytes]
    out: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def records(self) -> Records:
        """What came back, when the client has ended."""
        if self.process.wait() != 0:
            sys.exit("the client of the load has failed")
        return Records.load(self.out)


def loaded(port: int, requests: Requests, *phases: Phase) -> Records:
    """The records of a whole run."""
    with loading(Job(port, "", "", phases), requests) as client:
        return client.records()
