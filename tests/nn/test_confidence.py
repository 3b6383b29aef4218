"""Confidences of tensors: like those of arrays, in float32, and what a threshold becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sample_rows import Array
from understudy.confidence_functions import CONFIDENCES, confidences_of
from understudy.nn.confidence_functions import confidence_functions
from understudy.policy import accepts
from understudy.runtime.protocol import acceptance_floor

LOGITS = {
    "random": np.random.default_rng(0).normal(0, 3, (200, 7)),
    "two classes": np.random.default_rng(1).normal(0, 3, (200, 2)),
    "one class": np.array([[2.0], [-3.0]]),
    "all equal": np.full((3, 5), 1.25),
    "large": np.array([[900.0, 0.0, -900.0], [1e4, 1e4, 0.0]]),
}


def numpy_confidences(logits: Array) -> dict[str, Array]:
    """The confidences that NumPy computes from the same logits, by name."""
    shifted = logits - logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(1, keepdims=True))
    confidences = confidences_of(np.maximum(shifted - log_sum, -1e5))
    return {**confidences, "energy": (log_sum + logits.max(1, keepdims=True))[:, 0]}


def test_there_is_one_function_for_each_name() -> None:
    assert tuple(confidence_functions) == CONFIDENCES


@pytest.mark.parametrize("case", LOGITS)
@pytest.mark.parametrize("name", CONFIDENCES)
def test_agrees_with_numpy(case: str, name: str) -> None:
    found = confidence_functions[name](torch.from_numpy(LOGITS[case]).float())
    assert found.dtype == torch.float32
    expected = numpy_confidences(LOGITS[case])[name]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_pnorm_of_equal_logits_is_zero() -> None:
    assert confidence_functions["pnorm_max_logit"](torch.full((2, 5), 7.0)).tolist() == [0, 0]


def test_one_class_is_certain() -> None:
    one = torch.tensor([[3.0]])
    found = {name: float(function(one)) for name, function in confidence_functions.items()}
    assert found == {
        "max_softmax": 1.0,
        "margin": 1.0,
        "negative_entropy": 0.0,
        "energy": 3.0,
        "pnorm_max_logit": 0.0,
    }


@pytest.mark.parametrize("name", CONFIDENCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computed_in_float32_whatever_the_dtype(name: str, dtype: torch.dtype) -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = confidence_functions[name](logits)
    assert found.dtype == torch.float32
    assert torch.equal(found, confidence_functions[name](logits.float()))


def test_a_class_of_probability_zero_adds_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert float(confidence_functions["negative_entropy"](logits)) == pytest.approx(-np.log(2))


@pytest.mark.parametrize("name", CONFIDENCES)
def test_nan_stays_nan(name: str) -> None:
    found = confidence_functions[name](torch.tensor([[1.0, torch.nan, 0.0], [3.0, 1.0, 0.0]]))
    assert found.isnan().tolist() == [True, False]


@given(
    confidence=hnp.arrays(np.float32, 20, elements=st.floats(-2, 2, width=32)),
    pick=st.integers(0, 19),
    exact=st.booleans(),
)
def test_the_floor_decides_like_float64(confidence: Array, pick: int, exact: bool) -> None:
    """Thresholds on an observed value, and on its neighbours in float64 and float32."""
    value = float(confidence[pick])
    for toward in (-np.inf, np.inf):
        near = value if exact else np.nextafter(value, toward)
        for threshold in (near, float(np.nextafter(np.float32(value), np.float32(toward)))):
            found = torch.from_numpy(confidence) >= acceptance_floor(float(threshold))
            assert found.tolist() == accepts(confidence, float(threshold)).tolist()


@pytest.mark.parametrize(
    "threshold", [0.0, -0.0, 0.1, 1 / 3, 1e-50, -1e-50, 1e39, -1e39, np.inf, -np.inf, 3.4028235e38]
)
def test_the_floor_is_the_smallest_float32_not_below(threshold: float) -> None:
    floor = acceptance_floor(threshold)
    assert np.float32(floor) == floor or np.isinf(floor)
    assert floor >= threshold
    with np.errstate(over="ignore"):
        below = np.nextafter(np.float32(floor), np.float32(-np.inf))
    assert np.isinf(threshold) or float(below) < threshold


@pytest.mark.parametrize("classes", [2, 4, 37])
@pytest.mark.parametrize("name", confidence_functions)
def test_they_do_not_depend_on_the_size_of_the_batch(name: str, classes: int) -> None:
    """To the last bit: else a sample next to a threshold could leave elsewhere in another batch."""
    logits = 3 * torch.randn(400, classes, generator=torch.Generator().manual_seed(0))
    of = confidence_functions[name]
    for size in (1, 7, 64):
        assert torch.equal(torch.cat([of(part) for part in logits.split(size)]), of(logits))
