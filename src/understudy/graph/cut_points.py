"""The places where a network passes through one tensor alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx, nn

from understudy.graph.liveness import Liveness
from understudy.graph.program import CapturedGraph, ModuleMark

SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def block_paths(model: nn.Module) -> list[str]:
    """The modules that have others with parameters inside and stand where blocks do.

    That is in the network itself or one level further in, or in a sequence of modules.
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
    """The members of those rows of plain layers that are no block: of the network or in a row."""
    rows = [
        path
        for path, module in model.named_modules()
        if type(module) is nn.Sequential and _inside(module) == list(module.children())
    ]
    return [
        f"{path}.{name}".lstrip(".")
        for path in rows
        if path.count(".") < 1 or isinstance(model.get_submodule(_parent(path)), SEQUENCES)
        for name, _ in model.get_submodule(path).named_children()
    ]


def lone_marks(model: nn.Module, program: CapturedGraph) -> tuple[ModuleMark, ...]:
    """The marks behind which nothing else is needed, one per tensor, in the order of execution.

    A place inside a block is one only if it is in all blocks of that type, so that blocks without
    a shortcut are not taken apart where others have one. What is left of those in the same tensor
    is the deepest. The network's answer is none.
    """
    flow = Liveness(program)
    modules = dict(model.named_modules())
    once = [marks[0] for marks in program.marks.values() if len(marks) == 1]
    lone = [mark for mark in once if flow.crossing(mark) == (mark.node,)]
    spoiled = {role for mark in set(once) - set(lone) for role in _roles(mark.path, modules)}
    deepest: dict[fx.Node, ModuleMark] = {}
    for mark in sorted(lone, key=lambda mark: mark.path.count(".")):
        usable = program.has_rows(mark.node) and mark.path not in program.unmarked
        if usable and has_layout(mark.node) and spoiled.isdisjoint(_roles(mark.path, modules)):
            deepest[mark.node] = mark
    deepest.pop(program.logits, None)
    return program.in_order(deepest.values())


def has_layout(node: fx.Node) -> bool:
    """Whether a tensor is a map, tokens or a vector per sample."""
    return 2 <= len(node.meta["val"].shape) <= 4


def _roles(path: str, modules: Mapping[str, nn.Module]) -> Iterator[tuple[type[nn.Module], str]]:
    """What a module is to those around it: their types, each with the path from there."""
    names = path.split(".")
    for depth in range(1, len(names)):
        around = modules[".".join(names[:depth])]
        if not isinstance(around, SEQUENCES):
            yield type(around), ".".join(names[depth:])


def _inside(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if inner is not module]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
