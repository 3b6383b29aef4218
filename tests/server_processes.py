"""`understudy serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

TESTS = Path(__file__).resolve().parent
LOG_LINES = 10_000


@dataclass(frozen=True, eq=False)
class ServerProcess:
    """A server that has started.

    Attributes:
        url: where it listens.
        facts: what it printed as JSON.
        process: the process.
        log: the file of its stderr.
    """

    url: str
    facts: dict[str, Any]
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def stop(self, sig: int = signal.SIGTERM, *, within: float = 30) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(within)

    def records(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def command(*words: object) -> list[str]:
    """`understudy serve` with JSON and a free port."""
    return [
        *(sys.executable, "-m", "understudy", "serve"),
        *(str(word) for word in words),
        *("--port", "0", "--json"),
    ]


@contextmanager
def server_process(
    *words: object, folder: Path, environment: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server for the words of its command; it is killed in the end where it still runs."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command(*words), stdout=subprocess.PIPE, stderr=stderr, text=True, env=env, cwd=folder
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        facts = json.loads(line)
        yield ServerProcess(facts["url"], facts, process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
