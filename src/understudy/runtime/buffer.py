"""Rows between stages, and the buffers in which they wait until a batch is full."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from understudy.runtime.loader_batch import is_array
from understudy.runtime.metrics import Metrics
from understudy.runtime.protocol import Array, StageRunner


class RowBatch(NamedTuple):
    """Rows between two stages: images, their state, and their ids (n,)."""

    images: Any
    state: Mapping[Any, Any]
    ids: Array

    def slice(self, start: int, stop: int) -> RowBatch:
        """Adjacent rows, not copied."""
        state = {key: value[start:stop] for key, value in self.state.items()}
        return RowBatch(self.images[start:stop], state, self.ids[start:stop])

    def select(self, rows: Array, runner: StageRunner) -> RowBatch:
        """Some of the rows, copied to where a stage runs."""

        def copied(source: Any) -> Any:
            target = runner.buffer(len(rows), source)
            runner.gather(source, rows, target)
            return target

        images = copied(self.images) if is_array(self.images) else pick(self.images, rows)
        state = {key: copied(value) for key, value in self.state.items()}
        return RowBatch(images, state, self.ids[rows])


class StageBuffer:
    """The rows that wait for one stage, in order, each copied once.

    Holds at most as many rows as the stage takes at a time. The memory is reused as long as rows
    have the same shapes.
    """

    def __init__(self, runner: StageRunner, metrics: Metrics) -> None:
        self.count = 0
        self.since = 0.0  # when the oldest row was added
        self._runner, self._metrics = runner, metrics
        self._size = 0
        self._images: Any = []
        self._state: dict[Any, Any] = {}
        self._ids = np.empty(0, np.int64)
        self._signature: Mapping[Any, object] = {}

    @property
    def free(self) -> int:
        """The number of rows that still fit; 0 or less means that the buffer has to be emptied."""
        limit = self._metrics.limit(self._runner.name)
        return (min(limit, self._size) if self.count else limit) - self.count

    def fits(self, batch: RowBatch) -> bool:
        """Whether the rows have the shapes and dtypes of those that wait."""
        return not self.count or _signature(batch) == self._signature

    def add(self, batch: RowBatch, rows: Array) -> None:
        """Copy some rows of a batch behind those that wait."""
        if not self.count:
            self._prepare(batch, len(rows))
            self.since = time.monotonic()
        stop = self.count + len(rows)
        for buffer, value in self._pairs(batch):
            self._runner.gather(value, rows, buffer[self.count : stop])
        if not is_array(self._images):
            self._images.extend(pick(batch.images, rows))
        self._ids[self.count : stop] = batch.ids[rows]
        self.count = stop
        self._metrics.add_waiting(len(rows))

    def take(self) -> RowBatch:
        """All rows that wait, as views that are valid until the next row is added."""
        batch = RowBatch(self._images, self._state, self._ids).slice(0, self.count)
        self._metrics.remove_waiting(self.count)
        self.count = 0
        if not is_array(self._images):
            self._images = []
        return batch

    def _prepare(self, batch: RowBatch, rows: int) -> None:
        """Allocate memory for such rows, unless that of the last batch fits."""
        limit = max(rows, self._metrics.limit(self._runner.name))  # another thread may lower it
        signature = _signature(batch)
        if limit == self._size and signature == self._signature:
            return
        self._size, self._images, self._state, self._signature = 0, [], {}, {}
        if is_array(batch.images):
            self._images = self._runner.buffer(limit, batch.images)
        self._state = {key: self._runner.buffer(limit, value) for key, value in batch.state.items()}
        self._ids = np.empty(limit, np.int64)
        self._size, self._signature = limit, signature

    def _pairs(self, batch: RowBatch) -> Iterator[tuple[Any, Any]]:
        """Each buffer with the rows that are copied into it."""
        if is_array(self._images):
            yield self._images, batch.images
        for key, buffer in self._state.items():
            yield buffer, batch.state[key]


def pick(images: Any, rows: Array) -> list[Any]:
    """Some of a list of images."""
    return [images[row] for row in rows.tolist()]


def _signature(batch: RowBatch) -> dict[Any, object]:
    """The shape and dtype of a row, per value; images have no key."""
    images = _kind(batch.images) if is_array(batch.images) else None
    return {None: images, **{key: _kind(value) for key, value in batch.state.items()}}


def _kind(value: Any) -> object:
    return tuple(value.shape[1:]), str(value.dtype)
