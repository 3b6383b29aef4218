"""Heads: from a feature inside a network to logits, in a fixed and a trained half."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.errors import ModelError, unknown
from understudy.json_codec import Stored, stored

Layout = Literal["NCHW", "NHWC", "NTC", "NC"]
"""The dimensions of a feature: N samples, C channels, H x W positions of a map, T tokens."""
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

PRESETS = (
    "linear",
    "mlp1x1000",
    "mlp3x500",
    "mlp3x1000",
    "mlp5x500",
    "mlp5x1000",
    "conv64",
    "conv128",
    "conv64+saver",
)
"""Kinds of head by name; `mlpDxW` and `convW` take any depth D and width W."""

KINDS = 2
"""The version of the names of kinds: in 1 `mlpDxW` had D hidden layers, since 2 D linear ones."""

SAVER = "+saver"
"""The suffix of kinds that are conditioned on a saver."""

MAP_SIDE = 8
"""The longest side of the map that a convolutional head takes."""


@dataclass(frozen=True)
class HeadSpec(Stored, what="a head", error=ModelError, remedy="train the exits again"):
    """The architecture of a head: the arguments of `make_head`, and the version of its kind's name,
    which is renamed where it is of an older one."""

    kind: str
    shape: tuple[int, ...]
    layout: str
    classes: int
    saver_width: int = field(default=0, metadata=stored(key="told", optional=True))
    kinds: int = field(default=1, metadata=stored(optional=True))

    def __post_init__(self) -> None:
        if self.kinds > KINDS:
            raise ModelError(
                f"kinds of heads are of the versions 1 to {KINDS}, found {self.kinds}: update "
                "understudy"
            )
        if self.kinds == 1:
            object.__setattr__(self, "kind", re.sub(r"^mlp(\d+)x", _one_more, self.kind))
            object.__setattr__(self, "kinds", KINDS)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the width of saver features only where there is a saver."""
        data = super().to_dict()
        return data if self.saver_width else {k: v for k, v in data.items() if k != "told"}

    def build(self) -> Head:
        """A head of this architecture, with new weights.

        Raises:
            ModelError: as `make_head`.
        """
        return make_head(
            self.kind,
            shape=self.shape,
            layout=self.layout,
            classes=self.classes,
            saver_width=self.saver_width,
        )


def _one_more(found: re.Match[str]) -> str:
    return f"mlp{int(found[1]) + 1}x"


class Head(nn.Module, ABC):
    """From a feature (N, ...) to logits (N, C): `head(head.reduce(feature))`.

    `reduce` has no parameters, so that its output can be cached for training.

    Attributes:
        kind: the name that `make_head` takes.
        reduction: the name of what `reduce` does; heads of one tap with the same name share its
            output.
        saver_width: the number of saver features that it takes; 0 without a saver.
    """

    kind: str
    reduction: str
    saver_width: int = 0

    @abstractmethod
    def reduce(self, feature: Tensor) -> Tensor:
        """The fixed half: the feature (N, ...), reduced, in the same dtype."""

    @abstractmethod
    def forward(self, reduced: Tensor, saver_features: Tensor | None = None) -> Tensor:
        """The trained half: logits (N, C) from the reduced feature and, for a conditioned head, the
        saver features (N, saver_width)."""

    @property
    def spec(self) -> HeadSpec | None:
        """The architecture, without weights; None for a module of your own."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The architecture as plain JSON; the kind alone for a module of your own."""
        return {"kind": self.kind} if self.spec is None else self.spec.to_dict()


