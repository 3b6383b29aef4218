"""`CascadeClassifier`: fitting, its certificate, running, and scikit-learn's tools."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import polars as pl
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from understudy import CascadeClassifier, build, evaluate, verify
from understudy.errors import DataError, ModelError, PolicyError
from understudy.result import Result

Array = npt.NDArray[Any]
X, NUMBERS = make_classification(
    1500, n_features=6, n_informative=4, n_classes=2, class_sep=1.6, random_state=3
)
Y = np.array(["no", "yes"])[NUMBERS]
TINY, BIG = LogisticRegression(C=0.001), KNeighborsClassifier(9)


def cascade(**options: Any) -> CascadeClassifier:
    return CascadeClassifier(
        [("tiny", TINY), ("big", BIG)], **{"max_drop": 4.0, "costs": [1, 20], **options}
    )


@pytest.fixture(scope="module")
def fitted() -> CascadeClassifier:
    return cascade().fit(X, Y)


def test_the_stage_that_answered_gives_class_and_probabilities(fitted: CascadeClassifier) -> None:
    exits = fitted.exits_of(X)
    assert set(exits) == {"tiny", "big"}
    for name, one in fitted.named_estimators_.items():
        assert np.allclose(
            fitted.predict_proba(X)[exits == name], one.predict_proba(X)[exits == name], atol=1e-6
        )
    assert (fitted.classes_[fitted.predict_proba(X).argmax(1)] == fitted.predict(X)).all()
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert fitted.score(X, Y) > 0.85
    assert fitted.n_features_in_ == 6


def test_cost_and_saving_are_those_of_held_out_samples(fitted: CascadeClassifier) -> None:
    table = fitted.result_.with_fitted(fitted.table_)
    outcome = evaluate(table.on("certify"), fitted.certificate_.policy)
    assert fitted.cost_ == outcome.cost["cost"]
    assert fitted.saving_ == pytest.approx(1 - fitted.cost_ / 20)
    assert fitted.saving_ > 0.2
    assert not fitted.certificate_.falls_back


def test_the_table_holds_answers_of_models_that_did_not_see_the_sample() -> None:
    """Every sample has a neighbour of distance 0: itself, unless it was left out."""
    noise = np.random.default_rng(0).integers(0, 2, len(X))
    nearest = KNeighborsClassifier(1)
    found = CascadeClassifier([GaussianNB(), nearest], max_drop=5, costs=[1, 2]).fit(X, noise)
    right = found.table_.right("kneighborsclassifier", 1).mean()
    assert abs(right - 0.5) < 0.06, "in-sample it would be 1"
    assert found.estimators_[1].score(X, noise) == 1.0


def test_the_certificate_says_what_it_is_about(fitted: CascadeClassifier) -> None:
    assert fitted.certificate_.split["folds"] == 5
    assert "5 folds" in fitted.certificate_.words()
    assert "Cross-fitted: Samples were answered in 5 folds" in str(fitted.result_)
    models = [TINY_FITTED, BIG_FITTED]
    sure = CascadeClassifier(models, cv="prefit", max_drop=6.0, costs=[1, 20]).fit(X[500:], Y[500:])
    assert "folds" not in sure.certificate_.words()
    assert sure.estimators_ == models
    assert not sure.certificate_.falls_back
    assert np.allclose(
        sure.table_.scores("max_softmax")[1], BIG_FITTED.predict_proba(X[500:]).max(1)
    )


TINY_FITTED, BIG_FITTED = clone(TINY).fit(X[:500], Y[:500]), clone(BIG).fit(X[:500], Y[:500])


def test_the_result_is_verified_saved_and_built_from(
    fitted: CascadeClassifier, tmp_path: Any
) -> None:
    fitted.result_.save(tmp_path / "result.json")
    result = Result.load(tmp_path / "result.json")
    assert verify(result, fitted.table_)
    again: Any = build(result, dict(fitted.named_estimators_))
    assert (again.predict(X) == fitted.predict(X)).all()
    assert (pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)).all()  # noqa: S301


class Counting(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Counts the rows that it is called with."""

    def fit(self, X: Array, y: Array) -> Counting:
        self.model_ = KNeighborsClassifier(9).fit(X, y)
        self.classes_, self.rows_ = self.model_.classes_, 0
        return self

    def predict_proba(self, X: Array) -> Array:
        self.rows_ += len(X)
        found: Array = self.model_.predict_proba(X)
        return found


