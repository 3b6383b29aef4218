"""Expected costs of certified sequences, against loops over the same random courses."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tables import synthetic
from understudy.policy import Policy
from understudy.searching.expected_cost import expected_costs, least_cost
from understudy.searching.pairs import pair_curve
from understudy.searching.policy_sequences import PolicySequence, pair_sequence

FULL = 10.0


@st.composite
def sequences(draw: st.DrawFn) -> PolicySequence:
    """Counts that wander as nested policies do, and costs that fall."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps, samples = draw(st.integers(1, 12)), draw(st.sampled_from([50, 400]))
    losses, gains = np.cumsum(rng.poisson(draw(st.sampled_from([0.1, 1, 4])), (2, steps)), axis=1)
    cost = np.sort(rng.uniform(0, FULL, steps))[::-1]
    policies = tuple(Policy.pair("tiny", "big", 1 - step / 20) for step in range(steps))
    return PolicySequence(policies, losses, gains, cost, samples, FULL)


@given(sequences(), st.sampled_from([-0.02, 0.0, 0.01, 0.1]), st.sampled_from([80, 800]), st.data())
def test_expected_costs_are_means_over_courses(
    sequence: PolicySequence, budget: float, samples: int, data: st.DataObject
) -> None:
    delta = data.draw(st.sampled_from([0.05, 0.3]))
    found = expected_costs(sequence, budget=budget, samples=samples, delta=delta)
    steps, scale = len(sequence.policies), samples / sequence.samples
    noise = np.random.default_rng(0).standard_normal((300, steps))
    quantile = NormalDist().inv_cdf(1 - delta)
    ends: list[list[float]] = [[] for _ in range(steps)]
    for course in range(300):
        net, spread, most, proved = 0.0, 0.0, 0.0, []
        for step in range(steps):
            lost, gained = int(sequence.losses[step]), int(sequence.gains[step])
            most = max(most, (lost + gained + 2) * scale * (1 + scale))
            net += noise[course, step] * math.sqrt(most - spread)
            spread = most
            total = net + scale * (lost - gained)
            width = quantile * math.sqrt(scale * (lost + gained) + 4)
            proved.append(total + width <= samples * budget)
        for start in range(steps):
            end = start
            while end < steps and proved[end]:
                end += 1
            ends[start].append(sequence.cost[end - 1] if end > start else FULL)
    np.testing.assert_allclose(found, [np.mean(row) for row in ends], rtol=1e-9)


def test_where_all_is_provable_the_last_policy_is_expected() -> None:
    cost = np.linspace(9, 2, 20)
    losses = np.zeros(20, np.int64)
    policies = tuple(Policy.pair("tiny", "big", 1 - step / 20) for step in range(20))
    sequence = PolicySequence(policies, losses, losses + 400, cost, 1000, FULL)
    for budget in (-0.1, 0.0, 0.5):
        found = expected_costs(sequence, budget=budget, samples=4000, delta=0.05)
        assert found.tolist() == [2.0] * 20
    assert expected_costs(sequence, budget=-0.9, samples=4000, delta=0.05).tolist() == [FULL] * 20


@given(sequences())
def test_a_larger_budget_and_level_never_cost_more(sequence: PolicySequence) -> None:
    budgets = (-0.05, -0.01, 0.0, 0.005, 0.02, 0.1, 0.5)
    by_budget = [
        expected_costs(sequence, budget=budget, samples=600, delta=0.05) for budget in budgets
    ]
    for tight, loose in pairwise(by_budget):
        assert (loose <= tight + 1e-9).all()
    strict, loose = (
        expected_costs(sequence, budget=0.02, samples=600, delta=delta) for delta in (0.01, 0.2)
    )
    assert (loose <= strict + 1e-9).all()
    least = [least_cost(sequence, budget=budget, samples=600, delta=0.05) for budget in budgets]
    assert least == sorted(least, reverse=True)


@given(sequences(), st.sampled_from([-0.02, 0.0, 0.01, 0.1]), st.sampled_from([80, 800]))
def test_the_least_cost_is_that_of_a_loop(
    sequence: PolicySequence, budget: float, samples: int
) -> None:
    least = FULL
    for lost, gained, cost in zip(sequence.losses, sequence.gains, sequence.cost, strict=True):
        share = (lost + gained) / sequence.samples
        width = NormalDist().inv_cdf(0.9) * math.sqrt(share / samples + 4 / samples**2)
        if (lost - gained) / sequence.samples + width <= budget:
            least = min(least, cost)
    assert least_cost(sequence, budget=budget, samples=samples, delta=0.1) == least


def test_a_start_is_a_sequence_of_its_own() -> None:
    sequence = pair_sequence(pair_curve(synthetic(1000), "net0", "net2"))
    later = sequence.starting_at(7)
    assert later.policies == sequence.policies[7:]
    assert later.losses.tolist() == sequence.losses[7:].tolist()
    assert (later.samples, later.full) == (1000, 100.0)
    assert sequence.starting_at(0).policies == sequence.policies
    for one in (sequence, later):
        found = expected_costs(one, budget=0.02, samples=4000, delta=0.05)
        assert len(found) == len(one.policies)
        assert found.min() >= one.cost.min() - 1e-9
        assert found.max() <= one.full
    assert not sequence.starting_at(len(sequence.policies)).policies
