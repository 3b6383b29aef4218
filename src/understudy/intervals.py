"""95 % intervals of what is measured: of a share, and of a paired drop.

The interval of a drop inverts the exact test of the certificates (`searching.exact_test`) both
ways: it holds every gap that neither the test of "the gap is at least b" nor that of "the gap is at
most b" rejects, each at level .025. So it misses the true gap with a probability of at most .05,
whatever the discordance and however few samples are discordant. Counts are ordered by
losses - gains + 1.96 sqrt(discordant + 4), the quantile being that of .025.

Intervals are for one policy that was fixed beforehand, and they are shown by the dozen: everything
here is NumPy, because compiled kernels take longer to load than all intervals of a result.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
Z95 = 1.959963984540054
PAD = 4.0
_LEVEL = 0.025
_BETA = 0.01 * _LEVEL  # of the level, spent on the discordance
_POINTS = 12  # discordances that are tried, about a standard error apart
_NEAR = 0.01  # standard errors from an end: one more step of Newton's is exact enough
_MOST_STEPS = 40
_REACH = 5.5  # standard deviations of a count; what lies beyond is less than 1e-7
_EDGE = 1e-13
_NORMAL = NormalDist()
Array = npt.NDArray[np.float64]


def wilson(hits: int, samples: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927).

    >>> [round(edge, 3) for edge in wilson(0, 100)]
    [0.0, 0.037]
    """
    share, z2 = hits / samples, Z95**2
    centre = share + z2 / (2 * samples)
    width = Z95 * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    low, high = (centre - width) / (1 + z2 / samples), (centre + width) / (1 + z2 / samples)
    return (max(low, 0.0) if hits else 0.0), (min(high, 1.0) if hits < samples else 1.0)


def exact_interval(hits: int, samples: int) -> Interval:
    """The exact 95 % interval of a share (Clopper and Pearson 1934), to 1e-9.

    >>> [round(edge, 3) for edge in exact_interval(9, 100)]
    [0.042, 0.164]
    """
    low = 0.0 if not hits else 1 - _largest_share(samples - hits, samples)
    high = 1.0 if hits == samples else _largest_share(hits, samples)
    return low, high


def upper_share(hits: int, samples: int, level: float) -> float:
    """The exact upper bound of a share that is wrong with a probability of at most `level`.

    >>> round(upper_share(0, 100, 0.05), 4)
    0.0295
    """
    return 1.0 if hits == samples else _largest_share(hits, samples, level)


def _largest_share(hits: int, samples: int, level: float = _LEVEL) -> float:
    """The share at which so few hits have the probability `level`."""
    counts = np.arange(hits + 1)
    ways = np.cumsum(np.log(np.append(1.0, (samples - counts[:-1]) / (counts[:-1] + 1))))
    low, high = hits / samples, 1.0
    while high - low > 1e-9:
        share = (low + high) / 2
        logs = ways + counts * math.log(share) + (samples - counts) * math.log1p(-share)
        low, high = (share, high) if np.exp(logs).sum() > level else (low, share)
    return (low + high) / 2


@lru_cache(maxsize=4096)
def drop_interval(losses: int, gains: int, samples: int) -> Interval:
    """The 95 % interval of a drop in points: the exact test, inverted both ways.

    >>> [round(edge, 2) for edge in drop_interval(0, 0, 1000)]
    [-0.37, 0.37]
    >>> [round(edge, 2) for edge in drop_interval(60, 40, 2000)]
    [0.02, 2.02]
    """
    low, high = -_upper_end(gains, losses, samples), _upper_end(losses, gains, samples)
    return 100 * low, 100 * high


def _upper_end(losses: int, gains: int, samples: int) -> float:
    """The largest gap that the test of "the gap is at least b" does not reject.

    By secants from the end of the score interval: in normal quantiles the p-value is nearly
    straight. A bracket keeps them from going astray.
    """
    total, discordant = losses - gains, losses + gains
    among = _discordances(discordant, samples)
    low, high = total / samples, among[1]
    spread = math.sqrt(discordant - total**2 / samples + PAD) / samples
    gap, before = _score_end(losses, gains, samples), (math.nan, math.nan)
    for step in range(_MOST_STEPS):
        if step > _MOST_STEPS // 4 or not low < gap < high:
            gap = (low + high) / 2
        if not low < gap < high:
            break
        p_value = _p_value(total, discordant, samples, gap, among)
        excess = Z95 + _NORMAL.inv_cdf(min(max(p_value, 1e-300), 1 - 1e-16))
        low, high = (gap, high) if excess > 0 else (low, gap)
        if step and excess != before[1]:
            spread = (before[0] - gap) / (excess - before[1])
        before = gap, excess
        gap += excess * spread
        if abs(excess) < _NEAR:
            break
    return min(max(gap, low), high)


def _score_end(losses: int, gains: int, samples: int) -> float:
    """About the upper end of the score interval (Tango 1998), in a few fixed-point steps."""
    total = losses - gains
    gap = (total + Z95 * math.sqrt(losses + gains + PAD)) / samples
    for _ in range(3):
        gap = min(gap, 1.0)
        # the likeliest chance of a gain if the gap were this
        linear = (2 * samples - total) * gap - losses - gains
        root = linear**2 + 8 * samples * gains * gap * (1 - gap)
        gain = (math.sqrt(max(root, 0.0)) - linear) / (4 * samples)
        variance = samples * max(2 * gain + gap - gap**2, 0.0)
        gap = (total + Z95 * math.sqrt(variance)) / samples
    return gap


