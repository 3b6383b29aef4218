"""Stages whose models run elsewhere: their logits are asked for, and the stage goes on with them.

The executor neither waits for them nor loses count: rows that are away are in flight like others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Protocol

import numpy as np

from understudy.runtime.buffer import RowBatch
from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import BufferedPipeline, RequestSink
from understudy.runtime.protocol import (
    Array,
    ExecutionError,
    RunnerOutput,
    StageRunner,
    StateKey,
)

RemoteOutcome = Array | Exception
"""The logits (C,) float32 of a row, or why there are none."""

Done = Callable[[Sequence[RemoteOutcome]], object]
"""Takes the outcomes of rows in their order; called once, from any thread."""


class RemoteModel(Protocol):
    """A model that runs elsewhere."""

    def send(self, images: Any, done: Done, *, background: bool) -> None:
        """Ask for the logits of images, without waiting for them.

        Args:
            images: of at least one row, as a stage takes them; they are not written to meanwhile.
            done: receives the outcomes.
            background: whether others go first.
        """


@dataclass(frozen=True)
class RunnerAround:
    """A stage that does what another does, but for what a subclass changes.

    Attributes:
        runner: the other.
    """

    runner: StageRunner

    @property
    def number(self) -> int:
        """The position of the stage in the cascade's `exits`."""
        return self.runner.number

    @property
    def name(self) -> str:
        """The name of the exit."""
        return self.runner.name

    def run(self, images: Any, state: Any) -> RunnerOutput:
        """The output of the stage."""
        return self.runner.run(images, state)

    def stack(self, samples: Sequence[Any]) -> Any:
        """Single images of one shape and dtype as one batch."""
        return self.runner.stack(samples)

    def buffer(self, size: int, like: Any) -> Any:
        """Memory for `size` rows like those of another array."""
        return self.runner.buffer(size, like)

    def gather(self, source: Any, rows: Array, target: Any) -> None:
        """Copy rows into a slice of a buffer."""
        self.runner.gather(source, rows, target)

    def host_logits(self, logits: Any, rows: Array) -> Array:
        """Some rows of an output's logits as float32 on the host."""
        return self.runner.host_logits(logits, rows)


@dataclass(frozen=True)
class RemoteRunner(RunnerAround):
    """A stage some of whose models run elsewhere; it runs once their logits are in the state.

    So a stage decides where its rows are, whatever answers them: only images go to a model, and
    only logits come back.

    Attributes:
        models: exit -> the model that runs elsewhere; several for an ensemble.
    """

    models: Mapping[str, RemoteModel]

    def missing(self, state: Mapping[Any, Any]) -> str | None:
        """The exit whose logits have to be asked for next; None where all are there."""
        if StateKey("logits", self.name) in state:
            return None
        return next((n for n in self.models if StateKey("logits", n) not in state), None)

    def run(self, images: Any, state: Any) -> RunnerOutput:
        """The output of the stage.

        Raises:
            ExecutionError: logits of a model that runs elsewhere are not in the state.
        """
        missing = self.missing(state)
        if missing is not None:
            raise ExecutionError(
                "a model that runs elsewhere is asked by `Executor.answer` alone, found "
                f"{missing!r} in another run: load the cascade whole"
            )
        return self.runner.run(images, state)


class LogitsRunner(RunnerAround):
    """A stage that hands out the logits of all its rows, those of NaN too."""

    def run(self, images: Any, state: Any) -> RunnerOutput:
        """The output of the stage, which defers nothing and is sure of all."""
        output = self.runner.run(images, state)
        sure = np.ones(len(output.confidence), np.float32)
        return output._replace(confidence=sure, deferred=np.empty(0, np.int64))


class RemotePipeline(BufferedPipeline):
    """A pipeline whose rows may be away, at models that run elsewhere.

    Args:
        runners, sink, metrics, device: as of `BufferedPipeline`.
        come_back: takes what goes on with rows that were away, from any thread, and calls it in the
            thread that computes.
        background: whether others go first.
    """

    def __init__(
        self,
        runners: tuple[StageRunner, ...],
        sink: RequestSink,
        *,
        metrics: Metrics,
        device: Lock,
        come_back: Callable[[Callable[[], None]], None],
        background: bool,
    ) -> None:
        super().__init__(runners, sink, metrics=metrics, device=device)
        self._come_back, self._in_background = come_back, background

    def run(self, position: int, batch: RowBatch) -> None:
        """Run a stage on rows, or send them away first."""
        runner = self.runners[position]
        missing = runner.missing(batch.state) if isinstance(runner, RemoteRunner) else None
        if missing is None or not isinstance(runner, RemoteRunner):
            super().run(position, batch)
            return
        active = self.sink.active(batch.ids)
        rows = np.arange(len(batch.ids)) if active is None else active
        if not len(rows):
            return
        try:
            kept = batch.select(rows, runner)  # the memory of the batch is reused
            self._send(position, runner, missing, kept)
        except Exception as error:  # noqa: BLE001
            self._fail(runner, batch.ids[rows], error)

    def _send(self, position: int, runner: RemoteRunner, model: str, batch: RowBatch) -> None:
        def done(outcomes: Sequence[RemoteOutcome]) -> None:
            self._come_back(partial(self._go_on, position, model, batch, outcomes))

        self.away += 1
        try:
            runner.models[model].send(batch.images, done, background=self._in_background)
        except BaseException:
            self.away -= 1
            raise

    def _go_on(
        self, position: int, model: str, batch: RowBatch, outcomes: Sequence[RemoteOutcome]
    ) -> None:
        """Run a stage on rows that were away."""
        self.away -= 1
        runner = self.runners[position]
        logits: list[Array] = []
        kept: list[int] = []
        for row, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                self._fail(runner, batch.ids[row : row + 1], outcome)
            else:
                kept.append(row)
                logits.append(outcome)
        if not kept:
            return
        try:
            if len(kept) < len(batch.ids):
                batch = batch.select(np.array(kept, np.int64), runner)
            state = {**batch.state, StateKey("logits", model): runner.stack(logits)}
        except Exception as error:  # noqa: BLE001
            self._fail(runner, batch.ids[kept], error)
            return
        self.run(position, batch._replace(state=state))
