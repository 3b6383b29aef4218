"""Running a cascade over many batches: each stage waits until it has a full batch to work on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.nn.cascade import Answers, Cascade, Judge
from understudy.nn.images import Images, on_device
from understudy.nn.stage import EMPTY, State, check_classes

Array = npt.NDArray[Any]

LAG = 256
"""How many batches of answers may wait for an earlier row before part-filled batches are run."""


def answer_stream(
    cascade: Cascade, batches: Iterable[Images], *, batch: int = 256
) -> Iterator[Answers]:
    """The answers to each incoming batch, in order, with every stage run on full batches.

    Rows that a stage leaves are copied once, into the next stage's buffer, and wait there until
    `batch` of them are together; at the end the rest is run as it is. The answers are those of
    `Cascade.answer`, up to the float noise of other neighbours in a batch. The policy is read when
    the stream starts.

    Memory: besides the incoming batch at most `batch` rows wait at each stage. Answers to rows
    behind one that still waits are kept (21 bytes a row); when `LAG` batches of them are kept, all
    that waits is run.

    Args:
        cascade: what runs.
        batches: uint8 batches (N, C, H, W), lists of (C, H, W), or whatever the stages take.
        batch: the rows that a stage takes at a time.

    >>> from understudy.policy import Policy
    >>> model = torch.nn.Linear(2, 3)
    >>> cascade = Cascade({"big": model}, Policy.single("big"))
    >>> [len(a) for a in answer_stream(cascade, [torch.zeros(3, 2), torch.zeros(1, 2)], batch=2)]
    [3, 1]

    Raises:
        DataError: a batch size below 1, or images that a stage cannot take.
        ModelError: a stage that returns no logits, or stages that differ in their classes.
    """
    if batch < 1:
        raise DataError(f"a batch has at least 1 row, found batch={batch}")
    queue = _Queue(cascade, batch)
    for images in batches:
        queue.put(images)
        yield from queue.ready()
    queue.drain()
    yield from queue.ready()


class _Load(NamedTuple):
    """Rows on their way: images, the state that belongs to them, and their numbers, ascending."""

    images: Images
    state: State
    ids: Array

    def part(self, start: int, stop: int) -> _Load:
        """Some rows in a row, not copied."""
        state = {name: value[start:stop] for name, value in self.state.items()}
        return _Load(self.images[start:stop], state, self.ids[start:stop])


class _Queue:
    """The stages of one policy, each with the rows that wait for it."""

    def __init__(self, cascade: Cascade, batch: int) -> None:
        self._judges = cascade.judges
        self._exits = cascade.exits
        self._batch = batch
        self._rooms = [_Room(batch, judge.stage.device) for judge in self._judges]
        self._window = _Window()
        self._classes: tuple[str, int] | None = None

    @torch.inference_mode()
    def put(self, images: Images) -> None:
        """Take an incoming batch; whole batches of the first stage are run without a copy."""
        count = len(images)
        load, room = _Load(images, EMPTY, self._window.open(count)), self._rooms[0]
        start = min(room.free, count) if room.count else 0
        self._feed(0, load, torch.arange(start))
        while not room.count and count - start >= self._batch:
            self._run(0, load.part(start, start + self._batch))
            start += self._batch
        self._feed(0, load, torch.arange(start, count))
        if self._window.kept > LAG * self._batch:
            self.drain()

    @torch.inference_mode()
    def drain(self) -> None:
        """Run all that waits."""
        for position in range(len(self._rooms)):
            self._flush(position)

    def ready(self) -> Iterator[Answers]:
        """The answers to incoming batches that are complete, in order."""
        for prediction, confidence, exit in self._window.ready():
            yield Answers(prediction, confidence, exit, self._exits)

    def _feed(self, position: int, load: _Load, rows: Tensor) -> None:
        """Let rows of a load wait for a stage, which is run whenever its batch is full."""
        room = self._rooms[position]
        if len(rows) and not room.fits(load):
            self._flush(position)
        while len(rows):
            now, rows = rows[: room.free], rows[room.free :]
            room.add(load, now)
            if not room.free:
                self._flush(position)

    def _flush(self, position: int) -> None:
        if self._rooms[position].count:
            self._run(position, self._rooms[position].take())

    def _run(self, position: int, load: _Load) -> None:
        judge = self._judges[position]
        images = on_device(load.images, judge.stage.device)
        output, left = judge.ask(images, load.state)
        self._check(judge, output.logits.shape[1])
        answered = np.ones(len(load.ids), bool)
        answered[left.cpu().numpy()] = False
        self._window.write(
            load.ids[answered],
            prediction=output.logits.argmax(1).cpu().numpy()[answered],
            confidence=output.confidence.cpu().numpy()[answered],
            exit=judge.number,
        )
        if len(left):
            self._feed(position + 1, _Load(images, output.state, load.ids), left)

    def _check(self, judge: Judge, classes: int) -> None:
        if self._classes is None:
            self._classes = (judge.name, classes)
        check_classes(*self._classes, judge.name, classes)


class _Room:
    """The rows that wait for one stage: at most `size`, in order, each copied once."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = 0
        self._size, self._device = size, device
        self._images: Tensor | list[Tensor] = []
        self._state: dict[str, Tensor] = {}
        self._ids = np.empty(size, np.int64)

    @property
    def free(self) -> int:
        return self._size - self.count

    def fits(self, load: _Load) -> bool:
        """Whether the rows can wait beside those that are there."""
        if not self.count:
            return True
        if isinstance(load.images, Tensor) != isinstance(self._images, Tensor):
            return False
        return self._state.keys() == load.state.keys() and all(
            _alike(buffer, value) for buffer, value in self._pairs(load)
        )

    def add(self, load: _Load, rows: Tensor) -> None:
        """Copy some rows of a load behind those that are there."""
        if not self.count:
            self._prepare(load)
        stop = self.count + len(rows)
        for buffer, value in self._pairs(load):
            _copy_rows(value, rows, buffer[self.count : stop])
        if isinstance(self._images, list):
            self._images.extend(load.images[row] for row in rows.tolist())
        self._ids[self.count : stop] = load.ids[rows.cpu().numpy()]
        self.count = stop

    def take(self) -> _Load:
        """All that waits, as views that are good until the next row is added."""
        whole = _Load(self._images, self._state, self._ids)
        load = whole.part(0, self.count)
        self.count = 0
        if isinstance(self._images, list):
            self._images = []
        return load

    def _prepare(self, load: _Load) -> None:
        """Make buffers for such rows; those of the last batch are used again where they fit."""
        if not isinstance(load.images, Tensor):
            self._images = []
        elif not isinstance(self._images, Tensor) or not _alike(self._images, load.images):
            self._images = self._buffer(load.images)
        self._state = {
            name: old
            if (old := self._state.get(name)) is not None and _alike(old, value)
            else self._buffer(value)
            for name, value in load.state.items()
        }

    def _buffer(self, like: Tensor) -> Tensor:
        return torch.empty((self._size, *like.shape[1:]), dtype=like.dtype, device=self._device)

    def _pairs(self, load: _Load) -> Iterator[tuple[Tensor, Tensor]]:
        """Each buffer with the tensor that is copied into it."""
        if isinstance(self._images, Tensor) and isinstance(load.images, Tensor):
            yield self._images, load.images
        for name, buffer in self._state.items():
            yield buffer, load.state[name]


