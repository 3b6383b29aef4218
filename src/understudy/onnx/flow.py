"""What has to be run until an exit can answer, given what a sample has been through already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Computation:
    """Work that makes some named values of others: arrays in, arrays out, rows first."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    run: Callable[[Sequence[Array]], Sequence[Array]]


class ValueGraph:
    """Steps that feed one another. A value is a function of the images, so it is made once.

    >>> double = Computation(("x",), ("y",), lambda values: [2 * values[0]])
    >>> ValueGraph([double]).value("y", {"x": 21})
    42
    """

    def __init__(self, steps: Iterable[Computation]) -> None:
        self._makers: Mapping[str, Computation] = {
            name: step for step in steps for name in step.gives
        }

    def value(self, name: str, values: dict[str, Array]) -> Array:
        """A value, made of those that are there; what is made on the way joins them."""
        if name not in values:
            step = self._makers[name]
            made = step.run([self.value(one, values) for one in step.takes])
            values.update(zip(step.gives, made, strict=True))
        return values[name]

    def made(self, name: str, known: Set[str]) -> frozenset[str]:
        """The names of the values that are there once `name` was made of known ones."""
        if name in known:
            return frozenset(known)
        step, found = self._makers[name], frozenset(known)
        for one in step.takes:
            found = self.made(one, found)
        return found | set(step.gives)

    def needed(self, name: str, known: Set[str]) -> frozenset[str]:
        """Those of the known values that `name` is made of."""
        if name in known:
            return frozenset({name})
        return frozenset().union(*(self.needed(one, known) for one in self._makers[name].takes))
