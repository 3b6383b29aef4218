"""Training in progress on disk, so that an interrupted run goes on.

DIR.partial/manifest.json   what is being trained, and how
DIR.partial/features/       the features that are learnt from, where they are kept
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
from understudy.training.cache import Cache

FORMAT, VERSION = "understudy.training", 1
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError)


class Checkpoint:
    """A folder in which an unfinished training lies.

    Args:
        folder: made where it is missing.
        plan: plain JSON, all that decides the weights; an older run goes on under the same one.

    Raises:
        DataError: an older run of another plan is in the way.
        UnderstudyError: the place cannot be written.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        keep_plan(folder, plan, kind=FORMAT, newest=VERSION, what="an unfinished training")

    @property
    def features(self) -> Path:
        """Where features are kept."""
        return self.folder / "features"

    def load(self, name: str) -> dict[str, Any] | None:
        """The state that was kept under a name: tensors, numbers and texts; None without one.

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

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep a state, whole or not at all."""
        with replacing(self._file(name)) as temporary:
            torch.save(dict(state), temporary)

    def remove_if_bare(self) -> None:
        """Delete the folder where nothing is done yet: there is nothing to go on from."""
        if not (any(self.folder.glob("*.pt")) or Cache.begun(self.features)):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
