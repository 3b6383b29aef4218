"""Real clients of the protocol, each in a process of its own, with a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from array_cascade import image
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


@pytest.mark.slow
def test_kserve_client(server: RunningServer, tmp_path: Path) -> None:
    images = np.stack([image(3), image(5, easy=False, seed=1)])
    expected = [images.tolist(), [3, 5], ["tiny", "big"]]
    python = environment(tmp_path / "venv", "kserve>=0.15")
    run(python, "kserve_client.py", server.url, orjson.dumps(expected).decode())


def environment(folder: Path, *requirements: str) -> str:
    """The Python of an environment of its own, as a client's clash with others; skips the test
    where packages cannot be fetched."""
    uv = shutil.which("uv") or str(SOURCE.parent / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.skip("environments are made by uv, which is not installed (`make` fetches it)")
    python = str(folder / "bin" / "python")
    for words in (
        ["venv", "--quiet", "--python", "3.11", str(folder)],
        ["pip", "install", "--quiet", "--python", python, *requirements],
    ):
        ran = subprocess.run([uv, *words], capture_output=True, text=True, check=False)
        if ran.returncode:
            pytest.skip(f"an environment cannot be made: {ran.stderr.strip()[-500:]}")
    return python
