"""Saved exits: a folder of one JSON file and the weights that were trained."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from understudy.contained_files import check_contained
from understudy.early_exit.exit_sequence import SequenceSpec
from understudy.early_exit.heads import HeadSpec
from understudy.early_exit.network import ExitLocation, ExitNetwork, SaverBranch
from understudy.early_exit.taps import Tap
from understudy.errors import ModelError
from understudy.folders import check_own_folder, replacing_folder
from understudy.json_codec import Stored, StoredFile, stored
from understudy.nn.execution_mode import PLAIN, ExecutionMode
from understudy.nn.identity import check_identity, identity_of
from understudy.nn.stage import Stage

NAME, WEIGHTS = "exits.json", "exits.safetensors"
REMEDY = "train the exits again"
StageOf = Callable[[Mapping[str, Any]], Stage]
"""From an origin (plain JSON, `Stage.to_origin`) to its stage."""


@dataclass(frozen=True)
class _Image(Stored):
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _SavedHead(Stored):
    tap: int
    name: str
    made: HeadSpec = field(metadata=stored(pack=HeadSpec.to_dict))


@dataclass(frozen=True)
class _SavedBranch(Stored):
    name: str
    saver: Architecture
    sequence: SequenceSpec

    @staticmethod
    def of(branch: SaverBranch) -> _SavedBranch:
        saver = Architecture.of(branch.saver)
        return _SavedBranch(branch.name, saver, branch.sequence.spec)

    def build(self, stage_of: StageOf) -> SaverBranch:
        return SaverBranch(self.name, self.saver.build(stage_of), self.sequence.build())


@dataclass(frozen=True)
class Architecture(
    Stored,
    what="the architecture of a network",
    error=ModelError,
    remedy=REMEDY,
    keys=("backbone", "run", "image", "taps", "heads", "companion"),
):
    """A network with exits without weights, and the origins of its backbone and saver.

    Attributes:
        backbone: the origin of its stage.
        image: shape and dtype of one sample.
        taps: in the order of execution.
        heads: by location.
        saver_branch: the saver and its Exit Sequence Network, or None.
        run: the name of the execution mode.
    """

    backbone: Mapping[str, Any]
    image: _Image
    taps: tuple[Tap, ...]
    heads: tuple[_SavedHead, ...]
    saver_branch: _SavedBranch | None = field(metadata=stored(key="companion"))
    run: str = field(default="", metadata=stored(optional=True))

    @staticmethod
    def of(network: ExitNetwork) -> Architecture:
        """The architecture of a network.

        Raises:
            ModelError: a backbone without a spec, or a head that is a module of your own.
        """
        heads = []
        for location in network.locations:
            spec = network.head(location).spec
            if spec is None:
                name = f"{network.taps[location.tap].path}/{location.head}"
                raise ModelError(
                    f"a saved head is built again from its kind, {name!r} is a module of your own: "
                    "use one of the kinds (linear, mlp3x500, conv64), or keep the network in "
                    "memory"
                )
            heads.append(_SavedHead(location.tap, location.head, spec))
        if network.stage.spec is None:
            raise ModelError(
                "a saved backbone is built again from its spec, this one exists in memory alone "
                f"({type(network.stage.model).__name__}): name one with "
                'Stage(model, origin={"spec": "py:module:factory"})'
            )
        branch, dtype = network.saver_branch, str(network.image.dtype).removeprefix("torch.")
        return Architecture(
            backbone=identity_of(network.stage),
            run=network.mode.name,
            image=_Image(tuple(network.image.shape), dtype),
            taps=network.taps,
            heads=tuple(heads),
            saver_branch=None if branch is None else _SavedBranch.of(branch),
        )

    def build(self, stage_of: StageOf) -> ExitNetwork:
        """A network of this architecture; its heads are untrained.

        Raises:
            ModelError: an architecture that this version cannot build.
        """
        branch, dtype = self.saver_branch, getattr(torch, self.image.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(f"images have a dtype, found {self.image.dtype!r}: {REMEDY}")
        return ExitNetwork(
            stage_of(self.backbone),
            self.taps,
            {ExitLocation(head.tap, head.name): head.made.build() for head in self.heads},
            image=torch.zeros(self.image.shape, dtype=dtype),
            saver_branch=None if branch is None else branch.build(stage_of),
            mode=ExecutionMode.parse(self.run) if self.run else PLAIN,
        )

    def check_backbones(self, network: ExitNetwork) -> None:
        """Check that a network's backbone and saver are those of this architecture.

        Raises:
            ModelError: the message has what differs.
        """
        remedy = "restore it, or train the exits again"
        past = "there when exits were trained"
        check_identity("the backbone", self.backbone, network.stage, past=past, remedy=remedy)
        if self.saver_branch is not None and network.saver_branch is not None:
            self.saver_branch.saver.check_backbones(network.saver_branch.saver)


@dataclass(frozen=True)
class ExitFolder(
    StoredFile,
    what="a folder of exits",
    error=ModelError,
    remedy=REMEDY,
    format="understudy.exits",
    version=2,
):
    """The JSON file of a folder of trained exits.

    Attributes:
        name: of the network.
        network: its architecture.
        classifier: the backbone's own last layer, by module path, if it was trained anew.
        backbone: whether the backbone was tuned with its exits: all its weights lie in the folder.
        training: plain JSON, how the exits were trained, and their accuracy.
        weights_hash: SHA-256 of the file of weights; empty in older folders.
    """

    name: str
    network: Architecture
    classifier: str | None
    training: Mapping[str, Any]
    weights_hash: str = field(default="", metadata=stored(optional=True))
    backbone: bool = field(default=False, metadata=stored(optional=True, sparse=True))

    @staticmethod
    def read(path: str | Path) -> ExitFolder:
        """Read the JSON file of a folder.

        Raises:
            ModelError: no folder of exits, a damaged one, or one that a newer understudy wrote.
        """
        return ExitFolder.load(exits_file(path))


def exits_file(path: str | Path) -> Path:
    """The JSON file of a folder of exits, in which the specs of backbone and saver stand."""
    return _folder(path) / NAME


def _folder(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's raises where no such user is


def save_exits(
    network: ExitNetwork,
    path: str | Path,
    *,
    name: str,
    classifier: str | None = None,
    backbone: bool = False,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write the exits of a network into a folder, whole or not at all.

    The backbone's weights stay out unless it was tuned: its spec has them.

    Args:
        network: its backbone (and saver) have specs, from which they are built again.
        path: the folder; a folder of exits that is there is replaced.
        name: the name of the network in score tables.
        classifier: the module path of the backbone's last layer, if that was trained anew.
        backbone: whether the backbone was tuned.
        training: plain JSON that is stored with it.

    Raises:
        ModelError: a backbone without a spec, or a head that is a module of your own.
        UnderstudyError: the folder cannot be written, or holds something else.
    """
    target = Path(path)
    check_replaceable(target)
    architecture = Architecture.of(network)
    with replacing_folder(target) as folder:
        trained = _trained(network, classifier, backbone=backbone)
        weights = {
            key: v.clone(memory_format=torch.contiguous_format) for key, v in trained.items()
        }
        save_file(weights, folder / WEIGHTS)
        found = _file_hash(folder / WEIGHTS)
        about = dict(training or {})
        record = ExitFolder(name, architecture, classifier, about, found, backbone)
        record.save(folder / NAME)


