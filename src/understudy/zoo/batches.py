"""Batches of images that background threads decode."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError
from understudy.zoo.data import DataSet

if TYPE_CHECKING:
    from understudy.nn.preprocess import Image, Resizing

Array = npt.NDArray[Any]

PART = 64
"""Images that a thread decodes at a time."""

MOST = 8
"""Threads that decode by default, however many cores there are: more than a disk feeds."""

AHEAD = 2**28
"""Bytes of decoded images that wait for their batch, about; but a part per thread may."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one block of positions.

    Attributes:
        positions: (n,) positions of the images in the data set.
        images: uint8 (n, C, H, W), or a list of (C, H, W) where sizes differ, or images have been
            resized for models; tensors from `batches`, arrays from `array_batches`.
        corrupt: one message for every image that could not be decoded; it is left out above.
    """

    positions: Array
    images: Any
    corrupt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)


def decoding_threads() -> int:
    """The threads that decode unless a number is given: one per usable core, at most `MOST`.

    >>> 1 <= decoding_threads() <= MOST
    True
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return min(cores, MOST)


def batches(
    data: DataSet,
    positions: Sequence[int] | None = None,
    *,
    size: int = 256,
    workers: int | None = None,
    resizings: Collection[Resizing | None] = (),
) -> Iterator[Batch]:
    """Batches in order, each of the same `size` positions however many of them are corrupt.

    With `resizings` a photograph is dropped as soon as it is in the sizes that the models take, so
    that memory does not grow with its size times that of the batch.

    Args:
        data: the images.
        positions: positions in the data set, all by default.
        size: positions per batch; the last may have fewer.
        workers: threads that decode ahead, at most one batch each, and about `AHEAD` bytes in all;
            0 decodes in this thread; by default `decoding_threads`.
        resizings: how the models that take the images resize them (`Stage.resizings`), None among
            them where one takes them as they are.

    >>> from understudy.zoo.data import open_data
    >>> [len(batch) for batch in batches(open_data("digits:heldout"), range(5), size=2)]
    [2, 2, 1]

    Raises:
        DataError: a size or number of workers out of range.
    """
    block = range(len(data)) if positions is None else positions
    return batches_of_blocks(data, [block], size=size, workers=workers, resizings=resizings)


def batches_of_blocks(
    data: DataSet,
    blocks: Iterable[Sequence[int]],
    *,
    size: int = 256,
    workers: int | None = None,
    resizings: Collection[Resizing | None] = (),
) -> Iterator[Batch]:
    """The batches of some blocks of positions, one block after another; no batch spans two.

    Args:
        data: the images.
        blocks: positions in the data set, drawn when threads are free to decode them.
        size, workers, resizings: as for `batches`.

    >>> from understudy.zoo.data import open_data
    >>> images = open_data("digits:heldout")
    >>> [batch.positions.tolist() for batch in batches_of_blocks(images, [[4, 5, 6], [0]], size=2)]
    [[4, 5], [6], [0]]

    Raises:
        DataError: a size or number of workers out of range.
    """
    read = partial(data.resized, resizings=frozenset(resizings))
    return _decoded_batches(read, blocks, size=size, workers=workers)


def read_batches(
    read: Callable[[int], Any],
    positions: Sequence[int],
    *,
    size: int = 256,
    workers: int | None = None,
) -> Iterator[Batch]:
    """The batches of `batches`, of images that a function makes.

    Args:
        read: the image at a position, or a `DataError`; called by the threads that decode.
        positions, size, workers: as for `batches`.

    >>> [batch.images.tolist() for batch in read_batches(np.zeros, [2, 2, 1], size=2)]
    [[[0.0, 0.0], [0.0, 0.0]], [[0.0]]]

    Raises:
        DataError: a size or number of workers out of range.
    """
    return _decoded_batches(read, [positions], size=size, workers=workers)


def first_images(
    data: DataSet,
    count: int,
    *,
    resizings: Collection[Resizing | None] = (),
    workers: int | None = 0,
) -> list[Image]:
    """The first `count` images that can be decoded, repeated where there are fewer.

    Args:
        data: the images.
        count: how many.
        resizings: how the models resize them, as for `batches`.
        workers: threads that decode.

    Raises:
        DataError: there is none.
    """
    blocks = batches(data, size=count, workers=workers, resizings=resizings)
    found = list(islice((image for block in blocks for image in block.images), count))
    if not found:
        raise DataError(
            f"no image of {data.spec!r} can be decoded ({len(data)} tried): check the data"
        )
    return list(islice(cycle(found), count))


