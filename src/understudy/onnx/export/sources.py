"""What of a cascade is exported: the exits it can be set to, and the pieces they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.stages import ExitStage
from understudy.ensemble import Ensemble
from understudy.errors import ModelError, PolicyError, unknown
from understudy.nn.cascade import Cascade
from understudy.nn.ensemble import EnsembleStage
from understudy.nn.stage import Stage
from understudy.onnx.export.graph import sources_of_network
from understudy.onnx.export.source import PartSource, source_of_model


def exported_exits(cascade: Cascade, exits: Iterable[str] | None = None) -> tuple[str, ...]:
    """The exits that the policy and the certified settings ask, and those named, in order.

    Raises:
        PolicyError: no such exit.
    """
    policies = (cascade.policy, *(setting.policy for setting in cascade.operating_points))
    wanted = {name for policy in policies for name in policy.exits}
    for name in exits or ():
        if name not in cascade.exits:
            raise PolicyError(unknown("exit", name, cascade.exits, where="this cascade"))
        wanted.add(name)
    return tuple(name for name in cascade.exits if name in wanted)


def averages_of(cascade: Cascade, exits: Iterable[str]) -> dict[str, Ensemble]:
    """Those of the exits that are averages, with their recipes."""
    stages = {name: cascade.stages[name] for name in exits}
    return {n: stage.ensemble for n, stage in stages.items() if isinstance(stage, EnsembleStage)}


def sources_of(cascade: Cascade, exits: Sequence[str], image: Tensor) -> list[PartSource]:
    """All pieces that the exits are made of, in an order in which they can run.

    Raises:
        ModelError: a network that cannot be cut, or preprocessing that cannot be put into a graph.
    """
    averages = averages_of(cascade, exits)
    plain = [n for n in exits if n not in averages]
    wanted = dict.fromkeys([*plain, *(one for a in averages.values() for one in a.exits)])
    stages, sources = cascade.stages, list[PartSource]()
    networks = _networks(stages, wanted)
    for name, (network, inside) in networks.items():
        sources += sources_of_network(name, network, inside, image)
    for name in wanted:
        if not isinstance(stages[name], ExitStage):
            sources.append(source_of_model(name, stages[name], image))
    return sources


def image_of(cascade: Cascade, exits: Sequence[str], size: tuple[int, int] | None = None) -> Tensor:
    """A black image as the cascade will take it.

    By default it has the size that the largest stage resizes images to before it cuts out their
    centre: resizing is then left to smaller stages.

    Raises:
        ModelError: no stage says what it takes.
    """
    found = [image for name in exits for image in _taken(cascade.stages[name])]
    if not found:
        raise ModelError(
            "an exported cascade takes images of one shape, found no stage that sets one: give "
            "`image`, one sample"
        )
    largest = max(found, key=lambda image: image.numel())
    if size is None:
        return largest
    return largest.new_zeros((*largest.shape[:-2], *size))


def _networks(
    stages: Mapping[str, Stage], wanted: Iterable[str]
) -> dict[str, tuple[ExitNetwork, set[str]]]:
    """Networks by name, each with those of its exits that are wanted, a saver's among them."""
    inside = {n: s for n, s in stages.items() if isinstance(s, ExitStage)}
    by_name = {stage.name: stage.network for stage in inside.values()}
    networks: dict[str, tuple[ExitNetwork, set[str]]] = {}
    for exit in wanted:
        if exit in inside:
            root = str(inside[exit].origin["root"])
            name = root if root in by_name else inside[exit].name
            networks.setdefault(name, (by_name[name], set()))[1].add(exit)
    return networks


def _taken(stage: Stage) -> list[Tensor]:
    """The images that a stage sets, of which there is one, or that an average's members set."""
    if isinstance(stage, EnsembleStage):
        return [image for member in stage.members.values() for image in _taken(member)]
    preprocess = stage.preprocess
    if preprocess is not None and preprocess.size is not None:
        sides = (math.floor(side / preprocess.crop) for side in preprocess.size)
        return [torch.zeros(len(preprocess.mean), *sides, dtype=torch.uint8)]
    return [stage.network.image.cpu()] if isinstance(stage, ExitStage) else []
