"""A bound on the gap of a stream, valid at every moment and under optional stopping.

A bet is placed, sample by sample, that the paired gap x (from -1 to 1) lies below a value m: the
capital is multiplied by 1 + bet * (m - x). If the mean gap is at least m, no bets placed beforehand
make the capital grow on average, so it ever reaches 1 / delta with probability at most delta
(Ville's inequality). The bets are the predictable plug-in ones of Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting" (arXiv 2010.09686, sections 3 and 4).
Independence is not needed, only that the mean gap given the past is at least m. Each bet is at most
half of 1 / (1 - m), so that no sample takes all the capital.

Where all samples are at hand, `searching.exact_test` proves more with as many.

A stream that changes after a long time is a game of its own: whoever has bet since the first sample
has lost too much by then. `JumpingCapital` spreads its capital over several bets and lets a share
of it jump between them at several rates (the simple jumper of Vovk et al., "Retrain or not retrain:
conformal test martingales for change-point detection", arXiv 2102.10439; the fixed share of
Herbster and Warmuth 1998), so that what a change after t samples costs grows as log t. A mean of
capitals is a capital, so the bound of Ville's inequality holds for all of it at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError, TableError
from understudy.json_codec import Stored, stored

Floats = npt.NDArray[np.float64]
_BOLDEST = 0.5
_PRIOR = 0.25
_BLOCK = 16  # samples between two jumps
_CHUNK = 64  # samples between two rescalings
_RATES = 10.0 ** -np.array([2, 3, 4, 6, 8])
_KEPT = ((1 - _RATES) ** _BLOCK)[:, None]  # the share of a bet's capital that does not jump
_FRACTIONS = np.append(0.0, 0.5 ** np.arange(1, 9))


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


def _rows(weights: Floats) -> list[list[float]]:
    found: list[list[float]] = weights.tolist()
    return found


def _matrix(rows: tuple[tuple[float, ...], ...]) -> Floats:
    return np.array(rows, np.float64)


@dataclass(frozen=True, eq=False)
class JumpingCapital(Stored, what="a capital", error=PolicyError):
    """A capital that is spread over several bets, of which a share jumps to all others again and
    again: the mean over several rates of jumping, from 1 in 100 samples to 1 in 100 million.

    Attributes:
        weights: the share of the capital by rate of jumping and bet, (R, M); they sum to 1.
        held: the samples since the last jump, which come at every sixteenth sample.
        log: the natural logarithm of the capital.

    >>> even = JumpingCapital.over(2)
    >>> won = even.update(np.full((100, 2), [1.0, 1.5]))
    >>> round(won.log / math.log(10), 1), round(even.update(np.ones((100, 2))).log, 9)
    (17.3, 0.0)
    """

    weights: Floats = field(
        metadata=stored(shape=tuple[tuple[float, ...], ...], pack=_rows, unpack=_matrix)
    )
    held: int = 0
    log: float = 0.0

    @staticmethod
    def over(bets: int) -> JumpingCapital:
        """A capital of 1, evenly on so many bets."""
        size = (len(_RATES), bets)
        return JumpingCapital(np.full(size, 1 / (size[0] * bets)))

    def update(self, factors: Floats) -> JumpingCapital:
        """The capital after more samples, in order.

        Args:
            factors: by sample and bet, (N, M), what the bet multiplies its capital by: at least 0,
                and at most 1 in expectation under the hypothesis, given all samples before.
        """
        weights, held, log = self.weights, self.held, self.log
        for start in range(0, len(factors), _CHUNK):
            weights, held = _played(weights, held, factors[start : start + _CHUNK])
            total = float(weights.sum())
            weights, log = weights / total, log + math.log(total)
        return JumpingCapital(weights, held, log)


def _played(weights: Floats, held: int, factors: Floats) -> tuple[Floats, int]:
    """Unscaled weights after a few samples, and the samples since the last jump."""
    starts = np.arange(-held, len(factors), _BLOCK)
    products = np.multiply.reduceat(factors, np.maximum(starts, 0), axis=0)
    bets = weights.shape[1]
    for product in products[:-1]:
        weights = weights * product
        weights = _KEPT * weights + (1 - _KEPT) / bets * weights.sum(axis=1, keepdims=True)
    weights = weights * products[-1]
    held = len(factors) - int(starts[-1])
    if held == _BLOCK:
        weights = _KEPT * weights + (1 - _KEPT) / bets * weights.sum(axis=1, keepdims=True)
        held = 0
    return weights, held


@dataclass(frozen=True, eq=False)
class MeanTest(Stored, what="a test of a mean", error=PolicyError):
    """The test of "the mean is at most `bound`" on a stream: an alarm, whenever it is looked at.

    The bets are fixed fractions of the largest one that cannot lose everything, 2^-1 to 2^-8:
    those of horizons from a handful of samples to hundreds of thousands. None is chosen, the
    capital is spread over all, and jumps between them (`JumpingCapital`), so that a stream that
    lay below the bound for a long time and then rises is found nearly as soon as a new one.

    Attributes:
        bound: the mean that is promised.
        low: the smallest value; 0 for what is counted, -1 for gaps.
        capital: what the bets have grown to.
        count, total: the values so far and their sum.
        peak: the highest logarithm of the capital.

    >>> test = MeanTest.of(0.05, low=0.0)
    >>> alarm = test.update(np.tile([0, 0, 0, 0, 1], 40))
    >>> alarm.count, alarm.p_value < 0.001, test.update(np.zeros(200)).p_value
    (200, True, 1.0)

    Raises:
        PolicyError: a bound that is not above `low` and below 1.
    """

    bound: float
    low: float
    capital: JumpingCapital
    count: int = 0
    total: float = 0.0
    peak: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.low < self.bound < 1:
            raise PolicyError(
                f"a bound lies between the smallest value ({self.low:g}) and 1, found "
                f"{self.bound:g}: divide points by 100"
            )

    @staticmethod
    def of(bound: float, *, low: float = -1.0) -> MeanTest:
        """The test before the first value."""
        return MeanTest(bound, low, JumpingCapital.over(len(_FRACTIONS)))

    def update(self, values: npt.ArrayLike) -> MeanTest:
        """The test after more values, in order, (K,), each from `low` to 1.

        Raises:
            TableError: a value outside.
        """
        found = _checked(values)
        if not len(found):
            return self
        if found.min() < self.low:
            raise TableError(f"values are at least {self.low:g}, found {found.min():g}")
        bets = _FRACTIONS / (self.bound - self.low)
        capital = self.capital.update(1 + (found - self.bound)[:, None] * bets)
        return replace(
            self,
            capital=capital,
            count=self.count + len(found),
            total=self.total + float(found.sum()),
            peak=max(self.peak, capital.log),
        )

    @property
    def p_value(self) -> float:
        """Of "the mean is at most the bound"; never rises as values come."""
        return math.exp(-self.peak)
