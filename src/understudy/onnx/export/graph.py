"""The pieces of a network with exits: segments, heads, the saver and what refines its answer."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.early_exit.esn import ExitSequence
from understudy.early_exit.heads import Head, pool
from understudy.early_exit.network import ExitNetwork, SaverBranch
from understudy.early_exit.stages import ESN
from understudy.early_exit.taps import Tap
from understudy.graph.partition import partition
from understudy.onnx.bundle import IMAGES, logits_of
from understudy.onnx.export.preprocess import pixels_of
from understudy.onnx.export.source import PartSource, source_of_model


def sources_of_network(
    name: str, network: ExitNetwork, exits: Set[str], image: Tensor
) -> list[PartSource]:
    """The pieces of the exits that are wanted, in an order in which they can run.

    The network is cut anew, at the taps of these exits alone.

    Raises:
        ModelError: it cannot be cut there, or its preprocessing cannot be put into the graph.
    """
    wanted = _Wanted.of(name, network, exits)
    sources: list[PartSource] = []
    saver_branch = network.saver_branch
    if saver_branch is not None and (wanted.refined or saver_branch.name in exits):
        sources.append(
            _saver(saver_branch, image) if wanted.refined else _saver_alone(saver_branch, image)
        )
    if wanted.taps or name in exits:
        sources += _segments(name, network, wanted, image, to_end=name in exits)
    for tap in wanted.taps:
        sources += _heads(name, network, tap, exits)
    if saver_branch is not None:
        sources += [
            _refinement(name, network.taps[tap].path, tap, saver_branch) for tap in wanted.tokens
        ]
    return sources


@dataclass(frozen=True)
class _Wanted:
    """The taps of a network that wanted exits are at, the tokens they need, by number of tap."""

    taps: tuple[int, ...]
    tokens: tuple[int, ...]
    refined: bool

    @staticmethod
    def of(name: str, network: ExitNetwork, exits: Set[str]) -> _Wanted:
        places = range(len(network.taps))
        refined = [k for k in places if _refined_exit(name, network.taps[k].path) in exits]
        tokens = tuple(range(refined[-1] + 1)) if refined else ()
        points = [p for p in network.points if _exit(name, network, p.tap, p.head) in exits]
        told = any(network.head(point).told for point in points)
        taps = tuple(sorted({*tokens, *(point.tap for point in points)}))
        return _Wanted(taps, tokens, bool(tokens) or told)


def _exit(name: str, network: ExitNetwork, tap: int, head: str) -> str:
    return f"{name}/{network.taps[tap].path}/{head}"


def _refined_exit(name: str, path: str) -> str:
    return f"{name}/{path}/{ESN}"


def _value(name: str, tap: int, place: int) -> str:
    """What the segment up to a tap hands on; the feature has the place 0."""
    return f"{name}@{tap}.{place}"


def _pooled(name: str, tap: int) -> str:
    return f"{name}~{tap}"


def _cache(name: str, tap: int) -> str:
    return f"keys and values of {name}@{tap}"


def _segments(
    name: str, network: ExitNetwork, wanted: _Wanted, image: Tensor, *, to_end: bool
) -> list[PartSource]:
    """The network between the taps; the rest behind the last one where its own answer is wanted."""
    pixels = pixels_of(network.stage, image, name)
    ready = network.stage.prepare(torch.stack([image, image]))
    trunk = partition(network.stage.model, ready, [network.taps[tap].path for tap in wanted.taps])
    values: tuple[Tensor, ...] = (ready,)
    takes: tuple[str, ...] = (IMAGES,)
    sources: list[PartSource] = []
    for number, tap in enumerate(wanted.taps):
        values = trunk.run(number, tuple(value.clone() for value in values))
        handed = tuple(_value(name, tap, place) for place in range(len(values)))
        module: nn.Module = Segment(trunk.segments[number], None if number else pixels)
        gives = handed
        if tap in wanted.tokens:
            module = Pooling(module, network.taps[tap].layout)
            gives = (*handed, _pooled(name, tap))
        sources.append(PartSource(f"{name}/{network.taps[tap].path}", module, takes, gives))
        takes = handed
    if to_end:
        last = Logits(Segment(trunk.segments[-1], None if wanted.taps else pixels))
        part = f"{name}/(rest)" if wanted.taps else name
        sources.append(PartSource(part, last, takes, (logits_of(name),)))
    return sources


def _heads(name: str, network: ExitNetwork, tap: int, exits: Set[str]) -> list[PartSource]:
    sources = []
    for point in network.points:
        exit = _exit(name, network, point.tap, point.head)
        if point.tap == tap and exit in exits:
            head, feature = network.head(point), _value(name, tap, 0)
            takes: tuple[str, ...] = (feature,)
            if head.told and network.saver_branch is not None:
                saver = network.saver_branch.name
                takes = (feature, _pooled(saver, 0), logits_of(saver))
            sources.append(PartSource(exit, Answering(head), takes, (logits_of(exit),)))
    return sources


def _saver_alone(saver_branch: SaverBranch, image: Tensor) -> PartSource:
    return source_of_model(saver_branch.name, saver_branch.saver.stage, image)


def _saver(saver_branch: SaverBranch, image: Tensor) -> PartSource:
    """The saver in one piece, which hands on its last feature, pooled."""
    saver, name = saver_branch.saver, saver_branch.name
    segments = saver.trunk.segments
    first = Segment(segments[0], pixels_of(saver.stage, image, name))
    module = SaverModule(first, Segment(segments[1], None), saver.taps[0])
    return PartSource(name, module, (IMAGES,), (logits_of(name), _pooled(name, 0)))


def _refinement(name: str, path: str, tap: int, saver_branch: SaverBranch) -> PartSource:
    """The token of a tap and the exit that refines the saver's answer there."""
    exit, saver = _refined_exit(name, path), saver_branch.name
    before = _pooled(saver, 0) if tap == 0 else _cache(name, tap - 1)
    takes = (_pooled(name, tap), before, logits_of(saver))
    module = Refining(saver_branch.sequence, tap)
    return PartSource(exit, module, takes, (logits_of(exit), _cache(name, tap)))