class PlainHead(Head):
    """A module of your own as a head: from the whole feature to logits (N, C).

    >>> head = PlainHead(nn.Linear(4, 3))
    >>> head(head.reduce(torch.zeros(2, 4))).shape, head.reduction
    (torch.Size([2, 3]), 'whole')
    """

    kind = "plain"
    reduction = "whole"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def reduce(self, feature: Tensor) -> Tensor:
        """The feature, unchanged."""
        return feature

    def forward(self, reduced: Tensor, saver_features: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Logits (N, C) from the feature."""
        logits: Tensor = self.module(reduced.clone())  # later segments take the feature as it is
        return logits


class _BuiltHead(Head):
    """A head that `make_head` builds."""

    def __init__(self, kind: str, *, shape: tuple[int, ...], layout: str, classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.shape = shape
        self.layout = layout
        self.classes = classes

    @property
    def spec(self) -> HeadSpec:
        return HeadSpec(self.kind, self.shape, self.layout, self.classes, kinds=KINDS)


class PooledHead(_BuiltHead):
    """Global average, then `depth` linear layers, all but the last of one width.

    With one layer it is a linear classifier, with more the exit of DyCE (arXiv 2403.01695).
    The averages are standardised first, each by its own mean and variance over the samples: the
    features are fixed, so these do not drift, and unlike LayerNorm they keep how large a feature
    is. Training therefore takes at least two samples at a time.

    >>> head = PooledHead("mlp3x8", shape=(4,), layout="NC", classes=3, depth=3, width=8)
    >>> head(head.reduce(torch.zeros(2, 4))).shape, head.reduction
    (torch.Size([2, 3]), 'mean')
    """

    reduction = "mean"

    def __init__(
        self,
        kind: str,
        *,
        shape: tuple[int, ...],
        layout: str,
        classes: int,
        depth: int = 1,
        width: int = 0,
    ) -> None:
        super().__init__(kind, shape=shape, layout=layout, classes=classes)
        widths = (_side(shape, layout, "C"), *[width] * (depth - 1))
        self.layers = nn.Sequential(nn.BatchNorm1d(widths[0], affine=False))
        for before, after in pairwise(widths):
            self.layers.extend([nn.Linear(before, after), nn.GELU()])
        self.layers.append(nn.Linear(widths[-1], classes))

    def reduce(self, feature: Tensor) -> Tensor:
        """The global average, (N, width)."""
        return pool(feature, self.layout)

    def forward(self, reduced: Tensor, saver_features: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Logits (N, C) from the averages."""
        logits: Tensor = self.layers(reduced.to(_dtype(self)))
        return logits


class ConvHead(_BuiltHead):
    """Two 3 x 3 convolutions on a map of at most 8 x 8, global average and maximum, linear.

    For early features with few channels, where a global average loses too much: at two thirds of a
    ResNet-56 its accuracy on CIFAR-10 is about 80 %, that of a linear layer about 56 %. The first
    convolution has a stride of 2, the second twice the width. Channels are standardised first, like
    the averages of a `PooledHead`.

    >>> head = ConvHead("conv8", shape=(4, 32, 32), layout="NCHW", classes=3, width=8)
    >>> reduced = head.reduce(torch.zeros(2, 4, 32, 32))
    >>> reduced.shape, head(reduced).shape
    (torch.Size([2, 4, 8, 8]), torch.Size([2, 3]))

    Raises:
        ModelError: the feature is no map.
    """

    reduction = f"map{MAP_SIDE}"

    def __init__(
        self, kind: str, *, shape: tuple[int, ...], layout: str, classes: int, width: int
    ) -> None:
        if layout not in ("NCHW", "NHWC"):
            raise ModelError(
                f"a convolutional head is for maps (NCHW, NHWC), found {kind!r} on the layout "
                f"{layout}: use 'linear' or a kind like 'mlp3x500'"
            )
        super().__init__(kind, shape=shape, layout=layout, classes=classes)
        channels = _side(shape, layout, "C")
        height, breadth = (_side(shape, layout, letter) for letter in "HW")
        self.size = (min(height, MAP_SIDE), min(breadth, MAP_SIDE))
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels, affine=False),
            *_convolution(channels, width, stride=2),
            *_convolution(width, 2 * width, stride=1),
        )
        self.linear = nn.Linear(4 * width, classes)

    def reduce(self, feature: Tensor) -> Tensor:
        """The map, averaged down to at most 8 x 8, (N, C, H, W)."""
        _check_feature(feature, self.layout)
        planes = feature.movedim(-1, 1) if self.layout == "NHWC" else feature
        return planes if planes.shape[2:] == self.size else F.adaptive_avg_pool2d(planes, self.size)

    def forward(self, reduced: Tensor, saver_features: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Logits (N, C) from the small map."""
        found = self.layers(reduced.to(_dtype(self)))
        logits: Tensor = self.linear(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))
        return logits


class ConditionedHead(Head):
    """A head conditioned on a saver: its logits plus those of a linear layer on saver features.

    Saver features are the saver's last feature, pooled, and its logits; both are standardised.
    TinySaver's exits (arXiv 2403.17726) add the saver's logits unchanged; here weights are learnt
    for both. The cost of the exit includes the saver.

    >>> base = make_head("linear", shape=(4,), layout="NC", classes=3)
    >>> head = ConditionedHead(base, saver_width=5, classes=3)
    >>> head(torch.zeros(2, 4), torch.zeros(2, 5)).shape, head.kind
    (torch.Size([2, 3]), 'linear+saver')
    """

    def __init__(self, base: Head, *, saver_width: int, classes: int) -> None:
        super().__init__()
        self.base = base
        self.kind = base.kind + SAVER
        self.reduction = base.reduction
        self.saver_width = saver_width
        self.side = nn.Sequential(
            nn.BatchNorm1d(saver_width, affine=False), nn.Linear(saver_width, classes, bias=False)
        )

    def reduce(self, feature: Tensor) -> Tensor:
        """The feature as the head without the saver reduces it."""
        return self.base.reduce(feature)

    def forward(self, reduced: Tensor, saver_features: Tensor | None = None) -> Tensor:
        """Logits (N, C) from the reduced feature and the saver features (N, saver_width)."""
        if saver_features is None:
            raise ModelError(f"a head of the kind {self.kind!r} takes saver features, found none")
        logits: Tensor = self.base(reduced) + self.side(saver_features.to(_dtype(self)))
        return logits

    @property
    def spec(self) -> HeadSpec | None:
        spec = self.base.spec
        return spec and replace(spec, kind=self.kind, saver_width=self.saver_width)


def make_head(
    kind: str, *, shape: tuple[int, ...], layout: str, classes: int, saver_width: int = 0
) -> Head:
    """A new head of the kind, with weights drawn from PyTorch's global generator.

    Args:
        kind: "linear"; "mlpDxW", D linear layers, the D - 1 hidden ones of width W, as DyCE names
            them; "convW", convolutions of widths W and 2W, for maps only; any of these with the
            suffix "+saver". See `PRESETS`.
        shape: of one sample's feature, without N.
        layout: one of `LAYOUTS`.
        classes: the number of logits.
        saver_width: the number of saver features, for a kind with the suffix "+saver".

    >>> head = make_head("mlp2x32", shape=(16, 8, 8), layout="NCHW", classes=10)
    >>> head(head.reduce(torch.zeros(2, 16, 8, 8))).shape
    torch.Size([2, 10])

    Raises:
        ModelError: no such kind or layout, a shape that does not fit the layout, convolutions on
            what is no map, no classes.
    """
    _check_shape(shape, layout, classes)
    if kind.endswith(SAVER):
        if not saver_width:
            raise ModelError(
                f"a head of the kind {kind!r} takes saver features, found no saver: name one, "
                f"or use {kind.removesuffix(SAVER)!r}"
            )
        base = make_head(kind.removesuffix(SAVER), shape=shape, layout=layout, classes=classes)
        return ConditionedHead(base, saver_width=saver_width, classes=classes)
    if kind == "linear":
        return PooledHead(kind, shape=shape, layout=layout, classes=classes)
    if found := re.fullmatch(r"mlp([1-9]\d*)x([1-9]\d*)", kind):
        depth, width = int(found[1]), int(found[2])
        return PooledHead(
            kind, shape=shape, layout=layout, classes=classes, depth=depth, width=width
        )
    if found := re.fullmatch(r"conv([1-9]\d*)", kind):
        return ConvHead(kind, shape=shape, layout=layout, classes=classes, width=int(found[1]))
    raise ModelError(
        f"{unknown('kind of head', kind, PRESETS)}; mlpDxW and convW take any depth D and width W, "
        "and the exits of an Exit Sequence Network (esn) come with a saver"
    )


def pool(feature: Tensor, layout: str) -> Tensor:
    """The global average over positions or tokens, (N, ...) -> (N, C), in the same dtype.

    >>> pool(torch.ones(2, 5, 5, 3), "NHWC").shape
    torch.Size([2, 3])

    Raises:
        ModelError: no such layout, or a feature of other dimensions.
    """
    _check_feature(feature, layout)
    axes = [axis for axis, letter in enumerate(layout) if letter not in "NC"]
    return feature.mean(axes) if axes else feature


def _convolution(channels: int, width: int, *, stride: int) -> tuple[nn.Module, ...]:
    layer = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return layer, nn.BatchNorm2d(width), nn.ReLU()


def _side(shape: tuple[int, ...], layout: str, letter: str) -> int:
    return shape[layout.index(letter) - 1]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def check_layout(text: str) -> Layout:
    """The layout of that name.

    Raises:
        ModelError: no such layout.
    """
    if text not in LAYOUTS:
        raise ModelError(unknown("layout", text, LAYOUTS))
    return text


def _check_shape(shape: tuple[int, ...], layout: str, classes: int) -> None:
    check_layout(layout)
    if len(shape) != len(layout) - 1 or min(shape) < 1:
        raise ModelError(
            f"the feature of one sample in the layout {layout} has {len(layout) - 1} sides of at "
            f"least 1, found the shape {tuple(shape)}: give the shape without N"
        )
    if classes < 1:
        raise ModelError(f"a head has at least one class, found {classes}")


def _check_feature(feature: Tensor, layout: str) -> None:
    check_layout(layout)
    if feature.ndim != len(layout):
        raise ModelError(
            f"a feature in the layout {layout} has {len(layout)} dimensions, found the shape "
            f"{tuple(feature.shape)}: name the layout that it has"
        )
