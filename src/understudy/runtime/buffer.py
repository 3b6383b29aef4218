"""Rows on their way between stages, and the rooms in which they wait for company."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from understudy.runtime.metrics import Metrics
from understudy.runtime.protocol import Array, StageRunner


class RowBatch(NamedTuple):
    """Rows on their way: images, the state that belongs to them, and their numbers."""

    images: Any
    state: Mapping[str, Any]
    ids: Array

    def part(self, start: int, stop: int) -> RowBatch:
        """Some rows in a row, not copied."""
        state = {name: value[start:stop] for name, value in self.state.items()}
        return RowBatch(self.images[start:stop], state, self.ids[start:stop])

    def select(self, rows: Array, runner: StageRunner) -> RowBatch:
        """Some of the rows, copied."""

        def copied(source: Any) -> Any:
            target = runner.buffer(len(rows), source)
            runner.gather(source, rows, target)
            return target

        images = copied(self.images) if is_one(self.images) else pick(self.images, rows)
        state = {name: copied(value) for name, value in self.state.items()}
        return RowBatch(images, state, self.ids[rows])


class StageBuffer:
    """The rows that wait for one stage, in order, each copied once.

    At most as many as the stage takes at a time. The buffers are used again as long as rows fit.
    """

    def __init__(self, runner: StageRunner, tally: Metrics) -> None:
        self.count = 0
        self.since = 0.0  # when the oldest row came
        self._judge, self._tally = runner, tally
        self._size = 0
        self._images: Any = []
        self._state: dict[str, Any] = {}
        self._ids = np.empty(0, np.int64)
        self._kinds: Mapping[str, object] = {}

    @property
    def free(self) -> int:
        """How many more rows find a place; none or less says that the room has to be emptied."""
        limit = self._tally.limit(self._judge.name)
        return (min(limit, self._size) if self.count else limit) - self.count

    def fits(self, load: RowBatch) -> bool:
        """Whether the rows can wait beside those that are there."""
        return not self.count or _kinds(load) == self._kinds

    def add(self, load: RowBatch, rows: Array) -> None:
        """Copy some rows of a load behind those that are there."""
        if not self.count:
            self._prepare(load, len(rows))
            self.since = time.monotonic()
        stop = self.count + len(rows)
        for buffer, value in self._pairs(load):
            self._judge.gather(value, rows, buffer[self.count : stop])
        if not is_one(self._images):
            self._images.extend(pick(load.images, rows))
        self._ids[self.count : stop] = load.ids[rows]
        self.count = stop
        self._tally.came(len(rows))

    def take(self) -> RowBatch:
        """All that waits, as views that are good until the next row is added."""
        load = RowBatch(self._images, self._state, self._ids).part(0, self.count)
        self._tally.went(self.count)
        self.count = 0
        if not is_one(self._images):
            self._images = []
        return load

    def _prepare(self, load: RowBatch, rows: int) -> None:
        """Make buffers for such rows; those of the last batch are used again where they fit."""
        limit = max(rows, self._tally.limit(self._judge.name))  # which another thread may lower
        kinds = _kinds(load)
        if limit == self._size and kinds == self._kinds:
            return
        self._size, self._images, self._state, self._kinds = 0, [], {}, {}
        if is_one(load.images):
            self._images = self._judge.buffer(limit, load.images)
        self._state = {name: self._judge.buffer(limit, value) for name, value in load.state.items()}
        self._ids = np.empty(limit, np.int64)
        self._size, self._kinds = limit, kinds

    def _pairs(self, load: RowBatch) -> Iterator[tuple[Any, Any]]:
        """Each buffer with the rows that are copied into it."""
        if is_one(self._images):
            yield self._images, load.images
        for name, buffer in self._state.items():
            yield buffer, load.state[name]


def is_one(images: Any) -> bool:
    """Whether images are one array or tensor, rather than a list of single ones."""
    return hasattr(images, "shape")


def pick(images: Any, rows: Array) -> list[Any]:
    """Some of a list of images."""
    return [images[row] for row in rows.tolist()]


def _kinds(load: RowBatch) -> dict[str, object]:
    """What the rows of a load are like, by the names of its values; images have no name."""
    kinds = {name: _kind(value) for name, value in load.state.items()}
    return {"": _kind(load.images) if is_one(load.images) else None, **kinds}


def _kind(value: Any) -> object:
    return tuple(value.shape[1:]), str(value.dtype)
