"""Liveness: the values that cross a cut through a network, and the operations between two cuts."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Container, Set

from torch import fx

from understudy.graph.capture import CapturedGraph, ModuleMark, written_inputs

Values = tuple[fx.Node, ...]


class Liveness:
    """Where the values of a captured graph are computed and used.

    A value that *depends on the batch's content* is computed once, in the order of the graph, and
    passed across cuts. Everything else (parameters, tables, sizes, and what is computed from these
    alone) is computed anew in each segment that needs it, so that it fits the rows left there.
    """

    def __init__(self, graph: CapturedGraph) -> None:
        self.graph = graph
        self._position = {node: number for number, node in enumerate(graph.nodes)}
        self._storage = self._storages()
        self._writers = self._writers_by_storage()
        self._data_dependent = self._find_data_dependent()

    def live_at(self, mark: ModuleMark) -> Values:
        """The values that cross a cut at the mark: the marked one, then the others.

        Views of a value that crosses are left out: they are computed anew.
        """
        computed = [self.graph.input, *self.graph.nodes[: mark.position]]
        live = [node for node in computed if self._is_used_from(node, mark.position)]
        others = {mark.node, *live}
        rest = [n for n in live if n is not mark.node and not _is_view_of(n, others)]
        return (mark.node, *rest)

    def operations(self, start: int, stop: int, *, inputs: Values, outputs: Values) -> Values:
        """The operations between two positions that lead from inputs to outputs, in order."""
        pending = [n for n in self.graph.nodes[start:stop] if n in self._data_dependent]
        pending += outputs
        needed: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            if node in needed or node in inputs or node in self.graph.attributes:
                continue
            needed.add(node)
            if not is_size(node):
                pending += node.all_input_nodes
                pending += self._writers_before(stop, node)
        return tuple(sorted(needed, key=self._position.__getitem__))

    def _is_used_from(self, node: fx.Node, position: int) -> bool:
        end = len(self.graph.nodes)
        return node in self._data_dependent and any(
            self._position.get(user, end) >= position for user in node.users if not is_size(user)
        )

    def _writers_before(self, stop: int, node: fx.Node) -> list[fx.Node]:
        """What writes into a value that is computed anew; data-dependent ones are written once."""
        if node in self._data_dependent:
            return []
        writers = self._writers[self._storage.get(node, node)]
        return [writer for writer in writers if self._position[writer] < stop]

    def _storages(self) -> dict[fx.Node, fx.Node]:
        """Node -> the first node in whose memory it lies."""
        storage: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            source = view_source(node) or next(iter(written_inputs(node)), None)
            if source is not None:
                storage[node] = storage.get(source, source)
        return storage

    def _writers_by_storage(self) -> dict[fx.Node, list[fx.Node]]:
        writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in self.graph.nodes:
            for target in written_inputs(node):
                writers[self._storage.get(target, target)].append(node)
        return writers

    def _find_data_dependent(self) -> Set[fx.Node]:
        """The input, everything computed from it, and memory that such a value is written to.

        Writing into the network's own buffers counts as well: it is done once.
        """
        found = {self.graph.input}
        count = 0
        while count < len(found):
            count = len(found)
            for node in self.graph.nodes:
                sources = {*node.all_input_nodes, self._storage.get(node, node)}
                targets = {self._storage.get(target, target) for target in written_inputs(node)}
                if is_size(node):
                    continue
                if sources & found or targets & self.graph.attributes.keys():
                    found |= {node, *(targets - self.graph.attributes.keys())}
        return frozenset(found)


def is_size(node: fx.Node) -> bool:
    """Whether this is a size of a tensor."""
    return str(node.target).startswith("aten.sym_")


def view_source(node: fx.Node) -> fx.Node | None:
    """The value that a node is a view or an element of; None for a node with memory of its own."""
    if node.target is operator.getitem or getattr(node.target, "is_view", False):
        source = node.args[0]
        return source if isinstance(source, fx.Node) else None
    return None


def view_base(node: fx.Node, known: Container[fx.Node]) -> fx.Node:
    """The known value in whose memory a node lies, or else the first node with that memory.

    The result of an in-place operation lies in the memory that it wrote; dropout in eval mode
    returns its input.
    """
    while node not in known:
        source = view_source(node) or next(iter(written_inputs(node)), None)
        if source is None and "dropout" in str(node.target):
            source = node.all_input_nodes[0]
        if source is None:
            break
        node = source
    return node


def _is_view_of(node: fx.Node, others: Set[fx.Node]) -> bool:
    source = view_source(node)
    while source is not None:
        if source in others:
            return True
        source = view_source(source)
    return False
