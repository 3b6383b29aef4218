"""The step loop of the runtime: run a stage, keep the rows that it defers, go on to the next.

`Pipeline` runs one batch through all stages at once; `BufferedPipeline` lets the deferred rows of
many batches wait until a batch of the next stage is full, and survives failures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from threading import Lock
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from understudy.errors import DataError, ModelError
from understudy.runtime.buffer import RowBatch, StageBuffer
from understudy.runtime.metrics import Metrics
from understudy.runtime.protocol import (
    FAILED,
    Answers,
    Array,
    NoFurtherStage,
    NotANumber,
    RunnerOutput,
    StageFailed,
    StageRunner,
    is_out_of_memory,
)


class ResultSink(Protocol):
    """Receives the results of rows, by their ids."""

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        """A stage has run on these rows; `answered_and_failed` says which have answers."""

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """These rows will not be answered."""


class RequestSink(ResultSink, Protocol):
    """A sink whose rows may be cancelled while they wait."""

    def active(self, ids: Array) -> Array | None:
        """The positions of the rows that are not cancelled; None if all of them are active."""


class Pipeline:
    """Runs batches through the stages of one policy, each batch by itself.

    Args:
        runners: the stages in order.
        sink: receives what becomes of the rows.
    """

    def __init__(self, runners: tuple[StageRunner, ...], sink: ResultSink) -> None:
        self.runners = runners
        self.sink = sink
        self._classes: tuple[str, int] | None = None

    def run_batch(self, images: Any) -> None:
        """Run the stages one after another, each on the rows that the one before defers.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        if not len(images):
            raise DataError("a batch has at least one image, found none")
        batch = RowBatch(images, {}, np.arange(len(images)))
        for runner, following in zip(self.runners, (*self.runners[1:], None), strict=True):
            output = runner.run(batch.images, batch.state)
            self._check_classes(runner, output)
            deferred = self.settle(runner, batch.ids, output)
            if following is None or deferred is None:
                return
            everything = len(output.deferred) == len(batch.ids)
            batch = deferred if everything else deferred.select(output.deferred, following)

    def settle(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> RowBatch | None:
        """Hand over the output of a stage; the batch for the next stage if any row is deferred."""
        self.sink.visited(runner, ids, output)
        _, failed = answered_and_failed(output)
        if len(failed):
            self._fail(runner, ids[failed], NotANumber(runner.name))
        if len(output.deferred) and runner is self.runners[-1]:
            self._fail(runner, ids[output.deferred], NoFurtherStage(runner.name))
            return None
        return RowBatch(output.images, output.state, ids) if len(output.deferred) else None

    def _fail(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        self.sink.failed(runner, ids, error)

    def _check_classes(self, runner: StageRunner, output: RunnerOutput) -> None:
        if self._classes is None:
            self._classes = (runner.name, output.classes)
        check_classes(*self._classes, runner.name, output.classes)


class BufferedPipeline(Pipeline):
    """Lets rows wait in front of each stage, which is run when its buffer is full.

    A batch that raises is halved and tried again, so that only the rows at fault fail; where memory
    ran out the stage takes smaller batches from then on. A `ModelError` concerns the model and not
    the rows, and a function that raised (`StageFailed`) is not called again: all rows of the batch
    fail at once.

    Args:
        runners: the stages in order.
        sink: receives what becomes of the rows.
        metrics: counts, and holds the number of rows that a stage takes at a time.
        device: held while a stage runs.
    """

    sink: RequestSink

    def __init__(
        self,
        runners: tuple[StageRunner, ...],
        sink: RequestSink,
        *,
        metrics: Metrics,
        device: Lock,
    ) -> None:
        super().__init__(runners, sink)
        self.buffers = [StageBuffer(runner, metrics) for runner in runners]
        self.away = 0  # batches whose rows wait for what is computed elsewhere
        self._metrics, self._device = metrics, device

    def feed(self, position: int, batch: RowBatch, rows: Array) -> None:
        """Let rows of a batch wait for a stage, which is run whenever its buffer is full."""
        buffer = self.buffers[position]
        if len(rows) and not buffer.fits(batch):
            self.flush(position)
        while len(rows):
            if buffer.free <= 0:
                self.flush(position)
            now = rows[: buffer.free]
            if not self._added(position, batch, now):
                continue
            rows = rows[len(now) :]
            if buffer.free <= 0:
                self.flush(position)

    def flush(self, position: int) -> None:
        """Run a stage on all rows that wait for it."""
        if self.buffers[position].count:
            self.run(position, self.buffers[position].take())

    def drain(self) -> None:
        """Run all stages on the rows that wait."""
        for position in range(len(self.buffers)):
            self.flush(position)

    def run(self, position: int, batch: RowBatch) -> None:
        """Run a stage on rows, and let those that it defers wait for the next stage."""
        runner = self.runners[position]
        active = self.sink.active(batch.ids)
        if active is not None:
            if not len(active):
                return
            with suppress(Exception):  # no memory for a copy: cancelled rows are run as well
                batch = batch.select(active, runner)
        for part, output in self._outputs(runner, batch):
            if isinstance(output, Exception):
                self._fail(runner, part.ids, output)
                continue
            try:
                self._check_classes(runner, output)
            except ModelError as error:
                self._fail(runner, part.ids, error)
                continue
            nan = int(np.isnan(output.confidence).sum())
            self._metrics.add_batch(runner.name, len(part.ids), nan=nan)
            deferred = self.settle(runner, part.ids, output)
            if deferred is not None:
                self.feed(position + 1, deferred, output.deferred)

    def _added(self, position: int, batch: RowBatch, rows: Array) -> bool:
        """Try to let rows wait; False means: try again with the fewer rows that memory allows."""
        runner = self.runners[position]
        try:
            self.buffers[position].add(batch, rows)
        except Exception as error:  # noqa: BLE001
            limit = self._metrics.limit(runner.name)
            if limit > 1 and is_out_of_memory(error):
                self._metrics.halve_limit(runner.name, limit)
                return False
            self._fail(runner, batch.ids[rows], error)
        return True

    def _outputs(
        self, runner: StageRunner, batch: RowBatch
    ) -> Iterator[tuple[RowBatch, RunnerOutput | Exception]]:
        """The output for the rows, in parts where the stage cannot take them all."""
        todo = [batch]
        while todo:
            part = todo.pop()
            count = len(part.ids)
            if count <= self._metrics.limit(runner.name):
                try:
                    with self._device:
                        start = perf_counter()
                        output = runner.run(part.images, part.state)
                        self._metrics.add_seconds(runner.name, perf_counter() - start)
                except Exception as error:  # noqa: BLE001
                    if count == 1 or isinstance(error, ModelError | StageFailed):
                        yield part, error
                        continue
                    if is_out_of_memory(error):
                        self._metrics.halve_limit(runner.name, count)
                else:
                    yield part, output
                    continue
            middle = (count + 1) // 2
            todo += [part.slice(middle, count), part.slice(0, middle)]

    def _fail(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        self._metrics.add_failed(runner.name, len(ids))
        super()._fail(runner, ids, error)


class AnswerSink:
    """Collects the answers to one batch, whose ids are its row numbers."""

    def __init__(
        self, count: int, exits: tuple[str, ...], classes: tuple[str, ...] | None = None
    ) -> None:
        self._prediction, self._exit = np.empty(count, np.int64), np.empty(count, np.int64)
        self._confidence = np.empty(count, np.float32)
        self._exits, self._classes, self._failed = exits, classes, dict[int, str]()

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        """Write the output of the stage; a later stage overwrites the rows that were deferred."""
        self._prediction[ids], self._confidence[ids] = output.prediction, output.confidence
        self._exit[ids] = runner.number

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:  # noqa: ARG002
        """Mark rows that have no answer."""
        self._prediction[ids] = self._exit[ids] = FAILED
        self._failed |= dict.fromkeys(ids.tolist(), str(error))

    def answers(self) -> Answers:
        """The answers so far."""
        return Answers(
            self._prediction,
            self._confidence,
            self._exit,
            self._exits,
            failed=self._failed,
            classes=self._classes,
        )


def answered_and_failed(output: RunnerOutput) -> tuple[Array, Array]:
    """The rows that a stage answers, and those of NaN that it does not defer; each (k,) int64."""
    final, nan = np.ones(len(output.confidence), bool), np.isnan(output.confidence)
    final[output.deferred] = False
    return np.flatnonzero(final & ~nan), np.flatnonzero(final & nan)


def check_classes(first: str, classes: int, other: str, found: int) -> None:
    """Stages of one cascade have the same classes.

    Raises:
        ModelError: they have not.
    """
    if classes != found:
        raise ModelError(
            f"all stages of a cascade have the same classes, {first!r} has {classes} and {other!r} "
            f"has {found}: use models with the same head"
        )
