"""Confidences from probabilities: the definitions, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from understudy.confidence_functions import CONFIDENCES, confidences_of, log_probabilities
from understudy.errors import TableError


@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(0.01, 1)
    )
)
def test_they_are_what_their_names_say(weights: np.ndarray) -> None:
    probability = weights / weights.sum(1, keepdims=True)
    found = confidences_of(np.log(probability))
    for number, row in enumerate(probability.tolist()):
        top = sorted(row, reverse=True)
        centred = [math.log(p) - sum(map(math.log, row)) / len(row) for p in row]
        norm = sum(c**4 for c in centred) ** 0.25
        true = {
            "max_softmax": top[0],
            "margin": top[0] - top[1] if len(top) > 1 else top[0],
            "negative_entropy": sum(p * math.log(p) for p in row),
        }
        if max(map(abs, centred)) > 1e-6:
            true["pnorm_max_logit"] = max(centred) / norm
        for name, value in true.items():
            assert found[name][number] == pytest.approx(value, abs=1e-6), name
    assert set(found) < set(CONFIDENCES)


def test_zeros_are_survived() -> None:
    logs = log_probabilities(np.array([[1.0, 0.0], [0.5, 0.5]]), "tiny")
    assert np.isfinite(logs).all()
    found = confidences_of(logs)
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["margin"].tolist() == [1.0, 0.0]
    assert found["pnorm_max_logit"][1] == 0.0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0.5, 0.5], r"\(samples, classes\), exit 'tiny' has \(2,\)"),
        (np.empty((0, 3)), r"has \(0, 3\)"),
        ([[0.5, 0.5], [3.0, 1.0]], r"1 rows of exit 'tiny' do not \(row 1 sums to 4\)"),
        ([[math.nan, 1.0]], "row 0 sums to nan"),
        ([[1.5, -0.5]], "not negative"),
        ([[math.inf, 0.0]], "row 0 sums to inf"),
    ],
)
def test_what_is_no_probability_is_refused(rows: object, words: str) -> None:
    with pytest.raises(TableError, match=words):
        log_probabilities(np.asarray(rows), "tiny")
