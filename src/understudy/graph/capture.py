"""How a network becomes a program: `torch.export`, with markers at the ends of its modules."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind

from understudy.errors import ModelError, unknown
from understudy.graph.program import BACKBONE, CapturedGraph, ModuleMark, written

DROPOUTS = ("dropout.default", "feature_dropout.default", "alpha_dropout.default")
EXAMPLE_ROWS = 3  # torch.export takes a batch of 0 or 1 for a constant

_library = torch.library.Library("understudy", "FRAGMENT")  # type: ignore[no-untyped-call]
if not hasattr(torch.ops.understudy, "tap"):
    _library.define("tap(Tensor x, int number) -> Tensor")  # type: ignore[no-untyped-call]
    _library.impl("tap", lambda x, _number: x.clone(), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
TAP = torch.ops.understudy.tap.default
"""What marks the end of a module: a copy, under the number of the module's path."""


Hook = Callable[[Any], Any]
"""Gets what a module gives, and may return something to take its place."""


def capture(model: nn.Module, example: Tensor, paths: Iterable[str]) -> CapturedGraph:
    """Run the network once on tensors without content, and write down what it does.

    The network is put into eval mode. Of the example only its dtype, device and the shape of a row
    matter.

    Raises:
        ModelError: a network that `torch.export` cannot capture, or that returns no single tensor.
    """
    names = tuple(paths)
    unmarked: dict[str, str] = {}
    rows = example.detach()[torch.arange(EXAMPLE_ROWS, device=example.device) % len(example)]
    hooks = {path: _marking(number, path, unmarked) for number, path in enumerate(names)}
    with hooked(model.eval(), hooks):
        exported = _exported(model, rows)
    return _program(exported, names, unmarked)


def check_paths(model: nn.Module, paths: Iterable[str]) -> tuple[str, ...]:
    """The paths, each of which names another module inside the network.

    Raises:
        ModelError: no such module, or one path twice.
    """
    known = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    checked: dict[str, None] = {}
    for path in paths:
        if path not in known:
            raise ModelError(unknown("module", path, known, where="this network"))
        if path in checked:
            raise ModelError(f"taps are different places, {path!r} is named twice: name it once")
        checked[path] = None
    return tuple(checked)


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Have the outputs of some modules, by path, pass through hooks for the time being."""
    handles = []
    try:
        for path, hook in hooks.items():
            handles.append(model.get_submodule(path).register_forward_hook(_of_output(hook)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_output(hook: Hook) -> Callable[..., Any]:
    return lambda _module, _args, output: hook(output)


def _marking(number: int, path: str, unmarked: dict[str, str]) -> Hook:
    """A hook that ends its module in a marker, or says why it cannot."""

    def mark(output: Any) -> Tensor | None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim:
            marked: Tensor = TAP(output, number)
            return marked
        unmarked[path] = f"gives {_kind_of(output)}"
        return None

    return mark


def _kind_of(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype} and {output.ndim} dimensions"
    return f"a {type(output).__name__}"


def _exported(model: nn.Module, rows: Tensor) -> ExportedProgram:
    batch = Dim("batch")
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
            warnings.simplefilter("ignore")
            return export(model, (rows.clone(),), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            "a network is split where torch.export can capture it for any number of images, here "
            f"it cannot{_place_of(error)}: {type(error).__name__}: {reason[:300]}; rewrite that "
            "line so that it asks neither the values of a tensor nor the size of the batch, or "
            "use the network whole"
        ) from error


def _place_of(error: Exception) -> str:
    """Where in the network it went wrong: the last line that is neither ours nor PyTorch's."""
    ours = (str(Path(torch.__file__).parent), __file__, "<")
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _program(
    exported: ExportedProgram, paths: Sequence[str], unmarked: dict[str, str]
) -> CapturedGraph:
    graph, root = exported.graph, exported.graph_module
    for inner in root.modules():
        if isinstance(inner, fx.GraphModule) and inner is not root:
            hidden = [paths[node.args[1]] for node in inner.graph.nodes if node.target is TAP]
            unmarked.update(dict.fromkeys(hidden, "runs inside a branch, as of torch.cond"))
    nodes: list[fx.Node] = []
    marks: dict[str, list[ModuleMark]] = {}
    for node in list(graph.nodes):
        if node.target is TAP:
            fed, number = node.args
            marks.setdefault(paths[number], []).append(ModuleMark(paths[number], fed, len(nodes)))
            node.replace_all_uses_with(fed)
            graph.erase_node(node)
        elif _does_nothing(node):
            if node.users:
                node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "call_function":
            nodes.append(node)
    _rename_written(nodes)
    attributes, constants = _attributes(exported)
    (taken,) = (node for node in graph.nodes if node.op == "placeholder" and node not in attributes)
    return CapturedGraph(
        input=taken,
        nodes=tuple(nodes),
        logits=_logits(exported),
        attributes=attributes,
        constants=constants,
        marks=marks,
        unmarked=unmarked,
    )


def _does_nothing(node: fx.Node) -> bool:
    """Whether this is an assertion, or a dropout in a network that is not being trained."""
    name = str(node.target).removeprefix("aten.")
    return name.startswith("_assert") or (name in DROPOUTS and node.args[2] is False)


def _rename_written(nodes: Sequence[fx.Node]) -> None:
    """What is used after `y = add_(x, 1)` is y: one storage has one name at a time."""
    position = {node: number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        later = {
            user
            for old in written(node)
            for user in old.users
            if position.get(user, number + 1) > number
        }
        for old in written(node):
            if old is node.args[0] and isinstance(node.meta.get("val"), Tensor):
                old.replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _attributes(exported: ExportedProgram) -> tuple[dict[fx.Node, str], dict[str, Any]]:
    """What the nodes that are no operations stand for, and the constants among it."""
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
    """What the network returns.

    Raises:
        ModelError: anything but one tensor.
    """
    (output,) = (node for node in exported.graph.nodes if node.op == "output")
    specs = exported.graph_signature.output_specs
    kinds = [spec.kind for spec in specs]
    answers = [
        value
        for value, kind in zip(output.args[0], kinds, strict=True)
        if kind == OutputKind.USER_OUTPUT
    ]
    spec = exported.call_spec.out_spec
    if len(answers) != 1 or not isinstance(answers[0], fx.Node) or not spec.is_leaf():
        raise ModelError(
            f"a network that is split returns logits (N, C), found {spec}: wrap it in a module "
            "that returns the logits alone"
        )
    return answers[0]
