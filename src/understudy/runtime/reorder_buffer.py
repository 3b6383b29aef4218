"""Answers that wait for those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from understudy.runtime.answers import FAILED, Answers
from understudy.runtime.protocol import Array


class ReorderBuffer:
    """Answers by row number, from the first row whose incoming batch is not complete."""

    ROW = np.dtype([("prediction", "i8"), ("confidence", "f4"), ("exit", "i8"), ("done", "?")])

    def __init__(self, exits: tuple[str, ...]) -> None:
        self._exits = exits
        self._rows = np.zeros(0, self.ROW)
        self._causes: dict[int, str] = {}
        self._first = 0  # the number of the row at position 0
        self._start = self._stop = 0  # positions of the rows that are kept
        self._sizes: deque[int] = deque()

    @property
    def kept(self) -> int:
        """The rows of incoming batches that are not complete, and of those behind them."""
        return self._stop - self._start

    def open(self, count: int) -> Array:
        """Numbers for the rows of an incoming batch."""
        if self._stop + count > len(self._rows):
            rows = np.zeros(2 * (self.kept + count), self.ROW)
            rows[: self.kept] = self._rows[self._start : self._stop]
            self._first += self._start
            self._rows, self._start, self._stop = rows, 0, self.kept
        start = self._first + self._stop
        self._stop += count
        self._sizes.append(count)
        return np.arange(start, start + count)

    def write(self, ids: Array, *, prediction: Array, confidence: Array, exit: int) -> None:
        """Keep the answers to some rows."""
        at = ids - self._first
        self._rows["prediction"][at] = prediction
        self._rows["confidence"][at] = confidence
        self._rows["exit"][at] = exit
        self._rows["done"][at] = True

    def fail(self, ids: Array, cause: str) -> None:
        """Keep why some rows have no answer."""
        nobody = np.full(len(ids), FAILED)
        sure = np.full(len(ids), np.nan, np.float32)
        self.write(ids, prediction=nobody, confidence=sure, exit=FAILED)
        self._causes.update(dict.fromkeys(ids.tolist(), cause))

    def ready(self) -> Iterator[Answers]:
        """The answers to each complete incoming batch, in order."""
        while self._sizes:
            rows = self._rows[self._start : self._start + self._sizes[0]]
            if not rows["done"].all():
                return
            number = self._first + self._start
            self._start += self._sizes.popleft()
            lost = np.flatnonzero(rows["exit"] == FAILED).tolist()
            yield Answers(
                rows["prediction"].copy(),
                rows["confidence"].copy(),
                rows["exit"].copy(),
                self._exits,
                failed={row: self._causes.pop(number + row) for row in lost},
            )
