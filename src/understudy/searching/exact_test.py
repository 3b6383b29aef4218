"""The exact test behind every certificate: is the paired gap below the budget?

Each sample contributes +1 (only the reference is right: a loss), -1 (only the cascade is right: a
gain) or 0. With discordance d = P(loss) + P(gain) and gap g = P(loss) - P(gain), n independent
samples give D discordant ones and the sum S = losses - gains. The hypothesis is g >= b, the budget.

Counts are ordered by T = S + 1.645 sqrt(D + 4), an upper bound of the sum that the normal law
suggests; how far it can be trusted is then computed exactly, so nothing rests on the normal law:

    p = max over d in [L, U] of P(T <= t | d, gap b)  +  beta,

where [L, U] is the Clopper-Pearson interval of d at level 1 - beta. This is Barnard's unconditional
test as Lloyd and Moldovan (2008) sharpen it for paired data, with the nuisance parameter confined
as by Berger and Boos (1994). It is valid for every n: with d and D fixed, a larger gap makes S
stochastically larger, so the boundary g = b is the worst; the true d lies within [L, U] but for a
probability of beta. The maximum is taken over a grid and raised by a bound of what may lie between.
The full proof is in docs/certificates.md.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from understudy.intervals import PAD

SHARE = 0.01
BETA = SHARE * 0.05
SLOPE = 1.645
STEP, COARSE = 1 / 16, 1 / 4  # standard errors from point to point of a grid
_TAIL = 1e-12
_MOST = 10**9


def gap_p_value(
    losses: int, gains: int, samples: int, budget: float, *, beta: float = BETA
) -> float:
    """The p-value of "the gap is at least `budget`" (a fraction, not points), after these counts.

    `beta` is the share of the level that is spent on the discordance, fixed beforehand: the level
    delta times `SHARE`. The p-value depends on counts alone, not on the order of the samples. Small
    means: the gap is below; from one half on it is given as 1.

    >>> gap_p_value(10, 10, 10_000, 0.005) < 0.006
    True
    >>> gap_p_value(50, 10, 10_000, 0.005) > 0.05
    True
    """
    return _p_value(losses - gains, losses + gains, samples, budget, beta)


def drop_p_value(losses: int, gains: int, samples: int, max_drop: float, delta: float) -> float:
    """`gap_p_value` for a budget in points, as every certificate at level `delta` uses it.

    >>> drop_p_value(10, 10, 10_000, 0.5, 0.05) == gap_p_value(10, 10, 10_000, 0.005)
    True
    """
    return gap_p_value(losses, gains, samples, max_drop / 100, beta=SHARE * delta)


def drop_p_value_bound(
    losses: npt.ArrayLike,
    gains: npt.ArrayLike,
    missing: npt.ArrayLike,
    *,
    samples: int,
    max_drop: float,
    delta: float,
) -> float:
    """A bound of the `drop_p_value` of each row of counts (P,), whatever the labels of `missing` of
    its losses are; as fast as one of them.

    A p-value rises with T and with the interval of the discordance, so the largest T bounds them
    all over the hull of their intervals. Labels of losses can only make T smaller. Far from the
    budget Bernstein's inequality says enough, and nothing is summed.

    >>> drop_p_value(10, 10, 10_000, 0.5, 0.05) < drop_p_value_bound(
    ...     [9, 10], [11, 10], [0, 0], samples=10_000, max_drop=0.5, delta=0.05
    ... ) < 0.01
    True
    """
    lost, gained = np.asarray(losses), np.asarray(gains)
    discordant = lost + gained
    top = float((lost - gained + SLOPE * np.sqrt(discordant + PAD)).max())
    ends = int((discordant - np.asarray(missing)).min()), int(discordant.max())
    budget, beta = max_drop / 100, SHARE * delta
    quick = _quick_bound(top, ends[1], samples, budget, beta)
    if quick <= delta:
        return quick
    width = COARSE if 4 * _between(COARSE) ** 2 < delta else STEP
    true = _largest(top, ends, samples, budget, beta, width=width)
    return (math.sqrt(true) + _between(STEP)) ** 2


def _quick_bound(top: float, most: int, samples: int, budget: float, beta: float) -> float:
    """A bound of the p-value of T = `top` with at most so many discordant samples; 1 for none.

    T <= top implies S <= top - 2 * SLOPE. Each sample lies within 1 + b of its mean b, and its
    variance is below the discordance (Bernstein 1946).
    """
    apart = samples * budget - top + 2 * SLOPE
    if not 0 <= budget <= 1 or apart <= 0:
        return 1.0
    from understudy.searching._exact_test_kernels import STRIP

    variance = samples * max(discordance_limit(most, samples, beta=beta / 2), budget)
    tail = math.exp(-(apart**2) / (2 * (variance + (1 + budget) * apart / 3))) + 2 * _TAIL
    return (math.sqrt(tail) + _between(STEP)) ** 2 + STRIP + beta


def critical_totals(
    samples: int, budget: float, delta: float, discordant: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """The largest losses - gains that prove a gap below `budget` at level `delta`, for every number
    of discordant samples (losses + gains).

    `gap_p_value(..., beta=SHARE * delta) <= delta` and `losses - gains <= critical` are the same
    statement, so one table serves many counts. Where nothing can be proved the critical total is
    one below what can occur.

    >>> critical_totals(10_000, 0.005, 0.05, [0, 100, 500]).tolist()
    [0, 32, 12]
    """
    distinct, back = np.unique(np.asarray(discordant, np.int64), return_inverse=True)
    found = np.empty(len(distinct), np.int64)
    near = 0
    for row, count in enumerate(distinct.tolist()):
        found[row] = near = _critical(count, near, samples, budget, delta)
    return found[back.reshape(np.shape(discordant))]


def _critical(discordant: int, near: int, samples: int, budget: float, delta: float) -> int:
    """The critical total, searched from `near` in strides that double, then by halves."""
    low, high = -discordant - 1, discordant + 1
    at, stride = near, 1
    while high - low > 1:
        at = at if low < at < high else (low + high) // 2
        if _p_value(at, discordant, samples, budget, SHARE * delta) <= delta:
            low, at = at, at + stride
        else:
            high, at = at, at - stride
        stride *= 2
    return low


def discordance_limit(discordant: int, samples: int, *, beta: float = BETA) -> float:
    """The Clopper-Pearson upper limit of the discordance at level 1 - beta."""
    from scipy.special import betaincinv

    if discordant >= samples:
        return 1.0
    return float(betaincinv(discordant + 1, samples - discordant, 1 - beta))


def _p_value(total: int, discordant: int, samples: int, budget: float, beta: float) -> float:
    top = total + SLOPE * math.sqrt(discordant + PAD)
    return _largest(top, (discordant, discordant), samples, budget, beta, width=STEP)


def _largest(
    top: float,
    discordant: tuple[int, int],
    samples: int,
    budget: float,
    beta: float,
    *,
    width: float,
) -> float:
    """The p-value of T = `top` over the intervals of all these numbers of discordant samples."""
    fewest, most = discordant
    if budget > 1:
        return 0.0
    if not samples or budget <= -1:
        return 1.0
    high = discordance_limit(most, samples, beta=beta / 2)
    low = 1 - discordance_limit(samples - fewest, samples, beta=beta / 2)
    if high < budget:
        return beta
    if budget < 0 and discordance_limit(fewest, samples, beta=beta / 2) < -budget:
        return 1.0
    from understudy.searching._exact_test_kernels import STRIP, grid

    at = grid(samples, float(budget), low, high, width)
    worst = float(lower_tail(top, samples, at, budget, slope=SLOPE).max())
    p_value = (math.sqrt(worst) + _between(width)) ** 2 + STRIP + beta
    return p_value if p_value < 0.5 else 1.0


def _between(width: float) -> float:
    """What the root of a probability may gain between points of a grid."""
    return width**2 * math.sqrt(2) / 8


def lower_tail(
    top: float, samples: int, discordance: npt.ArrayLike, gap: float, *, slope: float = 0.0
) -> npt.NDArray[np.float64]:
    """P(losses - gains + slope * sqrt(discordant + 4) <= top) for `samples` independent draws.

    `discordance` is (K,) or a single one, and so is the result. What the sums leave out (less than
    1e-12) is added whole.
    """
    from understudy.searching._exact_test_kernels import below

    each = np.atleast_1d(np.asarray(discordance, np.float64))
    found: npt.NDArray[np.float64] = below(samples, each, float(gap), float(top), slope)
    return (found + 2 * _TAIL).reshape(np.shape(discordance))


def samples_needed(discordance: float, gap: float, budget: float, delta: float) -> int | None:
    """About how many certify samples prove a true `gap` below `budget` in four of five draws.

    None where it is more than a billion. Which counts would do is taken from the normal law.

    >>> samples_needed(0.0, 0.0, 0.005, 0.05) < 1_000
    True
    >>> samples_needed(0.05, 0.01, 0.005, 0.05)
    Traceback (most recent call last):
    ...
    ValueError: no number of samples proves a gap of 0.01 below 0.005
    """
    if gap >= budget:
        raise ValueError(f"no number of samples proves a gap of {gap} below {budget}")
    quantile = NormalDist().inv_cdf(1 - delta)

    def spare(samples: int) -> float:
        discordant = samples * discordance
        spread = 0.842 * math.sqrt(discordant) + quantile * math.sqrt(discordant + 4)
        return samples * (budget - gap) - spread

    low, high = 0, 1
    while spare(high) < 0:
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if spare(middle) >= 0 else (middle, high)
    return high
