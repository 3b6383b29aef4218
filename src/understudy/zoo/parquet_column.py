"""The encoded images in a column of Parquet files, read in order or at random."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
import numpy.typing as npt

from understudy.extras import needing

with needing("`parquet:` data"):
    import polars as pl

Array = npt.NDArray[Any]

HELD_WHOLE = 256 * 2**20
"""Bytes of files up to which all images are held in memory; of more, blocks of rows are."""

BLOCK_ROWS = 1024
JUMPS = 2
"""Steps back to an earlier block, other than the first, after which what is read is kept in a
temporary file: hashes of a sample and repeated passes in order have none."""

SPARE = 2**30
"""Bytes that are left free on the disk of temporary files."""


@dataclass(frozen=True, eq=False)
class Shard:
    """A Parquet file, the encoded images in it, and how many rows it has."""

    path: Path
    images: pl.Expr
    rows: int


class _ShardRows(NamedTuple):
    """Rows of a shard that are read together: a slice of `start` and `rows`."""

    shard: Shard
    start: int
    rows: int


class ImageColumn:
    """The encoded image at a row of all shards, one after another.

    Columns of Parquet are compressed in chunks of many rows, so that a block of rows is decoded for
    one image of it. In order each block is decoded once. Read at random, blocks are copied as they
    are decoded into a temporary file, from which single images are read: each block is decoded
    about once then as well, and the disk holds as much as was read. Without room for that, blocks
    are decoded again and again.

    Args:
        shards: the files in order.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        small = sum(shard.path.stat().st_size for shard in shards) <= HELD_WHOLE
        rows = sum(shard.rows for shard in shards)
        self.block_rows = max(rows, 1) if small else BLOCK_ROWS
        self._blocks = [
            _ShardRows(shard, start, min(self.block_rows, shard.rows - start))
            for shard in shards
            for start in range(0, shard.rows, self.block_rows)
        ]
        self._starts = np.cumsum([0, *(block.rows for block in self._blocks)])
        self._block = lru_cache(maxsize=len(self._blocks) if small else 4)(self._read)
        self._lock = Lock()
        self._last = self._jumps = 0
        self._copy = _BlockCopies()

    def __call__(self, row: int) -> bytes:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = row - int(self._starts[number])
        with self._lock:
            block = None if number in self._copy else self._block(number)
        encoded = self._copy.read(number, place) if block is None else block[place]
        if encoded is None:
            raise ValueError("the cell is empty")
        return bytes(encoded)

    def _read(self, number: int) -> pl.Series:
        block = self._blocks[number]
        scan = pl.scan_parquet(block.shard.path, glob=False).select(block.shard.images)
        images = scan.slice(block.start, block.rows).collect().to_series()
        self._jumps += 0 < number < self._last
        self._last = number
        if self._jumps > JUMPS:
            self._copy.add(number, images)
        return images


class _BlockCopies:
    """Blocks of encoded images in a temporary file, which is removed when the process ends."""

    def __init__(self) -> None:
        self._file: Any = None
        self._ends: dict[int, Array] = {}
        self._present: dict[int, Array] = {}
        self._size = 0

    def __contains__(self, number: int) -> bool:
        return number in self._ends

    def read(self, number: int, place: int) -> bytes | None:
        """The image at a place of a block that was added; None for an empty cell."""
        if not self._present[number][place]:
            return None
        start, end = self._ends[number][place : place + 2].tolist()
        return os.pread(self._file.fileno(), end - start, start)

    def add(self, number: int, images: pl.Series) -> None:
        """Keep a block, where the disk has room for it."""
        content = images.fill_null(b"").to_list()
        lengths = np.fromiter(map(len, content), np.int64, len(content))
        if shutil.disk_usage(tempfile.gettempdir()).free < SPARE + int(lengths.sum()):
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="understudy-")  # noqa: SIM115
            finalize(self, self._file.close)
        start = self._size
        try:
            for encoded in content:
                self._file.write(encoded)
            self._file.flush()
        except OSError:
            self._file.truncate(start)
            self._file.seek(start)
            return
        ends = start + np.cumsum([0, *lengths.tolist()])
        self._size = int(ends[-1])
        self._present[number] = images.is_not_null().to_numpy()
        self._ends[number] = ends
