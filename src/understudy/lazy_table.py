"""A score table whose exits are read when they are asked for."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from understudy.exit import Array, Exit
from understudy.label_sets import is_right
from understudy.priced_exits import PricedExits
from understudy.scores import ScoreTable, table_hash
from understudy.sitting import Sitting
from understudy.split import SPLITS
from understudy.table_validation import Costs, check_exit_names, check_numbers, check_predictions

PREDICTION = "prediction"
ReadColumn = Callable[[int, str], Array]
"""Reads a column (N,) of an exit by its number: `PREDICTION`, or a confidence by its name."""
_AHEAD = 3  # columns that are read before they are wanted


@dataclass(frozen=True, eq=False)
class LazyTable(PricedExits):
    """A score table of N samples whose scores may be larger than memory.

    Exits are read and checked when they are asked for; parts are tables of some samples (`on`),
    whose exits are read as late, and tables of a few exits in memory (`only`).

    Attributes:
        exits: all exits.
        first: the table of the first exit alone: samples, costs and all else that exits share.
        read: reads a column of all samples, those of other splits too.
        rows: the positions of the samples in a column; None for all.
        fingerprint: the hash of the files that name all others; empty for a table in memory.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1], [.9, .6]), "big": ([0, 0], [.8, .7])}, [0, 0], ids=["a", "b"],
    ...     costs={"tiny": 1, "big": 10}, split=["tune", "certify"])
    >>> lazy = LazyTable.of(table).on("certify")
    >>> lazy.only(["big"], "max_softmax").prediction.tolist(), lazy.cost_of(["tiny"], "MACs")
    ([[0]], 1.0)
    >>> lazy.hash == table.on("certify").hash
    True
    """

    exits: tuple[Exit, ...]
    first: ScoreTable
    read: ReadColumn
    rows: npt.NDArray[np.intp] | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        check_exit_names(self.names)

    @staticmethod
    def of(table: ScoreTable) -> LazyTable:
        """A table that is in memory."""
        return LazyTable(table.exits, table.only(table.names[:1]), partial(_row, table))

    @property
    def costs(self) -> Costs:  # type: ignore[override]
        return self.first.costs

    @property
    def times(self) -> Costs:  # type: ignore[override]
        return self.first.times

    @property
    def sittings(self) -> tuple[Sitting, ...]:  # type: ignore[override]
        return self.first.sittings

    @property
    def splits(self) -> tuple[str, ...]:
        """As `ScoreTable.splits`."""
        return self.first.splits

    def __len__(self) -> int:
        return len(self.first)

    def with_times(self, times: Costs) -> LazyTable:
        """As `ScoreTable.with_times`."""
        return replace(self, first=self.first.with_times(times))

    def on(self, split: str) -> LazyTable:
        """The samples of one split, as `ScoreTable.on`."""
        first = self.first.on(split)
        if first is self.first:
            return self
        chosen = np.flatnonzero(self.first.split == SPLITS.index(split))
        return replace(self, first=first, rows=chosen if self.rows is None else self.rows[chosen])

    def only(self, names: Sequence[str], confidence: str) -> ScoreTable:
        """The table of some exits with one confidence.

        Raises:
            TableError: unknown names, damaged scores, or those of a table that was changed.
        """
        answers = np.stack([self.column(name, PREDICTION) for name in names])
        scores = np.stack([self.column(name, confidence) for name in names])
        exits = [self.exits[self.index(name)] for name in names]
        return self.first.of_exits(exits, answers, {confidence: scores})

    def column(self, exit: str, name: str) -> Array:
        """The predictions (`PREDICTION`) or one confidence of an exit, (N,).

        Raises:
            TableError: as for `only`.
        """
        if name != PREDICTION:
            self.first.scores(name)
        column = self._column(self.index(exit), name)
        if name == PREDICTION:
            check_predictions(column[None], [exit])
        else:
            check_numbers({name: column[None]}, [exit])
        return column

    def is_right(self, prediction: Array) -> npt.NDArray[np.bool_]:
        """Which predictions (N,) are among the labels of their samples."""
        known = is_right(prediction[None], self.first.label_rows)[0]
        return np.asarray(known & self.first.labelled)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over what names the files of the table and over which samples these are."""
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(b"" if self.rows is None else np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()

    @cached_property
    def hash(self) -> str:
        """As `ScoreTable.hash`: every column is read once."""
        return table_hash(
            self.exits,
            self.first,
            self._columns(PREDICTION),
            {name: self._columns(name) for name in self.first.confidence},
        )

    def _column(self, number: int, name: str) -> Array:
        column = self.read(number, name)
        return column if self.rows is None else column[self.rows]

    def _columns(self, name: str) -> Iterator[Array]:
        """The columns of all exits, a few of which are read before they are wanted."""
        waiting: deque[Future[Array]] = deque()
        with ThreadPoolExecutor(_AHEAD) as pool:
            for number in range(len(self.exits)):
                waiting.append(pool.submit(self._column, number, name))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _row(table: ScoreTable, number: int, name: str) -> Array:
    rows = table.prediction if name == PREDICTION else table.scores(name)
    row: Array = rows[number]
    return row
