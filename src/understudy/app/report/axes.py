"""An axis whose ends are ours, so that labels can be placed in pixels before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOG_FROM = 20.0


@dataclass(frozen=True)
class Axis:
    """A range of values on a length of pixels, linear or logarithmic."""

    low: float
    high: float
    length: float
    log: bool = False

    @staticmethod
    def around(values: Iterable[float], *, length: float, margin: float = 0.06) -> Axis:
        """A linear axis that holds all values, with a margin at both ends."""
        found = list(values)
        low, high = min(found), max(found)
        room = margin * (high - low) or max(abs(high), 1.0) * margin
        return Axis(low - room, high + room, length)

    @staticmethod
    def of_costs(values: Iterable[float], *, length: float) -> Axis:
        """An axis for costs: logarithmic where they span a factor of 20, else from about zero.

        >>> Axis.of_costs([1e6, 1e9], length=100).log, Axis.of_costs([4, 18], length=100).low
        (True, 0.0)
        """
        found = list(values)
        low, high = min(found), max(found)
        if low > 0 and high / low >= LOG_FROM:
            room = (high / low) ** 0.05
            return Axis(low / room, high * room, length, log=True)
        return Axis(min(0.0, low), 1.06 * high or 1.0, length)

    def pixel(self, value: float) -> float:
        """Where a value lies, in pixels from the low end.

        >>> Axis(1, 100, 200, log=True).pixel(10)
        100.0
        """
        low, high, at = (self._flat(v) for v in (self.low, self.high, value))
        return self.length * (at - low) / (high - low)

    def value(self, pixel: float) -> float:
        """The value at a pixel: the inverse of `pixel`."""
        low, high = self._flat(self.low), self._flat(self.high)
        flat = low + pixel / self.length * (high - low)
        return float(10.0**flat) if self.log else flat

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self) -> list[float] | None:
        """1, 2, 5 per decade of a logarithmic axis, or 1 where decades are many; None if linear.

        >>> Axis(1.5, 30, 200, log=True).ticks()
        [2.0, 5.0, 10.0, 20.0]
        """
        if not self.log:
            return None
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if (last - first) * 60 < self.length else (1,)
        values = (float(step * 10.0**decade) for decade in range(first, last + 1) for step in steps)
        return [value for value in values if self.holds(value)]

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value
