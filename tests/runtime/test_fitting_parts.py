"""Work in parts that are halved where memory runs out."""

from __future__ import annotations

import pytest

from understudy.errors import ModelError
from understudy.runtime.fitting_parts import FittingParts


def test_parts_are_halved_and_stay_so() -> None:
    tried: list[int] = []

    def work(part: slice) -> int:
        count = part.stop - part.start
        tried.append(count)
        if count > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return count

    parts = FittingParts(size=16, too_large="one does not fit")
    assert parts.run(10, work) == [2, 2, 2, 2, 2]
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert parts.run(5, work) == [2, 2, 1]
    assert parts.size == 2


def test_one_sample_that_does_not_fit_is_an_error() -> None:
    def work(_part: slice) -> int:
        raise MemoryError

    with pytest.raises(ModelError, match="one does not fit"):
        FittingParts(size=4, too_large="one does not fit").run(3, work)


def test_other_errors_are_raised() -> None:
    def work(_part: slice) -> int:
        raise ValueError("another")

    with pytest.raises(ValueError, match="another"):
        FittingParts(size=4, too_large="one does not fit").run(3, work)
