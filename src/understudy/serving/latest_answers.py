"""The latest images that each exit answered, small, for people to look at."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

KEPT = 8
"""Images per exit."""

PAUSE = 0.25
"""Seconds between two images that are kept of an exit."""

SIDE = 224
"""Pixels of the longer side, at most, about: every n-th pixel is kept."""


class LatestAnswer(NamedTuple):
    """An answer and its image, uint8 (C, h, w); None for what is no image."""

    request_id: str
    exit: str
    prediction: int
    confidence: float
    name: str | None
    pixels: Array | None


class LatestAnswers:
    """The latest answers of each exit, at most four per second."""

    def __init__(
        self, exits: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept: list[deque[LatestAnswer]] = [deque(maxlen=KEPT) for _ in exits]
        self._since = [-PAUSE] * len(exits)
        self._clock = clock

    def is_due(self, exit: int) -> bool:
        """Whether the next answer of an exit is kept."""
        return self._clock() - self._since[exit] >= PAUSE

    def keep(self, exit: int, answer: LatestAnswer) -> None:
        """Keep an answer of an exit."""
        self._since[exit] = self._clock()
        self._kept[exit].append(answer)

    def find(self, request_id: str) -> LatestAnswer | None:
        """The answer with an id, if it is still kept."""
        return next((one for one in self if one.request_id == request_id), None)

    def __iter__(self) -> Iterator[LatestAnswer]:
        """Exit by exit, the latest first."""
        for kept in self._kept:
            yield from reversed(kept)


def thumbnail(image: Any) -> Array | None:
    """A small copy of an image (C, H, W) with uint8 values; None for anything else.

    >>> thumbnail(np.zeros((3, 500, 300), np.uint8)).shape
    (3, 167, 100)
    >>> thumbnail(np.zeros(7)) is None
    True
    """
    sizes = getattr(image, "sizes", None)
    pixels = np.asarray(next(iter(sizes.values())) if sizes else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return None
    step = -(-max(pixels.shape[1:]) // SIDE)
    return pixels[:, ::step, ::step].copy()
