from __future__ import annotations

import numpy as np
import pytest

from understudy.errors import DataError
from understudy.training.sampling import POOL, RUN, HoldOut, hold_out
from understudy.zoo.data import DataSet, open_data


def dataset(count: int, groups: tuple[str, ...] | None = None) -> DataSet:
    return DataSet(
        spec="memory",
        ids=np.array([f"{number}" for number in range(count)], object),
        labels=np.arange(count) % 2,
        classes=None,
        fingerprint="",
        read=lambda index: np.zeros((1, 8, 8), np.uint8),
        groups=groups,
    )


def test_a_share_is_held_out_by_name() -> None:
    digits = open_data("digits:train")
    parts = hold_out(digits, share=0.1, seed=0)
    assert sorted([*parts.train, *parts.held_out]) == list(range(len(digits)))
    assert 60 < len(parts.held_out) < 120
    again = hold_out(digits, share=0.1, seed=1)
    assert again.held_out.tolist() == parts.held_out.tolist()
    assert again.train.tolist() != parts.train.tolist()


def test_a_group_is_held_out_together() -> None:
    groups = tuple(str(number // 10) for number in range(500))
    parts = hold_out(dataset(500, groups), share=0.3, seed=0)
    assert not {groups[n] for n in parts.train} & {groups[n] for n in parts.held_out}


@pytest.mark.parametrize("share", [1e-6, 0.999999])
def test_both_sides_have_images(share: float) -> None:
    with pytest.raises(DataError, match="change the share"):
        hold_out(dataset(50), share=share, seed=0)


@pytest.mark.parametrize("count", [2, RUN + 1, RUN * POOL + 100])
def test_an_epoch_sees_every_image_once_and_none_that_is_held_out(count: int) -> None:
    positions = np.random.default_rng(0).permutation(count + 5)
    parts = HoldOut(positions[:count], positions[count:])
    order = parts.training_order(np.random.default_rng(1), views=3)
    assert sorted(order.positions) == sorted(parts.train)
    assert set(order.views) == {0, 1, 2} or count == 2
    batches = list(order.batches(7))
    assert {len(batch) for batch in batches[:-1]} <= {7}
    assert (
        np.concatenate([batch.positions for batch in batches]).tolist() == order.positions.tolist()
    )
    again = parts.training_order(np.random.default_rng(2), views=3)
    assert count == 2 or again.positions.tolist() != order.positions.tolist()


def test_corrupt_images_are_left_out() -> None:
    parts = HoldOut(np.array([4, 2, 0]), np.array([1, 3])).without(np.array([2, 3]))
    assert (parts.train.tolist(), parts.held_out.tolist()) == ([4, 0], [1])
