"""The stages of one policy in a line, each with a room before it: how rows travel and fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from threading import Lock
from time import perf_counter
from typing import Protocol

import numpy as np

from understudy.errors import ModelError
from understudy.execution.faults import NotANumber
from understudy.execution.protocol import Array, Judge, Said
from understudy.execution.room import Load, Room
from understudy.execution.stats import Tally


class Desk(Protocol):
    """Who is told what became of rows, by their numbers."""

    def answered(self, judge: Judge, ids: Array, said: Said, rows: Array) -> None:
        """A stage has answered these rows of what it said."""

    def failed(self, judge: Judge, ids: Array, error: Exception) -> None:
        """Nobody will answer these."""

    def wanted(self, ids: Array) -> Array | None:
        """The places of those that are still waited for; None where all are."""


class Line:
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
        judges: tuple[Judge, ...],
        desk: Desk,
        *,
        tally: Tally,
        device: Lock,
    ) -> None:
        self.judges = judges
        self.rooms = [Room(judge, tally) for judge in judges]
        self._desk, self._tally, self._device = desk, tally, device
        self._classes: tuple[str, int] | None = None

    def feed(self, position: int, load: Load, rows: Array) -> None:
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

    def run(self, position: int, load: Load) -> None:
        """Run a stage on rows, and let those that it leaves wait for the next."""
        judge = self.judges[position]
        kept = self._desk.wanted(load.ids)
        if kept is not None:
            if not len(kept):
                return
            with suppress(Exception):  # no memory for a copy: those that left are run as well
                load = load.select(kept, judge)
        for part, said in self._asked(judge, load):
            if isinstance(said, Exception):
                self._fail(judge, part.ids, said)
            elif (error := self._misfit(judge, said)) is not None:
                self._fail(judge, part.ids, error)
            else:
                self._settle(position, part.ids, said)

    def _added(self, position: int, load: Load, rows: Array) -> bool:
        """Try to let rows wait; False asks to try again with the fewer that there is memory for."""
        judge = self.judges[position]
        try:
            self.rooms[position].add(load, rows)
        except Exception as error:  # noqa: BLE001
            limit = self._tally.limit(judge.name)
            if limit > 1 and judge.ran_out(error):
                self._tally.ran_out(judge.name, limit)
                return False
            self._fail(judge, load.ids[rows], error)
        return True

    def _asked(self, judge: Judge, load: Load) -> Iterator[tuple[Load, Said | Exception]]:
        """What a stage says about the rows, in parts where it cannot take them all."""
        todo = [load]
        while todo:
            part = todo.pop()
            count = len(part.ids)
            if count <= self._tally.limit(judge.name):
                try:
                    with self._device:
                        start = perf_counter()
                        said = judge.ask(part.images, part.state)
                        self._tally.time(judge.name, perf_counter() - start)
                except Exception as error:  # noqa: BLE001
                    if count == 1 or isinstance(error, ModelError):
                        yield part, error
                        continue
                    if judge.ran_out(error):
                        self._tally.ran_out(judge.name, count)
                else:
                    yield part, said
                    continue
            middle = (count + 1) // 2
            todo += [part.part(middle, count), part.part(0, middle)]

    def _settle(self, position: int, ids: Array, said: Said) -> None:
        """Tell the rows that are answered, and pass on those that are left."""
        judge = self.judges[position]
        nan = np.isnan(said.confidence)
        self._tally.ran(judge.name, len(ids), nan=int(nan.sum()))
        done = np.ones(len(ids), bool)
        done[said.left] = False
        silent = np.flatnonzero(done & nan)
        if len(silent):
            self._fail(judge, ids[silent], NotANumber(judge.name))
        answered = np.flatnonzero(done & ~nan)
        if len(answered):
            self._desk.answered(judge, ids[answered], said, answered)
        if len(said.left):
            self.feed(position + 1, Load(said.images, said.state, ids), said.left)

    def _misfit(self, judge: Judge, said: Said) -> ModelError | None:
        """All stages speak of the same classes."""
        if self._classes is None:
            self._classes = (judge.name, said.classes)
        first, classes = self._classes
        if classes == said.classes:
            return None
        return ModelError(
            f"all stages of a cascade have the same classes, {first!r} has {classes} and "
            f"{judge.name!r} has {said.classes}: use models with the same head"
        )

    def _fail(self, judge: Judge, ids: Array, error: Exception) -> None:
        self._tally.failed(judge.name, len(ids))
        self._desk.failed(judge, ids, error)
