"""Captured graphs: a network as `torch.export` sees it, with the ends of its modules marked."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind

from understudy.errors import ModelError, unknown
from understudy.graph.model_output import logits_in

BACKBONE = "backbone"
"""The name under which a segment holds the network whose parameters it reads."""
DROPOUTS = ("dropout.default", "feature_dropout.default", "alpha_dropout.default")
EXAMPLE_ROWS = 3  # torch.export takes a batch of 0 or 1 for a constant

_library = torch.library.Library("understudy", "FRAGMENT")  # type: ignore[no-untyped-call]
if not hasattr(torch.ops.understudy, "tap"):
    _library.define("tap(Tensor x, int number) -> Tensor")  # type: ignore[no-untyped-call]
    _library.impl("tap", lambda x, _number: x.clone(), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
MARKER = torch.ops.understudy.tap.default
"""The operation that marks the end of a module: a copy, with the number of the module's path."""

Hook = Callable[[Any], Any]
"""Takes the output of a module and may return a replacement."""


@dataclass(frozen=True, eq=False)
class ModuleMark:
    """The end of a module: `node` is its output, `position` the number of operations until then."""

    path: str
    node: fx.Node
    position: int


@dataclass(frozen=True, eq=False)
class CapturedGraph:
    """The operations of a network on a batch of any size.

    Attributes:
        input: the batch.
        nodes: the operations in the order of execution, without markers and assertions.
        logits: the output of the network.
        attributes: node of a parameter, buffer, constant or sub-graph -> its path in a module that
            holds the network as `backbone` and each of `constants` by its name.
        constants: tensors and sub-graphs outside the network's state.
        marks: module path -> one mark per call of the module.
        unmarked: module path -> why its output could not be marked.
    """

    input: fx.Node
    nodes: tuple[fx.Node, ...]
    logits: fx.Node
    attributes: Mapping[fx.Node, str]
    constants: Mapping[str, Any]
    marks: Mapping[str, Sequence[ModuleMark]]
    unmarked: Mapping[str, str]

    def batch_multiple(self, size: int | torch.SymInt) -> int | None:
        """The size divided by the batch size: 0 for a constant, None where it is no multiple."""
        if isinstance(size, int):
            return 0
        ratio = size.node.expr / self.input.meta["val"].shape[0].node.expr
        return int(ratio) if ratio.is_Integer else None

    def is_batch_first(self, node: fx.Node) -> bool:
        """Whether a tensor's first dimension is the batch."""
        return self.batch_multiple(node.meta["val"].shape[0]) == 1

    def in_order(self, marks: Iterable[ModuleMark]) -> tuple[ModuleMark, ...]:
        """Marks of modules that run once, in the order in which these end."""
        number = {path: number for number, path in enumerate(self.marks)}
        return tuple(sorted(marks, key=lambda mark: number[mark.path]))

    def shape_text(self, node: fx.Node) -> str:
        """A tensor's shape for messages, with N for the batch, such as "(N, 64, 7, 7)".

        Sizes that depend on anything but the batch are "?".
        """
        sizes = [(str(size), self.batch_multiple(size)) for size in node.meta["val"].shape]
        formats = {0: "{}", 1: "N", None: "?"}
        texts = [formats.get(times, f"{times}N").format(size) for size, times in sizes]
        return f"({', '.join(texts)})"

    def find_mark(self, path: str) -> ModuleMark:
        """The end of a module that runs once.

        Raises:
            ModelError: the module never runs, runs more than once, or its output is no float tensor
                with the batch first.
        """
        marks = self.marks.get(path, ())
        if path in self.unmarked:
            raise ModelError(
                "a tap gives one float tensor with the batch first, whatever the images show; "
                f"{path!r} {self.unmarked[path]}: tap another module"
            )
        if len(marks) != 1:
            times = f"runs {len(marks)} times" if marks else "never runs"
            raise ModelError(
                f"a tap is passed once by every image, {path!r} {times}: tap a module around it"
            )
        if not self.is_batch_first(marks[0].node):
            raise ModelError(
                f"a tap gives one float tensor with the batch first, {path!r} gives the shape "
                f"{self.shape_text(marks[0].node)}: tap another module"
            )
        return marks[0]


def capture(model: nn.Module, example: Tensor, paths: Iterable[str]) -> CapturedGraph:
    """Capture a network with `torch.export`, with markers at the ends of the named modules.

    The network is put into eval mode. Only the example's dtype, device and row shape matter.

    Raises:
        ModelError: a network that `torch.export` cannot capture, or that returns no single tensor.
    """
    names = tuple(paths)
    unmarked: dict[str, str] = {}
    rows = example.detach()[torch.arange(EXAMPLE_ROWS, device=example.device) % len(example)]
    hooks = {path: _marking_hook(number, path, unmarked) for number, path in enumerate(names)}
    with hooked(model.eval(), {**hooks, "": logits_in}):
        exported = _export(model, rows)
    return _captured_graph(exported, names, unmarked)


