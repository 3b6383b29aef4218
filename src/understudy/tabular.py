"""Nouns with rows: data frames of pandas, Polars and all that read Arrow, and tables in notebooks.

The Arrow PyCapsule interface (`__arrow_c_stream__`) hands rows to pyarrow, DuckDB, Polars and
pandas from 2.2 on without this package knowing them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.html_views import html_table

if TYPE_CHECKING:
    import polars as pl

_SHOWN = 40  # rows in a notebook


class Tabular(ABC):
    """A noun whose rows are a data frame.

    >>> from understudy import ScoreTable
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1], [.9, .6]), "big": ([0, 0], [.8, .7])}, [0, 0],
    ...     costs={"tiny": 1, "big": 10})
    >>> table.to_polars().rows()
    [('tiny', 0.5, 1.0), ('big', 1.0, 10.0)]
    """

    @abstractmethod
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """The columns by name, all of one length: plain numbers, texts and None."""

    def to_polars(self) -> pl.DataFrame:
        """The rows as a data frame of Polars."""
        import polars as pl

        return pl.DataFrame(dict(self.columns()), strict=False)

    def to_pandas(self) -> Any:
        """The rows as a data frame of pandas.

        Raises:
            UnderstudyError: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ModuleNotFoundError:
            raise UnderstudyError(
                "`to_pandas` needs pandas, which is not installed: pip install pandas, or use "
                "`to_polars`"
            ) from None
        return pd.DataFrame(dict(self.columns()))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows as a stream of Arrow, for `pyarrow.table(self)` and the like."""
        return self.to_polars().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        """The rows as a table in a notebook."""
        columns = self.columns()
        rows = [[_text(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        texts = [all(isinstance(cell, str) for cell in column) for column in columns.values()]
        more = f" – the first {_SHOWN} of {len(rows):,} rows" if len(rows) > _SHOWN else ""
        title = repr(self)[1:-1] if repr(self).startswith("<") else type(self).__name__
        title += more
        return html_table(title, list(columns), rows[:_SHOWN], left=texts)


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
