"""Batches of decoded images, prepared ahead by background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.zoo.data import DataSet

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one block of positions.

    Attributes:
        positions: (n,) where in the data set the images stand.
        images: uint8 (n, C, H, W), or a list of (C, H, W) where sizes differ.
        corrupt: one message for every image that could not be decoded; it is left out above.
    """

    positions: Array
    images: Tensor | list[Tensor]
    corrupt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)


def batches(
    data: DataSet,
    positions: Sequence[int] | None = None,
    *,
    size: int = 256,
    workers: int = 2,
) -> Iterator[Batch]:
    """Batches in order, each of the same `size` positions however many of them are corrupt.

    Args:
        data: the images.
        positions: which of them, all by default.
        size: positions per batch; the last may have fewer.
        workers: threads that decode ahead, at most one batch each; 0 decodes when asked.

    >>> from understudy.zoo.data import open_data
    >>> [len(batch) for batch in batches(open_data("digits:heldout"), range(5), size=2)]
    [2, 2, 1]

    Raises:
        DataError: a size or number of workers out of range.
    """
    if size < 1 or workers < 0:
        raise DataError(
            f"a batch has at least 1 image and workers are 0 or more, found {size} and {workers}"
        )
    places = range(len(data)) if positions is None else positions
    blocks = (places[start : start + size] for start in range(0, len(places), size))
    if not workers:
        return (_decode(data, block) for block in blocks)
    return _ahead(data, blocks, workers)


def _ahead(data: DataSet, blocks: Iterator[Sequence[int]], workers: int) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="understudy-decode")
    waiting: deque[Future[Batch]] = deque()
    try:
        waiting.extend(pool.submit(_decode, data, block) for block in islice(blocks, workers))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(_decode, data, block) for block in islice(blocks, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(data: DataSet, block: Sequence[int]) -> Batch:
    positions: list[int] = []
    images: list[Tensor] = []
    corrupt: list[str] = []
    for position in block:
        try:
            images.append(data.image(int(position)))
        except DataError as error:
            corrupt.append(str(error))
        else:
            positions.append(int(position))
    alike = len({image.shape for image in images}) == 1
    return Batch(
        positions=np.array(positions, np.int64),
        images=torch.stack(images) if alike else images,
        corrupt=tuple(corrupt),
    )
