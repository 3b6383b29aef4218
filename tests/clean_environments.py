"""Environments that hold the wheel of this repository and what it asks for, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from doc_pages import ROOT

Environment = Callable[[tuple[str, ...]], Path]
"""Requirements -> the folder of the programs of an environment that holds them, made once."""


def uv_program() -> str:
    """The program uv; skips the test where there is none."""
    found = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(found).exists():
        pytest.skip("clean environments are made by uv, which is not installed (`make` fetches it)")
    return found


def built(*words: object) -> None:
    """Run uv; skips the test where packages cannot be fetched."""
    ran = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"an environment cannot be made: {ran.stderr.strip()[-500:]}")


def wheel_of(uv: str, folder: Path) -> Path:
    """The wheel of this repository, built in a folder."""
    built(uv, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT)
    (found,) = folder.glob("*.whl")
    return found


def environments(uv: str, wheel: Path, folder: Callable[[], Path]) -> Environment:
    """Makes an environment of some requirements, `understudy` from the wheel; once for each."""

    @cache
    def made(requirements: tuple[str, ...]) -> Path:
        named = [
            f"{name} @ {wheel.as_uri()}" if name.startswith("understudy") else name
            for name in requirements
        ]
        place = folder() / "venv"
        built(uv, "venv", "--quiet", "--python", sys.executable, place)
        python = place / "bin" / "python"
        built(uv, "pip", "install", "--quiet", "--python", python, *named)
        return python.parent

    return made


def clean(programs: Path, *, home: Path) -> Mapping[str, str]:
    """The environment variables of a user: no paths of this repository, no downloads of models."""
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "COLUMNS": "80",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def run(words: Sequence[str], folder: Path, variables: Mapping[str, str]) -> str:
    """What a program prints that ends well."""
    ran = subprocess.run(
        words, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-2000:]
    return ran.stdout
