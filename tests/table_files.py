"""The files of a table, to be compared byte by byte."""

from __future__ import annotations

from pathlib import Path


def content(table: Path) -> dict[str, bytes]:
    """What each file holds but `times.json`, which no two runs have alike."""
    return {
        file.relative_to(table).as_posix(): file.read_bytes()
        for file in sorted(table.rglob("*"))
        if file.is_file() and file.name != "times.json"
    }
