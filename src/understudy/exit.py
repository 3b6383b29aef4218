"""An exit, and the details of its outputs: top classes and logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import softmax
from understudy.errors import TableError
from understudy.short_repr import clipped, cut_list, short_repr

Array = npt.NDArray[Any]
TOP = 5
"""Classes of a sample whose probabilities are kept."""
ENSEMBLE = "recipe"
"""The key of an origin that holds an ensemble."""


@dataclass(frozen=True)
class Exit:
    """A place where an answer is available: a whole model, or a head inside one.

    `parts` names all that runs to get there; a standalone model is one part of its own name. Exits
    that share parts (a trunk, a saver) share their cost. `origin` is plain JSON: where the exit
    comes from (model spec, weights hash, preprocessing), or the ensemble that it is.

    >>> Exit("tiny").parts
    ('tiny',)
    """

    name: str
    parts: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts) or (self.name,))
        object.__setattr__(self, "origin", MappingProxyType(dict(self.origin)))
        if not self.name:
            raise TableError("an exit has a name, found an empty one")

    @property
    def root(self) -> str:
        """The network that it is an exit of; its own name where it is a whole model."""
        return str(self.origin.get("root", self.name))

    @property
    def is_ensemble(self) -> bool:
        """Whether it averages other exits."""
        return ENSEMBLE in self.origin

    def __reduce__(self) -> tuple[type[Exit], tuple[Any, ...]]:
        return Exit, (self.name, self.parts, dict(self.origin))


@dataclass(frozen=True)
class Detail:
    """The top classes of one exit and, where they were kept, all logits.

    Shapes: `top_classes` and `top_probabilities` (N, K), `logits` (N, C) float16 or None.
    """

    top_classes: Array
    top_probabilities: Array
    logits: Array | None = None

    __repr__ = short_repr

    @staticmethod
    def of(logits: Array, *, keep_logits: bool = True) -> Detail:
        """The details of logits (N, C), which are kept within the range of float16.

        >>> Detail.of(np.array([[0.0, 1e6, 1e6]])).top_classes.tolist()
        [[1, 2, 0]]
        """
        probability = softmax(logits)
        order = np.argsort(-probability, axis=1, kind="stable")[:, :TOP].astype(np.int32)
        half = np.finfo(np.float16)
        return Detail(
            order,
            np.take_along_axis(probability, order, 1).astype(np.float32),
            np.clip(logits, half.min, half.max).astype(np.float16) if keep_logits else None,
        )

    def rows(self, index: Array | slice) -> Detail:
        """The same for some of the samples."""
        logits = None if self.logits is None else self.logits[index]
        return Detail(self.top_classes[index], self.top_probabilities[index], logits)


class LazyDetails(Mapping[str, Detail]):
    """Details by exit, each loaded when it is read."""

    def __init__(self, loaders: Mapping[str, Callable[[], Detail]]) -> None:
        self._loaders = dict(loaders)

    def __getitem__(self, name: str) -> Detail:
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __repr__(self) -> str:
        return f"<LazyDetails of {cut_list(map(clipped, self), 200)}>"

    @staticmethod
    def of(source: Mapping[str, Detail], names: Iterable[str] | None = None) -> LazyDetails:
        """Details that stay where they are, of all exits or of those named that have some."""
        known = set(source)
        chosen = source if names is None else [name for name in names if name in known]
        return LazyDetails({name: partial(source.__getitem__, name) for name in chosen})

    def rows(self, index: Array | slice) -> LazyDetails:
        """The same for some of the samples."""
        return LazyDetails(
            {name: partial(_rows, load, index) for name, load in self._loaders.items()}
        )

    def plus(self, name: str, detail: Detail) -> LazyDetails:
        """The same with one further exit."""
        return LazyDetails({**self._loaders, name: lambda: detail})


def _rows(load: Callable[[], Detail], index: Array | slice) -> Detail:
    return load().rows(index)
