"""A network cut at the ends of some of its modules, so that rows can leave in between."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn

from understudy.errors import ModelError
from understudy.graph.capture import capture, check_paths, hooked
from understudy.graph.liveness import Liveness, Values, is_size, origin
from understudy.graph.program import BACKBONE, CapturedGraph, ModuleMark, find_mark, written

Segment = fx.GraphModule
"""A part of the network: row tensors in, row tensors out."""

PROBE_ROWS, KEPT_ROWS = 4, (0, 2, 3)
TOLERANCE, ACCELERATED = 1e-4, 1e-2  # accelerators round products (TF32), by batch size


@dataclass(frozen=True, eq=False)
class Trunk:
    """A network in segments, one after each tap; run one after another they are the network.

    The segments read the network's own parameters and buffers, which they do not copy, so training
    the network or loading weights into it is felt here. Split it again after moving it to another
    device or dtype: tables that the network makes while it runs would stay behind.

    Attributes:
        paths: the tapped modules in the order in which they end.
        segments: len(paths) + 1 of them.
    """

    paths: tuple[str, ...]
    segments: tuple[Segment, ...]

    @torch.no_grad()
    def run(self, segment: int, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run a segment: the first takes the ready input (x,), each other what that before it gave.

        All values have one row per sample, so that some rows can be selected from each in between.
        What a segment gives is first the tap's feature, then whatever else later segments need; the
        last one gives (logits,). The values that a segment is given stay as they are.
        """
        result: tuple[Tensor, ...] = self.segments[segment](*values)
        return result


def split(model: nn.Module, example: Tensor, paths: Sequence[str]) -> Trunk:
    """Cut a network right behind each of the named modules.

    The network is captured once, by `torch.export`, and put into eval mode. Cuts may lie anywhere,
    also inside a residual block: whatever else is needed later is handed on beside the feature.
    Before it is returned, the trunk is compared with the network on random rows: features and
    logits agree when all rows go on, when some leave after the first tap, and for a single row.

    Args:
        model: takes a batch (N, ...), gives logits (N, C).
        example: a ready input (N, ...); its dtype, device and row shape are those of all input.
        paths: module paths, in any order.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    >>> trunk = split(net, torch.zeros(1, 4), ["1"])
    >>> (feature,) = trunk.run(0, (torch.ones(5, 4),))
    >>> (logits,) = trunk.run(1, (feature[:2],))
    >>> feature.shape, logits.shape
    (torch.Size([5, 8]), torch.Size([2, 3]))

    Raises:
        ModelError: a path that names no module or one named twice; a module that does not run
            exactly once or gives no float tensor with the batch first; a network that cannot be
            captured, returns no single tensor, mixes the rows of a batch, or needs something across
            a cut that is no row tensor.
    """
    if not len(example):
        raise ModelError(
            f"an example has at least one row, found the shape {tuple(example.shape)}: give a "
            "batch as the network takes it"
        )
    checked = check_paths(model, paths)
    program = capture(model, example, checked)
    marks = program.in_order(find_mark(program, path) for path in checked)
    trunk = Trunk(tuple(mark.path for mark in marks), _segments(model, program, marks))
    _prove(model, trunk, example)
    return trunk


@dataclass(frozen=True)
class _Form:
    """How a tensor holds its rows: in which dimension, and how many entries each has there."""

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
    model: nn.Module, program: CapturedGraph, marks: Sequence[ModuleMark]
) -> tuple[Segment, ...]:
    flow = Liveness(program)
    crossings = [flow.crossing(mark) for mark in marks]
    forms = [
        {node: _form(program, node, mark) for node in crossing}
        for mark, crossing in zip(marks, crossings, strict=True)
    ]
    start_form = {program.input: _Form(0, 1)}
    end_form = {program.logits: _Form(0, 1)}
    bounds = [0, *(mark.position for mark in marks), len(program.nodes)]
    given, wanted = [start_form, *forms], [*forms, end_form]
    return tuple(
        _segment(
            model,
            program,
            flow.work(start, stop, given=tuple(taken), wanted=tuple(handed)),
            taken,
            handed,
        )
        for start, stop, taken, handed in zip(bounds, bounds[1:], given, wanted, strict=False)
    )


def _form(program: CapturedGraph, node: fx.Node, mark: ModuleMark) -> _Form:
    value = node.meta.get("val")
    found = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        factors = {dim: program.factor(size) for dim, size in enumerate(value.shape)}
        grown = [(dim, factor) for dim, factor in factors.items() if factor != 0]
        if len(grown) == 1 and grown[0][1] is not None:
            return _Form(grown[0][0], grown[0][1])
        found = f"a tensor of the shape {program.shape(node)}"
    raise ModelError(
        "what a network needs behind a tap has one dimension that grows with the batch, so that "
        f"rows can leave there; behind {mark.path!r} it needs {found} ({node.name}): tap another "
        "module"
    )


