from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from understudy.confidence_functions import CONFIDENCES
from understudy.errors import ModelError
from understudy.scoring.outputs import ExitOutputs, GatheredOutputs, check_finite, outputs_of

Array = npt.NDArray[Any]
LOGITS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.integers(-20, 20).map(lambda number: np.float32(number / 4)),
)


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_the_top_class_is_the_prediction(values: Array) -> None:
    outputs = outputs_of(torch.from_numpy(values), keep_logits=True)
    assert tuple(outputs.confidence) == CONFIDENCES
    assert outputs.prediction.tolist() == values.argmax(1).tolist()
    assert outputs.detail.top_classes[:, 0].tolist() == outputs.prediction.tolist()
    assert np.array_equal(outputs.detail.top_probabilities[:, 0], outputs.confidence["max_softmax"])
    assert outputs.detail.top_classes.shape == (len(values), min(5, values.shape[1]))
    assert outputs.detail.logits is not None
    assert np.array_equal(outputs.detail.logits, values.astype(np.float16))


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_top_classes_are_those_of_a_stable_sort(values: Array) -> None:
    outputs = outputs_of(torch.from_numpy(values), keep_logits=False)
    probability = torch.from_numpy(values).softmax(1).numpy()
    order = np.argsort(-probability, axis=1, kind="stable")[:, :5]
    assert outputs.detail.top_classes.tolist() == order.tolist()
    ordered = np.take_along_axis(probability, order, axis=1)
    assert np.array_equal(outputs.detail.top_probabilities, ordered)


@settings(deadline=None, max_examples=20)
@given(LOGITS, st.booleans())
def test_pieces_join_to_the_whole(values: Array, keep: bool) -> None:
    whole = outputs_of(torch.from_numpy(values), keep_logits=keep)
    pieces = [whole.rows(np.array([row])) for row in range(len(values))]
    gathered = GatheredOutputs(len(values) + 3)
    for piece in pieces:
        gathered.add(piece)
    for joined in (ExitOutputs.concatenate(pieces), gathered.whole):
        assert joined is not None
        assert all(map(np.array_equal, joined.arrays, whole.arrays))
        assert tuple(joined.confidence) == CONFIDENCES
        assert (joined.detail.logits is None) == (not keep)


def test_huge_logits_stay_finite_in_float16() -> None:
    outputs = outputs_of(torch.tensor([[1e9, -1e9]]), keep_logits=True)
    assert outputs.detail.logits is not None
    assert np.isfinite(outputs.detail.logits).all()


def test_logits_that_are_not_finite_are_named() -> None:
    logits = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    with pytest.raises(ModelError, match=r"'big' gives NaN or infinity for 2 of 3 .*\(b, c\)"):
        check_finite(logits, model="big", ids=["a", "b", "c"])
