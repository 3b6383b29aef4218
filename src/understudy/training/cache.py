"""Features on disk: memory-mapped arrays that are filled once, and resumed where that stopped.

FOLDER/note.json   how many batches of images are done, and which images are corrupt
FOLDER/00.npy      the first feature: a row per image and view, float16
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.errors import DataError, UnderstudyError
from understudy.files import read_json, write_json
from understudy.nn.device import select
from understudy.training.hold_out import Array, HoldOut, Order
from understudy.training.source import Sample, TrainingImages
from understudy.zoo.batches import Batch

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a feature -> the shape of one sample's."""

BATCH = 256  # images that go through the network together
NOTED = 30.0  # seconds between two notes of what is done
_BYTES = 2  # of a float16


@dataclass(frozen=True, eq=False)
class Rows:
    """Which row of a cache holds which view of which image.

    The views of an image that is learnt from lie together, in the order that `HoldOut.train` has
    the images; of an image that is held out there is the plain view alone, behind all of them.
    """

    first: Array
    learnt: Array
    count: int
    views: int

    @staticmethod
    def of(parts: HoldOut, *, images: int, views: int) -> Rows:
        learnt = np.zeros(images, bool)
        learnt[parts.train] = True
        ahead = len(parts.train) * views
        first = np.zeros(images, np.int64)
        first[parts.train] = np.arange(len(parts.train)) * views
        first[parts.held_out] = ahead + np.arange(len(parts.held_out))
        return Rows(first, learnt, ahead + len(parts.held_out), views)


def estimated(shapes: Shapes, rows: Rows) -> int:
    """The bytes that a cache takes."""
    return rows.count * sum(map(prod, shapes.values())) * _BYTES


def free_bytes(folder: Path) -> int:
    """The bytes that are free where a folder lies or will lie."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


class Cache:
    """Features of every image in all its views, in a folder.

    Args:
        folder: made where it is missing; a cache that is there already goes on.
        shapes: what is kept.
        rows: where it is kept.

    Raises:
        DataError: a cache is there that is not of these shapes.
        UnderstudyError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shapes: Shapes, rows: Rows) -> None:
        self._note = folder / "note.json"
        self._rows = rows
        told = _told(folder)
        self._done = int(told.get("done", 0))
        self._corrupt: list[int] = list(told.get("corrupt", []))
        self._arrays = {
            name: _array(folder / f"{number:02}.npy", (rows.count, *shape), new=not self._done)
            for number, (name, shape) in enumerate(shapes.items())
        }
        self._write_note()

    @staticmethod
    def begun(folder: Path) -> bool:
        """Whether a cache lies in a folder that is worth going on with."""
        return int(_told(folder).get("done", 0)) > 0

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded."""
        return np.array(self._corrupt, np.int64)

    def fill(self, seen: TrainingImages, *, on_progress: Callable[[int, int], None]) -> None:
        """Take the features that are missing; whatever stops it, what was finished is kept.

        Raises:
            DataError: images that the network cannot take.
            ModelError: features that are not numbers.
        """
        images = len(seen.data)
        noted = time.monotonic()
        on_progress(min(self._done * BATCH, images), images)
        left = np.arange(self._done * BATCH, images)
        if not len(left):
            return
        try:
            for batch in seen.decoded(left, size=BATCH):
                self._take(seen, batch)
                start = self._done * BATCH
                asked = np.arange(start, min(start + BATCH, images))
                self._corrupt += np.setdiff1d(asked, batch.positions).tolist()
                self._done += 1
                on_progress(int(asked[-1]) + 1, images)
                if time.monotonic() - noted > NOTED:
                    self._write_note()
                    noted = time.monotonic()
        finally:
            self._write_note()

    def batches(self, order: Order, *, size: int) -> Iterator[Sample]:
        """Features in batches of `size`."""
        for asked in order.cut(size):
            rows = self._rows.first[asked.positions] + asked.views
            features = {
                name: torch.from_numpy(np.asarray(array[rows]))
                for name, array in self._arrays.items()
            }
            yield Sample(asked.positions, features)

    def _take(self, seen: TrainingImages, batch: Batch) -> None:
        for view in range(self._rows.views if len(batch) else 0):
            kept = self._learnt(batch) if view else batch
            if len(kept):
                features = seen.features(kept, np.full(len(kept), view))
                rows = self._rows.first[kept.positions] + view
                for name, array in self._arrays.items():
                    array[rows] = features[name].cpu().numpy()

    def _learnt(self, batch: Batch) -> Batch:
        """The images that are learnt from: those held out have no further views."""
        (rows,) = np.nonzero(self._rows.learnt[batch.positions])
        images = select(batch.images, torch.from_numpy(rows))
        return Batch(batch.positions[rows], images if isinstance(images, Tensor) else [*images])

    def _write_note(self) -> None:
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        write_json(self._note, {"done": self._done, "corrupt": self._corrupt})


def _told(folder: Path) -> dict[str, Any]:
    """What the note in a folder says; nothing where there is none."""
    note = folder / "note.json"
    told: dict[str, Any] = read_json(note, DataError, "a cache") if note.exists() else {}
    return told


def _array(file: Path, shape: tuple[int, ...], *, new: bool) -> Array:
    try:
        if new:
            file.parent.mkdir(parents=True, exist_ok=True)
            array: Array = np.lib.format.open_memmap(file, "w+", np.float16, shape)
            _allocate(file)
            return array
        array = np.lib.format.open_memmap(file, "r+")
    except (OSError, ValueError) as error:
        raise UnderstudyError(
            f"features cannot be kept in {str(file)!r} ({error}): make room, delete that folder, "
            "or choose another place"
        ) from error
    if array.shape != shape or array.dtype != np.float16:
        raise DataError(
            f"unfinished work in {str(file.parent)!r} is damaged ({file.name} has the shape "
            f"{array.shape}, not {shape}): delete that folder"
        )
    return array


def _allocate(file: Path) -> None:
    """Take the room at once: a full disk is an error now, not a crash in the midst of writing."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
