"""Operating points by name, and which one is safer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import synthetic
from understudy.callables import CallableCascade
from understudy.errors import PolicyError
from understudy.operating_point import (
    OperatingPoint,
    checked_points,
    operating_points_of,
    safer_than,
    select_operating_point,
)
from understudy.policy import Policy
from understudy.searching.search import search

REFERENCE = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")


def at(max_drop: float) -> OperatingPoint:
    return OperatingPoint(Policy.pair("tiny", "big", 0.5), max_drop, 0.05, 2.0, "MACs")


@pytest.mark.parametrize(
    ("max_drop", "name"),
    [
        (0.5, "drop-0.5"),
        (1.0, "drop-1"),
        (1, "drop-1"),
        (0.0, "drop-0"),
        (-0.0, "drop-0"),
        (-0.5, "drop--0.5"),
        (0.1 + 0.2, "drop-0.30000000000000004"),
    ],
)
def test_names_are_budgets(max_drop: float, name: str) -> None:
    point = at(max_drop)
    assert point.name == point.to_dict()["name"] == name
    assert OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict()))) == point


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_budgets_that_differ_have_names_that_differ(one: float, other: float) -> None:
    assert (at(one).name == at(other).name) == (one == other)


def test_each_name_selects_its_point() -> None:
    points = [at(1.0), at(0.5), REFERENCE]
    assert [select_operating_point(points, name=one.name) for one in points] == points


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            {"name": "drop-2"},
            "no operating point 'drop-2' in this cascade; did you mean 'drop-0.5'",
        ),
        ({"name": ""}, "no operating point '' in this cascade; there are: 'drop-0.5', 'reference'"),
        ({}, "by one of max_drop, cost and name, found max_drop=None, cost=None and name=None"),
        ({"name": "reference", "cost": 2}, "cost=2 and name='reference': give one"),
    ],
)
def test_wishes_that_name_no_point(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message) as error:
        select_operating_point([at(0.5), REFERENCE], **wishes)
    assert "\n" not in str(error.value)


def test_the_reference_is_the_safest_of_all() -> None:
    points = [at(1.0), REFERENCE, at(-0.5), at(2.0), at(0.0)]
    point: OperatingPoint | None = at(2.0)
    steps = []
    while point is not None:
        steps.append(point.name)
        point = safer_than(points, point)
    assert steps == ["drop-2", "drop-1", "drop-0", "drop--0.5", "reference"]
    assert safer_than(points[:1], at(1.0)) is None
    assert safer_than(points, at(1.5)) == at(1.0), "one that the cascade does not have"


def test_two_points_of_one_budget_are_refused() -> None:
    points = [at(0.5), REFERENCE, at(0.5)]
    message = "one operating point for a budget, found 2 of the name 'drop-0.5': leave out"
    with pytest.raises(PolicyError, match=message):
        checked_points(points)
    stages = {"tiny": lambda rows: rows, "big": lambda rows: rows}
    with pytest.raises(PolicyError, match=message):
        CallableCascade(stages, Policy.single("big"), operating_points=points)
    assert checked_points(points[1:]) == tuple(points[1:])


def test_a_budget_that_was_searched_twice_is_one_point() -> None:
    result = search(synthetic(1500), max_drop=[2.0, 2.0])
    assert [one.name for one in operating_points_of(result)] == ["drop-2", "reference"]
