"""Shared fixtures: the folder of real data, the command line, and the switch for slow tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from clean_environments import Environment, environments, uv_program, wheel_of
from command_line import Completed, Run
from tables import synthetic
from understudy.app.cli.main import main
from understudy.files import replacing
from understudy.store import save_table

if TYPE_CHECKING:
    from ray_nodes import RayNodes

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parent.parent
AXE = "axe-core@4.10.3"
AXE_SHA256 = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("UNDERSTUDY_SLOW") == "1":
        return
    skip = pytest.mark.skip(reason="slow: set UNDERSTUDY_SLOW=1 to run it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; skips the test where there is none."""
    folder = Path(os.environ.get("UNDERSTUDY_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data are absent: no folder {folder} (set UNDERSTUDY_SHARED)")
    return folder


@pytest.fixture(scope="session")
def uv() -> str:
    """The program uv; skips the test where there is none."""
    return uv_program()


@pytest.fixture(scope="session")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository."""
    return wheel_of(uv, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def environment(uv: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Makes an environment of some requirements, `understudy` from the wheel; once for each."""
    return environments(uv, wheel, lambda: tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="session")
def nodes() -> Iterator[RayNodes]:
    """A Ray cluster of one node with one core, for all tests: it takes some seconds to start."""
    from ray_nodes import ray_nodes

    with ray_nodes(cores=1) as found:
        yield found


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """The script of axe-core, from the registry of npm, kept in the cache of the tests."""
    folder = request.config.cache.mkdir("axe-core")
    file = folder / "axe.min.js"
    if not file.exists():
        npm = shutil.which("npm")
        ran = npm and subprocess.run(
            [npm, "pack", "--silent", AXE],
            cwd=folder,
            capture_output=True,
            check=False,
            timeout=120,
        )
        if not ran or ran.returncode:
            pytest.skip(f"{AXE} is not here: npm could not fetch it")
        with tarfile.open(next(folder.glob("*.tgz"))) as archive, replacing(file) as temporary:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            temporary.write_bytes(member.read())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == AXE_SHA256
    return file.read_text(encoding="utf-8")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def completed(*words: object) -> Completed:
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Completed(code, *capsys.readouterr())

    return completed


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A saved table of 4,000 samples and the exits net0, net1 and net2, the reference."""
    save_table(synthetic(4000), tmp_path / "table")
    return tmp_path / "table"
