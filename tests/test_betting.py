"""The betting bound: level under optional stopping, any cut into batches, power against the exact
test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.betting import GapMonitor, JumpingCapital, MeanTest, betting_upper_bound
from understudy.errors import PolicyError, TableError
from understudy.searching.exact_test import gap_p_value

STREAMS = st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 0.3, 1.0]), max_size=60)
HORIZONS = st.sampled_from([None, 1, 50, 10_000])


def stream(rng: np.random.Generator, samples: int, *, discordance: float, gap: float) -> np.ndarray:
    u = rng.random(samples)
    return np.where(u < (discordance + gap) / 2, 1.0, np.where(u < discordance, -1.0, 0.0))


def by_hand(gaps: list[float], budget: float, delta: float, horizon: int | None) -> float:
    """The running minimum of 1 / capital, one sample after another."""
    capital = peak = 1.0
    total = squares = 0.0
    for number, gap in enumerate(gaps, start=1):
        variance = (0.25 + squares) / number
        size = number * math.log(1 + number) if horizon is None else horizon
        bet = math.sqrt(2 * math.log(1 / delta) / (variance * size))
        capital *= 1 + min(bet, 0.5 / (1 - budget)) * (budget - gap)
        peak = max(peak, capital)
        total += gap
        squares += (gap - total / (number + 1)) ** 2
    return 1 / peak


@given(STREAMS, st.floats(-0.9, 0.9), HORIZONS)
def test_the_p_value_is_that_of_the_game(
    gaps: list[float], budget: float, horizon: int | None
) -> None:
    found = GapMonitor(budget, 0.1, horizon).update(gaps).p_value
    assert found == pytest.approx(by_hand(gaps, budget, 0.1, horizon), rel=1e-9)


@given(STREAMS, st.data(), HORIZONS)
def test_batches_do_not_matter(gaps: list[float], data: st.DataObject, horizon: int | None) -> None:
    whole = GapMonitor(0.1, horizon=horizon).update(gaps)
    cuts = data.draw(st.lists(st.integers(0, len(gaps)), max_size=4).map(sorted))
    state = GapMonitor(0.1, horizon=horizon)
    for start, end in zip([0, *cuts], [*cuts, len(gaps)], strict=True):
        state = state.update(gaps[start:end])
    assert state == whole


@given(STREAMS, STREAMS)
def test_what_was_proved_stays_proved(first: list[float], more: list[float]) -> None:
    state = GapMonitor(0.2, horizon=40).update(first)
    assert state.update(more).p_value <= state.p_value <= 1


@settings(max_examples=50)
@given(STREAMS, HORIZONS, st.sampled_from([0.01, 0.05, 0.3]))
def test_the_bound_is_the_smallest_budget_proved(
    gaps: list[float], horizon: int | None, delta: float
) -> None:
    bound = betting_upper_bound(gaps, delta, horizon=horizon)
    if bound < 0.999:
        assert GapMonitor(bound + 1e-9, delta, horizon).update(gaps).p_value <= delta + 1e-9
    if bound > -0.999:
        assert GapMonitor(bound - 2e-6, delta, horizon).update(gaps).p_value > delta - 1e-9


def test_without_samples_nothing_is_proved() -> None:
    assert betting_upper_bound([], 0.05) == 1.0
    assert GapMonitor(0.5).update([]).p_value == 1.0
    assert GapMonitor(0.1).update([]) == GapMonitor(0.1)


@pytest.mark.parametrize("horizon", [None, 300, 3000])
@pytest.mark.parametrize(("discordance", "budget"), [(0.02, 0.01), (0.2, 0.02), (0.5, -0.1)])
def test_the_level_holds_whenever_one_stops(
    discordance: float, budget: float, horizon: int | None
) -> None:
    """The gap lies on the budget, and the observer stops at the best moment."""
    rng = np.random.default_rng(3)
    draws = 600
    proved = [
        GapMonitor(budget, 0.1, horizon)
        .update(stream(rng, 3000, discordance=discordance, gap=budget))
        .proved
        for _ in range(draws)
    ]
    assert np.mean(proved) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)


def test_the_level_holds_when_the_gap_depends_on_the_past() -> None:
    """After a gain losses come thick; the mean given the past never lies below the budget."""
    rng = np.random.default_rng(4)
    draws, proved = 300, 0
    for _ in range(draws):
        gaps, last = [], 0.0
        for u in rng.random(400):
            loss = 0.35 if last < 0 else 0.25
            last = 1.0 if u < loss else (-1.0 if u < loss + 0.15 else 0.0)
            gaps.append(last)
        proved += GapMonitor(0.1, 0.1, 400).update(gaps).proved
    assert proved / draws <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)


def test_the_bound_holds_at_every_moment_at_once() -> None:
    rng = np.random.default_rng(5)
    draws, broken = 200, 0
    for _ in range(draws):
        gaps = stream(rng, 1500, discordance=0.1, gap=0.03)
        broken += betting_upper_bound(gaps, 0.1, horizon=1500) < 0.03
    assert broken / draws <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)


def test_the_exact_test_proves_more_and_the_bets_not_much_less() -> None:
    """At 3 standard errors below the budget, with the horizon known and without one."""
    rng = np.random.default_rng(6)
    samples, discordance, budget = 9000, 0.05, 0.005
    gap = budget - 3 * math.sqrt(discordance / samples)
    counts = {"exact": 0, "horizon": 0, "none": 0}
    for _ in range(150):
        gaps = stream(rng, samples, discordance=discordance, gap=gap)
        losses, gains = int((gaps > 0).sum()), int((gaps < 0).sum())
        counts["exact"] += gap_p_value(losses, gains, samples, budget) <= 0.05
        counts["horizon"] += GapMonitor(budget, horizon=samples).update(gaps).proved
        counts["none"] += GapMonitor(budget).update(gaps).proved
    assert counts["none"] < counts["horizon"] < counts["exact"]
    assert counts["horizon"] > 0.65 * 150
    assert counts["exact"] > 0.85 * 150


def test_an_alarm_is_the_same_test_turned_round() -> None:
    rng = np.random.default_rng(7)
    worse = stream(rng, 5000, discordance=0.1, gap=0.05)
    alarm = GapMonitor(budget=-0.01, horizon=5000)
    assert alarm.update(-worse).proved
    assert not alarm.update(-stream(rng, 5000, discordance=0.1, gap=0.005)).proved


@pytest.mark.parametrize(
    "wrong", [{"budget": 1.0}, {"budget": -1.0}, {"delta": 0.0}, {"delta": 1.0}, {"horizon": 0}]
)
def test_wrong_arguments_are_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        GapMonitor(**{"budget": 0.01, **wrong})


@pytest.mark.parametrize("wrong", [1.5, -2.0, math.nan])
def test_wrong_gaps_are_one_sentence(wrong: float) -> None:
    with pytest.raises(TableError, match="between -1 and 1"):
        GapMonitor(0.01).update([0.0, wrong])


def jumping_by_hand(factors: np.ndarray) -> list[float]:
    """The capital after every sample: each rate plays by itself, and jumps after 16 samples."""
    bets = factors.shape[1]
    capitals = np.full((5, bets), 1 / (5 * bets))
    found = []
    for number, row in enumerate(factors, start=1):
        capitals *= row
        found.append(math.log(capitals.sum()))
        if number % 16 == 0:
            for rate, own in zip((1e-2, 1e-3, 1e-4, 1e-6, 1e-8), capitals, strict=True):
                stays = (1 - rate) ** 16
                own[:] = stays * own + (1 - stays) * own.sum() / bets
    return found


@given(st.lists(st.integers(0, 200), max_size=6), st.integers(0, 99))
def test_jumping_capital_is_a_mean_of_games(sizes: list[int], seed: int) -> None:
    factors = np.random.default_rng(seed).uniform(0.4, 1.7, (sum(sizes), 3))
    capital, done = JumpingCapital.over(3), 0
    expected = [0.0, *jumping_by_hand(factors)]
    for size in sizes:
        capital = capital.update(factors[done : done + size])
        done += size
        assert capital.log == pytest.approx(expected[done], abs=1e-9)
    assert JumpingCapital.from_dict(capital.to_dict()).to_dict() == capital.to_dict()


@pytest.mark.parametrize(("bound", "low"), [(0.05, 0.0), (0.01, -1.0), (-0.1, -1.0)])
def test_the_test_of_a_mean_keeps_its_level_whenever_one_stops(bound: float, low: float) -> None:
    rng = np.random.default_rng(8)
    draws, level, alarms = 200, 0.1, 0
    for _ in range(draws):
        test = MeanTest.of(bound, low=low)
        discordance = 0.2 if low < 0 else bound
        values = stream(rng, 1500, discordance=discordance, gap=bound)
        for start in range(0, len(values), 25):
            test = test.update(values[start : start + 25])
        alarms += test.p_value <= level
    assert alarms / draws <= level + 3 * math.sqrt(level * (1 - level) / draws)


def test_a_mean_that_rises_late_is_found_nearly_as_soon_as_an_early_one() -> None:
    """After 10,000 values below the bound a monitor with a horizon has lost its capital."""
    rng = np.random.default_rng(9)
    late = (rng.random(10_000) < 0.03).astype(float)
    early, after, monitor = (
        MeanTest.of(0.04, low=0.0),
        MeanTest.of(0.04, low=0.0).update(late),
        GapMonitor(-0.04, 0.005, 2000).update(-late),
    )
    assert after.p_value > 0.01
    raised = (rng.random(1500) < 0.1).astype(float)
    assert early.update(raised[:500]).p_value < 1e-3
    assert after.update(raised[:1000]).p_value < 1e-3
    assert not monitor.update(-raised).proved


def test_a_test_of_a_mean_refuses_what_it_cannot_bound() -> None:
    for bound, low in ((0.0, 0.0), (1.0, 0.0), (0.5, -2.0)):
        with pytest.raises(PolicyError, match="divide points"):
            MeanTest.of(bound, low=low)
    with pytest.raises(TableError, match="at least 0"):
        MeanTest.of(0.1, low=0.0).update([0.5, -0.5])
    test = MeanTest.of(0.1, low=0.0)
    assert test.update([]) is test
