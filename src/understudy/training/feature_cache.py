"""Features on disk: every image in all its views goes through the frozen network once.

FOLDER/note.json   how many blocks of images are done, and which images are corrupt
FOLDER/NN.npy      one feature, a row per image and view, in float16 or float32
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from understudy.errors import DataError, UnderstudyError
from understudy.files import read_json, replacing, write_json
from understudy.nn.preprocess import select
from understudy.progress_bars import no_bar
from understudy.training.features import FeatureBatch, Features, TrainingImages, beyond_range
from understudy.training.sampling import HoldOut, SampleOrder
from understudy.zoo.batches import Batch
from understudy.zoo.data import Array

Note = Callable[[str], None]
"""Called with remarks for people."""


class FeatureKind(NamedTuple):
    """The shape of one sample's feature, and the dtype in which it is stored."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


Kinds = Mapping[str, FeatureKind]
"""By name of a feature."""


def kinds_of(features: Features) -> dict[str, FeatureKind]:
    """The kinds of the features of some images.

    >>> kinds_of({"logits": torch.zeros(2, 3, dtype=torch.float16)})
    {'logits': FeatureKind(shape=(3,), dtype=dtype('float16'))}
    """
    return {
        name: FeatureKind(tuple(value.shape[1:]), value[:0].cpu().numpy().dtype)
        for name, value in features.items()
    }


def wide_words(name: str, value: Tensor, of: int) -> str:
    """What to say of a feature that float16 cannot hold."""
    return (
        f"the feature {name!r} has {beyond_range(value):,} values beyond float16's 65,504 in "
        f"{of:,} images: it is stored in float32, in twice the space"
    )


NOTE = "note.json"
BATCH = 256  # images that are decoded together, and noted as done together
NOTE_SECONDS = 30.0  # between two notes of what is done
ROWS = 4096  # of an array that are copied at a time


class CacheRows:
    """Which row of a cache holds which view of which image.

    The views of a training image lie together, in the order of `HoldOut.train`; an image that is
    held out has its plain view alone, behind all of them.

    Args:
        hold_out: the training images and those held out.
        images: how many images the data have.
        views: views of every training image.
    """

    def __init__(self, hold_out: HoldOut, *, images: int, views: int) -> None:
        self.views = views
        self.count = len(hold_out.train) * views + len(hold_out.held_out)
        self._behind_training = len(hold_out.train) * views
        self._first = np.zeros(images, np.int64)
        self._first[hold_out.train] = np.arange(0, self._behind_training, views)
        self._first[hold_out.held_out] = np.arange(self._behind_training, self.count)

    def of(self, positions: Array, views: Array | int) -> Array:
        """The rows (n,) of some images, each in a view."""
        return self._first[positions] + views

    def training(self, positions: Array) -> Array:
        """Which of some images are training images, (n,) bool."""
        return self._first[positions] < self._behind_training

    def bytes(self, kinds: Kinds) -> int:
        """The size of a cache with these rows."""
        return self.count * sum(prod(one.shape) * one.dtype.itemsize for one in kinds.values())


