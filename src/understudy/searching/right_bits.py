"""The right answers of a zoo as bits: in memory, or in a file that is mapped into it.

FILE  the words (G, N, 8) of `RightBits`; JSON that says what they are, with their hash; its length
      in 8 bytes

512 models take 64 bytes per sample, one line of the processor's cache: the samples are read in
another order for every little model, so what counts is how many lines each of them touches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.files import check_version, parse_json, replacing
from understudy.short_repr import short_repr

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
FlagRow = Callable[[int], Flags]
"""Which samples a model has right, (N,), by its number."""

BITS, LANES = 64, 8
GROUP = BITS * LANES
_FORMAT, _VERSION = "understudy.right_bits", 1
_LENGTH = 8  # bytes of the length of the JSON at the end
_READERS = 2  # rows that are read at the same time


@dataclass(frozen=True, eq=False)
class RightBits:
    """Which of N samples each of M models has right, in groups of 512 models of rising cost.

    The model at position p by cost is bit (p mod 512) // 8 of word p mod 8 of group p // 512, so
    that the words of 64 transposed samples lie in the order of p.

    Attributes:
        words: (⌈M / 512⌉, N, 8) uint64, read-only; may be mapped from a file.
        cost: (M,) per sample, in one unit.
        right: (M,) how many samples each model has right.

    >>> correct = np.array([[True, False, True], [True, True, True]])
    >>> bits = RightBits.of(correct.__getitem__, np.array([9.0, 1.0]), 3)
    >>> bits.right.tolist(), bits.row(0).tolist()
    ([2, 3], [True, False, True])
    """

    words: npt.NDArray[np.uint64]
    cost: npt.NDArray[np.float64]
    right: npt.NDArray[np.int64]

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def samples(self) -> int:
        """N."""
        return int(self.words.shape[1])

    @cached_property
    def by_cost(self) -> npt.NDArray[np.intp]:
        """The models by rising cost, (M,)."""
        return np.argsort(self.cost, kind="stable")

    @cached_property
    def first_dearer(self) -> npt.NDArray[np.intp]:
        """For each model the position in `by_cost` of the first that is strictly dearer, (M,)."""
        return np.searchsorted(self.cost[self.by_cost], self.cost, side="right")

    @cached_property
    def position(self) -> npt.NDArray[np.intp]:
        """The place of each model in `by_cost`, (M,)."""
        return np.argsort(self.by_cost)

    def row(self, model: int) -> Flags:
        """Which samples a model has right, (N,)."""
        group, place = divmod(int(self.position[model]), GROUP)
        bit, word = np.uint64(1 << place // LANES), place % LANES
        return np.asarray(self.words[group, :, word] & bit, bool)

    @staticmethod
    def of(row: FlagRow, cost: npt.NDArray[np.float64], samples: int) -> RightBits:
        """Those of models whose right answers are given one after another."""
        right = np.zeros(len(cost), np.int64)
        words = np.empty((-(-len(cost) // GROUP), samples, LANES), np.uint64)
        for group, packed in zip(words, _groups(row, cost, samples, right), strict=True):
            group[:] = packed
        words.flags.writeable = right.flags.writeable = False
        return RightBits(words, cost, right)


def write_right_bits(
    path: str | Path, row: FlagRow, cost: npt.NDArray[np.float64], samples: int, *, source: str
) -> None:
    """Write the bits of models whose right answers are read one after another, atomically.

    At most two groups of 512 models, 64 bytes per sample each, are in memory at a time.

    Args:
        path: the file.
        row: reads which samples a model has right, (N,).
        cost: (M,) per sample, in one unit.
        samples: N.
        source: the hash of what the rows are read from, by which the file is known again.

    Raises:
        UnderstudyError: the file cannot be written, for example because the disk is full.
    """
    right, digest = np.zeros(len(cost), np.int64), hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as stream:
        for packed in _groups(row, cost, samples, right):
            digest.update(packed.data)
            stream.write(packed.data)
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "samples": samples,
            "cost": cost.tolist(),
            "right": right.tolist(),
            "source": source,
            "sha256": digest.hexdigest(),
        }
        text = json.dumps(about, allow_nan=False).encode("ascii")
        stream.write(text + len(text).to_bytes(_LENGTH, "little"))


def open_right_bits(path: str | Path, *, source: str) -> RightBits:
    """The bits in a file, mapped into memory once their hash was checked.

    Raises:
        TableError: no such file, one that is damaged, or one that was made from another source.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            about, size = _read_about(stream, file)
            shape = -(-len(about["cost"]) // GROUP), about["samples"], LANES
            if size != 8 * int(np.prod(shape)):
                raise ValueError(f"{size:,} bytes of words for the shape {shape}")
            stream.seek(0)
            if _digest(stream, size) != about["sha256"]:
                raise ValueError("its words have another hash")
    except TableError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(
            f"right answers are read from a file of bits, {str(path)!r} is damaged or none "
            f"({error}): make it again"
        ) from error
    if about["source"] != source:
        raise TableError(f"{str(path)!r} has the right answers of another table: make it again")
    words = np.memmap(file, np.dtype("<u8"), "r", shape=shape)
    cost = np.array(about["cost"], np.float64)
    return RightBits(np.asarray(words), cost, np.array(about["right"], np.int64))


def _groups(row: FlagRow, cost: Array, samples: int, right: Array) -> Iterator[Array]:
    """The words of each group, (N, 8); the counts of its models are written into `right`."""
    by_cost = np.argsort(cost, kind="stable")
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(cost), GROUP):
            models = by_cost[start : start + GROUP]
            words = np.zeros((samples, LANES), np.uint64)
            for lane in range(LANES):
                chosen = models[lane::LANES].tolist()
                if chosen:
                    flags = np.empty((len(chosen), samples), bool)
                    for number, found in enumerate(pool.map(row, chosen)):
                        flags[number] = found
                    right[chosen] = np.count_nonzero(flags, axis=1)
                    words[:, lane] = _pack(flags)
            yield words


def _pack(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """The flags (R, N) of at most 64 models as one word per sample, (N,), the first in the lowest
    bit."""
    octets = np.zeros((rows.shape[1], 8), np.uint8)
    bits = np.packbits(rows, axis=0, bitorder="little")
    octets[:, : len(bits)] = bits.T
    return octets.view(np.uint64)[:, 0]


def _read_about(stream: BinaryIO, file: Path) -> tuple[Mapping[str, Any], int]:
    """What a file says of its words, and how many bytes they take."""
    end = stream.seek(0, 2) - _LENGTH
    stream.seek(max(end, 0))
    start = end - int.from_bytes(stream.read(_LENGTH), "little")
    if not 0 <= start < end:
        raise ValueError("it does not end as one")
    stream.seek(start)
    about = parse_json(stream.read(end - start).decode("ascii"))
    check_version(about, kind=_FORMAT, newest=_VERSION, path=file, error=TableError)
    return about, start


def _digest(stream: BinaryIO, size: int) -> str:
    digest, block = hashlib.sha256(), bytearray(1 << 20)
    while size > 0:
        count = stream.readinto(memoryview(block)[: min(size, len(block))])  # type: ignore[attr-defined]
        if not count:
            break
        digest.update(memoryview(block)[:count])
        size -= count
    return digest.hexdigest()
