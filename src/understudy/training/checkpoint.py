"""Training in progress on disk, so that an interrupted run resumes.

DIR.partial/manifest.json   what is being trained, and how
DIR.partial/features/       the cache of features, where there is one
DIR.partial/exits.pt        the state after a whole epoch
DIR.partial/exits.best/     the best weights so far, a file per module and epoch
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from understudy.errors import DataError, UnderstudyError
from understudy.files import replacing
from understudy.folders import remove_folder
from understudy.training.feature_cache import FeatureCache
from understudy.unfinished import keep_plan

FORMAT, VERSION = "understudy.training", 1
WEIGHTS = "weights"
"""The key under which a loaded state has the best weights."""

SHARE = 0.05
"""The share of the time that saving may take, unless it takes longer than `SHARE` x `SECONDS`."""

SECONDS = 600.0
"""After which a state is saved, however long that takes."""

_BEST = "epochs of the best weights"
_COPIES = 4  # of all weights in a checkpoint: the last, the best, and two moments of AdamW
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError)


class BestWeights(NamedTuple):
    """The best weights of one module so far, and the epoch after which it had them."""

    epoch: int
    state: Mapping[str, Tensor]


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
        self._last = _LastSave(ended=float("-inf"), seconds=0.0)
        self._best: dict[str, frozenset[Path]] = {}  # the files that the state on disk refers to
        keep_plan(folder, plan, kind=FORMAT, newest=VERSION, what="an unfinished training")

    @property
    def features(self) -> Path:
        """Where features are cached."""
        return self.folder / "features"

    def due(self) -> bool:
        """Whether a state should be saved again.

        Saving takes a twentieth of the time at most (`SHARE`), but for states that take longer than
        half a minute to write, which are saved every 10 minutes (`SECONDS`). What an interrupted
        run loses it computes again, with the same outcome.
        """
        waited = time.monotonic() - self._last.ended
        return waited >= min(self._last.seconds * (1 / SHARE - 1), SECONDS)

    def load(self, name: str) -> dict[str, Any] | None:
        """The state that was saved under a name: tensors, numbers and texts, the best weights under
        `WEIGHTS`; None without one.

        Raises:
            DataError: it is damaged.
        """
        file = self._file(name)
        if not file.exists():
            return None
        state = _loaded(file, of=file)
        if _BEST in state:
            files = [self._best_file(name, *one) for one in enumerate(state.pop(_BEST))]
            state[WEIGHTS] = [_loaded(one, of=file) for one in files]
            self._best[name] = frozenset(files)
        return state

    def save(
        self, name: str, state: Mapping[str, Any], *, best: Sequence[BestWeights] | None = None
    ) -> None:
        """Save a state, whole or not at all: where it cannot be written, the last one stays.

        Args:
            name: of the state.
            state: tensors, numbers and texts.
            best: the best weights of each module; those that are on disk are not written again.

        Raises:
            UnderstudyError: it cannot be written, for example because the disk is full.
        """
        start = time.monotonic()
        content = dict(state)
        files = [self._best_file(name, n, one.epoch) for n, one in enumerate(best or ())]
        if best is not None:
            content[_BEST] = [one.epoch for one in best]
        try:
            for file, one in zip(files, best or (), strict=True):
                if file not in self._best.get(name, ()):
                    _write(file, dict(one.state))
            _write(self._file(name), content)
        except UnderstudyError as error:
            self._remove_best_but(name, self._best.get(name, frozenset()))
            if self._file(name).exists():
                raise type(error)(f"{error}; training goes on from its last state then") from error
            raise
        self._best[name] = frozenset(files)
        self._remove_best_but(name, self._best[name])
        end = time.monotonic()
        self._last = _LastSave(ended=end, seconds=end - start)

    def check_room(self, modules: Iterable[nn.Module]) -> None:
        """Refuse to begin where there is no room for the states of some modules.

        A state is replaced when the next is written whole, so that there are two for a while.

        Args:
            modules: what will be trained.

        Raises:
            UnderstudyError: there is no room.
        """
        needed = 2 * state_bytes(modules) - self._held()
        free = free_bytes(self.folder)
        if needed > free:
            raise UnderstudyError(
                f"checkpoints of this training take {needed / 1e9:.2f} GB, found {free / 1e9:.2f} "
                f"free where {str(self.folder)!r} lies: make room, choose another place, or train "
                "less"
            )

    def remove_if_empty(self) -> None:
        """Delete the folder where nothing is done yet: there is nothing to resume."""
        if not (any(self.folder.glob("*.pt")) or FeatureCache.begun(self.features)):
            remove_folder(self.folder)

    def _remove_best_but(self, name: str, files: frozenset[Path]) -> None:
        for file in self._best_folder(name).glob("*.pt"):
            if file not in files:
                file.unlink()

    def _held(self) -> int:
        """The bytes of the states that are there."""
        return sum(file.stat().st_size for file in self.folder.glob("**/*.pt"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.pt"

    def _best_folder(self, name: str) -> Path:
        return self.folder / f"{name}.best"

    def _best_file(self, name: str, number: int, epoch: int) -> Path:
        return self._best_folder(name) / f"{number:04}-{epoch}.pt"


class _LastSave(NamedTuple):
    """When the last state was on disk, and how long it took to write."""

    ended: float
    seconds: float


def free_bytes(folder: Path) -> int:
    """The bytes that are free where a folder lies or will lie."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def state_bytes(modules: Iterable[nn.Module]) -> int:
    """The bytes of a state of some modules in training, about.

    >>> state_bytes([nn.Linear(1000, 10)])
    160160
    """
    weights = (p for module in modules for p in module.parameters())
    return _COPIES * sum(p.numel() * p.element_size() for p in weights)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Write tensors into a file, piece by piece, without a copy of them in memory."""
    with replacing(file) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # its writer hides the system's error behind its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _loaded(file: Path, *, of: Path) -> dict[str, Any]:
    """What a file of a state holds; without the state's own, training begins anew."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise DataError(
            f"unfinished work in {str(file)!r} is damaged ({type(error).__name__}): "
            f"delete {of.name}, and training begins anew"
        ) from error
    return state
