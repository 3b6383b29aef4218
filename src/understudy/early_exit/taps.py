"""Taps: the ends of modules where exits can be attached, with their features and costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest

from torch import Tensor, fx, nn

from understudy.early_exit.heads import Layout, check_layout
from understudy.errors import ModelError
from understudy.graph.capture import CapturedGraph, ModuleMark, capture, check_paths, hooked
from understudy.graph.liveness import Liveness
from understudy.json_codec import Stored, stored
from understudy.nn.cost import count_macs
from understudy.nn.stage import Stage


@dataclass(frozen=True)
class Tap(Stored, what="a tap", error=ModelError, remedy="train the exits again"):
    """A module inside a network whose output can be taken as a feature.

    Attributes:
        path: of the module.
        shape: the feature of one sample.
        layout: the dimensions of a batch of features.
        macs: MACs of one sample from the input up to the end of the module.
        share: the same as a share of the whole network's.
    """

    path: str
    shape: tuple[int, ...]
    layout: Layout = field(metadata=stored(shape=str, unpack=check_layout))
    macs: float
    share: float

    @property
    def width(self) -> int:
        """The number of channels."""
        return self.shape[self.layout.index("C") - 1]


def list_taps(stage: Stage, image: Tensor) -> tuple[Tap, ...]:
    """The blocks of a network after which everything depends on one tensor, in execution order.

    Blocks are modules that contain others with parameters, at the top of the network or in a
    sequence of modules. In sequences of plain layers, as in a VGG, there is a tap after each layer
    with MACs and the layers without that follow it. Of several modules with the same output the
    deepest is taken. The network's logits are left out.

    Args:
        image: one raw image (C, H, W) uint8, or a ready sample for a stage without preprocessing.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [(tap.path, tap.shape, tap.macs) for tap in list_taps(Stage(net), torch.ones(4))]
    [('1', (8,), 32.0)]

    Raises:
        DataError: an image that the preprocessing cannot take.
        ModelError: a network that cannot be captured.
    """
    layers = layer_paths(stage.model)
    ready = stage.prepare([image])
    graph = capture(stage.model, ready, [*block_paths(stage.model), *layers])
    taps = _taps(stage.model, ready, cut_points(stage.model, graph))
    return tuple(
        tap
        for tap, after in zip_longest(taps, taps[1:])
        if tap.path not in layers or after is None or not _is_free(tap, after)
    )


def tap_at(stage: Stage, image: Tensor, paths: Iterable[str]) -> tuple[Tap, ...]:
    """Taps at the named modules, in the order of execution.

    Raises:
        DataError: an image that the preprocessing cannot take.
        ModelError: a path that `partition` would refuse, or a feature that is neither a map nor
            tokens nor a vector per sample.
    """
    checked = check_paths(stage.model, paths)
    ready = stage.prepare([image])
    graph = capture(stage.model, ready, checked)
    marks = [graph.find_mark(path) for path in checked]
    for mark in marks:
        if not has_layout(mark.node):
            raise ModelError(
                "a tap gives a map (N, C, H, W) or (N, H, W, C), tokens (N, T, C) or a vector "
                f"(N, C), {mark.path!r} gives {graph.shape_text(mark.node)}: tap another module"
            )
    return _taps(stage.model, ready, graph.in_order(marks))


def even_taps(taps: Sequence[Tap], count: int) -> tuple[Tap, ...]:
    """The given number of taps, spread about evenly over the network's cost, in the same order.

    Taps that cost as much as the last one are left out: an exit there saves nothing.

    >>> taps = [Tap(str(n), (8,), "NC", n, n / 8) for n in range(1, 8)]
    >>> [tap.share for tap in even_taps(taps, 3)]
    [0.25, 0.5, 0.75]

    Raises:
        ModelError: a count below 1 or above the number of useful taps.
    """
    useful = useful_taps(taps)
    if not 1 <= count <= len(useful):
        raise ModelError(
            f"taps are chosen among the {len(useful)} places before the end of the network, found "
            f"the count {count}: take at least 1 and no more than there are, or name the modules"
        )
    picked: list[int] = []
    for number in range(count):
        first = picked[-1] + 1 if picked else 0
        last = len(useful) - (count - number)
        aim = (number + 1) / (count + 1)
        picked.append(min(range(first, last + 1), key=lambda n: abs(useful[n].share - aim)))
    return tuple(useful[number] for number in picked)


def useful_taps(taps: Sequence[Tap]) -> tuple[Tap, ...]:
    """Those that cost less than the last one: an exit elsewhere saves nothing.

    >>> [tap.path for tap in useful_taps([Tap(str(n), (8,), "NC", n, n / 2) for n in (1, 2, 2)])]
    ['1']
    """
    end = max((tap.macs for tap in taps), default=0.0)
    return tuple(tap for tap in taps if tap.macs < end)


def layout_of(model: nn.Module, shape: Sequence[int]) -> Layout:
    """The layout of a feature, from its shape without the samples.

    One dimension is a vector, two are tokens. Of three, the two that are equal are height and
    width. Where all or none are equal, the map is taken for channels-last if the network has layers
    over the last dimension (`nn.Linear`, `nn.LayerNorm`) with as many channels as the last
    dimension, and no layers over the first (convolutions, batch and group norms) with as many as
    the first.

    >>> layout_of(nn.Identity(), (64, 7, 7)), layout_of(nn.Identity(), (7, 7, 64))
    ('NCHW', 'NHWC')

    Raises:
        ModelError: a shape of no or more than three dimensions.
    """
    if len(shape) == 3:
        first, middle, last = shape
        if (first == middle) != (middle == last):
            return "NHWC" if first == middle else "NCHW"
        channels = {(kind, count) for kind, count in map(_channels, model.modules()) if count}
        return "NHWC" if ("last", last) in channels and ("first", first) not in channels else "NCHW"
    if not 1 <= len(shape) <= 3:
        raise ModelError(
            f"a feature has one to three dimensions per sample, found the shape {tuple(shape)}: "
            "tap another module"
        )
    return "NC" if len(shape) == 1 else "NTC"


def _channels(module: nn.Module) -> tuple[str, int]:
    """The dimension that a layer takes for channels, and their number."""
    match module:
        case nn.Conv2d():
            return "first", module.in_channels
        case nn.BatchNorm2d():
            return "first", module.num_features
        case nn.GroupNorm():
            return "first", module.num_channels
        case nn.Linear():
            return "last", module.in_features
        case nn.LayerNorm():
            return "last", module.normalized_shape[-1]
    return "", 0


def _is_free(tap: Tap, after: Tap) -> bool:
    """Whether the next tap is the next layer of the same sequence, at the same cost."""
    siblings = tap.path.rpartition(".")[0] == after.path.rpartition(".")[0]
    return siblings and tap.macs == after.macs


def _taps(model: nn.Module, ready: Tensor, marks: Sequence[ModuleMark]) -> tuple[Tap, ...]:
    macs, total = _cumulative(model, ready, [mark.path for mark in marks])
    shapes = [tuple(map(int, mark.node.meta["val"].shape[1:])) for mark in marks]
    return tuple(
        Tap(mark.path, shape, layout_of(model, shape), done, done / total if total else 0.0)
        for mark, shape, done in zip(marks, shapes, macs, strict=True)
    )


def _cumulative(model: nn.Module, ready: Tensor, paths: Sequence[str]) -> tuple[list[float], float]:
    """The MACs up to the end of each module, and those of the whole network."""
    done: dict[str, float] = {}
    with count_macs() as meter:

        def note(path: str, _output: object) -> None:
            done[path] = float(meter.macs)

        with hooked(model, {path: partial(note, path) for path in paths}):
            model(ready)
    return [done[path] for path in paths], float(meter.macs)


SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def block_paths(model: nn.Module) -> list[str]:
    """The modules that contain others with parameters and lie where blocks usually do.

    That is at the first or second level of the network, or in a sequence of modules.
    """
    modules = dict(model.named_modules())
    return [
        path
        for path, module in modules.items()
        if path
        and (path.count(".") < 2 or isinstance(modules.get(_parent(path)), SEQUENCES))
        and any(list(inner.parameters(recurse=False)) for inner in _inside(module))
    ]


def layer_paths(model: nn.Module) -> list[str]:
    """The plain layers of sequences at the top of the network or inside another sequence."""
    sequences = [
        path
        for path, module in model.named_modules()
        if type(module) is nn.Sequential and _inside(module) == list(module.children())
    ]
    return [
        f"{path}.{name}".lstrip(".")
        for path in sequences
        if path.count(".") < 1 or isinstance(model.get_submodule(_parent(path)), SEQUENCES)
        for name, _ in model.get_submodule(path).named_children()
    ]


def cut_points(model: nn.Module, graph: CapturedGraph) -> tuple[ModuleMark, ...]:
    """The marks after which no earlier value is used, one per tensor, in the order of execution.

    A mark inside a block counts only if it does in all blocks of that type, so that blocks without
    a shortcut are not cut where others have one. Of several marks of one tensor the deepest is
    taken. The network's logits are left out.
    """
    liveness = Liveness(graph)
    modules = dict(model.named_modules())
    once = [marks[0] for marks in graph.marks.values() if len(marks) == 1]
    alone = [mark for mark in once if liveness.live_at(mark) == (mark.node,)]
    excluded = {role for mark in set(once) - set(alone) for role in _roles(mark.path, modules)}
    deepest: dict[fx.Node, ModuleMark] = {}
    for mark in sorted(alone, key=lambda mark: mark.path.count(".")):
        usable = graph.is_batch_first(mark.node) and mark.path not in graph.unmarked
        if usable and has_layout(mark.node) and excluded.isdisjoint(_roles(mark.path, modules)):
            deepest[mark.node] = mark
    deepest.pop(graph.logits, None)
    return graph.in_order(deepest.values())


def has_layout(node: fx.Node) -> bool:
    """Whether a tensor is a map, tokens or a vector per sample."""
    return 2 <= len(node.meta["val"].shape) <= 4


def _roles(path: str, modules: Mapping[str, nn.Module]) -> Iterator[tuple[type[nn.Module], str]]:
    """The types of the enclosing modules, each with the module's path inside it."""
    names = path.split(".")
    for depth in range(1, len(names)):
        outer = modules[".".join(names[:depth])]
        if not isinstance(outer, SEQUENCES):
            yield type(outer), ".".join(names[depth:])


def _inside(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if inner is not module]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
