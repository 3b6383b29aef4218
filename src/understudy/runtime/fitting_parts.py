"""Work on many samples in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from understudy.errors import ModelError
from understudy.runtime.protocol import is_out_of_memory

Piece = TypeVar("Piece")


class FittingParts:
    """Parts of many samples; where memory runs out they are halved, and stay so for later calls.

    Args:
        size: the most samples of a part to begin with.
        too_large: the message where a single sample does not fit.

    Attributes:
        size: the most samples of a part.

    >>> parts = FittingParts(size=2, too_large="one sample does not fit, found no memory")
    >>> parts.run(5, lambda part: part)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """

    def __init__(self, *, size: int, too_large: str) -> None:
        self.size = size
        self._too_large = too_large

    def run(self, count: int, work: Callable[[slice], Piece]) -> list[Piece]:
        """What the work gives for each part of `count` samples, all parts of one size.

        Raises:
            ModelError: memory runs out on a single sample.
        """
        found = self._if_fitting(count, work)
        while found is None:
            size = min(count, self.size)
            if size == 1:
                raise ModelError(self._too_large)
            self.size = size // 2
            found = self._if_fitting(count, work)
        return found

    def _if_fitting(self, count: int, work: Callable[[slice], Piece]) -> list[Piece] | None:
        """The pieces; None where memory runs out, and nothing of the attempt is kept then."""
        try:
            return [
                work(slice(start, min(start + self.size, count)))
                for start in range(0, count, self.size)
            ]
        except Exception as error:
            if is_out_of_memory(error):
                return None
            raise
