"""Rows that a replica sends to a model in a deployment of its own, and their logits.

Only arrays travel: the images as they came (or in the size that the model takes), and logits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch

from understudy.cluster.serve_calls import ATTEMPTS, ReplicaGone
from understudy.errors import DataError
from understudy.nn.cascade import Cascade
from understudy.nn.preprocess import ResizedImage, Resizing, as_tensor, pixels_of
from understudy.nn.stage import Stage
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import (
    Answer,
    Array,
    BackgroundFull,
    ExecutionError,
    ExecutorClosed,
    cause_of,
)
from understudy.runtime.remote import Done, LogitsRunner, RemoteOutcome
from understudy.serving.request_errors import DeadlineExceeded, QueueFull

logger = logging.getLogger(__name__)

Why = Literal["full", "images", "stage"]
"""Why a row has no logits: no room, or what raised found the fault in the image, or in itself."""


class FailedElsewhere(ExecutionError):
    """A model that runs elsewhere could not answer a row."""


class StageCall(NamedTuple):
    """Rows on their way to a model.

    Attributes:
        images: (N, C, H, W), or one array (C, H, W) each.
        shapes: the shape that an image had before it was resized for the model; None for images
            that are as they came.
        background: whether others go first.
    """

    images: Array | Sequence[Array]
    shapes: Sequence[tuple[int, ...] | None]
    background: bool

    @classmethod
    def of(cls, images: Any, resizing: Resizing | None, *, background: bool) -> Self:
        """The images of a batch, each in the size that the model takes, where that is there."""
        if not isinstance(images, Sequence):
            whole = as_tensor(images).cpu().numpy()
            return cls(whole, [None] * len(whole), background)
        arrays, shapes = list[Array](), list[tuple[int, ...] | None]()
        for image in images:
            resized = isinstance(image, ResizedImage) and resizing in image.sizes
            pixels = image.sizes[resizing] if resized else pixels_of(image)
            arrays.append(as_tensor(pixels).cpu().numpy())
            shapes.append(tuple(image.shape) if resized else None)
        return cls(arrays, shapes, background)

    def samples(self, resizing: Resizing | None) -> list[Any]:
        """The images as a stage takes them."""
        return [
            pixels
            if shape is None or resizing is None
            else ResizedImage(torch.Size(shape), {resizing: as_tensor(pixels)}, None)
            for pixels, shape in zip(self.images, self.shapes, strict=True)
        ]


class StageReply(NamedTuple):
    """What a model answers.

    Attributes:
        logits: (k, C) float32, of the rows that have them, in their order.
        failed: row -> why it has none, and in words.
    """

    logits: Array
    failed: Mapping[int, tuple[Why, str]]

    def outcomes(self, rows: int) -> list[RemoteOutcome]:
        """The logits of each row, or why there are none."""
        logits = iter(self.logits)
        return [
            _error(*self.failed[row]) if row in self.failed else next(logits) for row in range(rows)
        ]


class StageReplicas(Protocol):
    """The replicas of a model's deployment."""

    async def logits(self, call: StageCall) -> StageReply:
        """The answer of one of them.

        Raises:
            ReplicaGone: it ended.
            QueueFull: none has room.
        """


class RemoteStage:
    """A model in a deployment of its own, as a `RemoteModel`.

    A call whose replica ended is repeated at another.

    Args:
        replicas: of the deployment.
        resizing: of the model.
        deadline: seconds after which a call is given up.
        loop: the event loop in which the replicas are asked.
    """

    def __init__(
        self,
        replicas: StageReplicas,
        resizing: Resizing | None,
        *,
        deadline: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._replicas, self._resizing = replicas, resizing
        self._deadline, self._loop = deadline, loop

    def send(self, images: Any, done: Done, *, background: bool) -> None:
        """Ask for the logits of images; see `RemoteModel`."""
        call = StageCall.of(images, self._resizing, background=background)
        work = self._ask(call, done)
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise

    async def _ask(self, call: StageCall, done: Done) -> None:
        rows = len(call.shapes)
        try:
            async with asyncio.timeout(self._deadline):
                outcomes = (await self._answered(call)).outcomes(rows)
        except TimeoutError:
            late = (
                f"a model answers within {self._deadline:g} s, found none by then: try again later"
            )
            outcomes = [DeadlineExceeded(late)] * rows
        except asyncio.CancelledError:
            done([ExecutorClosed("a server that stops answers no more, found it stopping")] * rows)
            raise
        except Exception as error:
            if not isinstance(error, QueueFull):
                logger.exception("a later stage did not answer")
            outcomes = [error] * rows
        done(outcomes)

    async def _answered(self, call: StageCall) -> StageReply:
        for attempt in range(ATTEMPTS):
            try:
                return await self._replicas.logits(call)
            except ReplicaGone as error:
                logger.warning("a replica of a later stage ended (%d): %s", attempt + 1, error)
        raise QueueFull("a request needs a replica that lives at each stage, found none")


class StageAnswers:
    """A model that answers the rows of all front replicas, batched together.

    Args:
        cascade: of this model alone.
        max_queue: rows in flight; further ones are refused at once. As many may be in the
            background besides.
    """

    def __init__(self, cascade: Cascade, *, max_queue: int) -> None:
        [self._runner] = cascade.runners
        self._resizing = resizing_of(self._runner.stage)
        self._runners = (LogitsRunner(self._runner),)
        self._executor = Executor(cascade, max_waiting=max_queue, max_background=max_queue)
        self._max_queue = max_queue
        self.in_flight = 0

    async def logits(self, call: StageCall) -> StageReply:
        """The logits of rows; those that find no room are refused together."""
        rows = len(call.shapes)
        if not call.background and self.in_flight + rows > self._max_queue:
            return _refused(rows, self._no_room())
        counted = 0 if call.background else rows
        self.in_flight += counted
        try:
            outcomes = await self._executor.answer_many(
                call.samples(self._resizing),
                runners=self._runners,
                logits=True,
                background=call.background,
            )
        except BackgroundFull:
            return _refused(rows, self._no_room())
        finally:
            self.in_flight -= counted
        return _reply(outcomes)

    def _no_room(self) -> str:
        return (
            f"at most {self._max_queue:,} images are in flight at a later stage, found "
            f"{self.in_flight:,}: try again later"
        )


def resizing_of(stage: Stage) -> Resizing | None:
    """How a model changes the size of images; None leaves it."""
    return None if stage.preprocess is None else stage.preprocess.resizing


def _refused(rows: int, why: str) -> StageReply:
    return StageReply(np.empty((0, 0), np.float32), dict.fromkeys(range(rows), ("full", why)))


def _reply(outcomes: Sequence[Answer | Exception]) -> StageReply:
    logits, failed = list[Array](), dict[int, tuple[Why, str]]()
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, Answer):
            assert outcome.logits is not None
            logits.append(outcome.logits)
        else:
            cause = outcome.__cause__ if isinstance(outcome.__cause__, Exception) else outcome
            theirs = isinstance(cause, DataError)
            failed[row] = ("images" if theirs else "stage", cause_of(cause))
    return StageReply(np.stack(logits) if logits else np.empty((0, 0), np.float32), failed)


def _error(why: Why, text: str) -> Exception:
    if why == "full":
        return QueueFull(text)
    return DataError(text) if why == "images" else FailedElsewhere(text)
