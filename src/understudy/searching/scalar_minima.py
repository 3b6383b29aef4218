"""Bounded scalar minimisation of many functions at once: Brent's method, as in `fminbound`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_GOLDEN = 0.5 * (3.0 - sqrt(5.0))
_ROOT_EPSILON = sqrt(2.2e-16)
_TOLERANCE = 1e-5
_MOST_VALUES = 500


def bounded_minima(value: Callable[[Floats], Floats], functions: int) -> tuple[Floats, Floats]:
    """Where in [0, 1] the minimiser ends for each function, and the values there; both (F,).

    `value` takes one place for every function, (F,), and returns all values. Each function's
    places are those of `scipy.optimize.fminbound(f, 0, 1)`, which ends in a local minimum.

    Source: Brent, Algorithms for Minimization without Derivatives, chapter 5 (1973).

    >>> at, least = bounded_minima(lambda x: (x - [0.25, 0.75]) ** 2, 2)
    >>> at.round(3).tolist(), least.round(3).tolist()
    ([0.25, 0.75], [0.0, 0.0])
    """
    start = np.full(functions, _GOLDEN)
    first = value(start)
    state = _Brent(
        low=np.zeros(functions),
        high=np.ones(functions),
        best=(start, first),
        second=(start, first),
        third=(start, first),
        step=np.zeros(functions),
        before=np.zeros(functions),
    )
    for _ in range(_MOST_VALUES - 1):
        open_ = state.open
        if not open_.any():
            break
        state = state.next(value, open_)
    return state.best


@dataclass(frozen=True, eq=False)
class _Brent:
    """The state of every function, each array (F,): the bracket, the three best places with their
    values, the last step and the one before it."""

    low: Floats
    high: Floats
    best: tuple[Floats, Floats]
    second: tuple[Floats, Floats]
    third: tuple[Floats, Floats]
    step: Floats
    before: Floats

    @property
    def middle(self) -> Floats:
        return 0.5 * (self.low + self.high)

    @property
    def tolerance(self) -> Floats:
        return _ROOT_EPSILON * np.abs(self.best[0]) + _TOLERANCE / 3.0

    @property
    def open(self) -> Bools:
        """Whose bracket is still too wide."""
        width = 2.0 * self.tolerance - 0.5 * (self.high - self.low)
        return np.asarray(np.abs(self.best[0] - self.middle) > width)

    def next(self, value: Callable[[Floats], Floats], open_: Bools) -> _Brent:
        """The state after one more value of every function that is open."""
        step, before = self._step()
        x = self.best[0]
        moved = np.copysign(np.maximum(np.abs(step), self.tolerance), np.where(step < 0, -1.0, 1.0))
        place = np.where(open_, x + moved, x)
        new = self._with_value(place, value(place))
        return new._kept(open_, self, step, before)

    def _step(self) -> tuple[Floats, Floats]:
        """The next step, of a parabola where it fits and of the golden section elsewhere, and the
        step before it."""
        x, fx = self.best
        w, fw = self.second
        v, fv = self.third
        r = (x - w) * (fx - fv)
        q = (x - v) * (fx - fw)
        p = (x - v) * q - (x - w) * r
        q = 2.0 * (q - r)
        p, q = np.where(q > 0, -p, p), np.abs(q)
        fits = (
            (np.abs(self.before) > self.tolerance)
            & (np.abs(p) < np.abs(0.5 * q * self.before))
            & (p > q * (self.low - x))
            & (p < q * (self.high - x))
        )
        parabola = np.divide(p, q, out=np.zeros_like(p), where=fits)
        near = np.minimum(x + parabola - self.low, self.high - (x + parabola)) < 2 * self.tolerance
        towards = np.where(self.middle < x, -self.tolerance, self.tolerance)
        side = np.where(x >= self.middle, self.low - x, self.high - x)
        step = np.where(fits, np.where(near, towards, parabola), _GOLDEN * side)
        return step, np.where(fits, self.step, side)

    def _with_value(self, place: Floats, found: Floats) -> _Brent:
        """The bracket and the three best places once every function has one more value."""
        x, fx = self.best
        w, fw = self.second
        v, fv = self.third
        better, right = found <= fx, place >= x
        low = np.where(better & right, x, np.where(~better & ~right, place, self.low))
        high = np.where(better & ~right, x, np.where(~better & right, place, self.high))
        is_second = ~better & ((found <= fw) | (w == x))
        is_third = ~better & ~is_second & ((found <= fv) | (v == x) | (v == w))
        pushed = better | is_second
        best = np.where(better, place, x), np.where(better, found, fx)
        second = (
            np.where(better, x, np.where(is_second, place, w)),
            np.where(better, fx, np.where(is_second, found, fw)),
        )
        third = (
            np.where(pushed, w, np.where(is_third, place, v)),
            np.where(pushed, fw, np.where(is_third, found, fv)),
        )
        return _Brent(low, high, best, second, third, self.step, self.before)

    def _kept(self, open_: Bools, old: _Brent, step: Floats, before: Floats) -> _Brent:
        """This state where a function was open, the old one elsewhere."""

        def pair(new: tuple[Floats, Floats], last: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
            return np.where(open_, new[0], last[0]), np.where(open_, new[1], last[1])

        return _Brent(
            low=np.where(open_, self.low, old.low),
            high=np.where(open_, self.high, old.high),
            best=pair(self.best, old.best),
            second=pair(self.second, old.second),
            third=pair(self.third, old.third),
            step=np.where(open_, step, old.step),
            before=np.where(open_, before, old.before),
        )