def test_later_classifiers_see_the_rows_that_are_left_alone() -> None:
    clf = CascadeClassifier([TINY, Counting()], max_drop=4.0, costs=[1, 20]).fit(X, Y)
    before = clf.estimators_[1].rows_
    clf.predict(X)
    assert clf.estimators_[1].rows_ - before == (clf.exits_of(X) == "counting").sum() < len(X)


@pytest.mark.slow
def test_three_classes_one_of_them_rare_and_decision_values() -> None:
    labels = np.where(np.arange(len(X)) % 700 == 5, 7, NUMBERS)
    models = [RidgeClassifier(), GaussianNB(), BIG]
    clf = CascadeClassifier(models, max_drop=4.0, costs=[1, 2, 20]).fit(X, labels)
    assert clf.classes_.tolist() == [0, 1, 7]
    assert set(clf.predict(X)) <= {0, 1, 7}
    assert clf.table_.names == ("ridgeclassifier", "gaussiannb", "kneighborsclassifier")
    assert "energy" not in clf.table_.confidence
    assert clf.predict_proba(X).shape == (len(X), 3)


@pytest.mark.parametrize(
    ("count", "drop"),
    [
        *((count, 0.5) for count in (4, 5, 9, 30, 100)),
        *(
            pytest.param(count, drop, marks=pytest.mark.slow)
            for count in (4, 5, 9, 30, 100)
            for drop in (0.0, 40.0)
        ),
    ],
)
def test_few_samples_are_answered_by_the_last_classifier(count: int, drop: float) -> None:
    labels = NUMBERS[:count].copy()
    labels[:2] = 0, 1
    clf = CascadeClassifier([TINY, GaussianNB()], max_drop=drop, costs=[1, 9])
    clf.fit(X[:count], labels)
    assert clf.predict(X[:9]).shape == (9,)
    if drop < 40:
        assert clf.certificate_.falls_back
        assert (clf.saving_, clf.cost_) == (0.0, 9.0)
        assert set(clf.exits_of(X)) == {"gaussiannb"}
        assert "Nothing cheaper than gaussiannb could be proved" in clf.certificate_.words()
    if drop == 0.5:
        assert "whatever the models: it takes 600 at the least" in clf.certificate_.words()
        assert clf.result_ is None
        assert clf.table_ is None


def test_a_class_of_one_sample_leaves_no_folds() -> None:
    labels = (np.arange(len(X)) == 3).astype(int)
    clf = CascadeClassifier([TINY, GaussianNB()], costs=[1, 9]).fit(X, labels)
    assert clf.certificate_.falls_back
    assert "0 certify samples" in clf.certificate_.words()


def test_times_are_measured_where_no_costs_are_given() -> None:
    clf = cascade(costs=None, cv="prefit").set_params(tiny=TINY_FITTED, big=BIG_FITTED)
    clf.fit(X[500:], Y[500:])
    assert clf.result_.unit == "ms@256"
    assert clf.table_.times["ms@256"].keys() == {"tiny", "big"}
    assert clf.cost_ > 0


@pytest.mark.slow
def test_it_is_tuned_within_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), cascade(cv=2))
    grid = {
        "cascadeclassifier__tiny__C": [1e-9, 0.1],
        "cascadeclassifier__big": [BIG, GaussianNB()],
    }
    found = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    inner = found.best_estimator_[-1]
    assert found.best_params_["cascadeclassifier__tiny__C"] == inner.named_estimators_["tiny"].C
    assert found.predict(X[:3]).shape == (3,)


def test_parameters_reach_the_classifiers() -> None:
    clf = CascadeClassifier([LogisticRegression(), LogisticRegression(C=9.0)])
    assert clf.get_params()["logisticregression-2__C"] == 9.0
    clf.set_params(**{"logisticregression-1__C": 0.5, "max_drop": 1.0})
    assert (clf.estimators[0].C, clf.max_drop) == (0.5, 1.0)
    clf.set_params(**{"logisticregression-2": BIG})
    assert clf.estimators == [
        ("logisticregression-1", clf.estimators[0][1]),
        ("logisticregression-2", BIG),
    ]
    assert clone(clf).get_params().keys() == clf.get_params().keys()


def test_fitted_classifiers_survive_clones_when_frozen() -> None:
    frozen = [("tiny", FrozenEstimator(TINY_FITTED)), ("big", FrozenEstimator(BIG_FITTED))]
    clf = clone(CascadeClassifier(frozen, cv="prefit", max_drop=6.0, costs=[1, 20]))
    assert clf.fit(X[500:], Y[500:]).saving_ > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pd.DataFrame, pl.DataFrame, csr_matrix, np.ndarray.tolist], ids=str
)
def test_samples_of_any_kind(kind: Any, fitted: CascadeClassifier) -> None:
    named = kind(X) if kind is not pl.DataFrame else pl.DataFrame(X, schema=list("abcdef"))
    labels = pd.Series(Y, index=range(7, 7 + len(Y)))
    clf = cascade().fit(named, labels)
    assert (clf.predict(named) == fitted.predict(X)).mean() > 0.999


