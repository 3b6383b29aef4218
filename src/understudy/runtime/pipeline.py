"""The stages of one policy in a line, each with a room before it: how rows travel and fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from threading import Lock
from time import perf_counter
from typing import Protocol

import numpy as np

from understudy.errors import ModelError
from understudy.runtime.buffer import RowBatch, StageBuffer
from understudy.runtime.errors import NotANumber
from understudy.runtime.metrics import Metrics
from understudy.runtime.protocol import Array, RunnerOutput, StageRunner


class ResultSink(Protocol):
    """Who is told what became of rows, by their numbers."""

    def answered(self, runner: StageRunner, ids: Array, said: RunnerOutput, rows: Array) -> None:
        """A stage has answered these rows of what it said."""

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Nobody will answer these."""

    def wanted(self, ids: Array) -> Array | None:
        """The places of those that are still waited for; None where all are."""


class Pipeline:
    """The stages of one policy, each with the rows that wait for it.

    Rows that a stage leaves are copied into the room of the next; whenever a room is full, that
    stage is run. A batch that raises is halved and tried again, so that only the rows at fault
    fail; where memory ran out the stage takes smaller batches from then on. A `ModelError` speaks
    of the model and not of rows: all of the batch fails at once.

    Args:
        judges: the stages in the order they are asked.
        desk: who is told.
        tally: where it is counted, and how many rows a stage takes at a time.
        device: held while a stage runs.
    """

    def __init__(
        self,
        runners: tuple[StageRunner, ...],
        desk: ResultSink,
        *,
        tally: Metrics,
        device: Lock,
    ) -> None:
        self.runners = runners
        self.rooms = [StageBuffer(runner, tally) for runner in runners]
        self._desk, self._tally, self._device = desk, tally, device
        self._classes: tuple[str, int] | None = None

    def feed(self, position: int, load: RowBatch, rows: Array) -> None:
        """Let rows of a load wait for a stage, which is run whenever its batch is full."""
        room = self.rooms[position]
        if len(rows) and not room.fits(load):
            self.flush(position)
        while len(rows):
            if room.free <= 0:
                self.flush(position)
            now = rows[: room.free]
            if not self._added(position, load, now):
                continue
            rows = rows[len(now) :]
            if room.free <= 0:
                self.flush(position)

    def flush(self, position: int) -> None:
        """Run a stage on all that waits for it."""
        if self.rooms[position].count:
            self.run(position, self.rooms[position].take())

    def drain(self) -> None:
        """Run all that waits."""
        for position in range(len(self.rooms)):
            self.flush(position)

    def run(self, position: int, load: RowBatch) -> None:
        """Run a stage on rows, and let those that it leaves wait for the next."""
        runner = self.runners[position]
        kept = self._desk.wanted(load.ids)
        if kept is not None:
            if not len(kept):
                return
            with suppress(Exception):  # no memory for a copy: those that left are run as well
                load = load.select(kept, runner)
        for part, said in self._asked(runner, load):
            if isinstance(said, Exception):
                self._fail(runner, part.ids, said)
            elif (error := self._misfit(runner, said)) is not None:
                self._fail(runner, part.ids, error)
            else:
                self._settle(position, part.ids, said)

    def _added(self, position: int, load: RowBatch, rows: Array) -> bool:
        """Try to let rows wait; False asks to try again with the fewer that there is memory for."""
        runner = self.runners[position]
        try:
            self.rooms[position].add(load, rows)
        except Exception as error:  # noqa: BLE001
            limit = self._tally.limit(runner.name)
            if limit > 1 and runner.ran_out(error):
                self._tally.ran_out(runner.name, limit)
                return False
            self._fail(runner, load.ids[rows], error)
        return True

    def _asked(
        self, runner: StageRunner, load: RowBatch
    ) -> Iterator[tuple[RowBatch, RunnerOutput | Exception]]:
        """What a stage says about the rows, in parts where it cannot take them all."""
        todo = [load]
        while todo:
            part = todo.pop()
            count = len(part.ids)
            if count <= self._tally.limit(runner.name):
                try:
                    with self._device:
                        start = perf_counter()
                        said = runner.run_stage(part.images, part.state)
                        self._tally.time(runner.name, perf_counter() - start)
                except Exception as error:  # noqa: BLE001
                    if count == 1 or isinstance(error, ModelError):
                        yield part, error
                        continue
                    if runner.ran_out(error):
                        self._tally.ran_out(runner.name, count)
                else:
                    yield part, said
                    continue
            middle = (count + 1) // 2
            todo += [part.part(middle, count), part.part(0, middle)]

    def _settle(self, position: int, ids: Array, said: RunnerOutput) -> None:
        """Tell the rows that are answered, and pass on those that are left."""
        runner = self.runners[position]
        nan = np.isnan(said.confidence)
        self._tally.ran(runner.name, len(ids), nan=int(nan.sum()))
        done = np.ones(len(ids), bool)
        done[said.left] = False
        silent = np.flatnonzero(done & nan)
        if len(silent):
            self._fail(runner, ids[silent], NotANumber(runner.name))
        answered = np.flatnonzero(done & ~nan)
        if len(answered):
            self._desk.answered(runner, ids[answered], said, answered)
        if len(said.left):
            self.feed(position + 1, RowBatch(said.images, said.state, ids), said.left)

    def _misfit(self, runner: StageRunner, said: RunnerOutput) -> ModelError | None:
        """All stages speak of the same classes."""
        if self._classes is None:
            self._classes = (runner.name, said.classes)
        first, classes = self._classes
        if classes == said.classes:
            return None
        return ModelError(
            f"all stages of a cascade have the same classes, {first!r} has {classes} and "
            f"{runner.name!r} has {said.classes}: use models with the same head"
        )

    def _fail(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        self._tally.failed(runner.name, len(ids))
        self._desk.failed(runner, ids, error)
