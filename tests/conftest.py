"""Shared fixtures: where the real data lies, the command line, and the switch for slow tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from command_line import Run, Said
from understudy.app.cli import main

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("UNDERSTUDY_SLOW") == "1":
        return
    skip = pytest.mark.skip(reason="slow: set UNDERSTUDY_SLOW=1 to run it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("UNDERSTUDY_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data are absent: no folder {folder} (set UNDERSTUDY_SHARED)")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Types a command in this process: exit code, stdout, stderr."""

    def typed(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return typed
