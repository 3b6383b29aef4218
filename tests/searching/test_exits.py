"""Exits of one network: points equal evaluate; tiny networks are searched to the optimum."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables import record, score_tables
from understudy import Policy, ScoreTable, evaluate, search
from understudy.policy import PolicyStage
from understudy.searching.exits import exits_in_order, positions, search_exits
from understudy.searching.pairs import pair_curve, search_pairs


def test_positions_follow_from_shared_parts() -> None:
    table = record(50)
    order = exits_in_order(table, "full", "MACs")
    assert [name.split("/")[0] for name in order] == [f"place{i}" for i in (0, 0, 1, 1, 2, 2)]
    place = positions(table, [*order, "full"])
    assert place["place1/type0"] == place["place1/type1"] == {"trunk0", "trunk1"}
    assert len(set(place.values())) == 3


@settings(max_examples=30)
@given(st.data())
def test_points_equal_evaluate_and_end_no_higher_than_pairs(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    big = table.reference(unit="MACs")
    found = search_exits(table, unit="MACs", starts=2)
    for point in found:
        outcome = evaluate(table, point.policy, reference=big)
        assert (point.cost, point.drop) == (outcome.cost["MACs"], outcome.drop)
    costs = [point.cost for point in found]
    assert costs == sorted(costs)
    single = evaluate(table, Policy.single(big), reference=big)
    assert min(p.drop for p in found) <= single.drop
    assert found.points[0].cost <= min(p.cost for p in search_pairs(table, unit="MACs")) + 1e-9


def brute_force(table: ScoreTable, names: list[str], big: str) -> list[tuple[float, float]]:
    """Cost and drop of every setting: an exit is off or at any threshold, one type a place."""
    choices = []
    for name in names:
        thresholds = pair_curve(table, name, big).threshold[1:]
        choices.append([None, *thresholds.tolist()])
    place = positions(table, [*names, big])
    outcomes = []
    for setting in product(*choices):
        on = [(n, t) for n, t in zip(names, setting, strict=True) if t is not None]
        if len({place[n] for n, _ in on}) < len(on):
            continue
        policy = Policy((*(PolicyStage(n, t) for n, t in on), PolicyStage(big)))
        outcome = evaluate(table, policy, reference=big)
        outcomes.append((outcome.cost["MACs"], outcome.drop))
    return outcomes


@pytest.mark.parametrize("seed", range(6))
def test_tiny_networks_are_searched_to_the_optimum(seed: int) -> None:
    table = record(6, places=2, types=1, seed=seed)
    names = exits_in_order(table, "full", "MACs")
    every = brute_force(table, names, "full")
    found = search_exits(table)
    for budget in (0.0, 100 / 6, 200 / 6):
        best = min(cost for cost, drop in every if drop <= budget + 1e-9)
        assert min(p.cost for p in found if p.drop <= budget + 1e-9) == pytest.approx(best)


def test_search_takes_the_exits_and_certifies_them() -> None:
    table = record(6000)
    (choice,) = search(table, max_drop=2.0).choices
    assert choice.certificate is not None
    assert not choice.certificate.falls_back
    assert choice.certificate.path[-1] == choice.policy
    assert choice.outcome.drop < 2.0
    assert choice.outcome.saving["MACs"] > 0.15


def test_a_network_without_a_cheaper_exit_is_its_own_frontier() -> None:
    table = record(20).only(["place0/type0", "full"])
    (point,) = search_exits(table, reference="place0/type0")
    assert point.policy == Policy.single("place0/type0")


def refined(costs: dict[str, float], exits: dict[str, list[str]]) -> ScoreTable:
    outputs = {name: ([0, 1], [0.9, 0.8]) for name in exits}
    return ScoreTable.from_predictions(outputs, [0, 1], costs={"MACs": costs}, parts=exits)


def test_an_exit_that_refines_a_saver_counts_what_it_adds() -> None:
    """With the saver it costs more than the network alone; behind the saver it costs less."""
    costs = {"saver": 40.0, "one": 30.0, "two": 40.0, "rest": 30.0, "head": 1.0, "end": 1.0}
    parts = {
        "end": ["saver", "one", "two", "rest", "end"],
        "late": ["saver", "one", "two", "head"],
        "full": ["one", "two", "rest"],
        "saver": ["saver"],
    }
    table = refined(costs, parts)
    assert table.cost_of(["late"], "MACs") > table.cost_of(["full"], "MACs")
    assert exits_in_order(table, "full", "MACs") == ["saver", "late"]


def test_exits_of_a_trunk_are_visited_from_shallow_to_deep() -> None:
    """Cheapest first, but an exit that pays for a saver stands before those behind it."""
    costs = {"saver": 40.0, "one": 30.0, "two": 15.0, "rest": 60.0, "cheap": 5.0}
    parts = {
        "deep": ["one", "two"],
        "refined": ["saver", "one"],
        "saver": ["saver"],
        "full": ["one", "two", "rest"],
        "cheap": ["cheap"],
    }
    names = exits_in_order(refined(costs, parts), "full", "MACs")
    assert names == ["cheap", "saver", "refined", "deep"]
