"""Running a cascade over many batches: each stage waits until it has a full batch to work on."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from understudy.errors import DataError, ModelError
from understudy.runtime.answers import Answers
from understudy.runtime.buffer import RowBatch, is_one
from understudy.runtime.errors import cause_of
from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.protocol import Array, Runnable, RunnerOutput, StageRunner
from understudy.runtime.reorder_buffer import ReorderBuffer

LAG = 256
"""How many batches of answers may wait for an earlier row before part-filled batches are run."""


class OfflineRun:
    """Incoming batches, the line that they go through, and the answers in order.

    Memory: besides the incoming batch at most one batch of rows waits at each stage. Answers to
    rows behind one that still waits are kept (21 bytes a row); when `LAG` batches of them are kept,
    all that waits is run.
    """

    def __init__(self, cascade: Runnable, *, tally: Metrics, device: Lock) -> None:
        self._cascade, self._tally, self._device = cascade, tally, device
        self._window = ReorderBuffer(cascade.exits)
        self._line = self._opened(cascade.runners)

    def put(self, images: Any) -> None:
        """Take an incoming batch; whole batches of the first stage are run without a copy.

        Raises:
            DataError: something beside images.
            ModelError: a model that breaks its contract.
        """
        _check(images)
        runners = self._cascade.runners
        if runners is not self._line.runners:
            self.drain()
            self._line = self._opened(runners)
        count, room = len(images), self._line.rooms[0]
        load = RowBatch(images, {}, self._window.open(count))
        start = min(max(room.free, 0), count) if room.count else 0
        self._line.feed(0, load, np.arange(start))
        while not room.count and count - start >= (limit := self._tally.limit(runners[0].name)):
            self._line.run(0, load.part(start, start + limit))
            start += limit
        self._line.feed(0, load, np.arange(start, count))
        if self._window.kept > LAG * self._widest:
            self.drain()

    def drain(self) -> None:
        """Run all that waits."""
        self._line.drain()

    def leave(self) -> None:
        """Let go of what waits, where nobody wants the answers any more."""
        for room in self._line.rooms:
            room.take()

    def ready(self) -> Iterator[Answers]:
        """The answers to incoming batches that are complete, in order."""
        return self._window.ready()

    def answered(self, runner: StageRunner, ids: Array, said: RunnerOutput, rows: Array) -> None:
        """Keep answers until their turn."""
        self._window.write(
            ids,
            prediction=said.prediction[rows],
            confidence=said.confidence[rows],
            exit=runner.number,
        )

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:  # noqa: ARG002
        """Keep why there is no answer; an error of the model ends the run."""
        if isinstance(error, ModelError):
            raise error
        self._window.fail(ids, cause_of(error))

    def wanted(self, ids: Array) -> None:
        """All rows are waited for."""

    def _opened(self, runners: tuple[StageRunner, ...]) -> Pipeline:
        self._widest = max(self._tally.limit(runner.name) for runner in runners)
        return Pipeline(runners, self, tally=self._tally, device=self._device)


def _check(images: Any) -> None:
    """A batch is one array or tensor, or a list of single images: all of as many dimensions."""
    if is_one(images):
        return
    found = {len(one.shape) if is_one(one) else None for one in images}
    if len(found) > 1 or None in found:
        raise DataError(
            "a batch is images alone, found a list of things of different dimensions (such as "
            "images and labels): give the images of what the loader yields"
        )
