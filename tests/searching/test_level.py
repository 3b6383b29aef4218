"""The level of the exact test, computed instead of simulated, and the parts of the computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import certificates
from tables import synthetic
from understudy.searching.certify import certify
from understudy.searching.exact_test import (
    SHARE,
    SLOPE,
    STEP,
    critical_totals,
    discordance_limit,
    gap_p_value,
    lower_tail,
)
from understudy.searching.pairs import pair_curve
from understudy.searching.policy_sequences import pair_sequence


def chance(top: float, samples: int, discordance: float, gap: float, *, slope: float) -> float:
    """P(losses - gains + slope * sqrt(discordant + 4) <= top), term by term."""
    counts = np.arange(samples + 1)
    most = np.floor((top - slope * np.sqrt(counts + 4) + counts) / 2 + 1e-9)
    loss = 0.5 if discordance == 0 else (1 + gap / discordance) / 2
    return float(binom.pmf(counts, samples, discordance) @ binom.cdf(most, counts, loss))


@settings(max_examples=150)
@given(
    st.sampled_from([1, 2, 5, 20, 100, 181, 700]),
    # SciPy's own binomial overflows at shares near 1e-308, so tiny ones are 0
    st.lists(st.floats(1e-12, 1) | st.just(0.0), min_size=1, max_size=4).map(sorted),
    st.sampled_from([1.0, 0.1, 0.01]),
    st.tuples(st.floats(-1, 1), st.floats(-4, 4)),
    st.sampled_from([0.0, SLOPE]),
)
def test_the_chance_is_the_sum_over_all_counts(
    samples: int, shares: list[float], scale: float, where: tuple[float, float], slope: float
) -> None:
    discordances, (tilt, z) = scale * np.array(shares), where
    gap = float(discordances[0] * tilt)
    top = samples * gap + z * math.sqrt(samples * discordances[-1] + 4)
    found = lower_tail(top, samples, discordances, gap, slope=slope)
    true = [chance(top, samples, d, gap, slope=slope) for d in discordances.tolist()]
    assert found == pytest.approx(np.array(true), abs=1e-10)


def windowed(top: float, samples: int, discordance: float, gap: float) -> float:
    """`chance` with `SLOPE`, over the discordant counts that can be expected of many samples."""
    reach = 9 * math.sqrt(samples * discordance * (1 - discordance)) + 30
    mean = int(samples * discordance)
    counts = np.arange(max(mean - int(reach), 0), min(mean + int(reach) + 1, samples) + 1)
    most = np.floor((top - SLOPE * np.sqrt(counts + 4) + counts) / 2 + 1e-9)
    each = binom.cdf(most, counts, (1 + gap / discordance) / 2)
    return float(binom.pmf(counts, samples, discordance) @ each)


@pytest.mark.parametrize("z", [-3.0, -1.645, 0.0, 2.0])
@pytest.mark.parametrize("tilt", [-1.0, -0.99, -0.3, 0.0, 0.5, 0.97, 1.0])
@pytest.mark.parametrize(
    ("samples", "discordance"),
    [(100_000, 0.001), (100_000, 0.6), (1_000_000, 0.3), (10_000_000, 0.01), (10_000_000, 0.5)],
)
def test_the_chance_is_the_sum_at_millions_of_samples(
    samples: int, discordance: float, tilt: float, z: float
) -> None:
    gap = discordance * tilt
    spread = math.sqrt(samples * (discordance - gap**2) + 4)
    top = samples * gap + SLOPE * math.sqrt(samples * discordance + 4) + z * spread
    found = lower_tail(top, samples, discordance, gap, slope=SLOPE)
    assert found == pytest.approx(windowed(top, samples, discordance, gap), abs=1e-6)


@pytest.mark.parametrize(
    ("losses", "gains", "samples", "budget"),
    [
        (905_841, 6_000, 3_000_000, 0.3),
        (6_000, 906_300, 3_000_000, -0.3),
        (300_000, 900, 1_000_000, 0.3),
        (1_100, 30_600, 100_000, -0.29),
        (50_000, 4_950_000, 10_000_000, -0.489),
        (20_500, 10_050, 10_000_000, 0.0013),
    ],
)
def test_a_p_value_of_many_discordant_samples_is_a_direct_sum(
    losses: int, gains: int, samples: int, budget: float
) -> None:
    """Studentised, the chance hardly depends on the discordance: one sum nearly is the p-value."""
    discordant, gap = losses + gains, (losses - gains) / samples
    top = losses - gains + SLOPE * math.sqrt(discordant + 4)
    # the likeliest discordance if the gap were the budget
    likely = max(discordant / samples + (budget - gap) * gap / (discordant / samples), abs(budget))
    true = windowed(top, samples, likely, budget)
    assert gap_p_value(losses, gains, samples, budget) == pytest.approx(true, rel=0.05, abs=2e-3)


def test_the_chance_of_what_never_happens_is_no_underflow() -> None:
    assert 0 <= lower_tail(-3000.0, 10_000, 0.4, 0.3, slope=SLOPE) < 1e-9
    assert lower_tail(9000.0, 10_000, 0.4, -0.3, slope=SLOPE) == pytest.approx(1.0)
    nearly = np.array([1e-300, 1e-12, 1 - 1e-12, np.nextafter(1, 0)])
    for samples in (1, 30, 5000):
        high, low = (lower_tail(s * 2.0 * samples, samples, nearly, 0.0) for s in (1, -1))
        assert high == pytest.approx(np.ones(4))
        assert low == pytest.approx(np.zeros(4), abs=1e-11)


@pytest.mark.parametrize("budget", [-0.1, -0.01, 0.0, 0.005, 0.2])
@pytest.mark.parametrize("samples", [30, 900, 20_000])
def test_a_grid_is_as_fine_as_documented(samples: int, budget: float) -> None:
    from understudy.searching._exact_test_kernels import STRIP, grid

    for low, high in ((0.0, 1.0), (0.21, 0.22), (0.3, 1.0)):
        points = grid(samples, budget, low, high, STEP)
        assert points[0] <= max(low, abs(budget)) + STRIP / samples
        assert points[-1] >= high - STRIP / samples
        information = points / (points**2 - budget**2) + 1 / (1 - points)
        largest = np.maximum(information[:-1], information[1:])
        assert (np.diff(points) * np.sqrt(samples * largest) <= STEP * (1 + 1e-6)).all()


@settings(max_examples=60)
@given(
    st.sampled_from([40, 300, 2000]),
    st.floats(0, 0.5),
    st.floats(-4, 0.5),
    st.sampled_from([-0.05, 0.0, 0.01, 0.05]),
)
def test_no_discordance_in_the_interval_beats_the_p_value(
    samples: int, share: float, z: float, budget: float
) -> None:
    """The maximum over the grid, raised, lies above the maximum over many more points."""
    discordant = round(share * samples)
    total = min(
        max(round(samples * budget + z * math.sqrt(discordant + 4)), -discordant), discordant
    )
    total -= (total + discordant) % 2
    losses, gains = (discordant + total) // 2, (discordant - total) // 2
    if gains > discordant:
        return
    beta = 0.001
    low = 1 - discordance_limit(samples - discordant, samples, beta=beta / 2)
    high = discordance_limit(discordant, samples, beta=beta / 2)
    if high <= abs(budget):
        return
    top = total + SLOPE * math.sqrt(discordant + 4)
    fine = np.linspace(max(low, abs(budget)), high, 3000)
    worst = float(lower_tail(top, samples, fine, budget, slope=SLOPE).max())
    assert gap_p_value(losses, gains, samples, budget, beta=beta) >= min(worst + beta, 1.0)


@settings(max_examples=40)
@given(
    st.sampled_from([15, 120, 1000]),
    st.sampled_from([-0.05, 0.0, 0.002, 0.01, 0.1, 1.2]),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
)
def test_a_critical_total_is_where_the_p_value_crosses_delta(
    samples: int, budget: float, delta: float, discordant: list[int]
) -> None:
    counts = np.minimum(discordant, samples)
    for count, critical in zip(
        counts.tolist(), critical_totals(samples, budget, delta, counts).tolist(), strict=True
    ):
        assert -count - 1 <= critical <= count
        for gains in range(count + 1):
            p_value = gap_p_value(count - gains, gains, samples, budget, beta=SHARE * delta)
            assert (p_value <= delta) == (count - 2 * gains <= critical)


def test_critical_totals_keep_the_shape() -> None:
    counts = np.array([[3, 40], [40, 0]])
    found = critical_totals(900, 0.01, 0.05, counts)
    assert found.shape == counts.shape
    assert found[0, 1] == found[1, 0]
    assert critical_totals(900, 0.01, 0.05, 40) == found[0, 1]


def level(samples: int, discordance: float, gap: float, budget: float, delta: float) -> float:
    """The exact chance of proving `budget` when the truth is (discordance, gap)."""
    counts = np.arange(samples + 1)
    weights = binom.pmf(counts, samples, discordance)
    likely = counts[weights > 1e-15]
    most = np.floor((critical_totals(samples, budget, delta, likely) + likely) / 2)
    return float(weights[likely] @ binom.cdf(most, likely, (1 + gap / discordance) / 2))


@pytest.mark.parametrize("drop", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("samples", [250, 1000, 5000])
def test_the_level_on_the_boundary(samples: int, drop: float) -> None:
    for discordance in (0.0101, 0.02, 0.06, 0.2):
        assert certificates.level(samples, discordance, drop / 100)["exact"] <= 0.05


def test_the_level_is_nearly_used_up() -> None:
    """Sharp: where the counts are not tiny, hardly anything is given away."""
    assert certificates.level(10_000, 0.05, 0.005)["exact"] > 0.047


def test_the_naive_rule_breaks_its_guarantee_and_the_exact_test_does_not() -> None:
    found = certificates.level(500, 0.002, 0.001)
    assert found["naive"] > 0.3
    assert found["exact"] <= 0.05


@pytest.mark.parametrize("delta", [0.0125, 0.2])
def test_the_level_beyond_the_boundary_and_at_other_deltas(delta: float) -> None:
    for discordance, gap, budget in (
        (0.05, 0.02, 0.02),
        (0.05, 0.03, 0.02),
        (0.02, 0.02, 0.02),
        (0.3, -0.1, -0.1),
        (0.1, -0.1, -0.1),
        (0.06, -0.06, -0.1),
        (0.02, 0.0, -0.01),
        (0.1, 0.0, 0.0),
    ):
        for samples in (60, 400):
            assert level(samples, discordance, gap, budget, delta) <= delta


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("samples", [250, 400, 700, 1000, 2500, 5000, 10_000, 25_000])
def test_the_level_on_the_boundary_in_full(samples: int, drop: float) -> None:
    for discordance in np.geomspace(0.002, 0.2, 25).tolist():
        if discordance >= drop / 100:
            assert certificates.level(samples, discordance, drop / 100)["exact"] <= 0.05


def test_the_benchmark_decides_as_the_library_does() -> None:
    for seed in range(3):
        tune, fresh = synthetic(800, seed=seed, exits=2), synthetic(3000, seed=seed + 10, exits=2)
        sequence = pair_sequence(pair_curve(tune, "net0", "net1"))
        critical = critical_totals(len(fresh), 0.02, 0.05, np.arange(600))
        found = certificates.last_proved(sequence, fresh, critical, reference="net1")
        assert found == certify(sequence, fresh, reference="net1", max_drop=2.0).policy
