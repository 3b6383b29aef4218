"""One bound proves many policies: the same as testing them one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables import pair_table
from understudy.scores import ScoreTable
from understudy.searching.certify import certify, largest_p_value
from understudy.searching.exact_test import drop_p_value, drop_p_value_bound
from understudy.searching.pairs import pair_curve
from understudy.searching.policy_sequences import (
    PolicySequence,
    labels_missing,
    losses_and_gains,
    pair_sequence,
)

counts = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=6
)


@settings(max_examples=40)
@given(
    counts,
    st.sampled_from([130, 700, 20_000]),
    st.sampled_from([-100.0, -5.0, -0.3, 0.0, 0.3, 4.0, 101.0]),
    st.sampled_from([0.001, 0.05, 0.3]),
)
def test_a_bound_lies_above_every_p_value(
    rows: list[tuple[int, int, int]], samples: int, max_drop: float, delta: float
) -> None:
    losses, gains, missing = np.transpose([(lost + m, gained, m) for lost, gained, m in rows])
    bound = drop_p_value_bound(
        losses, gains, missing, samples=samples, max_drop=max_drop, delta=delta
    )
    for lost, gained, unknown in rows:
        for known in range(unknown + 1):
            assert drop_p_value(lost + known, gained, samples, max_drop, delta) <= bound


def test_a_bound_is_of_use() -> None:
    """Eight steps of half a percent, the last of them close to what can be proved."""
    losses = np.arange(100, 140, 5)
    none = np.zeros(8, int)
    bound = drop_p_value_bound(losses, losses - 40, none, samples=30_000, max_drop=0.25, delta=0.05)
    assert drop_p_value(135, 95, 30_000, 0.25, 0.05) < bound < 0.05


def one_by_one(
    sequence: PolicySequence, table: ScoreTable, *, max_drop: float, delta: float
) -> list[float]:
    """The p-values up to the first beyond delta."""
    columns = (
        *losses_and_gains(table, sequence.policies, reference="big"),
        labels_missing(table, sequence.policies, reference="big"),
    )
    test = partial(drop_p_value, samples=len(table), max_drop=max_drop, delta=delta)
    p_values: list[float] = []
    for row in np.transpose(columns).tolist():
        p_values.append(largest_p_value(test, *row, delta=delta))
        if p_values[-1] > delta:
            break
    return p_values


def drawn(seed: int, count: int, *, unlabelled: float) -> ScoreTable:
    rng = np.random.default_rng(seed)
    level, u = rng.random(count), rng.random(count)
    lost, gained = u < 0.08 * level**2, u > 1 - 0.02 * level
    table = pair_table(~lost, ~gained, (1 - level).round(2), split=["certify"] * count)
    assert table.label is not None
    label = np.where(rng.random(count) < unlabelled, -1, table.label)
    return replace(table, label=label.astype(table.label.dtype))


@pytest.mark.parametrize("unlabelled", [0.0, 0.002])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_prove_what_single_tests_prove(seed: int, shuffled: bool, unlabelled: float) -> None:
    sequence = pair_sequence(pair_curve(drawn(seed, 2000, unlabelled=0), "tiny", "big"))
    if shuffled:
        order = np.random.default_rng(seed).permutation(len(sequence.policies))
        sequence = replace(sequence, policies=tuple(sequence.policies[row] for row in order))
    table = drawn(seed + 100, 1500, unlabelled=unlabelled)
    for max_drop in (-0.5, 0.0, 0.5, 1.0, 2.0, 4.0):
        expected = one_by_one(sequence, table, max_drop=max_drop, delta=0.05)
        proved = [p_value for p_value in expected if p_value <= 0.05]
        found = certify(sequence, table, reference="big", max_drop=max_drop)
        assert len(found.path) == len(proved)
        assert found.p_value == (proved[-1] if proved else None)
        assert found.failed == (len(proved) < len(expected))
