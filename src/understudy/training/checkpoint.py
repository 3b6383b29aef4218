"""Training in progress on disk, so that an interrupted run resumes.

DIR.partial/manifest.json   what is being trained, and how
DIR.partial/features/       the cache of features, where there is one
DIR.partial/exits.pt        the state after the last whole epoch
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from understudy.errors import DataError
from understudy.files import keep_plan, replacing
from understudy.training.feature_cache import FeatureCache

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
        with replacing(self._file(name)) as temporary:
            torch.save(dict(state), temporary)

    def remove_if_empty(self) -> None:
        """Delete the folder where nothing is done yet: there is nothing to resume."""
        if not (any(self.folder.glob("*.pt")) or FeatureCache.begun(self.features)):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
