"""A network as the list of operations that it runs, with the ends of its modules marked in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from understudy.errors import ModelError

BACKBONE = "backbone"
"""The name under which a segment holds the network whose parameters it reads."""


@dataclass(frozen=True, eq=False)
class ModuleMark:
    """Where a module ended: `node` is what it gave, `position` operations were done by then."""

    path: str
    node: fx.Node
    position: int


@dataclass(frozen=True, eq=False)
class CapturedGraph:
    """What a network does to a batch of any size, operation by operation.

    Attributes:
        input: the batch.
        nodes: the operations in the order in which they run, without markers and assertions.
        logits: what the network returns.
        attributes: what stands for a parameter, buffer, constant or sub-graph -> its path in a
            module that holds the network as `backbone` and each of `constants` by its name.
        constants: tensors and sub-graphs that are no part of the network's state.
        marks: path -> where that module ended, once for each time it ran.
        unmarked: path -> what else its module gave, or where it ran.
    """

    input: fx.Node
    nodes: tuple[fx.Node, ...]
    logits: fx.Node
    attributes: Mapping[fx.Node, str]
    constants: Mapping[str, Any]
    marks: Mapping[str, Sequence[ModuleMark]]
    unmarked: Mapping[str, str]

    def factor(self, size: int | torch.SymInt) -> int | None:
        """How many times the batch a size is: 0 for a plain number, None for anything else."""
        if isinstance(size, int):
            return 0
        ratio = size.node.expr / self.input.meta["val"].shape[0].node.expr
        return int(ratio) if ratio.is_Integer else None

    def has_rows(self, node: fx.Node) -> bool:
        """Whether a tensor's first dimension is the batch."""
        return self.factor(node.meta["val"].shape[0]) == 1

    def in_order(self, marks: Iterable[ModuleMark]) -> tuple[ModuleMark, ...]:
        """Marks of modules that run once, in the order in which these end."""
        place = {path: number for number, path in enumerate(self.marks)}
        return tuple(sorted(marks, key=lambda mark: place[mark.path]))

    def shape(self, node: fx.Node) -> str:
        """A tensor's shape for people, with the batch as N.

        Such as "(N, 64, 7, 7)"; what grows otherwise than with the batch is "?".
        """
        sizes = [(str(size), self.factor(size)) for size in node.meta["val"].shape]
        named = {0: "{}", 1: "N", None: "?"}
        texts = [named.get(times, f"{times}N").format(size) for size, times in sizes]
        return f"({', '.join(texts)})"


def find_mark(program: CapturedGraph, path: str) -> ModuleMark:
    """Where the module ended, the one time it ran.

    Raises:
        ModelError: it never runs or runs more than once, or gives no float tensor, batch first.
    """
    marks = program.marks.get(path, ())
    if path in program.unmarked:
        raise ModelError(
            "a tap gives one float tensor with the batch first, whatever the images show; "
            f"{path!r} {program.unmarked[path]}: tap another module"
        )
    if len(marks) != 1:
        times = f"runs {len(marks)} times" if marks else "never runs"
        raise ModelError(
            f"a tap is passed once by every image, {path!r} {times}: tap a module around it"
        )
    if not program.has_rows(marks[0].node):
        raise ModelError(
            f"a tap gives one float tensor with the batch first, {path!r} gives the shape "
            f"{program.shape(marks[0].node)}: tap another module"
        )
    return marks[0]


def written(node: fx.Node) -> list[fx.Node]:
    """What an operation writes into, as `add_` does."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    named = zip(schema.arguments, node.args, strict=False)
    values = [value for argument, value in named if _is_written(argument)]
    values += [node.kwargs.get(a.name) for a in schema.arguments if _is_written(a)]
    return [value for value in values if isinstance(value, fx.Node)]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
