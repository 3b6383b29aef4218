"""The rivals of serving.py: LitServe, MLServer and Ray Serve around the same cascade.

Each has an environment of its own outside of the repository, made by uv on first use, with the
versions of PyTorch and NumPy of this one; each batches by itself, and runs `Cascade.answer` on the
batches that it forms. Of its settings the fastest counts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
from load_records import Array
from load_requests import Requests, json_requests, raw_requests
from server_process import Server, free_port, running

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "understudy-rivals"
SCRIPTS = harness.ROOT / "benchmarks" / "rivals"
PACKAGES = {
    "LitServe": ("litserve",),
    "MLServer": ("mlserver", "uvloop<0.22"),  # its workers do not start with a newer one
    "Ray Serve": ("ray[serve]",),
}
ENCODINGS = {
    "LitServe": "base64 in JSON",
    "MLServer": "base64 in JSON of the protocol v2",
    "Ray Serve": "raw bytes",
}


@dataclass(frozen=True)
class Setting:
    """How a rival batches: rows, seconds that it waits for them, processes, threads of each."""

    batch: int
    wait: float
    workers: int
    threads: int

    def __str__(self) -> str:
        return (
            f"batch {self.batch}, wait {1000 * self.wait:g} ms, {self.workers} processes with "
            f"{self.threads} threads"
        )


_REPLICAS = (
    Setting(64, 0.005, 1, 2),
    Setting(64, 0.02, 1, 2),
    Setting(64, 0.005, 1, 1),
    Setting(32, 0.005, 2, 1),
)
SETTINGS = {
    "LitServe": _REPLICAS,
    "MLServer": (Setting(64, 0.005, 0, 2), *_REPLICAS[1:]),  # 0: in the process of the server
    "Ray Serve": _REPLICAS,
}


def environment(name: str) -> Path:
    """The Python of a rival's environment, made where it is absent."""
    folder = CACHE / PACKAGES[name][0].partition("[")[0]
    python = folder / "bin" / "python"
    uv = shutil.which("uv") or str(harness.ROOT / ".uv" / "bin" / "uv")
    if not (folder / "made").exists():
        same = [f"{package}=={version(package).split('+')[0]}" for package in ("torch", "numpy")]
        words = ["--quiet", "--python", str(python), *PACKAGES[name], *same]
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True
        )
        subprocess.run([uv, "pip", "install", *words, f"{harness.ROOT}[torch]"], check=True)
        (folder / "made").touch()
    return python


def version_of(name: str) -> str:
    """The version of a rival."""
    package = PACKAGES[name][0].partition("[")[0]
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([environment(name), "-c", ask], text=True).strip()


def requests_of(name: str, images: Array) -> Requests:
    """The images as a rival takes them fastest."""
    if name == "Ray Serve":
        return raw_requests("/", images)
    encoded = [b64encode(image.tobytes()).decode() for image in images]
    if name == "LitServe":
        return json_requests("/predict", [json.dumps({"image": e}).encode() for e in encoded])
    entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES"}
    bodies = [json.dumps({"inputs": [{**entry, "data": [e]}]}).encode() for e in encoded]
    return json_requests("/v2/models/cascade/infer", bodies)


def answer_of(name: str, body: bytes) -> tuple[int, str]:
    """The class and the exit in an answer."""
    told: Any = json.loads(body)
    if name == "MLServer":
        outputs = {one["name"]: one["data"][0] for one in told["outputs"]}
        return outputs["prediction"], outputs["exit"]
    return told["prediction"], told["exit"]


@contextmanager
def rival(name: str, setting: Setting, folder: Path) -> Iterator[Server]:
    """A rival that serves a cascade."""
    port, python = free_port(), environment(name)
    told = {"folder": str(folder.resolve()), "port": port, **vars(setting)}
    variables = {
        "RIVAL": json.dumps(told),
        "PYTHONPATH": f"{SCRIPTS}:{harness.ROOT / 'benchmarks'}:{harness.ROOT / 'src'}",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(setting.threads),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with TemporaryDirectory() as place:
        command, ready = _command(name, setting, port, Path(place))
        with running([str(python), *command], port, ready=ready, variables=variables) as server:
            yield server


def _command(name: str, setting: Setting, port: int, place: Path) -> tuple[list[str], str]:
    """How a rival is started, and what it answers when it is ready."""
    if name == "LitServe":
        return [str(SCRIPTS / "litserve_server.py")], "/health"
    if name == "Ray Serve":
        return [str(SCRIPTS / "ray_server.py")], "/"
    general = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": setting.workers,
        "debug": False,
    }
    model = {
        "name": "cascade",
        "implementation": "mlserver_model.Served",
        "max_batch_size": setting.batch,
        "max_batch_time": setting.wait,
    }
    (place / "settings.json").write_text(json.dumps(general))
    (place / "model-settings.json").write_text(json.dumps(model))
    return ["-m", "mlserver.cli.main", "start", str(place)], "/v2/models/cascade/ready"
