"""Frontiers: what is kept, what is picked, and the way to a file and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import score_tables, synthetic
from understudy.documents import write_document
from understudy.errors import PolicyError, TableError
from understudy.frontier import Frontier, Point
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.searching.pairs import search_pairs

small = st.integers(0, 5).map(float)


def point(cost: float, drop: float, name: str = "e") -> Point:
    return Point(Policy.single(name), cost, 1 - drop / 100, drop, 0.0, {name: 1.0})


def frontier(*points: Point) -> Frontier:
    return Frontier.of(points, unit="MACs", reference="big")


@given(st.lists(st.tuples(small, small), min_size=1, max_size=12))
def test_what_nothing_beats_is_kept(pairs: list[tuple[float, float]]) -> None:
    kept = [(p.cost, p.drop) for p in frontier(*(point(*pair) for pair in pairs))]
    true = {
        (cost, drop)
        for cost, drop in pairs
        if not any(c <= cost and d <= drop and (c, d) != (cost, drop) for c, d in pairs)
    }
    assert kept == sorted(true)


def test_of_equals_the_first_stays() -> None:
    (kept,) = frontier(point(1, 2, "first"), point(1, 2, "second"))
    assert kept.policy.exits == ("first",)


@given(st.lists(st.tuples(small, small), min_size=1, max_size=12), small)
def test_picks_are_the_best_that_fit(pairs: list[tuple[float, float]], limit: float) -> None:
    found = frontier(*(point(*pair) for pair in pairs))
    if any(cost <= limit for cost, _ in pairs):
        assert found.within(limit).drop == min(drop for cost, drop in pairs if cost <= limit)
    else:
        with pytest.raises(PolicyError, match="the cheapest costs"):
            found.within(limit)
    if any(drop <= limit for _, drop in pairs):
        best = found.at_least(1 - limit / 100)
        assert best.cost == min(cost for cost, drop in pairs if drop <= limit)
    else:
        with pytest.raises(PolicyError, match="the best has"):
            found.at_least(1 - limit / 100)


def test_the_accuracy_of_an_exit_finds_it() -> None:
    table = synthetic(999)
    found = search_pairs(table)
    for kept in found:
        assert found.at_least(evaluate(table, kept.policy).accuracy) == kept


def test_an_empty_frontier_says_so() -> None:
    with pytest.raises(PolicyError, match="nan"):
        frontier().within(1.0)
    with pytest.raises(PolicyError, match="nan"):
        frontier().at_least(0.5)


@given(score_tables())
def test_a_frontier_survives_a_file(
    tmp_path_factory: pytest.TempPathFactory, table: object
) -> None:
    found = search_pairs(table)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("frontier") / "frontier.json"
    found.save(path)
    assert Frontier.load(path) == found


def test_measured_elsewhere_all_points_stay() -> None:
    tune, test = synthetic(500, seed=1), synthetic(500, seed=2)
    found = search_pairs(tune).measured_on(test)
    assert len(found) == len(search_pairs(tune))
    assert [p.cost for p in found] == sorted(p.cost for p in found)
    for kept in found:
        assert kept.drop == evaluate(test, kept.policy).drop
    with pytest.raises(TableError, match="no exit 'net0'"):
        search_pairs(tune).measured_on(test.only(["net1", "net2"]))


def test_another_unit_is_no_place_to_measure() -> None:
    table = synthetic(50)
    with pytest.raises(TableError, match="no unit 'MACs'"):
        search_pairs(table).measured_on(replace(table, costs={"joules": {}}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 3}, "reads up to 2: upgrade"),
        ({"format": "understudy.result"}, "is no understudy.frontier file"),
        ({"points": [{"cost": 1}]}, r"the field 'policy' at \$.points\[0\], found none"),
        ({"points": None}, r"a list at \$.points, found None"),
    ],
)
def test_a_wrong_file_is_a_sentence(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    write_document(tmp_path / "f.json", frontier(point(1, 2)).to_dict() | changes)
    with pytest.raises(PolicyError, match=words):
        Frontier.load(tmp_path / "f.json")
