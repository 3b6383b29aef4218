"""The strategies of the search, and the choice between what they find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tables import record, synthetic
from understudy.errors import PolicyError, TableError
from understudy.exit import Exit
from understudy.frontier import Frontier
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.policy_sequences import EMPTY, PolicySequence
from understudy.searching.search import search
from understudy.searching.search_spec import SearchSpec
from understudy.searching.strategies import (
    cheapest_expected,
    find_ensembles,
    find_equal_loss,
    find_other_networks,
    find_pairs,
    frontier_in_sample,
    networks_beside,
    strategies_for,
)

DROPS = (0.0, 1.0, 5.0)


def spec_of(stages: int, *, drops: tuple[float, ...] = DROPS, samples: int = 500) -> SearchSpec:
    return SearchSpec("full", "MACs", "max_softmax", drops, 0.05, samples, stages)


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    return record(800)


@pytest.mark.parametrize("stages", [3, 4])
def test_points_and_sequences_of_longer_cascades_equal_evaluate(
    table: ScoreTable, stages: int
) -> None:
    found = find_equal_loss(table, spec_of(stages))
    frontier = Frontier.of_arrays(found.points, unit="MACs", reference="full")
    assert len(frontier) > 5
    for point in frontier:
        outcome = evaluate(table, point.policy, reference="full")
        assert point.cost == pytest.approx(outcome.cost["MACs"], abs=1e-12)
        assert (point.drop, point.shares) == (outcome.drop, outcome.shares)
        assert len(point.policy.exits) <= stages
    assert found.sequences
    for sequence in found.sequences:
        assert all(len(policy.exits) <= stages for policy in sequence.policies)


def test_the_search_expects_no_more_than_of_the_best_pair(table: ScoreTable) -> None:
    """All strategies compete: what is chosen is expected to end as cheaply as any pair, up to
    what a further stage has to be worth."""
    spec = spec_of(6)
    pairs = find_pairs(table, spec).sequences
    both = (*pairs, *find_equal_loss(table, spec).sequences)
    for drop in DROPS:
        plain, chosen = (cheapest_expected(found, spec, drop) for found in (pairs, both))
        costs = [float(spec.expected_costs(one, drop)[0]) for one in (plain, chosen)]
        assert costs[1] <= costs[0] + 1e-9


def test_strategies_fit_the_exits() -> None:
    many, few = record(50, places=3), record(50, places=1, types=1)
    assert strategies_for(many, spec_of(2)) == [find_pairs]
    assert strategies_for(many, spec_of(3)) == [find_pairs, find_equal_loss]
    assert strategies_for(few, spec_of(3)) == [find_pairs]
    assert find_ensembles not in strategies_for(many, spec_of(6))
    with pytest.raises(PolicyError, match="at least two stages, found 1"):
        spec_of(1)


def test_in_sample_the_best_thresholds_of_all_exits_are_found() -> None:
    """What is fitted to one table is on it at least as cheap as a path, or as any pair."""
    table = record(200, places=2)
    fitted = frontier_in_sample(table, spec_of(6))
    spec = spec_of(6)
    points = [*find_pairs(table, spec).points, *find_equal_loss(table, spec).points]
    paths = Frontier.of_arrays(points, unit="MACs", reference="full")
    for drop in DROPS:
        best, other = (
            min(point.cost for point in one if point.drop <= drop) for one in (fitted, paths)
        )
        assert best <= other * (1 + 1e-9)


# -- from where a test starts ---------------------------------------------------------------------


def sequence(losses: list[int], gains: list[int], cost: list[float]) -> PolicySequence:
    policies = tuple(Policy.pair("tiny", "full", 1 - step / 10) for step in range(len(cost)))
    counts = np.array(losses), np.array(gains), np.array(cost)
    return PolicySequence(policies, *counts, 1000, 10.0)


def test_a_negative_budget_starts_where_it_can_be_proved() -> None:
    """The safe end is as accurate as the reference: it can never be proved to be better."""
    one = sequence([0, 0, 1, 2], [0, 30, 60, 70], [9, 7, 5, 3])
    chosen = cheapest_expected([one], spec_of(2, samples=3000), -2.0)
    assert chosen.policies
    assert set(chosen.policies) < set(one.policies)
    assert chosen.policies == one.policies[-len(chosen.policies) :]
    assert chosen.losses.tolist() == one.losses[-len(chosen.policies) :].tolist()


def test_a_budget_that_the_safe_end_meets_starts_there() -> None:
    one = sequence([0, 1, 2, 4], [0, 0, 1, 1], [9, 7, 5, 3])
    chosen = cheapest_expected([one], spec_of(2, samples=3000), 2.0)
    assert chosen.policies == one.policies
    assert chosen.cost.tolist() == one.cost.tolist()


def test_the_cheapest_expected_of_several_wins_and_none_is_none() -> None:
    spec = spec_of(2, samples=3000)
    dear = sequence([0, 1], [0, 1], [9, 8])
    cheap = sequence([0, 1], [0, 1], [6, 5])
    lossy = sequence([90, 200], [0, 0], [2, 1])
    for order in ([dear, cheap, lossy], [lossy, EMPTY, cheap, dear]):
        assert cheapest_expected(order, spec, 2.0).cost.tolist() == [6, 5]
    assert cheapest_expected([], spec, 2.0) is EMPTY
    assert cheapest_expected([EMPTY], spec, 2.0) is EMPTY


def test_one_exit_that_is_much_dearer_is_left_out() -> None:
    table = synthetic(1500, exits=4)
    dear = replace(table, costs={"MACs": {**table.costs["MACs"], "net1": 1e9}})
    result = search(dear, max_drop=[0.0, 3.0], reference="net3")
    plain = search(table.only(["net0", "net2", "net3"]), max_drop=[0.0, 3.0])
    assert [one.policy for one in result.choices] == [one.policy for one in plain.choices]


def test_free_exits_are_searched() -> None:
    table = synthetic(1500, exits=4)
    nothing = dict.fromkeys(table.names, 0.0)
    free = replace(table, costs={"MACs": {**nothing, "net3": 5.0}})
    result = search(free, max_drop=3.0, reference="net3")
    assert result.choice().policy != Policy.single("net3")
    with pytest.raises(TableError, match="found only zeros in MACs"):
        search(replace(table, costs={"MACs": nothing}), max_drop=3.0)


def beside_itself(count: int = 6000) -> ScoreTable:
    """A network with two exits that was tuned with them, beside the network as it was."""
    random = np.random.default_rng(0)
    hardness = random.random(count)
    names = ("old", "new/1/linear", "new/2/linear", "new")
    predictions = {}
    for name, reach in zip(names, (0.9, 0.6, 0.8, 0.895), strict=True):
        right = hardness + 0.02 * random.standard_normal(count) < reach
        confidence = 1 / (1 + np.exp(8 * (hardness - reach) + 0.5 * random.standard_normal(count)))
        predictions[name] = (np.where(right, 0, 1), confidence)
    exits = (
        Exit("old"),
        Exit("new/1/linear", ("new/1", "new/1/linear"), {"root": "new"}),
        Exit("new/2/linear", ("new/1", "new/2", "new/2/linear"), {"root": "new"}),
        Exit("new", ("new/1", "new/2", "new/(rest)"), {"root": "new"}),
    )
    prices = {"old": 90.0, "new/1": 30.0, "new/2": 30.0, "new/(rest)": 30.0}
    heads = dict.fromkeys(("new/1/linear", "new/2/linear"), 1.0)
    table = ScoreTable.from_predictions(predictions, np.zeros(count, int))
    return replace(table, exits=exits, costs={"MACs": prices | heads})


def test_a_tuned_network_ends_its_own_cascades_and_is_compared_with_the_old_one() -> None:
    table = beside_itself()
    spec = SearchSpec("old", "MACs", "max_softmax", (1.0,), 0.05, 3000, 4)
    assert networks_beside(table, "old") == ["new"]
    assert find_other_networks in strategies_for(table, spec)
    found = find_other_networks(table, spec)
    frontier = Frontier.of_arrays(found.points, unit="MACs", reference="old")
    assert {point.policy.exits[-1] for point in frontier} >= {"new"}
    for point in frontier:
        outcome = evaluate(table, point.policy, reference="old")
        assert point.cost == pytest.approx(outcome.cost["MACs"], abs=1e-9)
        assert (point.drop, point.shares) == (outcome.drop, outcome.shares)
    choice = search(table, reference="old", max_drop=1.5).choices[0]
    assert choice.policy.exits[-1] == "new"
    assert choice.certificate is not None
    assert choice.certificate.reference == "old"
    assert choice.on["certify"].drop < 1.5
    without = search(table.only(["old", "new/1/linear", "new/2/linear"]), max_drop=1.5).choices[0]
    assert choice.on["test"].saving["MACs"] > without.on["test"].saving["MACs"] + 0.1
    in_sample = {point.policy.exits[-1] for point in frontier_in_sample(table, spec)}
    assert "new" in in_sample
