"""Training in progress on disk, so that an interrupted run resumes.

DIR.partial/manifest.json   what is being trained, and how
DIR.partial/features/       the cache of features, where there is one
DIR.partial/exits.pt        the state after the last whole epoch
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.errors import DataError, UnderstudyError
from understudy.files import read_json, replacing, write_json
from understudy.folders import remove_folder
from understudy.nn.preprocess import select
from understudy.training.features import FeatureBatch, TrainingImages
from understudy.training.sampling import HoldOut, SampleOrder
from understudy.unfinished import keep_plan
from understudy.zoo.batches import Batch
from understudy.zoo.data import Array

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a feature -> the shape of one sample's."""

NOTE = "note.json"
BATCH = 256  # images that go through the network together
NOTE_SECONDS = 30.0  # between two notes of what is done
_BYTES = 2  # of a float16


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

    def bytes(self, shapes: Shapes) -> int:
        """The size of a cache with these rows."""
        return self.count * sum(map(prod, shapes.values())) * _BYTES


def free_bytes(folder: Path) -> int:
    """The bytes that are free where a folder lies or will lie."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


class FeatureCache:
    """Features of every image in all its views, in a folder.

    Args:
        folder: made where it is missing; a cache that is there already resumes.
        shapes: the features.
        rows: the rows of their arrays.

    Raises:
        DataError: a cache is there that is not of these shapes.
        UnderstudyError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shapes: Shapes, rows: CacheRows) -> None:
        self._note = folder / NOTE
        self._rows = rows
        note = _read_note(folder)
        self._done = int(note.get("done", 0))
        self._corrupt: list[int] = list(note.get("corrupt", []))
        self._arrays = {
            name: _array(folder / f"{number:02}.npy", (rows.count, *shape), new=not self._done)
            for number, (name, shape) in enumerate(shapes.items())
        }
        self._write_note()

    @staticmethod
    def begun(folder: Path) -> bool:
        """Whether a folder holds a cache that is worth resuming."""
        return int(_read_note(folder).get("done", 0)) > 0

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded."""
        return np.array(self._corrupt, np.int64)

    def fill(self, images: TrainingImages, *, on_progress: Callable[[int, int], None]) -> None:
        """Store the features that are missing; an exception loses nothing that was finished.

        Raises:
            DataError: images that the network cannot take.
            ModelError: features that are not numbers.
        """
        count = len(images.data)
        noted = time.monotonic()
        on_progress(min(self._done * BATCH, count), count)
        left = np.arange(self._done * BATCH, count)
        if not len(left):
            return
        try:
            for batch in images.decoded(left, size=BATCH):
                self._store(images, batch)
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

    def _store(self, images: TrainingImages, batch: Batch) -> None:
        for view in range(self._rows.views if len(batch) else 0):
            viewed = self._training_images(batch) if view else batch
            if len(viewed):
                features = images.features(viewed, np.full(len(viewed), view))
                rows = self._rows.of(viewed.positions, view)
                for name, array in self._arrays.items():
                    array[rows] = features[name].cpu().numpy()

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
    """Reserve the room now: a full disk is an error here, not a crash while writing."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


FORMAT, VERSION = "understudy.training", 1
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError)


class Checkpoint:
    """A folder that holds an unfinished training.

    Args:
        folder: made where it is missing.
        plan: plain JSON that determines the weights; an older run resumes under the same one.

    Raises:
        DataError: an older run of another plan is in the way.
        UnderstudyError: the place cannot be written.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        keep_plan(folder, plan, kind=FORMAT, newest=VERSION, what="an unfinished training")

    @property
    def features(self) -> Path:
        """Where features are cached."""
        return self.folder / "features"

    def load(self, name: str) -> dict[str, Any] | None:
        """The state that was saved under a name: tensors, numbers and texts; None without one.

        Raises:
            DataError: it is damaged.
        """
        file = self._file(name)
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise DataError(
                f"unfinished work in {str(file)!r} is damaged ({type(error).__name__}): "
                "delete that file, and training begins anew"
            ) from error
        return state

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Save a state, whole or not at all."""
        content = BytesIO()
        torch.save(dict(state), content)
        with replacing(self._file(name)) as temporary:
            temporary.write_bytes(content.getbuffer())

    def remove_if_empty(self) -> None:
        """Delete the folder where nothing is done yet: there is nothing to resume."""
        if not (any(self.folder.glob("*.pt")) or FeatureCache.begun(self.features)):
            remove_folder(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