class _Window:
    """Answers by row number, from the first row whose incoming batch is not complete."""

    ROW = np.dtype([("prediction", "i8"), ("confidence", "f4"), ("exit", "i8"), ("done", "?")])

    def __init__(self) -> None:
        self._rows = np.zeros(0, self.ROW)
        self._first = 0  # the number of the row at position 0
        self._start = self._stop = 0  # positions of the rows that are kept
        self._sizes: deque[int] = deque()

    @property
    def kept(self) -> int:
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
        at = ids - self._first
        self._rows["prediction"][at] = prediction
        self._rows["confidence"][at] = confidence
        self._rows["exit"][at] = exit
        self._rows["done"][at] = True

    def ready(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Prediction, confidence and exit of each complete incoming batch, in order."""
        while self._sizes:
            rows = self._rows[self._start : self._start + self._sizes[0]]
            if not rows["done"].all():
                return
            self._start += self._sizes.popleft()
            prediction, confidence, exit = (
                torch.from_numpy(rows[name].copy()) for name in ("prediction", "confidence", "exit")
            )
            yield prediction, confidence, exit


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape[1:] == other.shape[1:] and one.dtype == other.dtype


def _copy_rows(source: Tensor, rows: Tensor, target: Tensor) -> None:
    rows = rows.to(source.device)
    if source.device == target.device:
        torch.index_select(source, 0, rows, out=target)
    else:
        target.copy_(source.index_select(0, rows))