class FeatureCache:
    """Features of every image in all its views, in a folder.

    Args:
        folder: made where it is missing; a cache that is there already resumes.
        kinds: the features.
        rows: the rows of their arrays.

    Raises:
        DataError: a cache is there that is not of these kinds.
        UnderstudyError: the folder cannot be written.
    """

    def __init__(self, folder: Path, kinds: Kinds, rows: CacheRows) -> None:
        self._note = folder / NOTE
        self._rows = rows
        note = _read_note(folder)
        self._done = int(note.get("done", 0))
        self._corrupt: list[int] = list(note.get("corrupt", []))
        self._arrays = {
            name: _array(folder / f"{number:02}.npy", rows.count, kind, new=not self._done)
            for number, (name, kind) in enumerate(kinds.items())
        }
        self._files = {name: folder / f"{n:02}.npy" for n, name in enumerate(kinds)}
        self._write_note()

    @staticmethod
    def begun(folder: Path) -> bool:
        """Whether a folder holds a cache that is worth resuming."""
        return int(_read_note(folder).get("done", 0)) > 0

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded."""
        return np.array(self._corrupt, np.int64)

    def add_corrupt(self, positions: Array) -> None:
        """Nothing: what could not be decoded stands in the note of the cache."""

    def fill(
        self,
        images: TrainingImages,
        *,
        on_progress: Callable[[int, int], None],
        on_note: Note = no_bar,
    ) -> None:
        """Store the features that are missing; an exception loses nothing that was finished.

        A feature whose values do not fit into float16 any more is stored in float32 from there on.

        Raises:
            DataError: images that the network cannot take.
            ModelError: features that are not finite.
            UnderstudyError: no room for a feature in float32.
        """
        count = len(images.data)
        noted = time.monotonic()
        on_progress(min(self._done * BATCH, count), count)
        left = np.arange(self._done * BATCH, count)
        if not len(left):
            return
        try:
            for batch in images.decoded(left, size=BATCH):
                self._store(images, batch, on_note)
                start = self._done * BATCH
                block = np.arange(start, min(start + BATCH, count))
                self._corrupt += np.setdiff1d(block, batch.positions).tolist()
                self._done += 1
                on_progress(int(block[-1]) + 1, count)
                if time.monotonic() - noted > NOTE_SECONDS:
                    self._write_note()
                    noted = time.monotonic()
        finally:
            self._write_note()

    def batches(self, order: SampleOrder, *, size: int) -> Iterator[FeatureBatch]:
        """Features in batches of `size`."""
        for requested in order.batches(size):
            rows = self._rows.of(requested.positions, requested.views)
            features = {
                name: torch.from_numpy(np.asarray(array[rows]))
                for name, array in self._arrays.items()
            }
            yield FeatureBatch(requested.positions, features)

    def _store(self, images: TrainingImages, batch: Batch, on_note: Note) -> None:
        for view in range(self._rows.views if len(batch) else 0):
            viewed = self._training_images(batch) if view else batch
            if len(viewed):
                features = images.features(viewed, np.full(len(viewed), view))
                rows = self._rows.of(viewed.positions, view)
                for name, value in features.items():
                    stored = value.cpu().numpy()
                    if stored.itemsize > self._arrays[name].itemsize:
                        on_note(wide_words(name, value, len(viewed)))
                        self._widen(name, stored.dtype)
                    self._arrays[name][rows] = stored

    def _widen(self, name: str, dtype: np.dtype[Any]) -> None:
        """Copy the array of a feature into one of another dtype.

        The note is written first: work that is resumed stores every block in the same dtype as
        work that was not interrupted, before and after.
        """
        self._write_note()
        old, file = self._arrays[name], self._files[name]
        with replacing(file) as temporary:
            new = _new_array(temporary, old.shape, dtype)
            for start in range(0, len(old), ROWS):
                new[start : start + ROWS] = old[start : start + ROWS]
            new.flush()
        self._arrays[name] = np.lib.format.open_memmap(file, "r+")

    def _training_images(self, batch: Batch) -> Batch:
        """Without the images that are held out, which have no further views."""
        (rows,) = np.nonzero(self._rows.training(batch.positions))
        images = select(batch.images, torch.from_numpy(rows))
        return Batch(batch.positions[rows], images if isinstance(images, Tensor) else [*images])

    def _write_note(self) -> None:
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        write_json(self._note, {"done": self._done, "corrupt": self._corrupt})


def _read_note(folder: Path) -> dict[str, Any]:
    """The note in a folder; an empty one where there is none."""
    file = folder / NOTE
    note: dict[str, Any] = read_json(file, DataError, "a cache") if file.exists() else {}
    return note


def _array(file: Path, rows: int, kind: FeatureKind, *, new: bool) -> Array:
    """A new array, or the one that is there, whose dtype may be a wider one."""
    shape = (rows, *kind.shape)
    try:
        if new:
            file.parent.mkdir(parents=True, exist_ok=True)
            return _new_array(file, shape, kind.dtype)
        array: Array = np.lib.format.open_memmap(file, "r+")
    except (OSError, ValueError) as error:
        raise UnderstudyError(
            f"features cannot be kept in {str(file)!r} ({error}): make room, delete that folder, "
            "or choose another place"
        ) from error
    if array.shape != shape or array.dtype not in (kind.dtype, np.dtype(np.float32)):
        raise DataError(
            f"unfinished work in {str(file.parent)!r} is damaged ({file.name} has the shape "
            f"{array.shape} of {array.dtype}, not {shape} of {kind.dtype}): delete that folder"
        )
    return array


def _new_array(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(file, "w+", dtype, shape)
    _allocate(file)
    return array


def _allocate(file: Path) -> None:
    """Reserve the room now: a full disk is an error here, not a crash while writing."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