@pytest.mark.slow
def test_texts() -> None:
    rng = np.random.default_rng(0)
    words = np.array(["fine", "great", "nice", "poor", "sad", "bad"])
    moods = rng.integers(0, 2, 1500)
    texts = [
        " ".join(words[rng.integers(0, 3, 5) + 3 * (rng.random(5) < 0.2 + 0.6 * m)]) for m in moods
    ]
    few = make_pipeline(CountVectorizer(max_features=2), MultinomialNB())
    every = make_pipeline(CountVectorizer(), MultinomialNB())
    clf = CascadeClassifier([("few", few), ("every", every)], max_drop=3.0, costs=[1, 5])
    clf.fit(texts, moods)
    assert clf.predict(texts[:5]).shape == (5,)
    assert not hasattr(clf, "n_features_in_")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimators": [TINY]}, ModelError, "at least two estimators, found 1"),
        ({"estimators": TINY}, ModelError, "found one LogisticRegression"),
        ({"estimators": [TINY, LogisticRegression]}, ModelError, "the class LogisticRegression"),
        ({"estimators": [("a", TINY), ("a", BIG)]}, ModelError, "unique.*found 'a'"),
        ({"estimators": [("a__b", TINY), ("costs", BIG)]}, ModelError, "'a__b', 'costs'"),
        ({"costs": [1]}, ModelError, r"one number per estimator \(tiny, big\), found \[1\]"),
        ({"costs": {"tiny": 1, "large": 2}}, ModelError, "one number per estimator"),
        ({"max_drop": 200.0}, PolicyError, "found 200"),
        ({"delta": 0.0}, PolicyError, "delta is a probability"),
        ({"max_drop": "1"}, PolicyError, "found the str '1'"),
        ({"cv": ShuffleSplit(2)}, DataError, "answer each sample once"),
        ({"cv": 1}, DataError, "at least 2 folds, found cv=1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cascade().set_params(**options).fit(X, Y)


def test_labels_and_models_that_do_not_fit() -> None:
    prefit = CascadeClassifier([TINY_FITTED, BIG_FITTED], cv="prefit")
    with pytest.raises(DataError, match="1500 are none: found '1', the classes are 'no', 'yes'"):
        prefit.fit(X, NUMBERS)
    with pytest.raises(NotFittedError):
        CascadeClassifier([TINY_FITTED, BIG], cv="prefit").fit(X, Y)
    with pytest.raises(DataError, match="found 1 class among"):
        cascade().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="Unknown label type"):
        cascade().fit(X, X[:, 0])
    with pytest.raises(TypeError, match="sample_weight"):
        cascade().fit(X, Y, sample_weight=np.ones(len(X)))  # type: ignore[call-arg]


def test_errors_of_classifiers_are_their_own(fitted: CascadeClassifier) -> None:
    with pytest.raises(ValueError, match="X has 2 features, but LogisticRegression is expecting 6"):
        fitted.predict(X[:, :2])


@pytest.mark.slow
def test_folds_of_a_splitter() -> None:
    clf = cascade(cv=KFold(3, shuffle=True, random_state=0)).fit(X, Y)
    assert clf.certificate_.split["folds"] == 3


@pytest.mark.slow
def test_pytorch_is_not_imported() -> None:
    code = (
        "import sys, understudy; assert 'sklearn' not in sys.modules\n"
        "from understudy import CascadeClassifier\n"
        "from sklearn.naive_bayes import GaussianNB\n"
        "CascadeClassifier([GaussianNB(), GaussianNB()], max_drop=90, costs=[1, 2]).fit("
        "[[number] for number in range(60)], [0, 1] * 30).predict([[1]])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_costs_that_are_no_numbers_and_an_unknown_cv_are_refused_even_for_few_samples() -> None:
    with pytest.raises(ModelError, match=r"costs are one number per estimator.*found \['a', 2\]"):
        cascade().set_params(costs=["a", 2]).fit(X[:50], Y[:50])
    with pytest.raises(ValueError, match="cv"):
        CascadeClassifier([TINY, BIG], cv="fold", costs=[1, 2]).fit(X[:50], Y[:50])
