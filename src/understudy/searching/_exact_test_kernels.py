"""Compiled half of `exact_test`: one exact probability, summed over the discordant counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.intervals import PAD
from understudy.searching._jit import compiled

Array = npt.NDArray[Any]

STRIP = 1e-7
_LEAST = 1e-280  # of a term that a recursion goes on from; the next ones would lose their digits
_EDGE = 1e-13


@compiled
def _log_pmf(count: int, samples: int, share: float) -> float:
    """The logarithm of a binomial probability, for 0 < share < 1."""
    ways = math.lgamma(samples + 1) - math.lgamma(count + 1) - math.lgamma(samples - count + 1)
    return ways + count * math.log(share) + (samples - count) * math.log1p(-share)


@compiled
def _cdf(most: int, samples: int, share: float) -> tuple[float, float]:
    """P(at most `most`) and P(exactly `most`) of a binomial count, 0 <= most < samples.

    The shorter tail is summed; where it is below `_LEAST` it is 0.
    """
    at = math.exp(_log_pmf(most, samples, share))
    if at < _LEAST:
        return (0.0 if most < samples * share else 1.0), 0.0
    odds, term = share / (1 - share), at
    if most < samples * share:
        total = at
        for count in range(most, 0, -1):
            term *= count / (samples - count + 1) / odds
            total += term
            if term < 1e-17 * total:
                break
        return total, at
    rest = 0.0
    for count in range(most, samples):
        term *= (samples - count) / (count + 1) * odds
        rest += term
        if term < 1e-17 * rest:
            break
    return 1 - rest, at


@compiled
def _window(samples: int, discordance: float) -> tuple[int, int]:
    """The numbers of discordant samples that leave out less than 1e-12."""
    if discordance <= 0 or discordance >= 1:
        only = samples if discordance >= 1 else 0
        return only, only
    reach = 7.5 * math.sqrt(samples * discordance * (1 - discordance)) + 20
    mean = int(samples * discordance)
    return max(mean - int(reach), 0), min(mean + int(reach) + 1, samples)


@compiled
def grid(samples: int, gap: float, low: float, high: float, width: float) -> Array:
    """Discordances from `low` to `high`, `width` standard errors apart: see `_information`.

    Where the information has no bound, next to |gap| and to 1, a strip of the width
    `STRIP` / samples is left out.
    """
    at, end = max(low, abs(gap) + STRIP / samples), min(high, 1 - STRIP / samples)
    points = np.empty(16)
    count = 0
    while at < end:
        if count + 1 == len(points):
            points = np.append(points, np.empty(count))
        points[count] = at
        count += 1
        step = width / math.sqrt(samples * _information(at, gap))
        after = min(at + step, end)
        at += min(step, width / math.sqrt(samples * _information(after, gap)))
    points[count] = min(max(end, abs(gap)), 1.0)
    return points[: count + 1]


@compiled
def _information(discordance: float, gap: float) -> float:
    """The Fisher information of one sample. It is convex: an interval's largest is at an end."""
    return discordance / (discordance**2 - gap**2) + 1 / (1 - discordance)


@compiled
def below(samples: int, discordances: Array, gap: float, top: float, slope: float) -> Array:
    """P(losses - gains + slope * sqrt(discordant + PAD) <= top) by discordance, (K,).

    The discordant samples are binomial, and the losses among them are. With `slope` from 0 to 4,
    what the losses may reach grows by 0 or 1 from one number of discordant samples to the next,
    so their distribution function is carried along, from the first term that is no underflow; by
    the time that terms underflow again it has reached its end. The sum over a window is scaled
    to 1.

    Args:
        discordances: (K,), none below |gap|.
    """
    first, last = samples, 0
    for discordance in discordances:
        low, high = _window(samples, discordance)
        first, last = min(first, low), max(last, high)
    most, grown = np.empty(last - first + 1, np.int64), np.empty(last - first + 1)
    for row in range(len(most)):
        count = first + row
        room = top - slope * math.sqrt(count + PAD)
        most[row] = math.floor((room + count) / 2 + 1e-9)
        grown[row] = (samples - count) / (count + 1)
    found = np.empty(len(discordances))
    for row in range(len(discordances)):
        discordance = discordances[row]
        low, high = _window(samples, discordance)
        weight, odds, loss = 1.0, 0.0, 0.5
        if 0 < discordance < 1:
            weight = math.exp(_log_pmf(low, samples, discordance))
            while weight < _LEAST:
                low += 1
                weight = math.exp(_log_pmf(low, samples, discordance))
            odds = discordance / (1 - discordance)
        if discordance > 0:
            loss = min(max((1 + gap / discordance) / 2, _EDGE), 1 - _EDGE)
        inside, reached, at, total, weights = False, 0.0, 0.0, 0.0, 0.0
        for count in range(low, high + 1):
            now, before = most[count - first], most[max(count - 1 - first, 0)]
            if inside:
                reached -= loss * at
                at *= (1 - loss) * count / (count - before)
                if now > before:
                    at *= loss / (1 - loss) * (count - before) / now
                    reached += at
            elif 0 <= now < count:
                reached, at = _cdf(now, count, loss)
                inside = at >= _LEAST
            else:
                reached = 0.0 if now < 0 else 1.0
            weights += weight
            total += weight * reached
            weight *= grown[count - first] * odds
        found[row] = min(max(total / weights, 0.0), 1.0)
    return found
