"""The table that a result was searched on, read again."""

from __future__ import annotations

from pathlib import Path

from understudy.result import Result
from understudy.scores import ScoreTable


def searched_table(result: Result, path: str | Path) -> ScoreTable:
    """The table at a path, with what the search of `result` fitted.

    Raises:
        TableError: it is not the table that was searched, or cannot be read.
    """
    from understudy.store import load_table

    return result.searched(load_table(path), name=repr(str(path)))
