"""All pairs of a table on disk: right answers as mapped bits, confidences one model at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.lazy_table import PREDICTION, LazyTable
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.searching.all_pairs import AllPairs, all_pairs_of
from understudy.searching.right_bits import open_right_bits, write_right_bits


def write_table_bits(table: LazyTable, path: str | Path, *, unit: str | None = None) -> None:
    """Write the right answers of a table as a file of bits, in one pass over its predictions.

    >>> from tempfile import TemporaryDirectory
    >>> from understudy.scores import ScoreTable
    >>> table = LazyTable.of(ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1], [.9, .8]), "big": ([0, 0], [.9, .9])}, [0, 0],
    ...     costs={"tiny": 1, "big": 9}))
    >>> with TemporaryDirectory() as folder:
    ...     write_table_bits(table, f"{folder}/bits")
    ...     Path(folder, "bits").stat().st_size > 0
    True

    Raises:
        TableError: samples without a label, a missing cost, or scores that cannot be read.
        UnderstudyError: the file cannot be written, for example because the disk is full.
    """
    without = int((~table.first.labelled).sum())
    if without:
        raise TableError(
            f"all pairs are compared by right answers, {without:,} of {len(table):,} samples have "
            "no label: add labels (`understudy import-labels`)"
        )

    def right(model: int) -> npt.NDArray[np.bool_]:
        return table.is_right(table.column(table.names[model], PREDICTION))

    costs = table.exit_costs(table.unit(unit))
    write_right_bits(path, right, costs, len(table), source=table.identity)


def search_stored_pairs(
    table: LazyTable,
    bits: str | Path,
    max_drops: npt.ArrayLike,
    *,
    confidence: str = DEFAULT_CONFIDENCE,
    threads: int | None = None,
) -> AllPairs:
    """`search_all_pairs` of a table that may be larger than memory, exits in its order.

    Args:
        table: of `store.open_table`, or one of its splits (`on`).
        bits: the file that `write_table_bits` wrote of it; its unit of cost says who is cheaper.
        max_drops, threads: as for `search_all_pairs`.
        confidence: the stored confidence that thresholds apply to.

    Raises:
        TableError: a damaged file, or one of another table; scores that cannot be read.

    >>> import tempfile
    >>> from understudy.scores import ScoreTable
    >>> table = LazyTable.of(ScoreTable.from_predictions(
    ...     {"tiny": ([0, 0, 1, 1], [.9, .8, .6, .5]), "big": ([0, 0, 0, 1], [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 9}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table_bits(table, f"{folder}/bits")
    ...     search_stored_pairs(table, f"{folder}/bits", [0, 25]).accepted[0, 1].tolist()
    [2, 4]
    """
    right = open_right_bits(bits, source=table.identity)

    def scores(model: int) -> npt.NDArray[np.floating]:
        return table.column(table.names[model], confidence)

    return all_pairs_of(right, scores, max_drops, threads=threads)
