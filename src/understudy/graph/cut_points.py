"""Cut points: the ends of modules where everything that follows needs one tensor alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx, nn

from understudy.graph.capture import CapturedGraph, ModuleMark
from understudy.graph.liveness import Liveness

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
