"""The parts of stages as PyTorch modules, before each becomes an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.early_exit.exit_sequence import ExitSequence
from understudy.early_exit.heads import Head, Layout, pool
from understudy.early_exit.network import ExitLocation, ExitNetwork, SaverBranch
from understudy.early_exit.stages import ESN, REST
from understudy.graph.model_output import logits_in
from understudy.graph.partition import partition
from understudy.nn.stage import Stage
from understudy.onnx.export_preprocess import pixels_of
from understudy.runtime.protocol import StateKey
from understudy.runtime.value_graph import IMAGES

Keys = Sequence[StateKey | str]
"""Values of the stage state, or the images."""


@dataclass(frozen=True, eq=False)
class ModulePart:
    """A part as a module: from the values named `inputs` to a tuple of those named `outputs`."""

    part: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @staticmethod
    def of(part: str, module: nn.Module, inputs: Keys, outputs: Keys) -> ModulePart:
        """A part whose values are those of the stage state."""
        return ModulePart(part, module, tuple(map(str, inputs)), tuple(map(str, outputs)))


def part_of_model(name: str, stage: Stage, image: Tensor) -> ModulePart:
    """The one part of a model without exits.

    Raises:
        ModelError: its preprocessing cannot be put into the graph.
    """
    module = WholeModel(pixels_of(stage, image, name), stage.model)
    return ModulePart.of(name, module, (IMAGES,), (StateKey("logits", name),))


def parts_of_network(
    name: str, network: ExitNetwork, exits: Set[str], image: Tensor
) -> list[ModulePart]:
    """The parts of the requested exits, in an order in which they can run.

    The network is partitioned anew, at the taps of these exits alone.

    Raises:
        ModelError: it cannot be partitioned there, or its preprocessing cannot be put into the
            graph.
    """
    paths = [tap.path for tap in network.taps]
    refined = [tap for tap, path in enumerate(paths) if f"{name}/{path}/{ESN}" in exits]
    tokens = range(max(refined, default=-1) + 1)
    heads = {f"{name}/{paths[at.tap]}/{at.head}": at for at in network.locations}
    heads = {exit: location for exit, location in heads.items() if exit in exits}
    conditioned = any(network.head(location).saver_width for location in heads.values())
    taps = sorted({*tokens, *(location.tap for location in heads.values())})
    branch = network.saver_branch
    parts: list[ModulePart] = []
    if branch is not None:
        if tokens or conditioned:
            parts.append(_saver_part(branch, image))
        elif branch.name in exits:
            parts.append(part_of_model(branch.name, branch.saver.stage, image))
    if taps or name in exits:
        parts += _segment_parts(name, network, taps, tokens, image, to_end=name in exits)
    parts += [_head_part(name, network, exit, location) for exit, location in heads.items()]
    if branch is not None:
        parts += [_token_part(name, f"{name}/{paths[tap]}/{ESN}", tap, branch) for tap in tokens]
    return parts


def _segment_parts(
    name: str,
    network: ExitNetwork,
    taps: list[int],
    tokens: range,
    image: Tensor,
    *,
    to_end: bool,
) -> list[ModulePart]:
    """The segments up to the last of the taps, and the rest if the logits are needed."""
    pixels = pixels_of(network.stage, image, name)
    ready = network.stage.prepare(torch.stack([image, image]))
    trunk = partition(network.stage.model, ready, [network.taps[tap].path for tap in taps])
    values: tuple[Tensor, ...] = (ready,)
    inputs: Keys = (IMAGES,)
    parts: list[ModulePart] = []
    for number, tap in enumerate(taps):
        values = trunk.run(number, tuple(value.clone() for value in values))
        features = tuple(StateKey("feature", name, tap, index) for index in range(len(values)))
        module: nn.Module = SegmentModule(trunk.segments[number], None if number else pixels)
        outputs = features
        if tap in tokens:
            module = PooledSegment(module, network.taps[tap].layout)
            outputs = (*features, StateKey("pooled", name, tap))
        parts.append(ModulePart.of(f"{name}/{network.taps[tap].path}", module, inputs, outputs))
        inputs = features
    if to_end:
        last = LastSegment(SegmentModule(trunk.segments[-1], None if taps else pixels))
        part = f"{name}/{REST}" if taps else name
        parts.append(ModulePart.of(part, last, inputs, (StateKey("logits", name),)))
    return parts


def _head_part(name: str, network: ExitNetwork, exit: str, location: ExitLocation) -> ModulePart:
    head, branch = network.head(location), network.saver_branch
    inputs: Keys = (StateKey("feature", name, location.tap),)
    if head.saver_width and branch is not None:
        inputs = (*inputs, StateKey("pooled", branch.name, 0), StateKey("logits", branch.name))
    return ModulePart.of(exit, HeadModule(head), inputs, (StateKey("logits", exit),))


def _saver_part(branch: SaverBranch, image: Tensor) -> ModulePart:
    """The saver in one part, with its pooled last feature as a further output."""
    saver, name = branch.saver, branch.name
    first, last = saver.trunk.segments
    pixels = pixels_of(saver.stage, image, name)
    module = SaverModule(
        SegmentModule(first, pixels), SegmentModule(last, None), saver.taps[0].layout
    )
    return ModulePart.of(
        name, module, (IMAGES,), (StateKey("logits", name), StateKey("pooled", name, 0))
    )


def _token_part(name: str, exit: str, tap: int, branch: SaverBranch) -> ModulePart:
    """The token of a tap and the exit that refines the saver's logits there."""
    if not branch.sequence.layers:
        lone = (StateKey("pooled", name, tap), StateKey("logits", branch.name))
        module = LoneTokenModule(branch.sequence, tap)
        return ModulePart.of(exit, module, lone, (StateKey("logits", exit),))
    before = (
        StateKey("pooled", branch.name, 0) if tap == 0 else StateKey("esn_cache", name, tap - 1)
    )
    inputs = (StateKey("pooled", name, tap), before, StateKey("logits", branch.name))
    return ModulePart.of(
        exit,
        TokenModule(branch.sequence, tap),
        inputs,
        (StateKey("logits", exit), StateKey("esn_cache", name, tap)),
    )


