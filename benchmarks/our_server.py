"""Our server, started as an operator starts it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from server_process import Server, free_port, request, running
from serving_checks import MODEL

WITHOUT_SHADOWS = ("--shadow", "0")


@contextmanager
def ours(cascade: Path, *options: str, kill: bool = False) -> Iterator[Server]:
    """Our server with a cascade."""
    port = free_port()
    command = [sys.executable, "-m", "understudy", "serve", str(cascade), "--name", MODEL]
    command += ["--port", str(port), "--allow-code", "cifar_nets", *options]
    source = f"{harness.ROOT / 'src'}:{harness.ROOT / 'benchmarks'}"
    paths = {"PYTHONPATH": f"{source}:{os.environ.get('PYTHONPATH', '')}"}
    with running(command, port, ready="/v2/health/ready", variables=paths, kill=kill) as server:
        yield server


def set_point(server: Server, name: str) -> None:
    """Switch the operating point."""
    body = json.dumps({"name": name}).encode()
    headers = {"Content-Type": "application/json"}
    status, told = request(server.port, "PUT", "/operating-point", body, headers)
    if status != 200:
        sys.exit(f"the operating point cannot be set: {status} {told.decode()}")


def status(server: Server) -> dict[str, Any]:
    """What the server says of itself."""
    found: dict[str, Any] = json.loads(request(server.port, "GET", "/status")[1])
    return found
