"""The exact test behind every certificate: is the paired gap below the budget?

Each sample contributes +1 (only the reference is right: a loss), -1 (only the cascade is right: a
gain) or 0. With discordance d = P(loss) + P(gain) and gap g = P(loss) - P(gain), the sum over n
independent samples is S = losses - gains. The hypothesis is g >= b, the budget.

p-value (Berger & Boos 1994, with d as the nuisance parameter):

    p = max over d in [b, U] of P(S <= s | d, gap b)  +  beta,

where U is the Clopper-Pearson upper limit of d at level 1 - beta. It is valid for every n: with d
fixed, a larger gap makes S stochastically larger, so the boundary g = b is the worst; the true d
lies below U but for a probability of beta.

Where the maximum lies. dP(S <= s)/dd = n/2 * (P(T = s+1) - P(T = s)), T being the sum over n - 1
samples. A variable in {-1, 0, 1} with d <= 1/2 is a shifted sum of two Bernoulli variables (its
generating polynomial has real roots), so T is a shifted Poisson-binomial sum, whose distribution
rises up to the floor of its mean (n - 1) b (Darroch 1964). Hence P(S <= s) rises in d whenever
s + 1 <= floor((n - 1) b), and the maximum lies at U. For larger s nothing is close to being proved
and p is 1; for U > 1/2 Hoeffding's inequality covers the rest. The proof is told at length in
docs/certificates.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BETA = 0.005
_TAIL = 1e-12
_MOST = 10**9


def gap_p_value(
    losses: int, gains: int, samples: int, budget: float, *, beta: float = BETA
) -> float:
    """The p-value of "the gap is at least `budget`" (a fraction, not points), after these counts.

    `beta` is the share of the level that is spent on the discordance, fixed beforehand. The p-value
    depends on counts alone, not on the order of the samples. Small means: the gap is below.

    >>> gap_p_value(10, 10, 10_000, 0.005) < 0.006
    True
    >>> gap_p_value(50, 10, 10_000, 0.005) > 0.05
    True
    """
    return _p_value(losses - gains, losses + gains, samples, budget, beta)


def critical_totals(
    samples: int, budget: float, delta: float, discordant: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """The largest losses - gains that prove a gap below `budget` at level `delta`, for every number
    of discordant samples (losses + gains).

    `gap_p_value(..., beta=delta / 10) <= delta` and `losses - gains <= critical` are the same
    statement, so one table serves many counts. The critical total falls as the discordant samples
    grow; where nothing can be proved it is below `-samples`.

    >>> critical_totals(10_000, 0.005, 0.05, [0, 100, 500]).tolist()
    [48, 30, 9]
    """
    wanted, back = np.unique(np.asarray(discordant, np.int64), return_inverse=True)
    found = np.empty(len(wanted), np.int64)
    top = samples if budget > 1 else math.floor((samples - 1) * budget) - 1
    for row, count in enumerate(wanted.tolist()):
        top = _critical(top, count, samples, budget, delta)
        found[row] = top
    return found[back.reshape(np.shape(discordant))]


def _critical(top: int, discordant: int, samples: int, budget: float, delta: float) -> int:
    """The largest total up to `top` that proves the budget: strides that double, then halves."""

    def proves(total: int) -> bool:
        return _p_value(total, discordant, samples, budget, delta / 10) <= delta

    high, stride = top + 1, 1
    while not proves(top):
        if top < -samples:
            return top
        high, top, stride = top, top - stride, 2 * stride
    while high - top > 1:
        middle = (high + top) // 2
        high, top = (high, middle) if proves(middle) else (middle, top)
    return top


def _p_value(total: int, discordant: int, samples: int, budget: float, beta: float) -> float:
    if budget > 1:
        return 0.0
    if not samples or total + 1 > math.floor((samples - 1) * budget):
        return 1.0
    limit = discordance_limit(discordant, samples, beta=beta)
    if limit < abs(budget):
        return beta
    worst = 0.0
    if abs(budget) <= 0.5:
        worst = _below(total, samples, min(limit, 0.5), budget)
    if limit > 0.5:
        slack = budget - total / samples
        worst = max(worst, math.exp(-samples * slack**2 / 2))
    return min(worst + beta, 1.0)


def discordance_limit(discordant: int, samples: int, *, beta: float = BETA) -> float:
    """The Clopper-Pearson upper limit of the discordance at level 1 - beta."""
    from scipy.special import betaincinv

    if discordant >= samples:
        return 1.0
    return float(betaincinv(discordant + 1, samples - discordant, 1 - beta))


def _below(total: int, samples: int, discordance: float, gap: float) -> float:
    """P(losses - gains <= total) for `samples` draws with that discordance (<= 1/2) and gap.

    A variable in {-1, 0, 1} with discordance <= 1/2 is a difference of two independent Bernoulli
    variables (the real roots of its generating polynomial), so losses - gains = U - V with
    independent binomial U and V. What their tables leave out (less than 1e-12) is added whole.
    """
    up, down = (discordance + gap) / 2, (discordance - gap) / 2
    rest = (1 - discordance) + math.sqrt(max((1 - discordance) ** 2 - 4 * up * down, 0.0))
    low_u, pmf_u = _binomial(samples, 2 * up / (2 * up + rest))
    low_v, pmf_v = _binomial(samples, 2 * down / (2 * down + rest))
    most = total + low_v + np.arange(len(pmf_v)) - low_u
    cdf_u = np.concatenate([[0.0], np.cumsum(pmf_u)])
    return float(pmf_v @ cdf_u[np.clip(most + 1, 0, len(pmf_u))]) + 2 * _TAIL


def _binomial(samples: int, share: float) -> tuple[int, npt.NDArray[np.float64]]:
    """The binomial probabilities from `low` on; at most 1e-12 of the mass is left out.

    By the ratios of neighbours, which need no factorials and lose no digits, scaled to the sum 1.
    """
    if share <= 0:
        return 0, np.ones(1)
    mean = samples * share
    reach = 7.5 * math.sqrt(mean * (1 - share)) + 20.0
    low, high = max(int(mean - reach), 0), min(int(mean + reach) + 1, samples)
    count = np.arange(low, high)
    ratios = np.log((samples - count) / (count + 1)) + math.log(share / (1 - share))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    weights = np.exp(logs - logs.max())
    return low, weights / weights.sum()


def samples_needed(discordance: float, gap: float, budget: float, delta: float) -> int | None:
    """About how many certify samples prove a true `gap` below `budget` in four of five draws.

    None where it is more than a billion.

    >>> samples_needed(0.0, 0.0, 0.005, 0.05) < 1_000
    True
    >>> samples_needed(0.05, 0.01, 0.005, 0.05)
    Traceback (most recent call last):
    ...
    ValueError: no number of samples proves a gap of 0.01 below 0.005
    """
    if gap >= budget:
        raise ValueError(f"no number of samples proves a gap of {gap} below {budget}")
    low, high = 1, 1
    while not _proves(discordance, gap, budget, delta, high):
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        if _proves(discordance, gap, budget, delta, middle):
            high = middle
        else:
            low = middle
    return high


def _proves(discordance: float, gap: float, budget: float, delta: float, samples: int) -> bool:
    total = samples * gap + 0.84 * math.sqrt(samples * discordance)
    discordant = samples * discordance
    losses, gains = math.ceil((discordant + total) / 2), math.floor((discordant - total) / 2)
    p = gap_p_value(max(losses, 0), max(gains, 0), samples, budget, beta=delta / 10)
    return p <= delta
