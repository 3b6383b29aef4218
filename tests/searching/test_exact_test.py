"""The exact test: level by enumeration, distribution by convolution, maximum on a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from understudy.searching.exact_test import (
    BETA,
    SHARE,
    critical_totals,
    discordance_limit,
    gap_p_value,
    lower_tail,
    samples_needed,
)


def rates(discordance: float, gap: float) -> dict[str, float]:
    return {"loss": (discordance + gap) / 2, "gain": (discordance - gap) / 2}


@given(st.integers(1, 120), st.floats(0, 0.5), st.floats(-1, 1), st.integers(-130, 130))
def test_the_distribution_is_the_convolution(
    samples: int, discordance: float, tilt: float, total: int
) -> None:
    gap = discordance * tilt
    law = oracle.gap_distribution(samples, **rates(discordance, gap))
    true = law[: max(total + samples + 1, 0)].sum()
    found = lower_tail(total, samples, discordance, gap)
    assert true - 1e-13 <= found <= true + 1e-11  # never too small: the guarantee rests on it


def test_the_distribution_keeps_its_digits_at_large_numbers() -> None:
    """Against the normal law with corrections for continuity and skewness (Edgeworth)."""
    samples, discordance, gap = 1_000_000, 0.05, 0.005
    spread = math.sqrt(samples * (discordance - gap**2))
    skew = samples * (gap - 3 * gap * discordance + 2 * gap**3) / spread**3
    for z in (-3.0, -2.0, 0.0, 2.0):
        total = round(samples * gap + z * spread)
        exact_z = (total + 0.5 - samples * gap) / spread
        density = math.exp(-(exact_z**2) / 2) / math.sqrt(2 * math.pi)
        normal = 0.5 * math.erfc(-exact_z / math.sqrt(2)) - skew / 6 * (exact_z**2 - 1) * density
        assert lower_tail(total, samples, discordance, gap) == pytest.approx(normal, abs=1e-6)


@pytest.mark.parametrize("budget", [-0.05, 0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("samples", [7, 20, 55])
def test_the_worst_discordance_is_the_largest(samples: int, budget: float) -> None:
    """The proof in the module: where the test may reject, P(S <= s) never falls as d rises."""
    for total in range(-samples, math.floor((samples - 1) * budget)):
        grid = np.linspace(abs(budget), 0.5, 60)
        chances = [
            oracle.gap_distribution(samples, **rates(d, budget))[: total + samples + 1].sum()
            for d in grid
        ]
        assert (np.diff(chances) >= -1e-13).all()


@pytest.mark.parametrize("delta", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("samples", [5, 20, 60])
def test_the_level_holds_exactly(samples: int, delta: float) -> None:
    """Every count that can happen, for discordances and gaps on a grid: P(reject) <= delta."""
    for budget in (-0.1, 0.0, 0.05, 0.1, 0.3, 0.6):
        rejected = np.array(
            [
                (losses, gains)
                for losses in range(samples + 1)
                for gains in range(samples - losses + 1)
                if gap_p_value(losses, gains, samples, budget, beta=delta / 10) <= delta
            ],
            np.intp,
        ).reshape(-1, 2)
        for discordance in (d for d in np.linspace(0.01, 1, 15) if d >= budget):
            for gap in np.linspace(max(budget, -discordance), discordance, 4):
                loss, gain = rates(discordance, gap).values()
                assert chance(rejected, samples, loss, gain) <= delta + 1e-9


def chance(counts: np.ndarray, samples: int, loss: float, gain: float) -> float:
    """The probability of a set of (losses, gains)."""
    logs = np.array([math.lgamma(k + 1) for k in range(samples + 1)])
    losses, gains = counts.T
    rest = samples - losses - gains

    def power(rate: float, k: np.ndarray) -> np.ndarray:
        return np.where(k > 0, k * math.log(max(rate, 1e-300)), 0.0)

    log = logs[samples] - logs[losses] - logs[gains] - logs[rest]
    log = log + power(loss, losses) + power(gain, gains) + power(1 - loss - gain, rest)
    return float(np.exp(log).sum())


def test_the_oracle_of_the_level_is_right() -> None:
    loss, gain = 0.2, 0.1
    every = list(oracle.trinomial(12, loss=loss, gain=gain))
    assert sum(weight for *_, weight in every) == pytest.approx(1)
    counts = np.array([(lost, won) for lost, won, _ in every[::3]])
    assert chance(counts, 12, loss, gain) == pytest.approx(sum(w for *_, w in every[::3]))


@pytest.mark.parametrize(
    ("samples", "discordance", "budget"),
    [(300, 0.02, 0.01), (1000, 0.005, 0.004), (1000, 0.1, 0.02), (5000, 0.05, 0.005)],
)
def test_the_level_holds_at_the_boundary_in_simulation(
    samples: int, discordance: float, budget: float
) -> None:
    rng = np.random.default_rng(samples)
    loss, gain = rates(discordance, budget).values()
    draws = rng.multinomial(samples, [loss, gain, 1 - loss - gain], 3000)
    found, repeats = np.unique(draws[:, :2], axis=0, return_counts=True)
    rejects = [gap_p_value(int(lost), int(won), samples, budget) <= 0.05 for lost, won in found]
    share = float(repeats[np.array(rejects)].sum()) / 3000
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


counts = st.tuples(
    st.integers(0, 60), st.integers(0, 60), st.sampled_from([0, 1, 5]) | st.integers(0, 400)
).map(lambda c: (c[0], c[1], c[0] + c[1] + c[2]))
budgets = st.floats(-0.3, 0.6) | st.sampled_from(
    [0.0, 1e-12, -1e-12, 1e-5, -1e-5, 0.999, -0.999, 1.0, -1.0]
)


@given(counts, budgets, st.floats(0, 0.2))
def test_a_larger_budget_is_easier(
    counted: tuple[int, int, int], budget: float, more: float
) -> None:
    """But for the last digits of a sum: the grid is another."""
    assert gap_p_value(*counted, budget + more) <= gap_p_value(*counted, budget) + 1e-7


@given(counts, budgets)
def test_a_loss_is_harder(counted: tuple[int, int, int], budget: float) -> None:
    """In place of a tie, or of a gain."""
    losses, gains, samples = counted
    p_value = gap_p_value(losses, gains, samples, budget)
    if losses + gains < samples:
        assert gap_p_value(losses + 1, gains, samples, budget) >= p_value - 1e-9
    if gains:
        assert gap_p_value(losses + 1, gains - 1, samples, budget) >= p_value - 1e-9


@given(counts, budgets)
def test_a_gain_for_a_tie_is_easier(counted: tuple[int, int, int], budget: float) -> None:
    """But for what is added for the space between grid points, where p-values are smallest."""
    losses, gains, samples = counted
    if losses + gains < samples:
        easier = gap_p_value(losses, gains + 1, samples, budget)
        assert easier <= gap_p_value(losses, gains, samples, budget) + 4e-4


@pytest.mark.parametrize("samples", [1, 2, 7, 900])
@given(budget=budgets, delta=st.sampled_from([1e-6, 0.05, 0.49]))
def test_extreme_critical_totals_are_where_the_p_value_crosses(
    samples: int, budget: float, delta: float
) -> None:
    discordant = np.unique([0, 1, samples // 2, samples - 1, samples])
    criticals = critical_totals(samples, budget, delta, discordant).tolist()
    for count, critical in zip(discordant.tolist(), criticals, strict=True):
        assert -count - 1 <= critical <= count
        for total in range(-count, count + 1, 2):
            if abs(total - critical) <= 3:
                lost, won = (count + total) // 2, (count - total) // 2
                p_value = gap_p_value(lost, won, samples, budget, beta=SHARE * delta)
                assert (p_value <= delta) == (total <= critical)


@given(st.floats(0, 1), st.floats(-1, 1), st.floats(1e-12, 0.999), st.floats(1e-6, 0.3))
def test_more_samples_are_needed_for_a_smaller_margin(
    discordance: float, tilt: float, margin: float, delta: float
) -> None:
    gap = discordance * tilt
    needed = samples_needed(discordance, gap, gap + margin, delta)
    fewer = samples_needed(discordance, gap, gap + 2 * margin, delta)
    assert needed is None or needed >= 1
    assert fewer is None or fewer >= 1
    if needed is not None:
        assert fewer is not None
        assert fewer <= needed


@given(st.sampled_from([1, 2, 50, 10**7]), st.floats(0, 1), st.sampled_from([1e-12, 5e-4, 0.4]))
def test_the_limit_of_the_discordance_grows_with_it(
    samples: int, share: float, beta: float
) -> None:
    discordant = round(share * samples)
    limit = discordance_limit(discordant, samples, beta=beta)
    assert discordant / samples <= limit <= 1
    if discordant < samples:
        assert limit <= discordance_limit(discordant + 1, samples, beta=beta)


@given(counts, st.floats(-1, 1.5))
def test_a_p_value_is_a_probability(counted: tuple[int, int, int], budget: float) -> None:
    assert 0 <= gap_p_value(*counted, budget) <= 1


def test_extremes() -> None:
    assert gap_p_value(0, 0, 0, 0.01) == 1.0
    assert gap_p_value(0, 0, 100, 0.0) == 1.0
    assert gap_p_value(5, 5, 10, 1.5) == 0.0
    assert gap_p_value(0, 0, 10_000, 0.01) == BETA
    assert gap_p_value(0, 500, 500, -0.5) < 0.01
    assert gap_p_value(0, 100, 100, 0.9) < 0.05


@settings(max_examples=40)
@given(st.integers(0, 30), st.integers(0, 300), st.sampled_from([0.001, 0.005, 0.05]))
def test_the_limit_of_the_discordance_is_clopper_pearson(
    discordant: int, more: int, beta: float
) -> None:
    samples = discordant + more
    if not samples:
        return
    limit = discordance_limit(discordant, samples, beta=beta)
    if discordant == samples:
        assert limit == 1.0
        return
    below = sum(
        math.comb(samples, k) * limit**k * (1 - limit) ** (samples - k)
        for k in range(discordant + 1)
    )
    assert below == pytest.approx(beta, rel=1e-6)


def test_the_samples_needed_would_do() -> None:
    """In about four of five draws, and hardly with half as many."""
    rng = np.random.default_rng(1)
    loss, gain, budget = 0.021, 0.019, 0.01
    needed = samples_needed(loss + gain, loss - gain, budget, 0.05)
    assert needed is not None
    for samples, low, high in ((needed, 0.72, 0.9), (needed // 2, 0.2, 0.65)):
        draws = rng.multinomial(samples, [loss, gain, 1 - loss - gain], 300)
        proved = [gap_p_value(int(a), int(b), samples, budget) <= 0.05 for a, b, _ in draws]
        assert low <= np.mean(proved) <= high


def test_the_samples_needed_are_found_at_once_however_many() -> None:
    assert samples_needed(0.05, 0.0, 1e-4, 0.05) == pytest.approx(6.7 * 0.05 / 1e-8, rel=0.2)
    assert samples_needed(0.05, 0.0, 1e-9, 0.05) is None
    assert samples_needed(0.0, 0.0, 1e-12, 0.05) is None
