"""A network with exits inside: a frozen backbone, its taps, and the heads that answer there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from understudy.early_exit.esn import ExitSequence
from understudy.early_exit.heads import Head, PlainHead, make_head
from understudy.early_exit.stages import stages_of_network
from understudy.early_exit.taps import Tap, list_taps, tap_at
from understudy.errors import ModelError, listed
from understudy.graph.folding import folded
from understudy.graph.partition import Trunk, split
from understudy.nn.device import Images
from understudy.nn.execution_mode import PLAIN, ExecutionMode
from understudy.nn.stage import Stage, StageGroup, as_stage, hash_of
from understudy.runtime.pipeline import check_classes

Heads = Mapping[str, str | nn.Module | Mapping[str, str | nn.Module]]
"""Module path -> the kind of a head, a module (feature -> logits), or several of them by name."""


@dataclass(frozen=True)
class ExitLocation:
    """Where an exit is: the number of its tap, and the name of its head."""

    tap: int
    head: str


@dataclass(frozen=True, eq=False)
class _Captured:
    where: tuple[torch.device, torch.dtype]
    shape: tuple[int, ...]
    trunk: Trunk


class ExitNetwork(StageGroup):
    """A model that can answer early: a drop-in for its backbone, and one stage per exit.

    The backbone is never changed. It is cut at its taps into segments which run one after another;
    rows that are answered leave between two of them. Segments are captured on first use, and again
    after a move to another device or dtype.

    Args:
        stage: the backbone with its preprocessing.
        taps: where it is tapped, in the order of execution.
        heads: what answers at which tap.
        image: one sample as the stage takes it; its shape is the one that the segments take.
        companion: a saver with its Exit Sequence Network, which answers at every tap.
        origin: plain JSON: where the exits come from; `spec` names how to load them again.
        variant: another way to run the segments; see `run_as`.

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
        variant: ExecutionMode = PLAIN,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.variant = variant
        self.origin: Mapping[str, Any] = dict(origin or {})
        self.taps = tuple(taps)
        self.points = tuple(sorted(heads, key=lambda point: point.tap))
        self.heads = nn.ModuleList(heads[point] for point in self.points)
        self.saver_branch = saver_branch
        self.image = torch.zeros_like(image)
        self._captured: _Captured | None = None
        self._hashed: tuple[Any, str] | None = None
        if variant.channels_last:
            self.to(memory_format=torch.channels_last)
        self.eval()

    def forward(self, images: Images) -> Tensor:
        """The backbone's logits (N, C), from what its stage takes."""
        return cast("Tensor", self.stage(images))

    def prepare(self, images: Images) -> Tensor:
        """The first segment's input.

        Raises:
            DataError: images that the preprocessing cannot take.
            ModelError: another shape than the one that the network is split for.
        """
        ready = self.variant.laid_out(self.stage.prepare(images))
        expected = self._capture().shape
        if tuple(ready.shape[1:]) != expected:
            raise ModelError(
                f"a network is split for one shape of input, {expected}, found "
                f"{tuple(ready.shape[1:])}: resize the images, or attach exits for that shape"
            )
        return ready

    @property
    def trunk(self) -> Trunk:
        """The backbone in segments, as it is now.

        Raises:
            ModelError: it cannot be split at its taps.
        """
        return self._capture().trunk

    def _capture(self) -> _Captured:
        where = (self.stage.device, self.stage.dtype)
        if self._captured is None or self._captured.where != where:
            ready = self.stage.prepare([self.image, self.image])
            with _disable_current_modes():  # whoever counts what runs does not count this
                trunk = split(self.stage.model, ready, [tap.path for tap in self.taps])
                if self.variant.folded:
                    trunk = replace(trunk, segments=tuple(map(folded, trunk.segments)))
            self._captured = _Captured(where, tuple(ready.shape[1:]), trunk)
        return self._captured

    def head(self, point: ExitLocation) -> Head:
        """What answers at a point."""
        return cast("Head", self.heads[self.points.index(point)])

    @property
    def weights_hash(self) -> str:
        """SHA-256 over all weights: the backbone's, the heads', the saver's. Kept until one moves.

        Weights that are changed by hand under `inference_mode` are not noticed.
        """
        tensors = chain(self.parameters(), self.buffers())
        marks = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        if self._hashed is None or self._hashed[0] != marks:
            self._hashed = (marks, hash_of(self))
        if self.variant == PLAIN:
            return self._hashed[1]
        return sha256(f"{self._hashed[1]} {self.variant.name}".encode()).hexdigest()

    def run_as(self, variant: ExecutionMode) -> ExitNetwork:
        """The same network, run another way; the modules are shared.

        Raises:
            ModelError: another precision, or compiled: these are for whole models.
        """
        if variant.dtype is not None or variant.compiled:
            raise ModelError(
                "the segments of a network can be folded and channels_last, found "
                f"{variant.name!r}: leave the rest out, or run the model whole"
            )
        saver_branch = self.saver_branch
        if saver_branch is not None:
            saver = saver_branch.saver.run_as(variant)
            saver_branch = SaverBranch(saver_branch.name, saver, saver_branch.sequence)
        heads = {point: self.head(point) for point in self.points}
        return ExitNetwork(
            self.stage,
            self.taps,
            heads,
            image=self.image,
            saver_branch=saver_branch,
            origin=self.origin,
            variant=variant,
        )

    def stages(self, name: str) -> dict[str, Stage]:
        """A stage for every exit in the order of execution, the whole network last.

        The exits are called NAME/TAP/HEAD, those of the Exit Sequence Network NAME/TAP/esn, the
        network NAME, and the saver as its companion says.
        """
        return stages_of_network(self, name)