def load_exits(path: str | Path, *, stage_of: StageOf) -> ExitNetwork:
    """Read a folder that `save_exits` wrote, on the CPU.

    Args:
        path: the folder.
        stage_of: builds the backbone and the saver, with their original weights.

    Raises:
        ModelError: no folder of exits, a damaged one, or a backbone with other weights than those
            that the exits were trained on.
    """
    folder = _folder(path)
    check_contained(folder, error=ModelError)
    record = ExitFolder.read(folder)
    saved = _read_weights(folder / WEIGHTS, record.weights_hash)
    network = record.network.build(stage_of)
    own = _trained(network, record.classifier, backbone=record.backbone)
    different = sorted(
        set(own.keys() ^ saved.keys())
        | {k for k in own.keys() & saved.keys() if own[k].shape != saved[k].shape}
    )
    if different:
        raise ModelError(
            f"the weights in {str(folder / WEIGHTS)!r} do not fit the heads that {NAME} describes "
            f"({len(different)} differ, such as {different[0]!r}): train the exits again"
        )
    with torch.no_grad():
        for key, value in saved.items():
            own[key].copy_(value)
    record.network.check_backbones(network)
    return network


def _read_weights(file: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a file with a hash; any where that is empty."""
    try:
        found = _file_hash(file)
        if expected not in ("", found):
            raise ModelError(
                f"the weights in {str(file)!r} are not those that were saved (their hash is "
                f"{found[:12]}, not {expected[:12]}): {REMEDY}"
            )
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights of the exits cannot be read from {str(file)!r} ({error}): {REMEDY}"
        ) from error


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _trained(network: ExitNetwork, classifier: str | None, *, backbone: bool) -> dict[str, Tensor]:
    """The tensors that training changes, by name, sharing the network's memory."""
    parts: dict[str, nn.Module] = {"heads": network.heads}
    if network.saver_branch is not None:
        parts["sequence"] = network.saver_branch.sequence
    if backbone:
        parts["backbone"] = network.stage.model
    if classifier is not None:
        parts["classifier"] = network.stage.model.get_submodule(classifier)
    return {
        f"{name}.{key}": value.detach()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


def check_replaceable(path: Path) -> None:
    """Check that a path is free or a folder of exits, which is removed when it is replaced.

    Raises:
        UnderstudyError: something else is there.
    """
    check_own_folder(path, mark=NAME, rule="exits go into a folder of their own")