def array_batches(data: DataSet, *, size: int = 256, workers: int | None = None) -> Iterator[Batch]:
    """All images in the same batches as arrays in their own sizes; PyTorch is not needed.

    >>> from understudy.zoo.data import open_data
    >>> images = next(array_batches(open_data("digits:heldout"), size=2)).images
    >>> type(images).__name__, images.shape
    ('ndarray', (2, 1, 8, 8))

    Raises:
        DataError: a size or number of workers out of range.
    """
    return _decoded_batches(data.array, [range(len(data))], size=size, workers=workers)


def stacked(images: Sequence[Any]) -> Any:
    """Arrays, or tensors, of one shape as one batch of them; else the images as a list.

    >>> stacked([np.zeros(2), np.ones(2)]).shape, stacked([np.zeros(2), np.ones(3)])
    ((2, 2), [array([0., 0.]), array([1., 1., 1.])])
    """
    if len({image.shape for image in images}) == 1:
        if all(isinstance(image, np.ndarray) for image in images):
            return np.stack(images)
        import torch

        if all(isinstance(image, torch.Tensor) for image in images):
            return torch.stack(list(images))
    return list(images)


def _decoded_batches(
    image_at: Callable[[int], Any],
    blocks: Iterable[Sequence[int]],
    *,
    size: int,
    workers: int | None,
) -> Iterator[Batch]:
    workers = decoding_threads() if workers is None else workers
    if size < 1 or workers < 0:
        raise DataError(
            f"a batch has at least 1 image and workers are 0 or more, found {size} and {workers}"
        )
    todo = (
        _BatchPositions(block[start : start + size])
        for block in blocks
        for start in range(0, len(block), size)
    )
    decode = partial(_decode, image_at)
    if not workers:
        return (one.batch(map(decode, one.parts)) for one in todo)
    return _decode_ahead(todo, decode, workers)


class _DecodedPart(NamedTuple):
    """Some decoded images, their positions, and why others cannot be decoded."""

    positions: list[int]
    images: list[Any]
    corrupt: list[str]


class _BatchPositions(NamedTuple):
    """The positions of a batch."""

    positions: Sequence[int]

    @property
    def parts(self) -> list[Sequence[int]]:
        """The positions that are decoded at a time."""
        starts = range(0, len(self.positions), PART)
        return [self.positions[start : start + PART] for start in starts]

    def batch(self, parts: Iterable[_DecodedPart]) -> Batch:
        """The batch of the decoded parts."""
        found = _DecodedPart([], [], [])
        for part in parts:
            found.positions.extend(part.positions)
            found.images.extend(part.images)
            found.corrupt.extend(part.corrupt)
        return Batch(
            positions=np.array(found.positions, np.int64),
            images=stacked(found.images),
            corrupt=tuple(found.corrupt),
        )


def _decode_ahead(
    todo: Iterator[_BatchPositions], decode: Callable[[Sequence[int]], _DecodedPart], workers: int
) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="understudy-decode")
    drawn: deque[_BatchPositions] = deque()
    waiting: deque[Future[_DecodedPart]] = deque()

    def draw() -> Iterator[Sequence[int]]:
        for batch in todo:
            drawn.append(batch)
            yield from batch.parts

    parts = draw()

    def submit(most: int) -> None:
        free = max(most - len(waiting), 0)
        waiting.extend(pool.submit(decode, part) for part in islice(parts, free))

    def decoded(batch: _BatchPositions) -> Iterator[_DecodedPart]:
        for _ in batch.parts:
            part = waiting.popleft().result()
            held = sum(image.nbytes for image in part.images)
            submit(max(workers, min(workers * len(batch.parts), AHEAD // max(held, 1))))
            yield part

    try:
        submit(workers)
        while drawn:
            batch = drawn.popleft()
            yield batch.batch(decoded(batch))
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(image_at: Callable[[int], Any], positions: Sequence[int]) -> _DecodedPart:
    part = _DecodedPart([], [], [])
    for position in positions:
        try:
            image = image_at(int(position))
        except DataError as error:
            part.corrupt.append(str(error))
        else:
            part.images.append(image)
            part.positions.append(int(position))
    return part
