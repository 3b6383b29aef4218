"""Batches of any sizes, for tests of what must not depend on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any


def in_batches(images: Any, sizes: Sequence[int]) -> Iterator[Any]:
    """The images in batches of these sizes, over and over."""
    start = 0
    for size in cycle(sizes):
        if start >= len(images):
            return
        yield images[start : start + size]
        start += size