class WholeModel(nn.Module):
    """A model with its preprocessing, from images to logits."""

    def __init__(self, pixels: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.pixels, self.model = pixels, model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (logits_in(self.model(self.pixels(images))).float(),)


class SegmentModule(nn.Module):
    """A segment of a network, on copies of its inputs, because it may write into them."""

    def __init__(self, segment: nn.Module, pixels: nn.Module | None) -> None:
        super().__init__()
        self.segment = segment
        self.pixels = nn.Identity() if pixels is None else pixels

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.segment(*(self.pixels(v).clone() for v in values))
        return outputs


class PooledSegment(nn.Module):
    """A segment with the pooled feature of its tap as a further output."""

    def __init__(self, segment: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.segment, self.layout = segment, layout

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.segment(*values)
        return (*outputs, pool(outputs[0], self.layout))


class LastSegment(nn.Module):
    """The last segment: logits in float32."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, *values: Tensor) -> tuple[Tensor]:
        return (self.segment(*values)[0].float(),)


class SaverModule(nn.Module):
    """A saver: logits, and its pooled last feature."""

    def __init__(self, first: nn.Module, rest: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.first, self.rest, self.layout = first, rest, layout

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.first(images)
        return self.rest(*values)[0].float(), pool(values[0], self.layout)


class HeadModule(nn.Module):
    """A head on its feature and, if it is conditioned, the saver's pooled feature and logits."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, feature: Tensor, *saver: Tensor) -> tuple[Tensor]:
        reduced = self.head.reduce(feature)
        if not saver:
            return (self.head(reduced).float(),)
        pooled, logits = saver
        return (self.head(reduced, torch.cat([pooled, logits.to(pooled.dtype)], 1)).float(),)


class TokenModule(nn.Module):
    """The token of a tap (at the first one, that of the saver before it), and the exit there."""

    def __init__(self, sequence: ExitSequence, tap: int) -> None:
        super().__init__()
        self.sequence, self.tap = sequence, tap

    def forward(self, pooled: Tensor, before: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        sequence, number = self.sequence, self.tap + 1
        cache = before
        if self.tap == 0:
            empty = sequence.empty_cache(before.shape[0], before)
            _, cache = sequence.token(0, before, empty)
        output, cache = sequence.token(number, pooled, cache)
        return sequence.exit(number, output, logits).float(), cache


class LoneTokenModule(nn.Module):
    """The token of a tap, in a sequence without attention, and the exit there."""

    def __init__(self, sequence: ExitSequence, tap: int) -> None:
        super().__init__()
        self.sequence, self.tap = sequence, tap

    def forward(self, pooled: Tensor, logits: Tensor) -> tuple[Tensor]:
        sequence, number = self.sequence, self.tap + 1
        return (sequence.exit(number, sequence.tokenise(number, pooled), logits).float(),)
