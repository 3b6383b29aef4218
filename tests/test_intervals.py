"""Intervals: the edges of the exact test, and how often they hold the truth, summed exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import interval_coverage
from understudy.intervals import PAD, Z95, drop_interval, exact_interval, wilson
from understudy.searching.exact_test import discordance_limit, lower_tail

LEVEL = 0.025
BETA = 0.01 * LEVEL


def p_value(losses: int, gains: int, samples: int, gap: float) -> float:
    """Of "the gap is at least `gap`": the maximum over many discordances, by compiled kernels."""
    discordant = losses + gains
    low = 1 - discordance_limit(samples - discordant, samples, beta=BETA / 2)
    high = discordance_limit(discordant, samples, beta=BETA / 2)
    if high <= abs(gap):
        return BETA if gap > 0 else 1.0
    first = max(low, abs(gap))
    tried = first + (high - first) * np.linspace(0, 1, 300) ** 2
    top = losses - gains + Z95 * math.sqrt(discordant + PAD)
    return float(lower_tail(top, samples, tried, gap, slope=Z95).max()) + BETA


@pytest.mark.parametrize(("hits", "samples"), [(0, 20), (1, 1), (9, 100), (20, 20), (60, 2000)])
def test_the_exact_interval_of_a_share_is_that_of_scipy(hits: int, samples: int) -> None:
    ends = binomtest(hits, samples).proportion_ci(0.95, method="exact")
    assert exact_interval(hits, samples) == pytest.approx((ends.low, ends.high), abs=2e-9)


@st.composite
def counted(draw: st.DrawFn) -> tuple[int, int, int]:
    """Losses, gains, samples."""
    samples = draw(st.sampled_from([1, 2, 5, 30, 100, 181, 1000, 5000, 30_000]))
    discordant = draw(st.integers(0, min(samples, 60)) | st.integers(0, samples))
    gains = draw(st.just(0) | st.integers(0, discordant))
    return discordant - gains, gains, samples


@settings(max_examples=80)
@given(counted())
def test_an_end_is_where_the_exact_test_stops_rejecting(counts: tuple[int, int, int]) -> None:
    losses, gains, samples = counts
    low, high = (edge / 100 for edge in drop_interval(losses, gains, samples))
    for lost, won, end in ((losses, gains, high), (gains, losses, -low)):
        if end == 1.0:
            assert lost == samples
            continue
        # Chernoff's bound confines the discordance a little less; the library's grid is coarse
        assert p_value(lost, won, samples, end) <= LEVEL * (1.04 if samples > 10 else 1.06)
        inside = end - 0.05 * (high - low)
        assert p_value(lost, won, samples, inside) > LEVEL


@given(counted())
def test_an_interval_holds_the_estimate_and_turns_round(counts: tuple[int, int, int]) -> None:
    losses, gains, samples = counts
    low, high = drop_interval(losses, gains, samples)
    assert -100 <= low <= 100 * (losses - gains) / samples <= high <= 100
    assert drop_interval(gains, losses, samples) == (-high, -low)


@settings(max_examples=60)
@given(counted())
def test_a_loss_more_moves_both_ends_up(counts: tuple[int, int, int]) -> None:
    losses, gains, samples = counts
    assume(losses + gains < samples)
    low, high = drop_interval(losses, gains, samples)
    more = drop_interval(losses + 1, gains, samples)
    slack = 1e-3 * (high - low)
    assert low - slack <= more[0]
    assert high - slack <= more[1]


@pytest.mark.parametrize("samples", [1, 10, 1000, 10**7])
def test_nothing_discordant_is_the_rule_of_three_and_a_half(samples: int) -> None:
    """(1 - b)^n = .025, less what is spent on the discordance."""
    low, high = drop_interval(0, 0, samples)
    assert low == -high
    assert high / 100 == pytest.approx(1 - (LEVEL - BETA) ** (1 / samples), rel=2e-3)


@pytest.mark.parametrize(("losses", "gains"), [(300_000, 200_000), (4_000_000, 100), (700, 600)])
def test_millions_of_samples_have_normal_intervals(losses: int, gains: int) -> None:
    samples = 10_000_000
    gap = (losses - gains) / samples
    error = math.sqrt(losses + gains - samples * gap**2) / samples
    low, high = (edge / 100 for edge in drop_interval(losses, gains, samples))
    assert (high - gap) / error == pytest.approx(Z95, rel=0.03)
    assert (gap - low) / error == pytest.approx(Z95, rel=0.03)


CELLS = [
    (samples, discordance, tilt)
    for samples in interval_coverage.SAMPLES
    for discordance in interval_coverage.DISCORDANCES
    for tilt in interval_coverage.TILTS
]


def covered(samples: int, discordance: float, tilt: float) -> dict[str, float]:
    method = interval_coverage.METHODS["exact"]
    return interval_coverage.cell(samples, discordance, tilt * discordance, method)


@pytest.mark.parametrize(
    ("samples", "discordance", "tilt"), [cell for cell in CELLS if cell[0] * cell[1] <= 10]
)
def test_intervals_hold_the_truth(samples: int, discordance: float, tilt: float) -> None:
    found = covered(samples, discordance, tilt)
    assert found["coverage"] >= 0.95
    assert max(found["below"], found["above"]) <= LEVEL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "discordance", "tilt"), [cell for cell in CELLS if cell[0] * cell[1] > 10]
)
def test_intervals_hold_the_truth_in_full(samples: int, discordance: float, tilt: float) -> None:
    found = covered(samples, discordance, tilt)
    assert found["coverage"] >= 0.95
    assert max(found["below"], found["above"]) <= LEVEL


def test_the_intervals_before_missed_where_few_samples_are_discordant() -> None:
    """Two losses expected among 2,000 samples and no gain: zero losses said at most .15 points."""
    wald = interval_coverage.METHODS["wald"]
    assert interval_coverage.cell(2000, 0.001, 0.001, wald)["coverage"] < 0.87
    assert covered(2000, 0.001, 1.0)["coverage"] > 0.99


@pytest.mark.parametrize("hits", [0, 1, 50, 99, 100])
def test_wilson_encloses_the_share_and_stays_inside(hits: int) -> None:
    low, high = wilson(hits, 100)
    assert 0 <= low <= hits / 100 <= high <= 1
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == 100)
