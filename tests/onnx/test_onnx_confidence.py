"""Confidences of arrays, as ONNX Runtime cascades use them: like those of tensors and tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sample_rows import Array
from understudy import confidence_functions as confidence
from understudy.confidence_functions import confidences_of
from understudy.deferral import DeferralScore, deferral_score
from understudy.nn import confidence_functions as tensors
from understudy.nn.confidence_functions import deferral_score as tensor_score

numbers = st.integers(-1920, 1920).map(lambda n: np.float32(n / 64))  # sums are exact
logits = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=numbers)


def test_the_same_names() -> None:
    assert list(confidence.confidence_functions) == list(tensors.confidence_functions)


@given(logits)
@pytest.mark.parametrize("name", confidence.confidence_functions)
def test_like_pytorch(name: str, rows: Array) -> None:
    found = confidence.confidence_functions[name](rows)
    expected = tensors.confidence_functions[name](torch.from_numpy(rows)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@given(logits)
def test_like_the_tables(rows: Array) -> None:
    wide = rows.astype(np.float64)
    log_probability = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    differ = np.ptp(rows, axis=1) > 0  # the norm of equal logits is rounding
    for name, expected in confidences_of(log_probability).items():
        found = confidence.confidence_functions[name](rows)
        np.testing.assert_allclose(found[differ], expected[differ], rtol=1e-5, atol=2e-5)


@given(logits)
def test_learned_scores(rows: Array) -> None:
    score = DeferralScore("a", "b", 0.1, 1.5, 0.5, (0.0, -0.5, 0.25), (0.125, 0.0, -1.0))
    found = deferral_score(score, rows)
    expected = tensor_score(score, torch.from_numpy(rows)).numpy()
    top = np.sort(np.exp(rows - rows.max(1, keepdims=True)), axis=1)[:, ::-1]
    tied = (np.diff(-top[:, :3], axis=1) < 1e-4).any(1)  # rounding decides which class is second
    clipped = np.abs(expected[~tied] - found[~tied]) / np.maximum(1, np.abs(expected[~tied]))
    assert clipped.max(initial=0) < 5e-3  # log-odds near the clip magnify rounding


@pytest.mark.parametrize("name", confidence.confidence_functions)
def test_what_is_no_number(name: str) -> None:
    rows = np.array([[1, np.nan, 0], [0, 1, 2]], np.float32)
    with np.errstate(all="ignore"):
        found = confidence.confidence_functions[name](rows)
    assert np.isnan(found[0])
    assert np.isfinite(found[1])


@pytest.mark.parametrize("name", ["max_softmax", "margin", "negative_entropy", "energy"])
def test_impossible_classes(name: str) -> None:
    rows = np.array([[3, -np.inf, 1]], np.float32)
    with np.errstate(all="ignore"):
        found = confidence.confidence_functions[name](rows)
    expected = tensors.confidence_functions[name](torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