def check_paths(model: nn.Module, paths: Iterable[str]) -> tuple[str, ...]:
    """The paths, if each of them names another module inside the network.

    Raises:
        ModelError: no such module, or a duplicate.
    """
    known = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    checked: dict[str, None] = {}
    for path in paths:
        if path not in known:
            raise ModelError(unknown("module", path, known, where="this network"))
        if path in checked:
            raise ModelError(f"taps are different modules, {path!r} is named twice: name it once")
        checked[path] = None
    return tuple(checked)


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Pass the outputs of some modules, by path, through hooks while the context lasts."""
    handles = []
    try:
        for path, hook in hooks.items():
            handles.append(model.get_submodule(path).register_forward_hook(_of_output(hook)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def written_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs that an operation writes into, as `add_` does."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    named = zip(schema.arguments, node.args, strict=False)
    values = [value for argument, value in named if _is_written(argument)]
    values += [node.kwargs.get(a.name) for a in schema.arguments if _is_written(a)]
    return [value for value in values if isinstance(value, fx.Node)]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _of_output(hook: Hook) -> Callable[..., Any]:
    return lambda _module, _args, output: hook(output)


def _marking_hook(number: int, path: str, unmarked: dict[str, str]) -> Hook:
    """A hook that puts a marker behind its module, or notes in `unmarked` why it cannot."""

    def mark(output: Any) -> Tensor | None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim:
            marked: Tensor = MARKER(output, number)
            return marked
        unmarked[path] = f"gives {_kind_of(output)}"
        return None

    return mark


def _kind_of(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype} and {output.ndim} dimensions"
    return f"a {type(output).__name__}"


def _export(model: nn.Module, rows: Tensor) -> ExportedProgram:
    batch = Dim("batch")
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
            warnings.simplefilter("ignore")
            return export(model, (rows.clone(),), dynamic_shapes=({0: batch},), strict=False)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            "a network is partitioned where torch.export can capture it for any number of images, "
            f"here it cannot{_source_line(error)}: {type(error).__name__}: {reason[:300]}; rewrite "
            "that line so that it depends neither on the values of a tensor nor on the size of the "
            "batch, or use the network whole"
        ) from error


def _source_line(error: Exception) -> str:
    """File and line of the network where capturing failed: the last frame outside PyTorch."""
    ours = (str(Path(torch.__file__).parent), __file__, "<")
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _captured_graph(
    exported: ExportedProgram, paths: Sequence[str], unmarked: dict[str, str]
) -> CapturedGraph:
    graph, root = exported.graph, exported.graph_module
    for inner in root.modules():
        if isinstance(inner, fx.GraphModule) and inner is not root:
            hidden = [paths[node.args[1]] for node in inner.graph.nodes if node.target is MARKER]
            unmarked.update(dict.fromkeys(hidden, "runs inside a branch, as of torch.cond"))
    nodes: list[fx.Node] = []
    marks: dict[str, list[ModuleMark]] = {}
    for node in list(graph.nodes):
        if node.target is MARKER:
            source, number = node.args
            marks.setdefault(paths[number], []).append(
                ModuleMark(paths[number], source, len(nodes))
            )
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif _is_no_op(node):
            if node.users:
                node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "call_function":
            nodes.append(node)
    _rename_written(nodes)
    attributes, constants = _attributes(exported)
    (batch,) = (node for node in graph.nodes if node.op == "placeholder" and node not in attributes)
    return CapturedGraph(
        input=batch,
        nodes=tuple(nodes),
        logits=_logits(exported),
        attributes=attributes,
        constants=constants,
        marks=marks,
        unmarked=unmarked,
    )


def _is_no_op(node: fx.Node) -> bool:
    """Whether this is an assertion, or a dropout in eval mode."""
    name = str(node.target).removeprefix("aten.")
    return name.startswith("_assert") or (name in DROPOUTS and node.args[2] is False)


def _rename_written(nodes: Sequence[fx.Node]) -> None:
    """Let users of x after `y = add_(x, 1)` use y, so that memory has one name at a time."""
    position = {node: number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        later = {
            user
            for old in written_inputs(node)
            for user in old.users
            if position.get(user, number + 1) > number
        }
        for old in written_inputs(node):
            if old is node.args[0] and isinstance(node.meta.get("val"), Tensor):
                old.replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _attributes(exported: ExportedProgram) -> tuple[dict[fx.Node, str], dict[str, Any]]:
    """`attributes` and `constants` of a `CapturedGraph`."""
    graph, root = exported.graph, exported.graph_module
    inputs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    attributes: dict[fx.Node, str] = {}
    constants: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            attributes[node] = node.target
            constants[node.target] = getattr(root, node.target)
        elif node.op == "placeholder":
            kind, target = inputs[node.name].kind, inputs[node.name].target
            if kind in {InputKind.PARAMETER, InputKind.BUFFER}:
                attributes[node] = f"{BACKBONE}.{target}"
            elif kind != InputKind.USER_INPUT:
                attributes[node] = node.name
                constants[node.name] = exported.constants[target]
    return attributes, constants


def _logits(exported: ExportedProgram) -> fx.Node:
    """The output of the network.

    Raises:
        ModelError: anything but one tensor.
    """
    (output,) = (node for node in exported.graph.nodes if node.op == "output")
    specs = exported.graph_signature.output_specs
    outputs = [
        value
        for value, spec in zip(output.args[0], specs, strict=True)
        if spec.kind == OutputKind.USER_OUTPUT
    ]
    spec = exported.call_spec.out_spec
    if len(outputs) != 1 or not isinstance(outputs[0], fx.Node) or not spec.is_leaf():
        raise ModelError(
            f"a network that is partitioned returns logits (N, C), found {spec}: wrap it in a "
            "module that returns the logits alone"
        )
    return outputs[0]
