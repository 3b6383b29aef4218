"""Folders that come from elsewhere: what they hold are files of their own."""

from __future__ import annotations

import os
from pathlib import Path

from understudy.errors import UnderstudyError


def check_contained(folder: str | Path, *, error: type[UnderstudyError]) -> None:
    """Refuse a folder with links that lead out of it or nowhere, or with pipes and devices.

    The folder itself may be a link.

    Raises:
        UnderstudyError: of the type given; the message names the entry.
    """
    if "\0" in str(folder):
        raise error(f"a folder has a path without null bytes, found {str(folder)!r}: correct it")
    root = Path(os.path.realpath(folder))
    for entry in _entries(root):
        if entry.is_symlink():
            real = Path(os.path.realpath(entry.path))
            if not real.exists():
                raise error(
                    f"a folder holds its own files, {entry.path!r} is a link that leads nowhere: "
                    "remove it, or restore the file"
                )
            if not real.is_relative_to(root):
                raise error(
                    f"a folder holds its own files, {entry.path!r} is a link to {str(real)!r}: "
                    "copy the folder with what its links lead to"
                )
        elif not (entry.is_file() or entry.is_dir()):
            raise error(f"a folder holds files, {entry.path!r} is a pipe or a device: remove it")


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
