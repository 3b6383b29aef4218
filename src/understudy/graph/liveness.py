"""What crosses a cut through a network, and what has to be run between two cuts."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Container, Set

from torch import fx

from understudy.graph.program import CapturedGraph, ModuleMark, written

Values = tuple[fx.Node, ...]


class Liveness:
    """How values flow through a program.

    A value *of the images* depends on what the batch contains: it is computed once, where its
    operation stands, and handed on. Everything else (parameters, tables, sizes, whatever is made of
    these alone) is made anew in each segment that needs it, so that it fits the rows left there.
    """

    def __init__(self, program: CapturedGraph) -> None:
        self.program = program
        self._position = {node: number for number, node in enumerate(program.nodes)}
        self._storage = self._storages()
        self._writers = self._writers_by_storage()
        self._of_images = self._found_of_images()

    def crossing(self, mark: ModuleMark) -> Values:
        """The values that a cut at the mark has to hand on: the marked one, then the others.

        Views of a value that is handed on are left out: they are made anew.
        """
        made = [self.program.input, *self.program.nodes[: mark.position]]
        live = [node for node in made if self._is_used_from(node, mark.position)]
        others = {mark.node, *live}
        rest = [n for n in live if n is not mark.node and not _is_view_of(n, others)]
        return (mark.node, *rest)

    def work(self, start: int, stop: int, *, given: Values, wanted: Values) -> Values:
        """What is run between two positions to go from the given values to the wanted, in order."""
        pending = [n for n in self.program.nodes[start:stop] if n in self._of_images] + [*wanted]
        needed: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            if node in needed or node in given or node in self.program.attributes:
                continue
            needed.add(node)
            if not is_size(node):
                pending += node.all_input_nodes
                pending += self._writers_before(stop, node)
        return tuple(sorted(needed, key=self._position.__getitem__))

    def _is_used_from(self, node: fx.Node, position: int) -> bool:
        end = len(self.program.nodes)
        return node in self._of_images and any(
            self._position.get(user, end) >= position for user in node.users if not is_size(user)
        )

    def _writers_before(self, stop: int, node: fx.Node) -> list[fx.Node]:
        """What writes into something that is made anew; the images' own values are written once."""
        if node in self._of_images:
            return []
        writers = self._writers[self._storage.get(node, node)]
        return [writer for writer in writers if self._position[writer] < stop]

    def _storages(self) -> dict[fx.Node, fx.Node]:
        """Node -> the first one that names the memory it lies in."""
        storage: dict[fx.Node, fx.Node] = {}
        for node in self.program.nodes:
            source = viewed(node) or next(iter(written(node)), None)
            if source is not None:
                storage[node] = storage.get(source, source)
        return storage

    def _writers_by_storage(self) -> dict[fx.Node, list[fx.Node]]:
        writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in self.program.nodes:
            for target in written(node):
                writers[self._storage.get(target, target)].append(node)
        return writers

    def _found_of_images(self) -> Set[fx.Node]:
        """The input and all that is made of it, or lies in memory that such a value is written to.

        Writing into the network's own buffers counts as well: it is done once.
        """
        found = {self.program.input}
        count = 0
        while count < len(found):
            count = len(found)
            for node in self.program.nodes:
                sources = {*node.all_input_nodes, self._storage.get(node, node)}
                targets = {self._storage.get(target, target) for target in written(node)}
                if is_size(node):
                    continue
                if sources & found or targets & self.program.attributes.keys():
                    found |= {node, *(targets - self.program.attributes.keys())}
        return frozenset(found)


def is_size(node: fx.Node) -> bool:
    """Whether this is a size of a tensor."""
    return str(node.target).startswith("aten.sym_")


def viewed(node: fx.Node) -> fx.Node | None:
    """What an operation gives a view of, or an element of; None for one that makes new values."""
    if node.target is operator.getitem or getattr(node.target, "is_view", False):
        source = node.args[0]
        return source if isinstance(source, fx.Node) else None
    return None


def origin(node: fx.Node, known: Container[fx.Node]) -> fx.Node:
    """The known value in whose memory another one lies, or else the first that names that memory.

    What an operation writes into is the memory of what it gives; dropout that is off gives what it
    is given.
    """
    while node not in known:
        source = viewed(node) or next(iter(written(node)), None)
        if source is None and "dropout" in str(node.target):
            source = node.all_input_nodes[0]
        if source is None:
            break
        node = source
    return node


def _is_view_of(node: fx.Node, others: Set[fx.Node]) -> bool:
    source = viewed(node)
    while source is not None:
        if source in others:
            return True
        source = viewed(source)
    return False
