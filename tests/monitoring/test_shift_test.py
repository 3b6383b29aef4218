"""The test of shift: exact ranks, uniform p-values, the level, and what it sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.baseline import StageBaseline
from understudy.monitoring.shift_test import ShiftTest, p_values, uniforms

CELLS = st.lists(st.integers(0, 4), max_size=60)


def stage(counts: list[int]) -> StageBaseline:
    return StageBaseline("tiny", tuple((np.arange(1, len(counts)) / 100).tolist()), tuple(counts))


def ranks_by_hand(cells: list[int], counts: list[int], uniform: list[float]) -> list[float]:
    """Each new confidence among a plain list of all that came before."""
    earlier = [cell for cell, count in enumerate(counts) for _ in range(count)]
    found = []
    for cell, u in zip(cells, uniform, strict=True):
        lower = sum(one < cell for one in earlier)
        equal = sum(one == cell for one in earlier) + 1
        found.append((lower + u * equal) / (len(earlier) + 1))
        earlier.append(cell)
    return found


@given(CELLS, st.lists(st.integers(0, 9), min_size=5, max_size=5), st.integers(0, 99))
def test_the_p_values_are_ranks_among_all_that_came_before(
    cells: list[int], counts: list[int], seed: int
) -> None:
    uniform = np.random.default_rng(seed).random(len(cells))
    found = p_values(np.array(cells, np.uint8), np.array(counts), uniform)
    assert found.tolist() == pytest.approx(ranks_by_hand(cells, counts, uniform.tolist()))


@settings(max_examples=40)
@given(CELLS, st.data())
def test_batches_do_not_matter(cells: list[int], data: st.DataObject) -> None:
    whole = ShiftTest.of(stage([3, 0, 5, 2, 9]), stream=2).update(np.array(cells, np.uint8), seed=7)
    cuts = data.draw(st.lists(st.integers(0, len(cells)), max_size=4).map(sorted))
    test = ShiftTest.of(stage([3, 0, 5, 2, 9]), stream=2)
    for start, end in zip([0, *cuts], [*cuts, len(cells)], strict=True):
        test = test.update(np.array(cells[start:end], np.uint8), seed=7)
    assert test.counts.tolist() == whole.counts.tolist()
    assert test.recent.tolist() == whole.recent.tolist()
    assert test.rows == whole.rows == len(cells)
    assert test.capital.log == pytest.approx(whole.capital.log, abs=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 9_000))
def test_random_numbers_follow_from_their_place(start: int, size: int) -> None:
    whole = uniforms(5, 1, 0, start + size)
    assert (uniforms(5, 1, start, size) == whole[start:]).all()
    assert ((whole >= 0) & (whole < 1)).all()
    assert uniforms(5, 2, start, 1)[0] != whole[start]


def test_p_values_of_exchangeable_confidences_are_independent_and_uniform() -> None:
    """With few certify samples and many ties, over the whole stream: Kolmogorov's distance, and
    the correlation of neighbours."""
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.1, 0.3, 0.1])
    firsts, lasts = [], []
    for seed in range(1000):
        counts = rng.multinomial(20, shares)
        cells = rng.choice(4, 40, p=shares).astype(np.uint8)
        found = p_values(cells, counts, uniforms(seed, 0, 0, 40))
        firsts.append(found[:2])
        lasts.append(found[-2:])
    for values in (np.array(firsts), np.array(lasts)):
        flat = np.sort(values.ravel())
        assert np.abs(flat - np.linspace(0, 1, len(flat))).max() < 1.63 / math.sqrt(len(flat))
        assert abs(np.corrcoef(values[:, 0], values[:, 1]).ravel()[1]) < 4 / math.sqrt(len(values))


def alarms(streams: int, rows: int, level: float, counts: np.ndarray) -> float:
    rng = np.random.default_rng(2)
    shares = counts / counts.sum()
    found = 0
    for seed in range(streams):
        test = ShiftTest.of(stage(rng.multinomial(150, shares).tolist()), stream=0)
        cells = rng.choice(len(shares), rows, p=shares).astype(np.uint8)
        for start in range(0, rows, 125):
            test = test.update(cells[start : start + 125], seed=seed)
        found += test.p_value <= level
    return found / streams


def test_without_a_shift_alarms_keep_their_level_however_few_the_certify_samples() -> None:
    """150 certify samples and ten times as many requests: a fixed reference would drift away."""
    share = alarms(150, 1500, 0.1, np.array([4, 1, 1, 2, 1, 1, 0, 3]))
    assert share <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 150)


@pytest.mark.parametrize(
    "shifted",
    [
        [4, 3, 2, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 2, 3, 4],
        [3, 1, 1, 1, 1, 1, 1, 3],
        [1, 1, 3, 3, 3, 3, 1, 1],
    ],
    ids=["lower", "higher", "wider", "narrower"],
)
@pytest.mark.parametrize("before", [0, 5000])
def test_shifts_are_seen(shifted: list[int], before: int) -> None:
    """A shift of level or spread, at the start or after a long time without one."""
    rng = np.random.default_rng(3)
    test = ShiftTest.of(stage([500] * 8), stream=0)
    test = test.update(rng.integers(0, 8, before).astype(np.uint8), seed=1)
    assert test.p_value > 0.01
    shares = np.array(shifted) / sum(shifted)
    test = test.update(rng.choice(8, 1200, p=shares).astype(np.uint8), seed=1)
    assert test.p_value < 0.001


def test_the_state_is_stored_to_the_last_bit() -> None:
    test = ShiftTest.of(stage([3, 4, 5]), stream=1).update(np.array([0, 2, 1], np.uint8), seed=3)
    again = ShiftTest.from_dict(test.to_dict())
    assert again.to_dict() == test.to_dict()
    more = np.array([1, 1, 0, 2], np.uint8)
    assert again.update(more, seed=3).to_dict() == test.update(more, seed=3).to_dict()