def _segment(
    model: nn.Module,
    program: CapturedGraph,
    work: Values,
    taken: Mapping[fx.Node, _Form],
    handed: Mapping[fx.Node, _Form],
) -> Segment:
    graph = fx.Graph()
    inputs = [graph.placeholder(f"value_{number}") for number in range(len(taken))]
    spoilt = {origin(target, taken) for node in work for target in written(node)}
    own = [
        graph.call_method("clone", (value,)) if node in spoilt else value
        for node, value in zip(taken, inputs, strict=True)
    ]
    made = {
        node: form.restored(graph, value)
        for (node, form), value in zip(taken.items(), own, strict=True)
    }

    def found(node: fx.Node) -> fx.Node:
        if node in program.attributes and node not in made:
            made[node] = graph.get_attr(program.attributes[node])
        return made[node]

    for node in work:
        if is_size(node):
            batch = graph.call_method("size", (inputs[0], 0))
            made[node] = graph.call_function(operator.mul, (batch, _growth(program, node)))
            continue
        made[node] = graph.node_copy(node, found)
        made[node].meta = {}
        if node.target is torch.ops.aten.view.default:  # rows that were selected lie otherwise
            made[node].target = torch.ops.aten.reshape.default
    graph.output(tuple(form.rows_first(graph, found(node)) for node, form in handed.items()))
    return _module(model, program, graph)


def _growth(program: CapturedGraph, node: fx.Node) -> int:
    factor = program.factor(node.meta["val"])
    if factor is None:
        raise ModelError(
            "the sizes in a network that is split are fixed or a multiple of the batch, found "
            f"{node.meta['val']} ({node.name}): use the network whole"
        )
    return factor


def _module(model: nn.Module, program: CapturedGraph, graph: fx.Graph) -> Segment:
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    owner = nn.Module()
    owner.add_module(BACKBONE, model)
    for name in read & program.constants.keys():
        setattr(owner, name, program.constants[name])
    segment = fx.GraphModule(owner, graph)
    segment.add_module(BACKBONE, model)  # the network itself, so that all is read where it is now
    return segment


@torch.no_grad()
def _prove(model: nn.Module, trunk: Trunk, example: Tensor) -> None:
    """Hold the trunk to the network: all rows, some rows from the first tap on, a single row.

    Raises:
        ModelError: a feature or the logits differ, or a segment cannot run.
    """
    probe = _probe(example)
    kept = torch.tensor(KEPT_ROWS, device=probe.device)
    everything = torch.arange(PROBE_ROWS, device=probe.device)
    for rows, left in ((probe, everything), (probe, kept), (probe[:1], everything[:1])):
        values: tuple[Tensor, ...] = (rows.clone(),)
        for number, expected in enumerate(_whole(model, rows.clone(), trunk.paths)):
            place = _place(trunk.paths, number)
            truth = expected.index_select(0, left) if number else expected
            try:
                given, before = values, [value.clone() for value in values]
                values = trunk.run(number, given)
                found = _distance(values[0], truth)
            except RuntimeError as error:
                raise _unlike(place, len(left), f"fails ({str(error).splitlines()[0]})") from error
            if not found <= _tolerance(truth):
                raise _unlike(place, len(left), f"is off by {found:.1e} of the largest value")
            if not all(map(_same, given, before)):
                raise _unlike(place, len(left), "writes into what it was given")
            if not number:
                values = tuple(value.index_select(0, left) for value in values)


def _unlike(place: str, rows: int, found: str) -> ModelError:
    return ModelError(
        "a network in segments gives what it gives as a whole, whichever rows go on; with "
        f"{rows} of {PROBE_ROWS} rows it {found} {place}: its rows depend on each other there, or "
        "on memory that is written to behind a tap; tap another module or use the network whole"
    )


def _place(paths: Sequence[str], number: int) -> str:
    if number < len(paths):
        return f"at {paths[number]!r}"
    return f"behind {paths[-1]!r}" if paths else "at its end"


def _probe(example: Tensor) -> Tensor:
    """Rows that differ: noise for pixels, values of the example for anything else."""
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_ROWS, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example.device, example.dtype)
    picks = torch.randint(example.numel(), shape, generator=generator)
    return example.flatten()[picks.to(example.device)]


def _whole(model: nn.Module, rows: Tensor, paths: Sequence[str]) -> list[Tensor]:
    """What the network gives at the taps and at its end."""
    features: dict[str, Tensor] = {}
    with hooked(model, {path: partial(_keep, features, path) for path in paths}):
        logits = model(rows)
    return [*(features[path] for path in paths), logits]


def _keep(features: dict[str, Tensor], path: str, output: Tensor) -> None:
    features[path] = output.clone()


def _distance(found: Tensor, truth: Tensor) -> float:
    """The largest difference, as a share of the largest value (at least 1); NaN equals NaN."""
    if found.shape != truth.shape:
        return float("inf")
    size = truth.nan_to_num(0, 0, 0).abs().max().clamp(min=1)
    difference = (found.nan_to_num() - truth.nan_to_num()).abs().max()
    return float(difference / size)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether values are equal, of any dtype; NaN equals NaN."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _tolerance(value: Tensor) -> float:
    least = TOLERANCE if value.device.type == "cpu" else ACCELERATED
    return max(least, 8 * torch.finfo(value.dtype).eps)
