"""Partition of a network at the ends of modules, so that rows can leave between segments."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from understudy.errors import ModelError
from understudy.graph.capture import (
    BACKBONE,
    CapturedGraph,
    ModuleMark,
    capture,
    check_paths,
    hooked,
    written_inputs,
)
from understudy.graph.liveness import Liveness, Values, is_size, view_base
from understudy.graph.model_output import logits_in

Segment = fx.GraphModule
"""A part of the network; inputs and outputs have one row per sample."""

PROBE_ROWS, KEPT_ROWS = 4, (0, 2, 3)
TOLERANCE, ACCELERATED = 1e-4, 1e-2  # accelerators round products (TF32), by batch size


@dataclass(frozen=True, eq=False)
class Trunk:
    """A network as a sequence of segments, cut at its taps.

    The segments share the network's parameters and buffers, so that they follow its training and
    loading of weights. Partition it again after a move to another device or dtype: constants that
    the network creates while it runs would stay behind.

    Attributes:
        paths: the tapped modules in the order in which they end.
        segments: len(paths) + 1 of them.
    """

    paths: tuple[str, ...]
    segments: tuple[Segment, ...]

    @torch.no_grad()
    def run(self, segment: int, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run a segment; the first takes the ready input (x,), each other the output of the last.

        All values have one row per sample, so that rows can be selected from each in between. The
        output is the tap's feature, followed by the other values that later segments need; that of
        the last segment is (logits,). Inputs are not modified.
        """
        result: tuple[Tensor, ...] = self.segments[segment](*values)
        return result


def partition(model: nn.Module, example: Tensor, paths: Sequence[str]) -> Trunk:
    """Cut a network after each of the named modules.

    The network is captured once, by `torch.export`, and put into eval mode. Cuts may lie anywhere,
    also inside a residual block: other values that are needed later cross the cut with the feature.
    The trunk is validated against the network on random rows before it is returned: features and
    logits agree when all rows go on, when some leave after the first tap, and for a single row.

    Args:
        model: takes a batch (N, ...), returns logits (N, C).
        example: a ready input (N, ...); all inputs have its dtype, device and row shape.
        paths: module paths, in any order.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    >>> trunk = partition(net, torch.zeros(1, 4), ["1"])
    >>> (feature,) = trunk.run(0, (torch.ones(5, 4),))
    >>> (logits,) = trunk.run(1, (feature[:2],))
    >>> feature.shape, logits.shape
    (torch.Size([5, 8]), torch.Size([2, 3]))

    Raises:
        ModelError: a path that names no module or one named twice; a module that does not run
            exactly once or returns no float tensor with the batch first; a network that cannot be
            captured, returns no single tensor, mixes the rows of a batch, or needs a value across a
            cut that has no rows.
    """
    if not len(example):
        raise ModelError(
            f"an example has at least one row, found the shape {tuple(example.shape)}: give a "
            "batch as the network takes it"
        )
    checked = check_paths(model, paths)
    graph = capture(model, example, checked)
    marks = graph.in_order(map(graph.find_mark, checked))
    trunk = Trunk(tuple(mark.path for mark in marks), _segments(model, graph, marks))
    _validate(model, trunk, example)
    return trunk


@dataclass(frozen=True)
class _RowLayout:
    """The dimension in which a tensor holds its rows, and how many entries a row has there."""

    dim: int
    each: int

    def rows_first(self, graph: fx.Graph, value: fx.Node) -> fx.Node:
        if self.each > 1:
            value = graph.call_method("unflatten", (value, self.dim, (-1, self.each)))
        return graph.call_method("movedim", (value, self.dim, 0)) if self.dim else value

    def restored(self, graph: fx.Graph, value: fx.Node) -> fx.Node:
        if self.dim:
            value = graph.call_method("movedim", (value, 0, self.dim))
        if self.each > 1:
            value = graph.call_method("flatten", (value, self.dim, self.dim + 1))
        return value


def _segments(
    model: nn.Module, graph: CapturedGraph, marks: Sequence[ModuleMark]
) -> tuple[Segment, ...]:
    liveness = Liveness(graph)
    crossing = [
        {node: _row_layout(graph, node, mark) for node in liveness.live_at(mark)} for mark in marks
    ]
    starts = [{graph.input: _RowLayout(0, 1)}, *crossing]
    ends = [*crossing, {graph.logits: _RowLayout(0, 1)}]
    positions = [0, *(mark.position for mark in marks), len(graph.nodes)]
    return tuple(
        _segment(
            model,
            graph,
            liveness.operations(start, stop, inputs=tuple(inputs), outputs=tuple(outputs)),
            inputs,
            outputs,
        )
        for (start, stop), inputs, outputs in zip(pairwise(positions), starts, ends, strict=True)
    )


def _row_layout(graph: CapturedGraph, node: fx.Node, mark: ModuleMark) -> _RowLayout:
    value = node.meta.get("val")
    found = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        multiples = [(dim, graph.batch_multiple(size)) for dim, size in enumerate(value.shape)]
        grown = [(dim, multiple) for dim, multiple in multiples if multiple != 0]
        if len(grown) == 1 and grown[0][1] is not None:
            return _RowLayout(grown[0][0], grown[0][1])
        found = f"a tensor of the shape {graph.shape_text(node)}"
    raise ModelError(
        "values that a network needs behind a tap have one dimension that grows with the batch, so "
        f"that rows can leave there; behind {mark.path!r} it needs {found} ({node.name}): tap "
        "another module"
    )


