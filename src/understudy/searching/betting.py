"""A bound on the gap of a stream, valid at every moment and under optional stopping.

A bet is placed, sample by sample, that the paired gap x (from -1 to 1) lies below a value m: the
capital is multiplied by 1 + bet * (m - x). If the mean gap is at least m, no bets placed beforehand
make the capital grow on average, so it ever reaches 1 / delta with probability at most delta
(Ville's inequality). The bets are the predictable plug-in ones of Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting" (arXiv 2010.09686, sections 3 and 4).
Independence is not needed, only that the mean gap given the past is at least m. Each bet is at most
half of 1 / (1 - m), so that no sample takes all the capital.

Where all samples are at hand, `exact_test` proves more with as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, TableError

Floats = npt.NDArray[np.float64]
_BOLDEST = 0.5
_PRIOR = 0.25


@dataclass(frozen=True)
class GapMonitor:
    """The test of "the gap is at least `budget`" on a stream, in a handful of numbers.

    Attributes:
        budget: the bound to be proved, a fraction (not points).
        delta: the level that the bets aim at; the p-value is valid at every other level too.
        horizon: for how many samples the bets are sized. It is fixed beforehand and changes how
            soon something is proved, never whether the p-value is valid. None: for no number in
            particular, which proves less at each.
        count, total, squares: the samples so far, their sum, and that of their squared distances
            from the running means.
        log_capital, peak: the logarithm of the capital, and the highest that it has been.

    For an alarm, evidence that the gap lies *above* a budget, watch the negated gaps against the
    negated budget.

    >>> monitor = GapMonitor(budget=0.01, horizon=5000)
    >>> monitor = monitor.update([1, 0, 0, -1]).update(np.zeros(4996))
    >>> monitor.count, monitor.proved, monitor.p_value < 0.05
    (5000, True, True)

    Raises:
        PolicyError: a budget outside -1 to 1, a level outside 0 to 1, or a horizon below 1.
    """

    budget: float
    delta: float = 0.05
    horizon: int | None = None
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    log_capital: float = 0.0
    peak: float = 0.0

    def __post_init__(self) -> None:
        if not -1 < self.budget < 1:
            raise PolicyError(
                f"a budget is a fraction between -1 and 1, found {self.budget:g}: divide points "
                "by 100"
            )
        if not 0 < self.delta < 1:
            raise PolicyError(
                f"delta is a probability between 0 and 1, found {self.delta:g}: try 0.05"
            )
        if self.horizon is not None and self.horizon < 1:
            raise PolicyError(f"a horizon is at least one sample, found {self.horizon}")

    def update(self, gaps: npt.ArrayLike) -> GapMonitor:
        """The monitor after more samples, in order: 1 a loss, -1 a gain, 0 neither, (K,).

        Raises:
            TableError: gaps outside -1 to 1.
        """
        values = _checked(gaps)
        if not len(values):
            return self
        bets, total, squares = _bets(values, self)
        logs = _log_capital(values, bets, self.budget, start=self.log_capital)
        count, peak = self.count + len(values), max(self.peak, float(logs.max()))
        last = float(logs[-1])
        return replace(self, count=count, total=total, squares=squares, log_capital=last, peak=peak)

    @property
    def p_value(self) -> float:
        """Of "the gap is at least the budget"; never rises as samples come."""
        return math.exp(-self.peak)

    @property
    def proved(self) -> bool:
        """Whether the gap has been proved to lie below the budget, at any moment so far."""
        return self.p_value <= self.delta


def betting_upper_bound(
    gaps: npt.ArrayLike, delta: float = 0.05, *, horizon: int | None = None
) -> float:
    """The smallest bound of the gap that a `GapMonitor` would have proved by now, to 1e-6.

    With probability 1 - delta it lies above the mean gap at every moment of the stream at once.

    >>> betting_upper_bound(np.zeros(2000), 0.05, horizon=2000) < 0.005
    True
    """
    values = _checked(gaps)
    bets = _bets(values, GapMonitor(0.0, delta, horizon))[0]
    goal = -math.log(delta)
    low, high = -1_000_000, 1_000_000
    while high - low > 1:
        middle = (low + high) // 2
        proved = _log_capital(values, bets, middle / 1e6, start=0.0).max(initial=0.0) >= goal
        low, high = (low, middle) if proved else (middle, high)
    return high / 1e6


def _checked(gaps: npt.ArrayLike) -> Floats:
    values = np.asarray(gaps, np.float64).ravel()
    if not (np.abs(values) <= 1).all():
        wrong = values[~(np.abs(values) <= 1)][0]
        raise TableError(
            f"paired gaps lie between -1 and 1, found {wrong:g}: 1 is a loss, -1 a gain, 0 neither"
        )
    return values


def _bets(values: Floats, past: GapMonitor) -> tuple[Floats, float, float]:
    """The bet on every sample, from those before it alone; the sum and squares after them all.

    sqrt(2 log(1 / delta) / (variance * horizon)), with t log(1 + t) for the horizon where there is
    none.
    """
    number = past.count + np.arange(1, len(values) + 1)
    totals = np.cumsum(np.append(past.total, values))
    squares = np.cumsum(np.append(past.squares, (values - totals[1:] / (number + 1)) ** 2))
    variance = (_PRIOR + squares[:-1]) / number
    size = number * np.log1p(number) if past.horizon is None else past.horizon
    bets = np.sqrt(-2 * math.log(past.delta) / (variance * size))
    return bets, float(totals[-1]), float(squares[-1])


def _log_capital(values: Floats, bets: Floats, bound: float, *, start: float) -> Floats:
    """The logarithm of the capital after every sample; it never falls as `bound` rises."""
    bold = np.minimum(bets, _BOLDEST / (1 - bound)) if bound < 1 else bets
    return np.cumsum(np.append(start, np.log1p(bold * (bound - values))))[1:]
