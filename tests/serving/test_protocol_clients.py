"""Real clients of the protocol, each in a process of its own, with a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from array_server import SOURCE, RunningServer, running_server

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The cascade of NumPy behind HTTP."""
    with running_server() as server:
        yield server


def run(python: str, script: str, *words: str) -> None:
    """Run a client to its end; where it fails, what it printed is the message."""
    path = os.pathsep.join([str(SOURCE), str(HERE.parent)])
    completed = subprocess.run(
        [python, str(HERE / script), *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_triton_client(server: RunningServer) -> None:
    pytest.importorskip("tritonclient")
    run(sys.executable, "triton_client.py", server.address)