class Segment(nn.Module):
    """A segment of a network; it may write into what it is given, so it gets copies."""

    def __init__(self, segment: nn.Module, pixels: nn.Module | None) -> None:
        super().__init__()
        self.segment = segment
        self.pixels = nn.Identity() if pixels is None else pixels

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = self.segment(*(self.pixels(value).clone() for value in values))
        return made


class Pooling(nn.Module):
    """A segment that gives the pooled feature of its tap as well."""

    def __init__(self, segment: nn.Module, layout: str) -> None:
        super().__init__()
        self.segment, self.layout = segment, layout

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        made = self.segment(*values)
        return (*made, pool(made[0], self.layout))


class Logits(nn.Module):
    """The last segment: logits in float32."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, *values: Tensor) -> tuple[Tensor]:
        return (self.segment(*values)[0].float(),)


class SaverModule(nn.Module):
    """A saver: logits, and its last feature, pooled."""

    def __init__(self, first: nn.Module, rest: nn.Module, tap: Tap) -> None:
        super().__init__()
        self.first, self.rest, self.layout = first, rest, tap.layout

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.first(images)
        return self.rest(*values)[0].float(), pool(values[0], self.layout)


class Answering(nn.Module):
    """A head on its feature, told by a saver or not."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, feature: Tensor, *told: Tensor) -> tuple[Tensor]:
        reduced = self.head.reduce(feature)
        if not told:
            return (self.head(reduced).float(),)
        pooled, logits = told
        return (self.head(reduced, torch.cat([pooled, logits.to(pooled.dtype)], 1)).float(),)


class Refining(nn.Module):
    """The token of a tap (at the first one that of the saver before it), and the exit there."""

    def __init__(self, sequence: ExitSequence, tap: int) -> None:
        super().__init__()
        self.sequence, self.tap = sequence, tap

    def forward(self, pooled: Tensor, before: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        sequence, number = self.sequence, self.tap + 1
        cache = before
        if self.tap == 0:
            empty = sequence.empty_cache(before.shape[0], before)
            _, cache = sequence.token(0, before, empty)
        out, cache = sequence.token(number, pooled, cache)
        return sequence.exit(number, out, said).float(), cache