def _discordances(discordant: int, samples: int) -> Interval:
    """An interval that holds the discordance but for a probability of `_BETA` (Chernoff 1952)."""
    share, allowed = discordant / samples, math.log(2 / _BETA) / samples
    return _least_share(share, allowed), 1 - _least_share(1 - share, allowed)


def _least_share(share: float, allowed: float) -> float:
    """The smallest share whose divergence from `share` (Kullback and Leibler's) is `allowed`.

    Two bounds of the divergence, Bhattacharyya's distance and what the hits add to it, say where
    it cannot be; the divergence is convex, so Newton's steps from there stay outside.
    """
    if not share:
        return 0.0
    rest = 1 - share
    floor = rest * math.log(rest) if rest else 0.0
    angle = math.asin(math.sqrt(share)) - math.acos(math.exp(-allowed / 2))
    least = max(math.sin(max(angle, 0.0)) ** 2, share * math.exp((floor - allowed) / share))
    for _ in range(4):
        divergence = share * math.log(share / least) + floor
        divergence -= rest * math.log1p(-least)
        least += (divergence - allowed) * least * (1 - least) / (share - least)
    return least


def _p_value(total: int, discordant: int, samples: int, gap: float, among: Interval) -> float:
    """The p-value of "the gap is at least `gap`", for a discordance `among` these."""
    least = abs(gap)
    if among[1] <= least:
        return _BETA if gap > 0 else 1.0
    first, last = (
        math.asin(math.sqrt(max(d - least, 0.0) / (1 - least))) for d in (among[0], among[1])
    )
    tried = least + (1 - least) * np.sin(np.linspace(first, last, _POINTS)) ** 2
    top = total + Z95 * math.sqrt(discordant + PAD)
    tried = np.clip(tried, 1e-300, 1 - 1e-16)
    return float(_below(samples, tried, gap, top).max()) + _BETA


def _below(samples: int, discordances: Array, gap: float, top: float) -> Array:
    """P(losses - gains + Z95 * sqrt(discordant + PAD) <= top) by discordance, (K,).

    The number of discordant samples is binomial, and so are the losses among them. What these may
    reach (`most`) grows by 0 or 1 with every discordant sample, so that their distribution
    function is a running sum of single probabilities (`at`).
    """
    counts = _window(samples, discordances[0], discordances[-1])
    most = np.floor((top - Z95 * np.sqrt(counts + PAD) + counts) / 2 + 1e-9)
    losses = np.minimum(np.maximum(most, 0), counts)
    fewer = np.where(losses[1:] > losses[:-1], losses[1:], (counts - losses)[1:])
    log_ways = _log_choose(counts[0], losses[0]) + _running(np.log(counts[1:] / fewer))
    log_ways[(most < 0) | (most > counts)] = -np.inf
    loss = np.minimum(np.maximum((1 + gap / discordances) / 2, _EDGE), 1 - _EDGE)[:, None]
    at = np.exp(log_ways + losses * np.log(loss) + (counts - losses) * np.log1p(-loss))
    change = at * (np.diff(most, prepend=most[0]) > 0)
    change[:, 1:] -= loss * at[:, :-1]
    change[:, 0] = _binomial_cdf(most[0], counts[0], loss)
    log_weight: Array = _running(np.log((samples - counts[:-1]) / counts[1:]))
    log_weight = log_weight + counts * np.log(discordances / (1 - discordances))[:, None]
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    chance: Array = (weight * change.cumsum(axis=1)).sum(axis=1) / weight.sum(axis=1)
    return chance


def _window(samples: int, low: float, high: float) -> Array:
    """The numbers of discordant samples that may occur if the discordance is within these."""
    first, last = (
        samples * d + side * (_REACH * math.sqrt(samples * d * (1 - d)) + 12)
        for d, side in ((low, -1), (high, 1))
    )
    return np.arange(max(int(first), 0), min(int(last), samples) + 1.0)


def _binomial_cdf(most: float, samples: float, shares: Array) -> Array:
    """P(at most `most`) of a binomial count, by share; `shares` are (K, 1), the result (K,)."""
    spread = _REACH * math.sqrt(samples) / 2 + 12
    first = max(math.floor(samples * float(shares.min()) - spread), 0)
    last = min(math.ceil(samples * float(shares.max()) + spread), most, samples)
    if last < first:
        return np.zeros(len(shares))
    counts = np.arange(first, last + 1)
    log_ways = _log_choose(samples, first) + _running(np.log((samples - counts[:-1]) / counts[1:]))
    logs = log_ways + counts * np.log(shares) + (samples - counts) * np.log1p(-shares)
    chance: Array = np.minimum(np.exp(logs).sum(axis=1), 1.0)
    return chance


def _running(steps: Array) -> Array:
    """The running sum, from 0 on."""
    total: Array = np.append(0.0, steps.cumsum())
    return total


def _log_choose(many: float, few: float) -> float:
    return math.lgamma(many + 1) - math.lgamma(few + 1) - math.lgamma(many - few + 1)
