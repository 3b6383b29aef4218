"""Splits: stable, independent of other samples, groups kept together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import TableError
from understudy.split import (
    MANY_SAMPLES,
    SHARES_OF_FEW,
    SHARES_OF_MANY,
    assign_splits,
    check_shares,
    default_shares,
    headline_split,
    uniform,
)


def keys(count: int) -> np.ndarray:
    return np.array([f"image/{i}.jpg" for i in range(count)], dtype=object)


def test_the_hash_is_pinned() -> None:
    """Saved tables rely on it: a change of the hash moves samples between splits."""
    codes, _ = assign_splits(keys(20), SHARES_OF_MANY)
    assert codes.tolist() == PINNED


def test_shares_are_kept_and_only_the_own_id_counts() -> None:
    codes, rule = assign_splits(keys(20_000), SHARES_OF_MANY)
    shares = np.bincount(codes, minlength=3) / 20_000
    assert np.abs(shares - [0.2, 0.6, 0.2]).max() < 0.015
    assert rule == {"by": "id", "shares": {"tune": 0.2, "certify": 0.6, "test": 0.2}}
    backwards, _ = assign_splits(keys(20_000)[::-1], SHARES_OF_MANY)
    assert (backwards[::-1] == codes).all()


def test_few_samples_have_no_test_split() -> None:
    few, rule = assign_splits(keys(MANY_SAMPLES - 1))
    assert set(few.tolist()) == {0, 1}
    assert rule["shares"] == SHARES_OF_FEW == default_shares(MANY_SAMPLES - 1)
    many, rule = assign_splits(keys(MANY_SAMPLES))
    assert rule["shares"] == SHARES_OF_MANY == default_shares(MANY_SAMPLES)
    moved = many[:-1] != few
    assert set(many[:-1][moved].tolist()) == {2}  # from certify to test, none from or to tune
    assert set(few[moved].tolist()) == {1}


def test_figures_are_measured_on_test_where_there_is_one() -> None:
    assert headline_split({"tune": 0, "certify": 0, "test": 0}) == "test"
    assert headline_split({"tune": 0, "certify": 0}) == "certify"
    assert headline_split({"all": 0}) == "all"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_a_group_stays_together(groups: list[int]) -> None:
    names = [f"patient{g}" for g in groups]
    codes, rule = assign_splits(keys(len(groups)), SHARES_OF_MANY, groups=names)
    assert len(set(zip(groups, codes.tolist(), strict=True))) == len(set(groups))
    assert rule["by"] == "group"


def test_a_share_may_be_nothing_or_everything() -> None:
    codes, _ = assign_splits(keys(500), {"tune": 0.5, "certify": 0.5})
    assert set(codes.tolist()) == {0, 1}
    codes, _ = assign_splits(keys(50), {"test": 1})
    assert set(codes.tolist()) == {2}


def test_names_are_taken_as_they_are() -> None:
    codes, rule = assign_splits(keys(3), ["test", "tune", "certify"])
    assert codes.tolist() == [2, 0, 1]
    assert rule == {"by": "column"}


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (["tune", "train", "dev"], "'dev', 'train'"),
        (["tune"], "found 1 for 3"),
        ({"train": 1.0}, "'train'"),
        ({"tune": 0.5, "certify": 0.6}, "sum to 1"),
        ({"tune": -0.5, "certify": 1.5}, "between 0 and 1"),
        ({"tune": float("nan"), "certify": 1.0}, "nan"),
    ],
)
def test_a_wrong_split_is_a_sentence(split: object, words: str) -> None:
    with pytest.raises(TableError, match=words):
        assign_splits(keys(3), split)  # type: ignore[arg-type]


def test_a_group_for_every_sample() -> None:
    with pytest.raises(TableError, match="found 1 for 3"):
        assign_splits(keys(3), SHARES_OF_MANY, groups=["a"])


def test_numbers_lie_in_the_unit_interval_and_differ_by_salt() -> None:
    plain, salted = uniform(keys(1000)), uniform(keys(1000), salt=b"audit")
    assert (plain >= 0).all()
    assert (plain < 1).all()
    assert abs(np.corrcoef(plain, salted)[0, 1]) < 0.15


def test_all_three_shares_come_back() -> None:
    assert check_shares({"tune": 1}) == {"tune": 1.0, "certify": 0.0, "test": 0.0}


PINNED = [0, 1, 1, 1, 1, 1, 0, 0, 2, 1, 1, 2, 0, 1, 1, 1, 1, 1, 1, 1]
