"""Trained exits on disk: a folder of one JSON file and the weights that were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from understudy.early_exit.esn import ExitSequence
from understudy.early_exit.heads import Head, PlainHead
from understudy.early_exit.network import ExitLocation, ExitNetwork, SaverBranch
from understudy.early_exit.taps import Tap
from understudy.errors import ModelError
from understudy.files import (
    check_own_folder,
    check_version,
    read_json,
    replacing_folder,
    write_json,
)
from understudy.nn.execution_mode import PLAIN, ExecutionMode
from understudy.nn.stage import Stage

FORMAT, VERSION = "understudy.exits", 1
NAME, WEIGHTS = "exits.json", "exits.safetensors"
StageOf = Callable[[Mapping[str, Any]], Stage]
"""Makes the stage that an origin (plain JSON, `Stage.to_origin`) speaks of."""


@dataclass(frozen=True)
class ExitFolder:
    """What a folder of trained exits says of itself.

    Attributes:
        name: what the network is called.
        network: the architecture, as `network_to_dict` gave it.
        classifier: the backbone's own last layer, by module path, where it was trained anew.
        training: plain JSON, how the exits were trained and how well they did.
    """

    name: str
    network: Mapping[str, Any]
    classifier: str | None
    training: Mapping[str, Any]

    @staticmethod
    def read(path: str | Path) -> ExitFolder:
        """Read the JSON file of a folder.

        Raises:
            ModelError: no folder of exits, a damaged one, or one that a newer understudy wrote.
        """
        file = Path(path).expanduser() / NAME
        data = read_json(file, ModelError, "a folder of exits")
        check_version(data, kind=FORMAT, newest=VERSION, path=file, error=ModelError)
        try:
            return ExitFolder(
                str(data["name"]), data["network"], data["classifier"], data["training"]
            )
        except KeyError as error:
            raise ModelError(
                f"{str(file)!r} is damaged (no {error}): train the exits again"
            ) from error


def save_exits(
    network: ExitNetwork,
    path: str | Path,
    *,
    name: str,
    classifier: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write the exits of a network into a folder, whole or not at all; the backbone stays out.

    Args:
        network: its backbone (and saver) have specs, because they are made again from them.
        path: the folder; a folder of exits that is there is replaced.
        name: what the network is called when it is scored.
        classifier: the module path of the backbone's last layer, where that was trained anew.
        training: plain JSON that is kept with it.

    Raises:
        ModelError: a backbone without a spec, or a head that is a module of your own.
        UnderstudyError: the folder cannot be written, or holds something else.
    """
    target = Path(path)
    check_replaceable(target)
    data = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "network": network_to_dict(network),
        "classifier": classifier,
        "training": dict(training or {}),
    }
    with replacing_folder(target) as folder:
        weights = {key: v.contiguous() for key, v in _trained(network, classifier).items()}
        save_file(weights, folder / WEIGHTS)
        write_json(folder / NAME, data)


def load_exits(path: str | Path, *, stage_of: StageOf) -> ExitNetwork:
    """Read a folder that `save_exits` wrote, on the CPU.

    Args:
        path: the folder.
        stage_of: makes the backbone and the saver, with the weights that they had.

    Raises:
        ModelError: no folder of exits, a damaged one, or a backbone with other weights than those
            that the exits were trained on.
    """
    folder = Path(path).expanduser()
    told = ExitFolder.read(folder)
    network = network_from_dict(told.network, stage_of)
    try:
        saved = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights of the exits cannot be read from {str(folder / WEIGHTS)!r} ({error}): "
            "train them again"
        ) from error
    own = _trained(network, told.classifier)
    strange = sorted(
        set(own.keys() ^ saved.keys())
        | {k for k in own.keys() & saved.keys() if own[k].shape != saved[k].shape}
    )
    if strange:
        raise ModelError(
            f"the weights in {str(folder / WEIGHTS)!r} do not fit the heads that {NAME} describes "
            f"({len(strange)} differ, such as {strange[0]!r}): train the exits again"
        )
    with torch.no_grad():
        for key, value in saved.items():
            own[key].copy_(value)
    expected, found = told.network["backbone"]["weights_hash"], network.stage.weights_hash
    if found != expected:
        raise ModelError(
            f"the exits in {str(folder)!r} were trained on other weights of "
            f"{network.stage.spec!r} (hash {expected[:12]}, here {found[:12]}): restore those "
            "weights, or train the exits again"
        )
    return network


