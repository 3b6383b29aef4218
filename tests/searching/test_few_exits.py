"""Few exits of one network: greedy from the best single one, and only where there are many."""

from __future__ import annotations

import pytest

from tables import record
from understudy import ScoreTable, evaluate
from understudy.searching.exits import search_exits
from understudy.searching.strategies import MOST_ON, SearchSpec, find_few_exits, strategies_for

SPEC = SearchSpec("full", "MACs", "max_softmax", (1.0,), 0.05, 500)


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    return record(800)


def cheapest(table: ScoreTable, names: list[str], drop: float) -> float:
    frontier = search_exits(table.only(names), reference="full", unit="MACs", starts=1)
    return min(point.cost for point in frontier if point.drop <= drop)


def test_points_equal_evaluate_with_few_exits_on(table: ScoreTable) -> None:
    found = find_few_exits(table, SPEC)
    for point in found.frontier:
        outcome = evaluate(table, point.policy, reference="full")
        assert (point.cost, point.drop) == (outcome.cost["MACs"], outcome.drop)
        assert len(point.policy.exits) <= MOST_ON + 1
    assert found.sequences
    for sequence in found.sequences:
        assert all(len(policy.exits) <= MOST_ON + 1 for policy in sequence.policies)


def test_never_worse_than_the_best_single_exit(table: ScoreTable) -> None:
    few = find_few_exits(table, SPEC).frontier
    cheaper = [name for name in table.names if name != "full"]
    for drop in (0.0, 0.5, 1.0):
        reached = min(point.cost for point in few if point.drop <= drop)
        assert reached <= min(cheapest(table, [name, "full"], drop) for name in cheaper)


def test_used_only_where_more_exits_share_parts_than_it_turns_on() -> None:
    many, few = record(50, places=3), record(50, places=1)
    assert find_few_exits in strategies_for(many, stages=2)
    assert find_few_exits not in strategies_for(few, stages=2)
    plain = ScoreTable.from_predictions(
        {name: ([1, 0], [0.5, 0.5]) for name in "abcdef"},
        [1, 0],
        costs={"MACs": {name: 1.0 + place for place, name in enumerate("abcdef")}},
    )
    assert find_few_exits not in strategies_for(plain, stages=9)
