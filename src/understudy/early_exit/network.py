"""A network with exits: a frozen backbone, its taps, and the heads that answer there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from understudy.early_exit.exit_sequence import SEQUENCE, ExitSequence, SequenceSize
from understudy.early_exit.heads import Head, PlainHead, make_head
from understudy.early_exit.stages import (
    ESN,
    Backbone,
    ExitStage,
    Refinement,
    Segments,
    WholeNetwork,
    saver_stage,
)
from understudy.early_exit.taps import Tap, list_taps, tap_at
from understudy.errors import ModelError, listed
from understudy.nn.execution_mode import PLAIN, ExecutionMode, ModelInMode
from understudy.nn.stage import Stage, as_stage, uncompiled
from understudy.runtime.pipeline import check_classes

Heads = Mapping[str, str | nn.Module | Mapping[str, str | nn.Module]]
"""Module path -> a kind of head, a module (feature -> logits), or several of them by name."""


@dataclass(frozen=True)
class ExitLocation:
    """Where an exit is: the number of its tap, and the name of its head."""

    tap: int
    head: str


class ExitNetwork(Backbone):
    """A model that can answer early: a drop-in for its backbone, and one stage per exit.

    The segments between the taps run one after another; rows that are answered leave in between.

    Args:
        stage: the backbone with its preprocessing.
        taps: the places of the heads, in the order of execution.
        heads: by location.
        image: one sample as the stage takes it; its shape is the one that the segments take.
        saver_branch: a saver with its Exit Sequence Network, which answers at every tap.
        origin: plain JSON: where the exits come from; `spec` names how to load them again.
        mode: the execution mode of the segments; see `with_mode`.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
    ...                       nn.Linear(8, 3))
    >>> network = attach(model, {"1": "linear"}, image=torch.zeros(4))
    >>> list(network.stages("net"))
    ['net/1/linear', 'net']
    """

    def __init__(
        self,
        stage: Stage,
        taps: Sequence[Tap],
        heads: Mapping[ExitLocation, Head],
        *,
        image: Tensor,
        saver_branch: SaverBranch | None = None,
        origin: Mapping[str, Any] | None = None,
        mode: ExecutionMode = PLAIN,
    ) -> None:
        super().__init__(stage, taps, image=image, origin=origin, mode=mode)
        self.locations = tuple(sorted(heads, key=lambda location: location.tap))
        self.heads = nn.ModuleList(heads[location] for location in self.locations)
        self.companion = saver_branch  # the name of its weights in saved files
        if mode.channels_last:
            self.to(memory_format=torch.channels_last)
        self.eval()

    @property
    def saver_branch(self) -> SaverBranch | None:
        """The saver and its Exit Sequence Network, if there is one."""
        return self.companion

    def head(self, location: ExitLocation) -> Head:
        """The head at a location."""
        return cast("Head", self.heads[self.locations.index(location)])

    def with_mode(self, mode: ExecutionMode) -> ExitNetwork:
        """The same network in another execution mode; the modules are shared.

        Raises:
            ModelError: compiled, which is for whole models.
        """
        if mode.compiled:
            raise ModelError(
                "the segments of a network run in any mode but compiled, found "
                f"{mode.name!r}: leave it out, or run the model whole"
            )
        branch = self.saver_branch
        if branch is not None:
            branch = SaverBranch(branch.name, branch.saver.with_mode(mode), branch.sequence)
        return ExitNetwork(
            self.stage,
            self.taps,
            {location: self.head(location) for location in self.locations},
            image=self.image,
            saver_branch=branch,
            origin=self.origin,
            mode=mode,
        )

    def stages(self, name: str) -> dict[str, Stage]:
        """A stage for every exit in the order of execution, the whole network last.

        The exits are named NAME/TAP/HEAD, those of the Exit Sequence Network NAME/TAP/esn, the
        network NAME; the name of the saver is set by its branch.

        Raises:
            ModelError: the network and its saver have the same name.
        """
        branch = self.saver_branch
        segments = Segments(self, name, keeps_pooled=branch is not None)
        stages: dict[str, Stage] = {}
        refinement: Refinement | None = None
        if branch is not None:
            branch.saver.origin = self.origin
            stages[branch.name] = saver = saver_stage(branch.saver, branch.name, root=name)
            refinement = Refinement(segments, saver, branch.name, branch.sequence)
        members = dict(stages)
        for number, tap in enumerate(self.taps):
            for location in self.locations:
                if location.tap == number:
                    exit, head = f"{name}/{tap.path}/{location.head}", self.head(location)
                    if refinement is not None and head.saver_width:
                        parts = refinement.conditioned(head, number, exit)
                        stages[exit] = ExitStage(self, name, exit, parts, members=members)
                    else:
                        parts = (*segments.until(number), segments.head(head, number, exit))
                        stages[exit] = ExitStage(self, name, exit, parts)
            if refinement is not None:
                exit = f"{name}/{tap.path}/{ESN}"
                parts = refinement.exit(number, exit)
                stages[exit] = ExitStage(self, name, exit, parts, members=members)
        if name in stages:
            raise ModelError(
                f"a network and its saver have names of their own, both are {name!r}: rename one"
            )
        stages[name] = WholeNetwork(self, name, name, segments.until(len(self.taps)))
        return stages


class SaverBranch(nn.Module):
    """A saver and the Exit Sequence Network that refines its logits at every tap of a network.

    TinySaver, arXiv 2403.17726, section 3.3. The saver is a network of its own with one tap: its
    last feature map.

    Args:
        name: the name of the saver's exit.
        saver: the saver, tapped once.
        sequence: the Exit Sequence Network: one token for the saver and one per tap.
    """

    def __init__(self, name: str, saver: ExitNetwork, sequence: ExitSequence) -> None:
        super().__init__()
        self.name = name
        self.saver = saver
        self.sequence = sequence


def attach(
    model: nn.Module,
    heads: Heads,
    *,
    image: Tensor | None = None,
    saver: Mapping[str, nn.Module] | None = None,
    sequence: SequenceSize = SEQUENCE,
) -> ExitNetwork:
    """Attach exits to a model by module path; the model itself is not changed.

    With a saver there is also an Exit Sequence Network: the exit at each tap, named
    NETWORK/TAP/esn, refines the saver's logits (TinySaver, arXiv 2403.17726, section 3.3);
    untrained it returns them.

    Args:
        model: a `Stage`, or a module that takes ready tensors.
        heads: module path -> a kind of head (`linear`, `mlp3x500`, `conv64`, `conv64+saver`;
            untrained), a module from the feature there to logits (N, C), or several by name.
        image: one sample; needed unless the stage's preprocessing sets a size.
        saver: the saver under the name of its exit: a `Stage`, or a module that takes what the
            model takes.
        sequence: the size of the Exit Sequence Network.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> network = attach(model, {"1": nn.Linear(8, 3)}, image=torch.zeros(4))
    >>> network.stages("net")["net/1/head"](torch.zeros(2, 4)).shape
    torch.Size([2, 3])

    Raises:
        ModelError: no such path, a model that cannot be partitioned there, a head or a saver of
            other classes, a saver without a tap.
    """
    stage = _plain_stage(model)
    sample = example_image(stage) if image is None else image
    taps = tap_at(stage, sample, list(heads))
    classes = int(stage([sample]).shape[1])
    branch = None if saver is None else _saver_branch(saver, taps, sample, classes, sequence)
    saver_width = 0 if branch is None else branch.saver.taps[0].width + classes
    made: dict[ExitLocation, Head] = {}
    for number, tap in enumerate(taps):
        for name, head in _by_name(heads[tap.path]).items():
            if isinstance(head, str):
                head = make_head(  # noqa: PLW2901
                    head,
                    shape=tap.shape,
                    layout=tap.layout,
                    classes=classes,
                    saver_width=saver_width,
                )
            built = head if isinstance(head, Head) else PlainHead(head)
            _check_head(built, name, tap, classes)
            made[ExitLocation(number, name)] = built
    return ExitNetwork(stage, taps, made, image=sample, saver_branch=branch)


def _plain_stage(model: nn.Module) -> Stage:
    """The stage of a model as it was before `torch.compile`: its segments are captured anew.

    Raises:
        ModelError: a model in an execution mode.
    """
    stage = as_stage(model)
    if isinstance(stage.model, ModelInMode):
        raise ModelError(
            "exits are attached to a model as it is, found one in the execution mode "
            f"{stage.model.mode.name!r}: attach them without it, and then use `with_mode`"
        )
    plain = uncompiled(stage.model)
    if plain is stage.model:
        return stage
    return Stage(plain, preprocess=stage.preprocess, origin=stage.origin)


def _saver_branch(
    saver: Mapping[str, nn.Module],
    taps: Sequence[Tap],
    image: Tensor,
    classes: int,
    size: SequenceSize,
) -> SaverBranch:
    if len(saver) != 1:
        raise ModelError(f"a network has one saver, found {listed(map(repr, saver))}: name one")
    ((name, model),) = saver.items()
    stage = _plain_stage(model)
    sized = stage.preprocess is not None and stage.preprocess.size is not None
    sample = example_image(stage) if sized else image
    found = int(stage([sample]).shape[1])
    if found != classes:
        raise ModelError(
            f"a saver has the classes of its network, {name!r} has {found} where the network has "
            f"{classes}: load it with ?classes=N and a fitting checkpoint, or choose another"
        )
    possible = list_taps(stage, sample)
    if not possible:
        raise ModelError(
            f"a saver provides its last feature, {name!r} passes through no single tensor before "
            "its logits: choose another"
        )
    last = possible[-1]
    sequence = ExitSequence([tap.width for tap in (last, *taps)], classes=classes, size=size)
    return SaverBranch(name, ExitNetwork(stage, [last], {}, image=sample), sequence)


def example_image(stage: Stage) -> Tensor:
    """A black image of the size that a stage's preprocessing makes, uint8 (C, H, W).

    Raises:
        ModelError: the preprocessing sets no size.
    """
    preprocess = stage.preprocess
    if preprocess is None or preprocess.size is None:
        raise ModelError(
            "a network is partitioned for one shape of input, this stage sets none "
            f"(its preprocessing is {preprocess}): give `image`, one sample"
        )
    return torch.zeros(len(preprocess.mean), *preprocess.size, dtype=torch.uint8)


def _by_name(head: str | nn.Module | Mapping[str, str | nn.Module]) -> dict[str, str | nn.Module]:
    if isinstance(head, Mapping):
        return dict(head)
    return {head if isinstance(head, str) else "head": head}


@torch.inference_mode()
def _check_head(head: Head, name: str, tap: Tap, classes: int) -> None:
    first = next(head.parameters(), torch.empty(0))
    feature = torch.zeros(2, *tap.shape, dtype=first.dtype, device=first.device)
    saver = torch.zeros(2, head.saver_width, dtype=feature.dtype, device=feature.device)
    try:
        logits = head.eval()(head.reduce(feature), saver)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ModelError(
            f"a head takes the feature of its tap, {name!r} cannot take that of "
            f"{tap.path!r}, (N, {listed(tap.shape)}) in {tap.layout} "
            f"({' '.join(str(error).split())[:120]}): pool and flatten in the head"
        ) from error
    if logits.ndim != 2 or len(logits) != 2:
        raise ModelError(
            f"a head returns logits (N, C), {name!r} at {tap.path!r} returns the shape "
            f"{tuple(logits.shape)} for N = 2: pool and flatten in the head"
        )
    check_classes("the backbone", classes, f"{tap.path}/{name}", int(logits.shape[1]))