def _segment(
    model: nn.Module,
    captured: CapturedGraph,
    operations: Values,
    inputs: Mapping[fx.Node, _RowLayout],
    outputs: Mapping[fx.Node, _RowLayout],
) -> Segment:
    graph = fx.Graph()
    arguments = [graph.placeholder(f"value_{number}") for number in range(len(inputs))]
    modified = {view_base(target, inputs) for node in operations for target in written_inputs(node)}
    own = [
        graph.call_method("clone", (argument,)) if node in modified else argument
        for node, argument in zip(inputs, arguments, strict=True)
    ]
    values = {
        node: layout.restored(graph, value)
        for (node, layout), value in zip(inputs.items(), own, strict=True)
    }

    def value_of(node: fx.Node) -> fx.Node:
        if node in captured.attributes and node not in values:
            values[node] = graph.get_attr(captured.attributes[node])
        return values[node]

    for node in operations:
        if is_size(node):
            batch = graph.call_method("size", (arguments[0], 0))
            values[node] = graph.call_function(operator.mul, (batch, _multiple(captured, node)))
            continue
        values[node] = graph.node_copy(node, value_of)
        values[node].meta = {}
        if node.target is torch.ops.aten.view.default:  # selected rows have other strides
            values[node].target = torch.ops.aten.reshape.default
    results = [layout.rows_first(graph, value_of(node)) for node, layout in outputs.items()]
    graph.output(tuple(results))
    return _module(model, captured, graph)


def _multiple(graph: CapturedGraph, node: fx.Node) -> int:
    multiple = graph.batch_multiple(node.meta["val"])
    if multiple is None:
        raise ModelError(
            "sizes in a network that is partitioned are fixed or a multiple of the batch, found "
            f"{node.meta['val']} ({node.name}): use the network whole"
        )
    return multiple


def _module(model: nn.Module, captured: CapturedGraph, graph: fx.Graph) -> Segment:
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    owner = nn.Module()
    owner.add_module(BACKBONE, model)
    for name in names & captured.constants.keys():
        setattr(owner, name, captured.constants[name])
    segment = fx.GraphModule(owner, graph)
    segment.add_module(BACKBONE, model)  # the network itself, so that parameters are read there
    return segment


@torch.no_grad()
def _validate(model: nn.Module, trunk: Trunk, example: Tensor) -> None:
    """Compare trunk and network: all rows, some rows from the first tap on, a single row.

    Raises:
        ModelError: a feature or the logits differ, or a segment cannot run.
    """
    probe = _random_rows(example)
    some = torch.tensor(KEPT_ROWS, device=probe.device)
    every = torch.arange(PROBE_ROWS, device=probe.device)
    for rows, kept in ((probe, every), (probe, some), (probe[:1], every[:1])):
        values: tuple[Tensor, ...] = (rows.clone(),)
        for number, reference in enumerate(_reference(model, rows.clone(), trunk.paths)):
            location = _location(trunk.paths, number)
            expected = reference.index_select(0, kept) if number else reference
            try:
                inputs, before = values, [value.clone() for value in values]
                values = trunk.run(number, inputs)
                off = distance(values[0], expected)
            except RuntimeError as error:
                found = f"fails ({str(error).splitlines()[0]})"
                raise _mismatch(location, len(kept), found) from error
            if not off <= tolerance(expected):
                raise _mismatch(location, len(kept), f"is off by {off:.1e} of the largest value")
            if not all(map(_is_equal, inputs, before)):
                raise _mismatch(location, len(kept), "modifies its input")
            if not number:
                values = tuple(value.index_select(0, kept) for value in values)


def _mismatch(location: str, rows: int, found: str) -> ModelError:
    return ModelError(
        "a network in segments gives the results of the whole network, whichever rows go on; with "
        f"{rows} of {PROBE_ROWS} rows it {found} {location}: its rows depend on each other there, "
        "or on memory that is written to behind a tap; tap another module or use the network whole"
    )


def _location(paths: Sequence[str], number: int) -> str:
    if number < len(paths):
        return f"at {paths[number]!r}"
    return f"behind {paths[-1]!r}" if paths else "at its end"


def _random_rows(example: Tensor) -> Tensor:
    """Different rows like the example: noise for floats, its own values for anything else."""
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_ROWS, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example.device, example.dtype)
    picks = torch.randint(example.numel(), shape, generator=generator)
    return example.flatten()[picks.to(example.device)]


def _reference(model: nn.Module, rows: Tensor, paths: Sequence[str]) -> list[Tensor]:
    """The features of the whole network at the taps, and its logits."""
    features: dict[str, Tensor] = {}
    with hooked(model, {path: partial(_store, features, path) for path in paths}):
        logits = logits_in(model(rows))
    return [*(features[path] for path in paths), logits]


def _store(features: dict[str, Tensor], path: str, output: Tensor) -> None:
    features[path] = output.clone()


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value (at least 1); NaN equals NaN."""
    if found.shape != expected.shape:
        return float("inf")
    size = expected.nan_to_num(0, 0, 0).abs().max().clamp(min=1)
    difference = (found.nan_to_num() - expected.nan_to_num()).abs().max()
    return float(difference / size)


def _is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal, of any dtype; NaN equals NaN."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def tolerance(value: Tensor) -> float:
    """How far apart two roundings of a value may be, as `distance` counts it."""
    least = TOLERANCE if value.device.type == "cpu" else ACCELERATED
    return max(least, 8 * torch.finfo(value.dtype).eps)
