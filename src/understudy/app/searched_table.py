"""The table that a result was searched on, read again."""

from __future__ import annotations

from pathlib import Path

from understudy.errors import TableError
from understudy.result import Result
from understudy.scores import ScoreTable


def searched_table(result: Result, path: str | Path) -> ScoreTable:
    """The table at a path, with what the search of `result` fitted.

    Raises:
        TableError: it is not the table that was searched, or cannot be read.
    """
    from understudy.store import load_table

    scores = load_table(path)
    searched = result.table.get("hash")
    if searched is not None and scores.hash != searched:
        raise TableError(
            f"a result is shown with the table that it was searched on, {str(path)!r} has "
            f"another hash ({scores.hash[:12]}, not {searched[:12]}): name that table"
        )
    return result.with_fitted(scores)
