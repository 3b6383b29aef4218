"""Certifying a policy sequence: counts, the fixed order, fall-backs, and the guarantee kept."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from tables import pair_table, policies, score_tables, synthetic
from understudy.certificate import Certificate
from understudy.outcome import evaluate
from understudy.policy import Policy, accepts
from understudy.scores import ScoreTable
from understudy.searching.certify import certify
from understudy.searching.exact_test import gap_p_value
from understudy.searching.expected_cost import would_be_proved
from understudy.searching.pairs import pair_curve
from understudy.searching.policy_sequences import (
    EMPTY,
    PolicySequence,
    losses_and_gains,
    pair_sequence,
)


@given(st.data())
def test_counts_of_a_sequence_are_those_of_evaluate(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    reference = data.draw(st.sampled_from(table.names))
    littles = [name for name in table.names if name != reference]
    pairs = st.builds(
        Policy.pair,
        st.sampled_from(littles),
        st.just(reference),
        st.sampled_from([0.0, 0.1, 0.5, 0.6, 1.0, math.inf, -math.inf]),
        confidence=st.sampled_from(["max_softmax", "margin"]),
    )
    drawn = data.draw(st.lists(pairs | policies(table), max_size=8))
    losses, gains = losses_and_gains(table, drawn, reference=reference)
    outcomes = [evaluate(table, policy, reference=reference) for policy in drawn]
    assert losses.tolist() == [one.losses for one in outcomes]
    assert gains.tolist() == [one.gains for one in outcomes]


@given(st.data())
def test_a_pair_sequence_leads_from_dear_to_cheap(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    little, big = data.draw(st.permutations(table.names))[:2]
    curve = pair_curve(table, little, big)
    sequence = pair_sequence(curve, steps=data.draw(st.sampled_from([1, 3, 200])))
    assert (np.diff(sequence.cost) <= 1e-12).all()
    assert (sequence.cost < curve.cost[0]).all()
    for number, policy in enumerate(sequence.policies):
        true = oracle.totals(table, policy, reference=big, unit="MACs")
        assert (sequence.losses[number], sequence.gains[number]) == (true.losses, true.gains)
        assert sequence.cost[number] == pytest.approx(true.cost)
    if curve.cost[-1] < curve.cost[0]:
        assert sequence.policies[-1] == Policy.single(little)


def test_a_pair_sequence_has_steps_of_half_a_percent() -> None:
    table = synthetic(4000, exits=2)
    sequence = pair_sequence(pair_curve(table, "net0", "net1"))
    assert 30 < len(sequence.policies) <= 200  # two decimals of confidence are about 90 levels
    fine = pair_table(np.ones(1000), np.ones(1000), np.linspace(0, 1, 1000))
    assert (
        len(pair_sequence(pair_curve(fine, "tiny", "big")).policies) == 180
    )  # a tenth is too dear


def certified(
    losses: list[int], samples: int = 1000, *, max_drop: float = 2.0, delta: float = 0.05
) -> Certificate:
    """From a sequence whose policies lose exactly these many on certify (nested acceptance)."""
    certain = np.full(samples, 0.001)
    little = np.ones(samples)
    thresholds = []
    for number, lost in enumerate(losses):
        done = sum(losses[:number])
        little[done : done + lost] = 0
        certain[done : done + lost] = 0.9 - 0.01 * number
        thresholds.append(0.9 - 0.01 * number)
    table = pair_table(little, np.ones(samples), certain, split={"certify": 1.0})
    policies = tuple(Policy.pair("tiny", "big", t) for t in thresholds)
    total = np.cumsum(losses)
    cost = np.linspace(9, 1, len(total))
    sequence = PolicySequence(policies, total, np.zeros_like(total), cost, samples, 10.0)
    return certify(sequence, table, reference="big", max_drop=max_drop, delta=delta)


def test_the_last_policy_before_the_first_failure_is_certified() -> None:
    found = certified([1, 2, 3, 50, 1])
    assert len(found.path) == 3
    assert found.policy == found.path[-1]
    assert (found.losses, found.gains, found.samples, found.steps) == (6, 0, 1000, 5)
    assert found.p_value == gap_p_value(6, 0, 1000, 0.02)
    assert found.p_value <= 0.05
    assert found.samples_needed is not None


def test_a_sequence_proved_to_its_end_needs_nothing_more() -> None:
    found = certified([0, 1])
    assert len(found.path) == 2
    assert found.samples_needed is None


def test_a_stricter_delta_proves_less() -> None:
    steps = [1] * 20
    assert len(certified(steps, delta=0.001).path) < len(certified(steps, delta=0.05).path)


def test_nothing_proved_is_the_reference_and_a_number() -> None:
    found = certified([1], samples=60, max_drop=3.0)
    assert found.falls_back
    assert found.policy == Policy.single("big")
    assert (found.losses, found.gains, found.p_value) == (0, 0, None)
    assert found.samples_needed is not None
    assert found.samples_needed > 60
    assert f"About {found.samples_needed:,} certify samples" in found.words()


@pytest.mark.parametrize(("samples", "provable"), [(598, False), (610, True)])
def test_few_samples_cannot_prove_a_small_budget(samples: int, provable: bool) -> None:
    """Not even a policy without one loss; `least_samples` is the number that the test needs."""
    assert certified([0], samples=samples, max_drop=0.5).falls_back is not provable
    found = certified([3], samples=samples, max_drop=0.5)
    assert found.falls_back
    assert found.failed
    assert found.unprovable is not provable
    assert ("whatever the models: it takes 600 at the least, or" in found.words()) is not provable


def test_a_class_whose_budget_failed_is_named() -> None:
    right = np.ones(3000, int)
    little, label = right.copy(), np.ones(3000, int)
    label[:40] = 0
    little[:40], right[:40] = 0, 0
    little[40:43] = 0
    table = ScoreTable.from_predictions(
        {"tiny": (little, np.full(3000, 0.9)), "big": (right, np.ones(3000))},
        label,
        costs={"tiny": 1, "big": 9},
        split={"certify": 1.0},
    )
    sequence = pair_sequence(pair_curve(table, "tiny", "big"))
    prove = partial(certify, sequence, table, reference="big", max_drop=1.0)
    assert not prove().falls_back
    few = prove(class_drops={"0": 1.0})
    assert few.falls_back
    assert (few.failed, few.classes["0"].failed, few.unprovable) == (False, True, True)
    assert few.words().endswith(
        "With 40 certify samples of class 0 nothing can be proved to lose at most 1 point, "
        "whatever the models: it takes 300 at the least, or a budget of 7.3 points."
    )
    assert not prove(class_drops={"0": 7.3}).falls_back
    strict = prove(class_drops={"1": 0.15})
    assert (strict.failed, strict.classes["1"].failed, strict.unprovable) == (False, True, False)
    needed = strict.classes["1"].samples_needed
    assert needed is not None
    assert strict.words().endswith(
        "What failed is the budget of class 1, 0.15 points with 2,960 certify samples of class 1: "
        f"about {needed:,} would do."
    )
    assert Certificate.from_dict(strict.to_dict()) == strict


@pytest.mark.parametrize("max_drop", [0.0, -1.0])
def test_a_budget_of_nothing_still_answers(max_drop: float) -> None:
    found = certified([1], max_drop=max_drop)
    assert found.falls_back
    assert found.samples_needed is None


def test_a_tiny_budget_answers_at_once() -> None:
    assert certified([0], samples=50, max_drop=0.0001).falls_back


def test_an_empty_sequence_falls_back() -> None:
    found = certify(EMPTY, pair_table([1], [1], [1.0]), reference="big", max_drop=1.0)
    assert found.falls_back
    assert not len(would_be_proved(EMPTY, budget=0.01, samples=10, delta=0.05))


def test_without_labels_disagreement_is_certified() -> None:
    table = ScoreTable.from_predictions(
        {"tiny": (np.zeros(900, int), np.ones(900)), "big": (np.zeros(900, int), np.ones(900))},
        None,
        costs={"tiny": 1, "big": 9},
    )
    sequence = pair_sequence(pair_curve(table, "tiny", "big"))
    found = certify(sequence, table, reference="big", max_drop=1.0)
    assert found.kind == "disagreement"
    assert "disagrees with big" in found.words()


def test_the_expected_number_of_proved_policies_is_about_right() -> None:
    tune, fresh = synthetic(4000, seed=1), synthetic(4000, seed=2)
    sequence = pair_sequence(pair_curve(tune, "net0", "net2"))
    proved = would_be_proved(sequence, budget=0.02, samples=4000, delta=0.05)
    expected = len(proved) if proved.all() else int(np.argmin(proved))
    found = certify(sequence, fresh, reference="net2", max_drop=2.0)
    assert 0 < expected < len(sequence.policies)
    assert abs(len(found.path) - expected) < 0.2 * len(sequence.policies)


def population() -> tuple[np.ndarray, np.ndarray]:
    """Levels of confidence 0 to 99: the chance of a loss and of a gain at each.

    The surest third is free of loss; then losses set in, so that the true gap crosses the budget
    in the middle of the sequence, where a broken guarantee would show.
    """
    level = np.arange(100)
    loss = np.where(level < 33, 0.005, 0.005 + 0.0012 * (level - 33))
    gain = np.full(100, 0.006)
    return loss, gain


def draw(rng: np.random.Generator, count: int) -> ScoreTable:
    loss, gain = population()
    level = rng.integers(0, 100, count)
    u = rng.random(count)
    lost, gained = u < loss[level], u > 1 - gain[level]
    return pair_table(~lost, ~gained, 1 - level / 100, split=["certify"] * count)


def true_gap(policy: Policy) -> float:
    loss, gain = population()
    if len(policy.stages) == 1:
        return float((loss - gain).mean()) if policy.exits == ("tiny",) else 0.0
    accepted = accepts(1 - np.arange(100) / 100, policy.stages[0].threshold)
    return float(((loss - gain) * accepted).sum() / 100)


def broken_guarantees(draws: int, *, certify_samples: int, budget: float, delta: float) -> float:
    """The share of draws in which the certified policy's true gap exceeds the budget."""
    rng = np.random.default_rng(7)
    broken = 0
    for _ in range(draws):
        sequence = pair_sequence(pair_curve(draw(rng, 400), "tiny", "big"))
        fresh = draw(rng, certify_samples)
        found = certify(sequence, fresh, reference="big", max_drop=100 * budget, delta=delta)
        broken += true_gap(found.policy) > budget
    return broken / draws


@pytest.mark.parametrize(("budget", "delta"), [(0.005, 0.05), (0.01, 0.2)])
def test_the_guarantee_is_kept(budget: float, delta: float) -> None:
    share = broken_guarantees(300, certify_samples=2000, budget=budget, delta=delta)
    assert share <= delta + 3 * math.sqrt(delta * (1 - delta) / 300)


def test_the_population_can_break_a_guarantee() -> None:
    """Were the test too easy, the one above would prove nothing: the edge itself breaks often."""
    rng = np.random.default_rng(7)
    broken = 0
    for _ in range(100):
        curve = pair_curve(draw(rng, 2000), "tiny", "big")
        broken += true_gap(curve.policy(curve.cheapest_within(1.0))) > 0.01
    assert broken > 30


@pytest.mark.slow
@pytest.mark.parametrize("certify_samples", [300, 2000])
def test_the_guarantee_is_kept_in_many_draws(certify_samples: int) -> None:
    share = broken_guarantees(3000, certify_samples=certify_samples, budget=0.01, delta=0.05)
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)
