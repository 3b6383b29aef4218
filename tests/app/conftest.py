"""The command line, in this process."""

from __future__ import annotations

import sys

import pytest

from command_line import Run, Said
from understudy.app.cli import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Types a command: exit code, stdout, stderr."""

    def typed(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return typed
