"""Exits and what they cost: the half of a score table that needs no samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError, listed, unknown
from understudy.exit import Exit
from understudy.sitting import Sitting
from understudy.table_validation import Costs


class PricedExits:
    """The names and costs of exits, whose fields a table has.

    Attributes:
        exits, costs, times, sittings: as in `ScoreTable`.
    """

    exits: tuple[Exit, ...]
    costs: Costs
    times: Costs
    sittings: tuple[Sitting, ...]

    def with_times(self, times: Costs) -> Self:
        """The same with other measured times."""
        raise NotImplementedError

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the exits, in order."""
        return tuple(exit.name for exit in self.exits)

    @property
    def units(self) -> tuple[str, ...]:
        """All units of cost, counted ones first, then measured ones."""
        return (*self.costs, *self.times)

    @property
    def shares_parts(self) -> bool:
        """Whether a part belongs to several exits, such as a trunk."""
        parts = [part for exit in self.exits for part in exit.parts]
        return len(set(parts)) < len(parts)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The row of an exit.

        Raises:
            TableError: no such exit; the message has the nearest names.
        """
        try:
            return self._rows[name]
        except KeyError:
            raise TableError(unknown("exit", name, self.names, where="this table")) from None

    def unit(self, name: str | None = None) -> str:
        """The unit of that name, or the first one.

        Raises:
            TableError: no such unit, or no costs at all.
        """
        if not self.units:
            raise TableError("this table has no costs: give each exit one (--cost NAME=NUMBER)")
        if name is None:
            return self.units[0]
        if name not in self.units:
            raise TableError(unknown("unit", name, self.units, where="this table"))
        return name

    def cost_of(self, exits: Iterable[str], unit: str) -> float:
        """The cost of visiting these exits: the sum over the union of their parts.

        Raises:
            TableError: a part without a cost in this unit.
        """
        prices = self.costs[unit] if unit in self.costs else self.times[self.unit(unit)]
        parts = dict.fromkeys(p for name in exits for p in self.exits[self.index(name)].parts)
        missing = [part for part in parts if part not in prices]
        if missing:
            raise TableError(
                f"every exit has a cost in {unit}, {listed(map(repr, missing))} "
                f"{'has' if len(missing) == 1 else 'have'} none: add it, or use another unit"
            )
        return float(sum(prices[part] for part in parts))

    def exit_costs(self, unit: str) -> npt.NDArray[np.float64]:
        """The cost of each exit alone, (E,)."""
        return np.array([self.cost_of([name], unit) for name in self.names])


@dataclass(frozen=True, eq=False)
class ExitPrices(PricedExits):
    """Some exits and their costs, without samples.

    >>> prices = ExitPrices((Exit("tiny"), Exit("big")), {"MACs": {"tiny": 1.0, "big": 10.0}})
    >>> prices.cost_of(["tiny", "big"], "MACs")
    11.0
    """

    exits: tuple[Exit, ...]
    costs: Costs
    times: Costs = field(default_factory=dict)
    sittings: tuple[Sitting, ...] = ()

    @staticmethod
    def of(exits: PricedExits, names: Sequence[str]) -> ExitPrices:
        """Those of some of the exits."""
        chosen = tuple(exits.exits[exits.index(name)] for name in names)
        parts = {part for exit in chosen for part in exit.parts}
        costs, times = (
            {unit: {p: c for p, c in prices.items() if p in parts} for unit, prices in one.items()}
            for one in (exits.costs, exits.times)
        )
        return ExitPrices(chosen, costs, times, exits.sittings)

    def with_times(self, times: Costs) -> ExitPrices:
        return replace(self, times=times)
