"""The cascade of NumPy behind HTTP in a process of its own, for clients that are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

SCRIPT = Path(__file__).with_name("array_cascade.py")
SOURCE = Path(__file__).parent.parent / "src"
STOP = 20.0
"""Seconds that a server has to stop."""


@dataclass(frozen=True)
class RunningServer:
    """A server, where it listens, and the file of what it logs."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def resident(self) -> int:
        """The bytes of memory that it holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_server(**settings: Any) -> Iterator[RunningServer]:
    """The server with some settings, until the end of the block."""
    variables = {
        "PYTHONPATH": str(SOURCE),
        "ARRAY_CASCADE_SETTINGS": orjson.dumps(settings).decode(),
        "OMP_NUM_THREADS": "1",
    }
    command, more = [sys.executable, str(SCRIPT)], {**os.environ, **variables}
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=more) as process,
    ):
        assert process.stdout is not None
        try:
            url = orjson.loads(process.stdout.readline())["url"]
            yield RunningServer(process, url, Path(log.name))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP)
            finally:
                process.kill()