def network_to_dict(network: ExitNetwork) -> dict[str, Any]:
    """The architecture of a network as plain JSON, with the origins of its backbone and saver.

    Raises:
        ModelError: a backbone without a spec, or a head that is a module of your own.
    """
    bare = [
        f"{network.taps[point.tap].path}/{point.head}"
        for point in network.locations
        if isinstance(network.head(point), PlainHead)
    ]
    if bare:
        raise ModelError(
            f"a saved head is made again from its kind, {bare[0]!r} is a module of your own: use "
            "one of the kinds (linear, mlp1x1000, conv64), or keep the network in memory"
        )
    if network.stage.spec is None:
        raise ModelError(
            "a saved backbone is made again from its spec, this one exists in memory alone "
            f"({type(network.stage.model).__name__}): name one with "
            'Stage(model, origin={"spec": "py:module:factory"})'
        )
    saver_branch = network.saver_branch
    return {
        "backbone": network.stage.to_origin(),
        "run": network.mode.name,
        "image": {
            "shape": list(network.image.shape),
            "dtype": str(network.image.dtype).removeprefix("torch."),
        },
        "taps": [tap.to_dict() for tap in network.taps],
        "heads": [
            {"tap": p.tap, "name": p.head, "made": network.head(p).to_dict()}
            for p in network.locations
        ],
        "companion": None
        if saver_branch is None
        else {
            "name": saver_branch.name,
            "saver": network_to_dict(saver_branch.saver),
            "sequence": saver_branch.sequence.to_dict(),
        },
    }


def network_from_dict(data: Mapping[str, Any], stage_of: StageOf) -> ExitNetwork:
    """A network of that architecture; its heads are untrained.

    Raises:
        ModelError: a damaged description, or one that this version cannot build.
    """
    try:
        saver_branch = data["companion"]
        return ExitNetwork(
            stage_of(data["backbone"]),
            [Tap.from_dict(tap) for tap in data["taps"]],
            {
                ExitLocation(int(head["tap"]), str(head["name"])): Head.from_dict(head["made"])
                for head in data["heads"]
            },
            image=torch.zeros(data["image"]["shape"], dtype=getattr(torch, data["image"]["dtype"])),
            saver_branch=None
            if saver_branch is None
            else SaverBranch(
                str(saver_branch["name"]),
                network_from_dict(saver_branch["saver"], stage_of),
                ExitSequence.from_dict(saver_branch["sequence"]),
            ),
            mode=ExecutionMode.parse(run) if (run := data.get("run")) else PLAIN,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the description of a network is damaged ({error!r}): train its exits again"
        ) from error


def _trained(network: ExitNetwork, classifier: str | None) -> dict[str, Tensor]:
    """What training changes, by name, as views of the network's own tensors."""
    parts: dict[str, nn.Module] = {"heads": network.heads}
    if network.saver_branch is not None:
        parts["sequence"] = network.saver_branch.sequence
    if classifier is not None:
        parts["classifier"] = network.stage.model.get_submodule(classifier)
    return {
        f"{name}.{key}": value.detach()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


def check_replaceable(path: Path) -> None:
    """Refuse to replace what is no folder of exits: replacing one removes all that is in it.

    Raises:
        UnderstudyError: something else is there.
    """
    check_own_folder(path, mark=NAME, rule="exits go into a folder of their own")
