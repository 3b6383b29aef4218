"""Folders that come from elsewhere: what they hold are files of their own."""

from __future__ import annotations

import os
from pathlib import Path

from understudy.errors import UnderstudyError


def check_contained(folder: str | Path, *, error: type[UnderstudyError]) -> None:
    """Refuse a folder with links that lead out of it, or with pipes and devices.

    The folder itself may be a link.

    Raises:
        UnderstudyError: of the type given; the message names the entry.
    """
    root = Path(folder).resolve()
    for entry in _entries(root):
        path = Path(entry.path)
        end = Path(os.path.realpath(path))  # a link to itself ends there
        if entry.is_symlink() and not end.is_relative_to(root):
            raise error(
                f"a folder holds its own files, {str(path)!r} is a link to "
                f"{str(end)!r}: copy the folder with what its links lead to"
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise error(f"a folder holds files, {str(path)!r} is a pipe or a device: remove it")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """All entries below a folder; folders behind links are not entered."""
    found: list[os.DirEntry[str]] = []
    waiting = [str(folder)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # what cannot be listed cannot be read: the reader has the cause
        found += entries
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found
