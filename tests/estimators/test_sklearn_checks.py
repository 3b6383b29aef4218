"""scikit-learn's own checks of an estimator."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from understudy import CascadeClassifier

FOREST = RandomForestClassifier(8, random_state=0)
CASCADES = [
    CascadeClassifier([LogisticRegression(), KNeighborsClassifier()]),
    CascadeClassifier([("tiny", GaussianNB()), ("big", FOREST)], max_drop=60.0, costs=[1, 9], cv=3),
    CascadeClassifier([LinearSVC(), LogisticRegression()], max_drop=0.0, costs=[1, 9]),
]


def expected(cascade: CascadeClassifier) -> dict[str, str]:
    """The checks that fail, with the reason."""
    if dict(cascade.get_params()).get("big") is not FOREST:
        return {}
    return {
        "check_estimators_nan_inf": "a forest alone answers where nothing cheaper is certified, "
        "and forests accept NaN"
    }


@pytest.mark.slow
@parametrize_with_checks(CASCADES, expected_failed_checks=expected)  # type: ignore[untyped-decorator]
def test_scikit_learn_s_checks(estimator: Any, check: Any) -> None:
    check(estimator)
