"""The array problem behind chains: models before a last exit, what they lose and what they cost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.policy import accepts, midpoint
from understudy.scores import ScoreTable

if TYPE_CHECKING:
    from understudy.searching._chain_kernels import Field, Model

Array = npt.NDArray[Any]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class ChainZoo:
    """K models on N samples, by rising cost, and the last exit of the chains they may form.

    Attributes:
        names: the models' names.
        last: the last exit's name.
        price: (K,) what each costs; never more than `full`, which the last exit costs.
        confidence: (K, N) higher is surer.
        loss: (K, N) int8, (last exit right) - (model right).
        order: (K, N) the samples by falling confidence.
        edge: (K, N) whether the prefix of `order` that ends here splits no tie.
    """

    names: tuple[str, ...]
    last: str
    price: Array
    full: float
    confidence: Array
    loss: Array
    order: Array
    edge: Array

    @property
    def samples(self) -> int:
        return int(self.loss.shape[1])

    def model(self, row: int) -> Model:
        from understudy.searching._chain_kernels import Model

        return Model(self.order[row], self.edge[row], self.loss[row], float(self.price[row]))

    def field(self, *, threads: int | None) -> Field:
        """All models in codes, for the grid."""
        from understudy.searching._chain_kernels import Field, encode

        codes = np.empty(self.loss.shape, np.uint8)
        each(
            lambda row: encode(self.model(row), codes[row]), range(len(self.names)), threads=threads
        )
        return Field(codes, self.price, self.full)

    def step(self, row: int, length: int) -> tuple[str, float]:
        """The stage at which a model accepts so many of its surest samples, at least one."""
        if length == self.samples:
            return self.names[row], -math.inf
        above, below = self.confidence[row, self.order[row, length - 1 : length + 1]]
        return self.names[row], float(midpoint(below, above))

    def before(self, row: int) -> ChainZoo:
        """The chains that end with this model: those before it are no dearer."""
        rows = np.flatnonzero(self.price <= self.price[row])
        rows = rows[rows != row]
        return ChainZoo(
            names=tuple(self.names[other] for other in rows),
            last=self.names[row],
            price=self.price[rows],
            full=float(self.price[row]),
            confidence=self.confidence[rows],
            loss=self.loss[rows] - self.loss[row],
            order=self.order[rows],
            edge=self.edge[rows],
        )

    def after(self, steps: Sequence[tuple[str, float]], *, threads: int | None) -> Rest:
        """What is left when these stages have answered; models cheaper than theirs are left out."""
        left, cost, loss = np.ones(self.samples, bool), 0.0, 0
        used = [self.names.index(name) for name, _ in steps]
        for row, (_, limit) in zip(used, steps, strict=True):
            cost += float(self.price[row]) * np.count_nonzero(left)
            sure = left & accepts(self.confidence[row], limit)
            loss += int(self.loss[row][sure].sum())
            left &= ~sure
        rows = np.setdiff1d(np.flatnonzero(self.price >= self.price[used].max()), used)
        if not len(rows) or not left.any():
            return Rest(None, cost, loss)
        zoo = self._some(rows, np.flatnonzero(left), threads=threads)
        return Rest(zoo, cost, loss)

    def thinned(self, step: int, *, threads: int | None) -> ChainZoo:
        """The same models on every so manieth sample."""
        samples = np.arange(0, self.samples, step)
        return self._some(np.arange(len(self.names)), samples, threads=threads)

    def _some(self, rows: Array, samples: Array, *, threads: int | None) -> ChainZoo:
        confidence = self.confidence[np.ix_(rows, samples)]
        order, edge = _sorted(confidence, threads=threads)
        return ChainZoo(
            names=tuple(self.names[row] for row in rows),
            last=self.last,
            price=self.price[rows],
            full=self.full,
            confidence=confidence,
            loss=self.loss[np.ix_(rows, samples)],
            order=order,
            edge=edge,
        )


@dataclass(frozen=True, eq=False)
class Rest:
    """The models and samples left after some stages, and what was paid and lost until then."""

    zoo: ChainZoo | None
    cost: float
    loss: int


def chain_zoo(
    table: ScoreTable, reference: str, *, confidence: str, unit: str, threads: int | None
) -> ChainZoo | None:
    """All exits that are cheaper than the reference, cheapest first; None if there is none."""
    costs, big, truth = table.exit_costs(unit), table.index(reference), table.truth(reference)
    rows = [int(row) for row in np.argsort(costs, kind="stable") if costs[row] < costs[big]]
    names = tuple(table.names[row] for row in rows)
    _check_independent(table, [*names, reference])
    sure = table.scores(confidence)
    if not rows:
        return None
    right = (table.prediction[big] == truth).astype(np.int8)
    loss = np.stack([right - (table.prediction[row] == truth) for row in rows])
    order, edge = _sorted(sure[rows], threads=threads)
    full = float(costs[big])
    return ChainZoo(names, reference, costs[rows], full, sure[rows], loss, order, edge)


def _sorted(confidence: Array, *, threads: int | None) -> tuple[Array, Array]:
    """`order` and `edge` of a zoo."""
    order, edge = np.empty(confidence.shape, np.int32), np.empty(confidence.shape, bool)

    def sort(row: int) -> None:
        order[row] = np.argsort(confidence[row])[::-1]
        falling = confidence[row][order[row]]
        edge[row] = np.append(falling[:-1] != falling[1:], True)

    each(sort, range(len(confidence)), threads=threads)
    return order, edge


def each(work: Callable[[Item], Made], items: Iterable[Item], *, threads: int | None) -> list[Made]:
    """What `work` makes of each item, in order; all cores by default."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(work, items))


def _check_independent(table: ScoreTable, names: Iterable[str]) -> None:
    owner: dict[str, str] = {}
    for name in names:
        for part in set(table.exits[table.index(name)].parts):
            if part in owner:
                raise TableError(
                    f"chains are searched among independent models, {owner[part]!r} and {name!r} "
                    f"share the part {part!r}: use search_exits, or leave one of them out"
                )
            owner[part] = name
