"""An exit, and more of what it said than its answer: top classes and logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from understudy.errors import TableError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exit:
    """A place where an answer is available: a whole model, or a head inside one.

    `parts` names all that runs to get there; a standalone model is one part of its own name. Exits
    that share parts (a trunk, a saver) share their cost. `origin` is plain JSON: where the exit
    comes from (model spec, weights hash, preprocessing) or the recipe it is derived by.

    >>> Exit("tiny").parts
    ('tiny',)
    """

    name: str
    parts: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts) or (self.name,))
        object.__setattr__(self, "origin", MappingProxyType(dict(self.origin)))
        if not self.name:
            raise TableError("an exit has a name, found an empty one")


@dataclass(frozen=True)
class Detail:
    """More of what one exit said: its top classes and, where they were kept, all logits.

    Shapes: `top_classes` and `top_probabilities` (N, K), `logits` (N, C) float16 or None.
    """

    top_classes: Array
    top_probabilities: Array
    logits: Array | None = None

    def rows(self, index: Array) -> Detail:
        """The same for some of the samples."""
        logits = None if self.logits is None else self.logits[index]
        return Detail(self.top_classes[index], self.top_probabilities[index], logits)


class DetailsOfRows(Mapping[str, Detail]):
    """Details of some samples, cut out when they are asked for."""

    def __init__(self, source: Mapping[str, Detail], index: Array) -> None:
        self._source, self._index = source, index

    def __getitem__(self, name: str) -> Detail:
        return self._source[name].rows(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


class DetailsOfExits(Mapping[str, Detail]):
    """Details of some exits, read when they are asked for; exits without details are left out."""

    def __init__(self, source: Mapping[str, Detail], names: Sequence[str]) -> None:
        known = set(source)
        self._source, self._names = source, tuple(name for name in names if name in known)

    def __getitem__(self, name: str) -> Detail:
        if name not in self._names:
            raise KeyError(name)
        return self._source[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
