"""Policies: rules, ties, midpoints, and an exact round trip."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import PolicyError
from understudy.policy import Policy, PolicyStage, accepts, midpoint

anything = st.floats(allow_nan=False)


@given(anything)
def test_a_threshold_survives_json(threshold: float) -> None:
    text = json.dumps(PolicyStage("tiny", threshold).to_dict(), allow_nan=False)
    back = PolicyStage.from_dict(json.loads(text)).threshold
    assert back is not None
    assert back == threshold
    assert math.copysign(1, back) == math.copysign(1, threshold)


@given(st.lists(anything, min_size=1, max_size=4))
def test_a_policy_survives_json(thresholds: list[float]) -> None:
    steps = [PolicyStage(f"e{i}", value, "margin") for i, value in enumerate(thresholds)]
    policy = Policy((*steps, PolicyStage("last")))
    text = json.dumps(policy.to_dict(), allow_nan=False)
    assert Policy.from_dict(json.loads(text)) == policy


def test_a_policy_survives_a_file(tmp_path: Path) -> None:
    policy = Policy.pair("tiny", "big", math.nextafter(0.1, 1), confidence="margin")
    policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json") == policy
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


@given(anything, anything, st.sampled_from([np.float32, np.float64]))
def test_a_midpoint_accepts_the_upper_one_alone(a: float, b: float, dtype: type) -> None:
    with np.errstate(over="ignore"):
        low, high = sorted(np.array([a, b], dtype))
    if low == high:
        return
    threshold = float(midpoint(low, high))
    assert accepts(np.array([low, high]), threshold).tolist() == [False, True]


def test_midpoints_are_exact_and_never_overflow() -> None:
    assert midpoint([0.25, -1e308], [0.75, 1e308])[0] == 0.5
    near = math.nextafter(0.5, 1)
    assert midpoint(0.5, near) == near
    a, b = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
    assert float(a) < midpoint(a, b) < float(b)


def test_float32_is_compared_in_float64() -> None:
    tenth = np.array([0.1], np.float32)  # a little more than 0.1
    assert accepts(tenth, 0.1).item()
    assert not accepts(tenth, float(np.nextafter(np.float64(tenth[0]), 1))).item()


def test_the_extremes_accept_nobody_and_everybody() -> None:
    sure = np.array([0.0, 1.0])
    assert not accepts(sure, math.inf).any()
    assert accepts(sure, -math.inf).all()
    assert accepts(sure, None).all()


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((), "at least one stage"),
        ((PolicyStage("a", 0.5), PolicyStage("a")), r"once in a policy, found \['a', 'a'\]"),
        ((PolicyStage("a"), PolicyStage("b")), "'a' has none before 'b'"),
        ((PolicyStage("a", 0.5),), "'a' has the threshold 0.5"),
    ],
)
def test_a_policy_keeps_its_rules(stages: tuple[PolicyStage, ...], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        Policy(stages)


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        {"stages": "tiny"},
        {"stages": []},
        {"stages": ["tiny"]},
        {"stages": [{"exit": "tiny"}]},
        {"stages": [{"exit": "tiny", "threshold": True}]},
        {"stages": [{"exit": "tiny", "threshold": "high"}]},
        {"stages": [{"exit": "tiny", "threshold": "nan"}, {"exit": "b", "threshold": None}]},
        {"stages": [{"exit": "tiny", "threshold": 10**400}, {"exit": "b", "threshold": None}]},
    ],
)
def test_a_broken_policy_is_one_sentence(data: object) -> None:
    with pytest.raises(PolicyError) as raised:
        Policy.from_dict(data)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_policy_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="does not exist"):
        Policy.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(PolicyError, match="is not"):
        Policy.load(tmp_path / "broken.json")
    with pytest.raises(PolicyError, match="cannot be read"):
        Policy.load(tmp_path)
