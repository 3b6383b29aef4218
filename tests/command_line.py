"""What tests of the command line share: the result of a command, and checks of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple


class Completed(NamedTuple):
    """A command that ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The answer under `--json`: one JSON text, and nothing else on stdout."""
        assert self.exit_code == 0, self.stderr
        return json.loads(self.stdout)


Run = Callable[..., Completed]
"""Runs `understudy` with the given words in this process."""


def refused(
    command: Completed, message: str, folder: Path | None = None, left: Collection[str] = ()
) -> None:
    """Check for exit code 2, nothing on stdout and one sentence on stderr that has `message`.

    Where a folder is given, nothing but `left` may lie in it.
    """
    assert command.exit_code == 2, command
    assert command.stdout == ""
    *earlier, last = command.stderr.splitlines()
    assert set(earlier) <= {"printed by a factory"}
    assert last.startswith("error: ")
    assert message in last
    if folder is not None:
        assert {path.name for path in folder.iterdir()} == set(left)
