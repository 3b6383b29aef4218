"""All pairs: equal to a scan of every prefix, whatever the ties, sizes and threads."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from all_pairs import measure
from understudy.errors import TableError
from understudy.policy import accepts, midpoint
from understudy.searching.all_pairs import AllPairs, gap_budgets, search_all_pairs

Array = npt.NDArray[Any]
SIZES = (1, 2, 5, 63, 64, 65, 100, 127, 128, 129, 200)
DROPS = st.floats(-40, 60).map(lambda drop: round(drop, 1)) | st.sampled_from([0.0, 100.0])


def scan(right: Array, big_right: Array, confidence: Array, budget: int) -> tuple[float, int]:
    """One pair by the definition: try every distinct confidence, keep the largest that fits."""
    levels = np.unique(confidence).tolist()
    best = (float("inf"), 0)
    for number in reversed(range(len(levels))):
        threshold = float(midpoint(levels[number - 1], levels[number])) if number else -math.inf
        answered = accepts(confidence, threshold)
        if (big_right & answered).sum() - (right & answered).sum() <= budget:
            best = (threshold, int(answered.sum()))
    return best


def scan_all(correct: Array, confidence: Array, cost: Array, drops: list[float]) -> AllPairs:
    models, samples = correct.shape
    threshold = np.full((models, models, len(drops)), np.nan)
    accepted = np.zeros((models, models, len(drops)), np.int64)
    budgets = gap_budgets(np.array(drops, float), samples)
    for little, big, drop in np.ndindex(threshold.shape):
        if cost[little] < cost[big]:
            threshold[little, big, drop], accepted[little, big, drop] = scan(
                correct[little], correct[big], confidence[little], int(budgets[drop])
            )
    return AllPairs(threshold, accepted)


def zoo(seed: int, models: int, samples: int, *, levels: int) -> tuple[Array, Array, Array]:
    """Random models of any accuracy; few levels make many ties, few prices many equal costs."""
    draw = np.random.default_rng(seed)
    correct = draw.random((models, samples)) < draw.random((models, 1))
    confidence = draw.integers(0, levels, (models, samples)) / np.float32(7)
    return correct, confidence.astype(np.float32), draw.integers(0, 4, models).astype(float)


def same(found: AllPairs, expected: AllPairs) -> None:
    np.testing.assert_array_equal(found.accepted, expected.accepted)
    np.testing.assert_array_equal(found.threshold, expected.threshold)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    models=st.integers(1, 6),
    samples=st.sampled_from(SIZES),
    levels=st.sampled_from([1, 2, 5, 40, 10_000]),
    drops=st.lists(DROPS, max_size=5),
    threads=st.integers(1, 3),
)
def test_equals_a_scan_of_every_prefix(
    *, seed: int, models: int, samples: int, levels: int, drops: list[float], threads: int
) -> None:
    correct, confidence, cost = zoo(seed, models, samples, levels=levels)
    found = search_all_pairs(correct, confidence, cost, drops, threads=threads)
    same(found, scan_all(correct, confidence, cost, drops))


def test_more_models_than_one_group_of_words_holds() -> None:
    correct, confidence, _ = zoo(1, 1030, 90, levels=30)
    cost = np.random.default_rng(2).permutation(1030) // 2
    drops = [0.0, -10.0, 5.0]
    found = search_all_pairs(correct, confidence, cost, drops, threads=2)
    budgets = gap_budgets(np.array(drops), 90)
    draw = np.random.default_rng(3)
    for little, big in draw.integers(0, 1030, (400, 2)).tolist():
        for drop in range(3):
            pair = scan(correct[little], correct[big], confidence[little], int(budgets[drop]))
            expected = pair if cost[little] < cost[big] else (np.nan, 0)
            assert found.accepted[little, big, drop] == expected[1]
            np.testing.assert_equal(found.threshold[little, big, drop], expected[0])


def test_the_number_of_threads_changes_nothing() -> None:
    correct, confidence, cost = zoo(4, 40, 500, levels=50)
    one = search_all_pairs(correct, confidence, cost, [1, 0, 5], threads=1)
    same(search_all_pairs(correct, confidence, cost, [1, 0, 5], threads=7), one)
    same(search_all_pairs(correct, confidence, cost, [1, 0, 5]), one)


def test_takes_the_largest_prefix_not_the_first_crossing() -> None:
    little = np.array([0, 0, 1, 1, 1, 1, 0], bool)
    big = np.array([1, 1, 0, 0, 1, 1, 1], bool)
    confidence = np.linspace(1, 0, 7, dtype=np.float32)
    pairs = search_all_pairs(np.stack([little, big]), np.stack([confidence] * 2), [1, 2], [0])
    assert pairs.accepted[0, 1, 0] == 6
    assert pairs.threshold[0, 1, 0] == midpoint(float(confidence[6]), float(confidence[5]))


def test_ties_are_never_split() -> None:
    correct = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    confidence = np.array([[0.9, 0.5, 0.5, 0.5], [1, 1, 1, 1]], np.float32)
    pairs = search_all_pairs(correct, confidence, [1, 2], [0, 25, 50])
    assert pairs.accepted[0, 1].tolist() == [1, 1, 4]
    between = midpoint(0.5, float(np.float32(0.9)))
    assert pairs.threshold[0, 1].tolist() == [between, between, -np.inf]


def test_both_zeros_are_one_confidence() -> None:
    correct = np.array([[1, 0], [1, 1]], bool)
    confidence = np.array([[0.0, -0.0], [1, 1]], np.float32)
    assert search_all_pairs(correct, confidence, [1, 2], [0]).accepted[0, 1, 0] == 0


def test_all_confidences_tied_is_all_or_nothing() -> None:
    correct = np.array([[1, 0, 0], [1, 1, 0]], bool)
    confidence = np.ones((2, 3), np.float32)
    pairs = search_all_pairs(correct, confidence, [1, 2], [0, 34])
    assert pairs.accepted[0, 1].tolist() == [0, 3]
    assert pairs.threshold[0, 1].tolist() == [np.inf, -np.inf]


def test_a_gain_can_be_required() -> None:
    little = np.arange(100) % 2 == 0
    confidence = np.where(little, 0.9, 0.1).astype(np.float32)
    table = np.stack([little, ~little]), np.stack([confidence] * 2), [1, 2]
    pairs = search_all_pairs(*table, [-50, -51, -10])
    assert pairs.accepted[0, 1].tolist() == [50, 0, 50]
    assert pairs.threshold[0, 1, 1] == np.inf


def test_only_strictly_cheaper_models_are_little() -> None:
    correct, confidence, _ = zoo(5, 3, 70, levels=9)
    pairs = search_all_pairs(correct, confidence, [2, 1, 2], [0])
    assert (~np.isnan(pairs.threshold[:, :, 0])).tolist() == [
        [False, False, False],
        [True, False, True],
        [False, False, False],
    ]


@pytest.mark.parametrize("cost", [[3.0], [3.0, 3.0], [0.0, 0.0, 0.0]])
def test_no_pair_at_all(cost: list[float]) -> None:
    correct, confidence, _ = zoo(6, len(cost), 5, levels=3)
    pairs = search_all_pairs(correct, confidence, cost, [0, 1])
    assert np.isnan(pairs.threshold).all()
    assert not pairs.accepted.any()


def test_infinite_and_extreme_confidences() -> None:
    high = np.finfo(np.float64).max
    row = np.array([-np.inf, -high, 5e-324, 1.0, np.nextafter(1.0, 2), high, np.inf])
    correct = np.array([[0, 0, 0, 0, 1, 1, 1], [1] * 7], bool)
    pairs = search_all_pairs(correct, np.stack([row, row]), [1, 2], [0])
    assert pairs.accepted[0, 1, 0] == 3
    assert accepts(row, float(pairs.threshold[0, 1, 0])).tolist() == [False] * 4 + [True] * 3


def test_takes_bytes_and_strided_arrays_and_leaves_them_alone() -> None:
    correct, confidence, cost = zoo(7, 6, 130, levels=9)
    expected = search_all_pairs(correct, confidence, cost, [1])
    packed = correct.astype(np.uint8)
    for array in (packed, confidence):
        array.flags.writeable = False
    same(search_all_pairs(packed, confidence, cost, [1]), expected)
    same(search_all_pairs(packed.T.copy().T, confidence.T.copy().T, cost, [1]), expected)
    same(search_all_pairs(correct, confidence.astype(np.float64), cost, [1]), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confidences_are_sorted_whatever_their_bits(dtype: type[np.floating[Any]]) -> None:
    from understudy.searching._all_pairs_kernels import rising_order

    draw, info = np.random.default_rng(9), np.finfo(dtype)
    few = np.array([0.0, -0.0, np.inf, -np.inf, info.max, info.min, info.tiny, -info.tiny], dtype)
    scores = draw.permutation(np.concatenate([few, few, draw.normal(size=5000).astype(dtype)]))
    order = rising_order(scores[::2])
    assert sorted(order.tolist()) == list(range(len(order)))
    np.testing.assert_array_equal(scores[::2][order], np.sort(scores[::2]))


def test_the_result_is_read_only() -> None:
    pairs = search_all_pairs(*zoo(8, 2, 5, levels=3), [0])
    with pytest.raises(ValueError, match="read-only"):
        pairs.accepted[0] = 1


@pytest.mark.parametrize(
    ("drop", "samples", "budget"),
    [
        (0.1, 50_000, 50),
        (0.3, 1_000, 3),
        (0.29, 100, 0),
        (0.25, 10_001, 25),
        (-0.3, 1_000, -3),
        (-0.35, 1_000, -4),
        (0.7, 10_000_000, 70_000),
        (float("inf"), 10, 10),
        (float("-inf"), 10, -11),
    ],
)
def test_budgets_are_whole_samples(drop: float, samples: int, budget: int) -> None:
    assert gap_budgets(np.array([drop]), samples).tolist() == [budget]


@pytest.mark.parametrize("samples", [1_000, 15_339, 50_000, 1_281_167])
def test_budgets_equal_those_of_exact_decimals(samples: int) -> None:
    thousandths = np.arange(-3_000, 3_001)
    expected = thousandths * samples // 100_000
    assert gap_budgets(thousandths / 1000, samples).tolist() == expected.tolist()


CORRECT, CONFIDENCE = np.ones((2, 3), bool), np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": np.ones(3, bool)}, r"found \(3,\)"),
        ({"correct": np.ones((2, 0), bool)}, r"found \(2, 0\)"),
        ({"correct": np.ones((0, 3), bool)}, r"found \(0, 3\)"),
        ({"correct": np.ones((2, 3))}, "type float64"),
        ({"correct": np.full((2, 3), 2, np.uint8)}, "values up to 2"),
        ({"confidence": np.ones((2, 4), np.float32)}, r"\(2, 3\), found \(2, 4\)"),
        ({"confidence": np.ones((2, 3), np.int64)}, "found int64"),
        ({"confidence": CONFIDENCE * [[1], [np.nan]]}, "model 1 has 3 NaN among 3"),
        ({"cost": [1.0]}, r"\(2,\), found \(1,\)"),
        ({"cost": [1.0, -2.0]}, "model 1 has -2.0"),
        ({"cost": [np.nan, 2.0]}, "model 0 has nan"),
        ({"cost": [1.0, np.inf]}, "model 1 has inf"),
        ({"cost": ["cheap", "dear"]}, "costs are numbers, found"),
        ({"max_drops": 0.5}, "a list of numbers, in points, found 0.5"),
        ({"max_drops": [0.5, np.nan]}, "nan"),
        ({"max_drops": [[0.5], [1, 2]]}, "drops are numbers"),
        ({"threads": 0}, "found 0"),
    ],
)
def test_bad_input_is_one_clear_sentence(changes: dict[str, Any], message: str) -> None:
    given = {
        "correct": CORRECT,
        "confidence": CONFIDENCE,
        "cost": [1, 2],
        "max_drops": [0],
        **changes,
    }
    with pytest.raises(TableError, match=message):
        search_all_pairs(**given)


def test_importing_it_does_not_import_numba() -> None:
    code = "import sys, understudy.searching.all_pairs; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imagenet_pair_reaches_the_known_shares(shared: Path) -> None:
    label = pl.read_parquet(shared / "imagenet/labels.parquet")["label"].to_numpy()
    rows = [pl.read_parquet(shared / f"imagenet/{name}.parquet") for name in ("ResNet50", "ViT")]
    correct = np.stack([row["prediction"].to_numpy() == label for row in rows])
    confidence = np.stack([row["confidence"].to_numpy() for row in rows])
    pairs = search_all_pairs(correct, confidence, [4.11, 17.58], [0, 0.1, 0.25, 0.5, 1])
    shares = (pairs.accepted[0, 1] / len(label)).round(3)
    assert shares.tolist() == [0.903, 0.910, 0.916, 0.932, 0.961]


def test_the_benchmark_agrees_with_its_own_scan() -> None:
    found = measure(12, 700, threads=2, checked=40)
    assert found["checked_pairs"] == 40
    assert found["differing_pairs"] == 0
