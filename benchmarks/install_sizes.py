"""What each extra takes on disk, installed from a wheel of this repository in a new environment.

The default wheels of PyTorch for Linux bring CUDA. With `--torch REQUIREMENT`, which uv has to find
(UV_FIND_LINKS, UV_INDEX), extras are measured with that PyTorch, and `torch` with the default too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from understudy.extras import EXTRAS

BASE = "(none)"
LIMIT = 200  # MB, for a device that runs an exported cascade


class NotFetched(RuntimeError):
    """A package could not be downloaded or installed; the message is that of uv."""


def uv(*words: str | Path) -> str:
    """What uv prints: the one of the system, or the private one beside the environment."""
    private = Path(sys.prefix).parent / ".uv" / "bin" / "uv"
    program = shutil.which("uv") or (str(private) if private.exists() else None)
    if program is None:
        raise NotFetched("uv is not installed")
    ran = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotFetched(ran.stderr.strip())
    return ran.stdout


def build_wheel(folder: Path) -> Path:
    """The wheel of this repository, built in a folder."""
    uv("build", "--quiet", "--wheel", "--out-dir", folder, harness.ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, extra: str, into: Path, further: Sequence[str] = ()) -> Path:
    """The Python of a new environment with the wheel, an extra and further requirements."""
    uv("venv", "--quiet", "--python", sys.executable, into)
    python = into / "bin" / "python"
    name = f"understudy[{extra}] @ {wheel.as_uri()}" if extra != BASE else str(wheel)
    uv("pip", "install", "--quiet", "--compile-bytecode", "--python", python, name, *further)
    return python


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def megabytes(python: Path) -> float:
    """What is installed in an environment, in MB (1e6 bytes)."""
    (packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
    return round(size(packages) / 1e6, 1)


def largest(python: Path, most: int = 6) -> dict[str, float]:
    """The largest folders of an environment, in MB."""
    (packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
    sizes = {path.name: round(size(path) / 1e6, 1) for path in packages.iterdir() if path.is_dir()}
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1])[:most])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    only = tuple(filter(None, arguments.only.split(",")))
    found: dict[str, Any] = _recorded() if only else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        for extra in only or (BASE, *EXTRAS):
            chosen = arguments.torch if "torch" in EXTRAS.get(extra, ()) else None
            further = [chosen] if chosen else []
            found[extra] = installed(wheel, extra, folder / "new", further)
        if arguments.torch and not only:
            found["torch, default wheels"] = installed(wheel, "torch", folder / "new")
        wheel_mb = round(wheel.stat().st_size / 1e6, 2)
    return {"wheel_mb": wheel_mb, "extras": found, "met": found["onnx"]["mb"] <= LIMIT}


def installed(wheel: Path, extra: str, place: Path, further: Sequence[str] = ()) -> dict[str, Any]:
    """What an extra brings, in an environment that is removed again."""
    python = install(wheel, extra, place, further)
    packages = uv("pip", "freeze", "--python", python).splitlines()
    torch = next((line for line in packages if line.startswith("torch==")), None)
    sizes = {"mb": megabytes(python), "packages": len(packages), "largest_mb": largest(python)}
    shutil.rmtree(place)
    return sizes if torch is None else {**sizes, "torch": torch.removeprefix("torch==")}


def _recorded() -> dict[str, Any]:
    """The extras as recorded before: `--only` measures some of them anew."""
    file = harness.RESULTS / "install_sizes.json"
    return dict(json.loads(file.read_text())["extras"]) if file.exists() else {}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", default="", help=f"extras, such as {BASE},onnx; the rest stays as recorded"
    )
    parser.add_argument("--torch", help="such as torch==2.13.0+cpu")


if __name__ == "__main__":
    harness.main(
        measure,
        claim=f"an install that runs exported cascades, understudy[onnx], takes at most {LIMIT} MB",
        options=options,
    )
