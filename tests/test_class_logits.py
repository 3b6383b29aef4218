"""What functions and estimators return, read as logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from understudy.class_logits import OutputKind, class_logits
from understudy.confidence_functions import max_softmax
from understudy.errors import ModelError

SHARES = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
LOGS = np.log(np.maximum(SHARES, 1e-12))
NAMES = ["cat", "dog", "owl"]


def read(output: Any, samples: int = 2, **options: Any) -> np.ndarray:
    return class_logits(output, samples, model="tiny", **options)


@pytest.mark.parametrize(
    "output",
    [
        SHARES,
        SHARES.astype(np.float32),
        SHARES.tolist(),
        torch.tensor(SHARES, requires_grad=True),
        pl.DataFrame(dict(zip(NAMES, SHARES.T, strict=True))),
        [dict(zip(NAMES, row, strict=True)) for row in SHARES],
        [
            [{"label": n, "score": s} for n, s in zip(NAMES, row, strict=True)][::-1]
            for row in SHARES
        ],
    ],
    ids=["array", "float32", "lists", "tensor", "frame", "by class", "labels with scores"],
)
def test_probabilities_in_every_form(output: Any) -> None:
    found = read(output, classes=NAMES)
    assert found.dtype == np.float64
    assert np.allclose(found, LOGS, atol=1e-6)


def test_columns_are_put_in_the_order_of_the_classes() -> None:
    wanted = NAMES[::-1]
    assert np.allclose(read(SHARES, columns=NAMES, classes=wanted), LOGS[:, ::-1])
    frame = pl.DataFrame(dict(zip(NAMES, SHARES.T, strict=True)))
    assert np.allclose(read(frame, classes=wanted), LOGS[:, ::-1])
    numbered = read(SHARES, columns=np.arange(3), classes=wanted)
    assert np.allclose(numbered, LOGS), "numbers from 0 are named by the classes"


@pytest.mark.parametrize("output", [np.array([0.25, 0.9]), np.array([[0.25], [0.9]])])
def test_two_classes_in_one_column(output: np.ndarray) -> None:
    assert np.allclose(np.exp(read(output)), [[0.75, 0.25], [0.1, 0.9]])
    decisions = read(output, outputs="logits")
    assert np.allclose(decisions[:, 1] - decisions[:, 0], output.ravel())


def test_estimators_are_read_as_they_predict() -> None:
    rows, labels = load_iris(return_X_y=True)
    for count in (2, 3):
        inside = labels < count
        some, truth = rows[inside], labels[inside]
        shares = LogisticRegression(max_iter=500).fit(some, truth)
        found = read(shares.predict_proba(some), len(some), columns=shares.classes_)
        assert np.array_equal(found.argmax(1), shares.predict(some))
        assert np.allclose(max_softmax(found), shares.predict_proba(some).max(1))
        ridge = RidgeClassifier().fit(some, truth)
        found = read(ridge.decision_function(some), len(some), outputs="logits")
        assert np.array_equal(found.argmax(1), ridge.predict(some))


def test_certain_classes_by_name_and_number() -> None:
    for output, options in (
        (["dog", "owl"], {"classes": NAMES}),
        (np.array([1, 2]), {"classes": NAMES}),
        (np.array([1.0, 2.0]), {"classes": [0, 1, 2]}),
        (np.array([2, 3]), {"columns": np.array([1, 2, 3])}),
    ):
        found = read(output, outputs="classes", **options)
        assert found.argmax(1).tolist() == [1, 2]
        assert np.allclose(max_softmax(found), 1)


def test_the_best_label_alone_shares_the_rest() -> None:
    found = np.exp(read([{"label": "owl", "score": 0.8}, None], classes=NAMES))
    assert np.allclose(found[0], [0.1, 0.1, 0.8])
    assert np.isnan(found[1]).all(), "None is no answer"


def test_what_is_missing_is_nan() -> None:
    assert np.isnan(read([None, SHARES[0]])).all(1).tolist() == [True, False]
    assert np.isnan(read([None, None], classes=NAMES)).shape == (2, 3)
    gaps = SHARES.copy()
    gaps[1, 2] = np.nan
    assert np.isnan(read(gaps)).all(1).tolist() == [False, True]
    assert np.isnan(read([None, "cat"], outputs="classes", classes=NAMES))[0].all()


@pytest.mark.parametrize(
    ("output", "outputs", "options", "message"),
    [
        ([[0.7, 0.7], [0.5, 0.5]], "probabilities", {}, "sum to 1, 1 of 2 rows of 'tiny'"),
        ([[-0.5, 1.5], [0.5, 0.5]], "probabilities", {}, "row 0 is from -0.5 to 1.5"),
        ([1.2, 0.5], "probabilities", {}, "between 0 and 1"),
        ([[np.inf, 0.0], [0.5, 0.5]], "probabilities", {}, "outputs='logits'"),
        (SHARES[:1], "probabilities", {}, "was given 2 and returned 1"),
        (SHARES[None], "probabilities", {}, r"returned ndarray \(1, 2, 3\)"),
        (["cat", "dog"], "probabilities", {}, "of <U3: return probabilities"),
        ([[0.5], [0.5, 0.5]], "probabilities", {}, "returned list"),
        (object(), "probabilities", {}, "returned object"),
        (SHARES, "probabilities", {"classes": NAMES[:2]}, "2 classes, 'cat', 'dog', found"),
        (SHARES, "probabilities", {"columns": NAMES, "classes": ["cat", "dog", "ape"]}, "'ape'"),
        ([{"label": "cat", "score": 1}] * 2, "probabilities", {}, r"classes=\[...\]"),
        ([{"label": "ape", "score": 1}] * 2, "probabilities", {"classes": NAMES}, "no class 'ape'"),
        ([{"cat": 0.9, "dog": 0.9}] * 2, "probabilities", {"classes": NAMES}, "sum to 1 at most"),
        ([{"label": "cat", "score": 0.1}] * 2, "probabilities", {"classes": NAMES}, "best label"),
        ([None, None], "probabilities", {}, "found none of 2 answered"),
        (["ape", "cat"], "classes", {"classes": NAMES}, "no class 'ape' in those of tiny"),
        ([3, 0], "classes", {"classes": NAMES}, "no class '3'"),
        ([[1, 2]], "classes", {"classes": NAMES}, "more than one entry"),
        ([0, 1], "classes", {}, "need the names of all classes"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_in_a_sentence(
    output: Any, outputs: OutputKind, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read(output, outputs=outputs, **options)
    assert "\n" not in str(caught.value)