class SaverBranch(nn.Module):
    """A saver and the Exit Sequence Network that refines its answer at every tap of another.

    TinySaver, arXiv 2403.17726, section 3.3. The saver is a network of its own with one tap: its
    last feature map.

    Args:
        name: the name of the saver's exit.
        saver: the saver, tapped once.
        sequence: the Exit Sequence Network: as many tokens as taps, and one for the saver.
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
) -> ExitNetwork:
    """Put exits into a model by module path; the model itself stays as it is.

    With a saver an Exit Sequence Network stands beside the heads: the exit at each tap, called
    NETWORK/TAP/esn, refines the saver's answer (TinySaver, arXiv 2403.17726, section 3.3);
    untrained it repeats it.

    Args:
        model: a `Stage`, or a module that takes ready tensors.
        heads: module path -> a kind of head (`linear`, `mlp1x1000`, `conv64`, `conv64+saver`;
            untrained), a module that makes logits (N, C) of the feature there, or several by name.
        image: one sample; needed where the stage does not say what it takes.
        saver: the saver under the name of its exit: a `Stage`, or a module that takes what the
            model takes.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> network = attach(model, {"1": nn.Linear(8, 3)}, image=torch.zeros(4))
    >>> network.stages("net")["net/1/head"](torch.zeros(2, 4)).shape
    torch.Size([2, 3])

    Raises:
        ModelError: no such path, a model that cannot be split there, a head or a saver of other
            classes, a saver that passes through no single tensor before its answer.
    """
    stage = as_stage(model)
    sample = example_image(stage) if image is None else image
    taps = tap_at(stage, sample, list(heads))
    classes = int(stage([sample]).shape[1])
    saver_branch = None if saver is None else _saver_branch(saver, taps, sample, classes)
    told = 0 if saver_branch is None else _width(saver_branch.saver.taps[0]) + classes
    made = {
        ExitLocation(number, name): _made(head, tap, classes, told)
        for number, tap in enumerate(taps)
        for name, head in _by_name(heads[tap.path]).items()
    }
    for point, head in made.items():
        _check_head(head, taps[point.tap], point, classes)
    return ExitNetwork(stage, taps, made, image=sample, saver_branch=saver_branch)


def _saver_branch(
    saver: Mapping[str, nn.Module], taps: Sequence[Tap], image: Tensor, classes: int
) -> SaverBranch:
    if len(saver) != 1:
        raise ModelError(f"a network has one saver, found {listed(map(repr, saver))}: name one")
    ((name, model),) = saver.items()
    stage = as_stage(model)
    sized = stage.preprocess is not None and stage.preprocess.size is not None
    sample = example_image(stage) if sized else image
    found = int(stage([sample]).shape[1])
    if found != classes:
        raise ModelError(
            f"a saver tells the classes of its network, {name!r} has {found} where the network has "
            f"{classes}: load it with ?classes=N and a fitting checkpoint, or choose another"
        )
    places = list_taps(stage, sample)
    if not places:
        raise ModelError(
            f"a saver hands on its last feature, {name!r} passes through no single tensor before "
            "its answer: choose another"
        )
    sequence = ExitSequence([_width(tap) for tap in (places[-1], *taps)], classes=classes)
    return SaverBranch(name, ExitNetwork(stage, places[-1:], {}, image=sample), sequence)


def _width(tap: Tap) -> int:
    return tap.shape[tap.layout.index("C") - 1]


def example_image(stage: Stage) -> Tensor:
    """A black image of the size that a stage's preprocessing makes, uint8 (C, H, W).

    Raises:
        ModelError: the stage does not say what it takes.
    """
    preprocess = stage.preprocess
    if preprocess is None or preprocess.size is None:
        raise ModelError(
            "a network is split for one shape of input, this stage sets none "
            f"(its preprocessing is {preprocess}): give `image`, one sample"
        )
    return torch.zeros(len(preprocess.mean), *preprocess.size, dtype=torch.uint8)


def _by_name(head: str | nn.Module | Mapping[str, str | nn.Module]) -> dict[str, str | nn.Module]:
    if isinstance(head, Mapping):
        return dict(head)
    return {head if isinstance(head, str) else "head": head}


def _made(head: str | nn.Module, tap: Tap, classes: int, told: int) -> Head:
    if isinstance(head, str):
        return make_head(head, shape=tap.shape, layout=tap.layout, classes=classes, told=told)
    return head if isinstance(head, Head) else PlainHead(head)


@torch.inference_mode()
def _check_head(head: Head, tap: Tap, point: ExitLocation, classes: int) -> None:
    first = next(head.parameters(), torch.empty(0))
    feature = torch.zeros(2, *tap.shape, dtype=first.dtype, device=first.device)
    told = torch.zeros(2, head.told, dtype=feature.dtype, device=feature.device)
    try:
        logits = head.eval()(head.reduce(feature), told)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ModelError(
            f"a head takes the feature of its tap, {point.head!r} cannot take that of "
            f"{tap.path!r}, (N, {listed(tap.shape)}) in {tap.layout} "
            f"({' '.join(str(error).split())[:120]}): pool and flatten in the head"
        ) from error
    if logits.ndim != 2 or len(logits) != 2:
        raise ModelError(
            f"a head returns logits (N, C), {point.head!r} at {tap.path!r} returns the shape "
            f"{tuple(logits.shape)} for N = 2: pool and flatten in the head"
        )
    check_classes("the backbone", classes, f"{tap.path}/{point.head}", int(logits.shape[1]))
