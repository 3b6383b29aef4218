"""What a sequence of policies is expected to cost once certified, by where its test starts.

The test stops at the first policy that is not proved, so what counts is the whole course of losses
and gains along the sequence, and both tune and certify are samples of it. Courses are drawn around
the counts on tune: a random walk whose variance is that of the certify counts and of the unknown
true course together.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from understudy.searching.policy_sequences import PolicySequence, ThresholdPath

Floats = npt.NDArray[np.float64]
_COURSES = 300
_SEED = 0
_UNSEEN = 2.0  # discordant samples that tune may have missed


def expected_costs(
    sequence: PolicySequence, *, budget: float, samples: int, delta: float
) -> Floats:
    """The expected cost of what a test that starts at each policy certifies, (P,).

    Args:
        budget: a fraction, of either sign.
        samples: the number of certify samples.
        delta: the level of the test. Where its first policy fails the reference is left.

    >>> losses, gains, cost = np.array([[0, 1, 4, 20], [0, 1, 2, 2], [8, 6, 4, 1]])
    >>> one = PolicySequence(("a", "b", "c", "d"), losses, gains, cost, 1000, 9.0)
    >>> expected_costs(one, budget=.01, samples=3000, delta=.05).round(1).tolist()
    [4.0, 4.0, 4.1, 8.9]
    """
    scale = samples / sequence.samples
    discordant = (sequence.losses + sequence.gains).astype(np.float64)
    known = np.maximum.accumulate(discordant + _UNSEEN) * scale * (1 + scale)
    course = scale * (sequence.losses - sequence.gains) + np.cumsum(
        _noise(len(known)) * np.sqrt(np.diff(known, prepend=0.0)), axis=1
    )
    quantile = NormalDist().inv_cdf(1 - delta)
    proved = course + quantile * np.sqrt(scale * discordant + 4) <= samples * budget
    steps = np.arange(len(known))[:, None]
    failing = np.where(proved.T, len(known), steps)
    stop = np.minimum.accumulate(failing[::-1])[::-1]  # the first failing step from each one on
    reached = np.where(stop > steps, sequence.cost[stop - 1], sequence.full)
    return np.asarray(reached.mean(1), np.float64)


def least_cost(
    counted: PolicySequence | ThresholdPath,
    *,
    budget: float,
    samples: int,
    delta: float,
) -> float:
    """The least cost of a policy that would be proved by itself if certify looked like tune.

    A quick bound by which sequences are screened; the arguments are those of `expected_costs`.
    """
    proved = would_be_proved(counted, budget=budget, samples=samples, delta=delta)
    return float(counted.cost[proved].min(initial=counted.full))


def would_be_proved(
    counted: PolicySequence | ThresholdPath, *, budget: float, samples: int, delta: float
) -> npt.NDArray[np.bool_]:
    """Which policies (P,) would each be proved by itself if `samples` looked just like tune.

    A normal approximation; the arguments are those of `expected_costs`.
    """
    gap = (counted.losses - counted.gains) / counted.samples
    discordant = (counted.losses + counted.gains) / counted.samples
    quantile = NormalDist().inv_cdf(1 - delta)
    spread = quantile * np.sqrt(discordant / samples + 4 / samples**2)
    return np.asarray(gap + spread <= budget)


@cache
def _noise(steps: int) -> Floats:
    return np.random.default_rng(_SEED).standard_normal((_COURSES, steps))
