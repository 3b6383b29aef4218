"""Running a cascade over many batches: each stage waits until it has a full batch to work on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from understudy.errors import ModelError
from understudy.runtime.buffer import RowBatch
from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import BufferedPipeline, answered_and_failed
from understudy.runtime.protocol import (
    FAILED,
    Answers,
    Array,
    Runnable,
    RunnerOutput,
    StageRunner,
    cause_of,
    class_names_of,
)

MAX_LAG = 256
"""How many batches of answers may wait for an earlier row before part-filled batches are run."""


class OfflineRun:
    """Incoming batches, the pipeline that they go through, and the answers in order.

    Memory: besides the incoming batch at most one batch of rows waits at each stage. Answers behind
    a row that still waits are kept (21 bytes a row); when `MAX_LAG` batches of them are kept, all
    waiting rows are run.
    """

    def __init__(self, cascade: Runnable, *, metrics: Metrics, device: Lock) -> None:
        self._cascade, self._metrics, self._device = cascade, metrics, device
        self._answers = ReorderBuffer(cascade.exits, class_names_of(cascade))
        self._pipeline = self._opened(cascade.runners)

    def put(self, images: Any) -> None:
        """Take an incoming batch; whole batches of the first stage are run without a copy.

        Raises:
            ModelError: a model that violates its contract.
        """
        runners = self._cascade.runners
        if runners is not self._pipeline.runners:
            self.drain()
            self._pipeline = self._opened(runners)
        count, buffer = len(images), self._pipeline.buffers[0]
        batch = RowBatch(images, {}, self._answers.open(count))
        start = min(max(buffer.free, 0), count) if buffer.count else 0
        self._pipeline.feed(0, batch, np.arange(start))
        name = runners[0].name
        while not buffer.count and count - start >= (limit := self._metrics.limit(name)):
            self._pipeline.run(0, batch.slice(start, start + limit))
            start += limit
        self._pipeline.feed(0, batch, np.arange(start, count))
        if self._answers.kept > MAX_LAG * self._largest_batch:
            self.drain()

    def drain(self) -> None:
        """Run all stages on the rows that wait."""
        self._pipeline.drain()

    def discard(self) -> None:
        """Drop the rows that wait, where the answers are no longer needed."""
        for buffer in self._pipeline.buffers:
            buffer.take()

    def ready(self) -> Iterator[Answers]:
        """The answers to incoming batches that are complete, in order."""
        return self._answers.ready()

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        """Keep answers until those before them are complete."""
        rows, _ = answered_and_failed(output)
        if len(rows):
            self._answers.write(
                ids[rows],
                prediction=output.prediction[rows],
                confidence=output.confidence[rows],
                exit=runner.number,
            )

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:  # noqa: ARG002
        """Keep the reason of a missing answer; an error of the model ends the run."""
        if isinstance(error, ModelError):
            raise error
        self._answers.fail(ids, cause_of(error))

    def active(self, ids: Array) -> None:
        """No row is ever cancelled."""

    def _opened(self, runners: tuple[StageRunner, ...]) -> BufferedPipeline:
        self._largest_batch = max(self._metrics.limit(runner.name) for runner in runners)
        return BufferedPipeline(runners, self, metrics=self._metrics, device=self._device)


class ReorderBuffer:
    """Answers by row id, from the first row whose incoming batch is not complete."""

    ROW = np.dtype([("prediction", "i8"), ("confidence", "f4"), ("exit", "i8"), ("done", "?")])

    def __init__(self, exits: tuple[str, ...], classes: tuple[str, ...] | None) -> None:
        self._exits, self._classes = exits, classes
        self._rows = np.zeros(0, self.ROW)
        self._causes: dict[int, str] = {}
        self._first = 0  # the id of the row at position 0
        self._start = self._stop = 0  # positions of the rows that are kept
        self._sizes: deque[int] = deque()

    @property
    def kept(self) -> int:
        """The number of rows of incomplete batches, and of those behind them."""
        return self._stop - self._start

    def open(self, count: int) -> Array:
        """Ids for the rows of an incoming batch."""
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
        """Keep the reason why some rows have no answer."""
        failed, nan = np.full(len(ids), FAILED), np.full(len(ids), np.nan, np.float32)
        self.write(ids, prediction=failed, confidence=nan, exit=FAILED)
        self._causes.update(dict.fromkeys(ids.tolist(), cause))

    def ready(self) -> Iterator[Answers]:
        """The answers to each complete incoming batch, in order."""
        while self._sizes:
            rows = self._rows[self._start : self._start + self._sizes[0]]
            if not rows["done"].all():
                return
            first = self._first + self._start
            self._start += self._sizes.popleft()
            failed = np.flatnonzero(rows["exit"] == FAILED).tolist()
            yield Answers(
                rows["prediction"].copy(),
                rows["confidence"].copy(),
                rows["exit"].copy(),
                self._exits,
                failed={row: self._causes.pop(first + row) for row in failed},
                classes=self._classes,
            )
