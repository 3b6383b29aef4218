"""`CascadeClassifier`: a certified cascade as a classifier of scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import Bunch, assert_all_finite, column_or_1d, get_tags, indexable
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from understudy.callables.cascade import CallableCascade, build_callables, callable_stages
from understudy.callables.scoring import BATCH, measured_times, table_of_logits
from understudy.callables.stage import CallableStage
from understudy.certificate import Certificate, least_samples
from understudy.class_logits import class_name
from understudy.errors import DataError, ModelError, listed
from understudy.estimators.cross_fitting import folds_of, out_of_fold_logits
from understudy.estimators.estimator_names import checked_names, with_names
from understudy.policy import Policy
from understudy.runtime.protocol import Answers, NotANumber, StageFailed
from understudy.scores import ScoreTable
from understudy.searching.pairs import checked_drops
from understudy.searching.search import search
from understudy.searching.search_spec import check_delta
from understudy.split import SPLITS, assign_splits

Array = npt.NDArray[Any]
PREFIT = "prefit"


class CascadeClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A cascade of classifiers: cheap ones answer what they are sure of, the last one the rest.

    The thresholds are chosen so that accuracy drops by at most `max_drop` points against the last
    classifier, and that is tested on samples which no threshold was chosen on. Later classifiers
    are called with the samples alone that are left to them. Where nothing cheaper can be proved,
    as with few samples, the last classifier answers everything and `certificate_` says why.

    What `certificate_` is about depends on `cv`:

    - ``"prefit"``: the classifiers themselves. With probability 1 - `delta` the cascade's accuracy
      is within `max_drop` of the last classifier's, on new samples like those of `fit`, provided
      that these are independent and that no classifier was fitted to, or chosen by, any of them.
    - otherwise: clones. Each sample is answered by clones that were fitted to the other folds;
      thresholds are chosen on the answers to some samples and tested on those to the others. The
      classifiers that `predict` uses are fitted to all samples and are **not tested themselves**.
      Clones of two folds share samples to which they were fitted, so the answers are not quite
      independent, and `delta` is a nominal level rather than a bound. For a bound keep some samples
      back, and fit a second `CascadeClassifier` with ``cv="prefit"`` to them.

    `fit` takes no `sample_weight`: a certificate counts each sample once.

    Args:
        estimators: the classifiers from the cheapest to the one whose accuracy is to be kept, or
            pairs (name, classifier). Others are named after their types, as by `make_union`.
        max_drop: the budget in points (per cent) of accuracy.
        delta: the chance that a certificate may be wrong.
        cv: None for 5 stratified folds, their number, a splitter, pairs of row numbers, or
            "prefit".
        costs: the cost per sample of each classifier, in their order or by name; if None the
            milliseconds per sample in batches of 256 are measured, which differ from run to run.
        n_jobs: how many classifiers are fitted side by side.

    Attributes:
        estimators_: the fitted classifiers, in order; `named_estimators_` has them by name.
        classes_: (C,) the classes.
        n_features_in_, feature_names_in_: those of the first classifier, where it has them.
        certificate_: what was proved, see `Certificate`; `print(clf.certificate_.words())`.
        cascade_: the `CallableCascade` that `predict` runs, for an `Executor`.
        cost_: the mean cost per sample on held-out samples; None where costs are to be measured
            and no search was made.
        saving_: the fraction of the last classifier's cost that is saved there.
        result_, table_: the `Result` of the search and the `ScoreTable` that it read; None where
            the samples are too few for any certificate, so that none was made.

    >>> from sklearn.datasets import make_classification
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = make_classification(1000, class_sep=2.0, random_state=0)
    >>> clf = CascadeClassifier(
    ...     [("tiny", LogisticRegression()), ("big", RandomForestClassifier(20, random_state=0))],
    ...     max_drop=3.0, costs=[1, 50]).fit(X, y)
    >>> clf.predict(X[:3]).shape, clf.saving_ > 0.5, clf.certificate_.budget
    ((3,), True, 3.0)
    """

    def __init__(
        self,
        estimators: Sequence[Any],
        *,
        max_drop: float = 0.5,
        delta: float = 0.05,
        cv: Any = None,
        costs: Sequence[float] | Mapping[str, float] | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimators = estimators
        self.max_drop = max_drop
        self.delta = delta
        self.cv = cv
        self.costs = costs
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the classifiers, choose the thresholds and certify them.

        Args:
            X: samples by rows, as the classifiers take them: an array, a data frame, a sparse
                matrix, or a list of texts.
            y: (N,) their classes.

        Raises:
            ModelError: estimators or costs that are none.
            DataError: a single class, unknown ones with ``cv="prefit"``, or folds that overlap.
            PolicyError: a budget or level that makes no sense.
            ValueError: X and y that scikit-learn or a classifier refuses.
        """
        reserved = inspect.signature(type(self)).parameters
        named = dict(checked_names(self.estimators, reserved=reserved))
        costs = _named_costs(self.costs, tuple(named))
        (max_drop,) = checked_drops((self.max_drop,))
        check_delta(self.delta)
        X, y = indexable(X, y)
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        with _errors_of_estimators():
            self._fit_estimators(named, X, y)
            stages = callable_stages(dict(zip(named, self.estimators_, strict=True)))
            table, provable = self._scored(stages, X, y, costs, max_drop)
        big = tuple(named)[-1]
        self.table_: Any = table
        self.result_: Any = None
        if table is None:
            self.certificate_: Any = _nothing_proved(big, max_drop, self.delta, provable)
            self.cascade_ = CallableCascade(stages, Policy.single(big))
            self.cost_: Any = None if costs is None else costs[big]
            self.saving_ = 0.0
            return self
        self.result_ = search(table, max_drop=max_drop, reference=big, delta=self.delta)
        choice = self.result_.choices[0]
        self.certificate_ = choice.certificate
        self.cascade_ = build_callables(self.result_, stages)
        self.cost_ = choice.outcome.cost[self.result_.unit]
        self.saving_ = choice.outcome.saving[self.result_.unit]
        return self

    def _fit_estimators(self, named: Mapping[str, Any], X: Any, y: Array) -> None:
        """Set the fitted classifiers and what is known by them."""
        if self._is_prefit:
            for one in named.values():
                check_is_fitted(one)
            self.estimators_ = list(named.values())
            self.classes_ = np.asarray(self.estimators_[0].classes_)
        else:
            self.classes_ = np.unique(y)
            if len(self.classes_) < 2:
                raise DataError(
                    f"a classifier tells at least 2 classes apart, found {len(self.classes_)} "
                    f"class{'es' * (len(self.classes_) != 1)} among {len(y)} samples: add others"
                )
            self.estimators_ = Parallel(n_jobs=self.n_jobs)(
                delayed(_fitted)(clone(one), X, y) for one in named.values()
            )
        self.named_estimators_ = Bunch(**dict(zip(named, self.estimators_, strict=True)))
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimators_[0], name):
                setattr(self, name, getattr(self.estimators_[0], name))

    def _scored(
        self,
        stages: Mapping[str, CallableStage],
        X: Any,
        y: Array,
        costs: Mapping[str, float] | None,
        max_drop: float,
    ) -> tuple[ScoreTable | None, int]:
        """The table to search, and its number of certify samples; no table where nothing can be
        proved with it, whatever the classifiers."""
        codes = _codes(y, self.classes_)
        folds = [] if self._is_prefit else folds_of(self.cv, X, y)
        splits, rule = assign_splits(np.arange(len(y)).astype(str).astype(object))
        counts = np.bincount(splits, minlength=len(SPLITS))
        certified = int(counts[SPLITS.index("certify")])
        if not counts[SPLITS.index("tune")] or not certified:
            return None, certified
        if max_drop > 0 and certified < least_samples(max_drop, self.delta):
            return None, certified
        names = tuple(map(class_name, self.classes_))
        if self._is_prefit:
            logits = {n: one.logits(X, name=n, classes=names) for n, one in stages.items()}
        else:
            if not folds:
                return None, 0
            named = dict(with_names(self.estimators))
            logits = out_of_fold_logits(named, X, y, folds, classes=names, n_jobs=self.n_jobs)
            rule |= {"folds": len(folds)}
        table = table_of_logits(
            stages,
            logits,
            codes,
            classes=names,
            keep_logits=False,
            costs={} if costs is None else {"cost": costs},
        )
        table = replace(table, provenance={**table.provenance, "split": rule})
        if costs is not None:
            return table, certified
        sitting = measured_times(stages, X, BATCH)
        return replace(table, times={sitting.unit: sitting.median}, sittings=(sitting,)), certified

    def predict(self, X: Any) -> Array:
        """The class of each sample (N,): that of the largest probability.

        Raises:
            NotFittedError: before `fit`.
        """
        found = self._answers(X).prediction
        return np.asarray(self.classes_[found])

    def predict_proba(self, X: Any) -> Array:
        """The probabilities of the classes (N, C) float32, by the classifier that answered each
        sample: of one without `predict_proba` the softmax of its decision values.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        with _errors_of_estimators():
            return self.cascade_.predict_proba(indexable(X)[0])

    def exits_of(self, X: Any) -> Array:
        """The name of the classifier that answers each sample, (N,).

        Raises:
            NotFittedError: before `fit`.
        """
        return np.array(self._answers(X).exit_names())

    def _answers(self, X: Any) -> Answers:
        check_is_fitted(self)
        with _errors_of_estimators():
            answers = self.cascade_.answer(indexable(X)[0])
        if answers.failed:
            raise NotANumber(self.cascade_.exits[-1])
        return answers

    @property
    def _is_prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == PREFIT

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters; with `deep` also each classifier by its name, and its own parameters as
        ``NAME__PARAMETER``."""
        params: dict[str, Any] = super().get_params(deep=False)
        if deep and isinstance(self.estimators, list | tuple):
            for name, one in with_names(self.estimators):
                params[name] = one
                if hasattr(one, "get_params") and not isinstance(one, type):
                    own = one.get_params(deep=True)
                    params |= {f"{name}__{key}": value for key, value in own.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, whole classifiers by their names, and their own parameters as
        ``NAME__PARAMETER``."""
        if "estimators" in params:
            self.estimators = params.pop("estimators")
        named = with_names(self.estimators) if isinstance(self.estimators, list | tuple) else []
        others = {name: params.pop(name) for name, _ in named if name in params}
        if others:
            self.estimators = [(name, others.get(name, one)) for name, one in named]
        super().set_params(**params)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if isinstance(self.estimators, list | tuple):
            own = [
                get_tags(one).input_tags
                for _, one in with_names(self.estimators)
                if hasattr(one, "__sklearn_tags__") and not isinstance(one, type)
            ]
            for name in ("sparse", "allow_nan", "string"):
                setattr(tags.input_tags, name, all(getattr(one, name) for one in own))
        return tags


@contextmanager
def _errors_of_estimators() -> Iterator[None]:
    """Let what a classifier raises through as it is, as scikit-learn's own ensembles do."""
    try:
        yield
    except StageFailed as failed:
        raise failed.__cause__ or failed from None


def _fitted(estimator: Any, X: Any, y: Array) -> Any:
    return estimator.fit(X, y)


def _codes(y: Array, classes: Array) -> Array:
    """Classes as their places in `classes`."""
    places = {class_name(value): place for place, value in enumerate(classes)}
    found = [places.get(class_name(value), -1) for value in y]
    strange = [value for value, place in zip(y, found, strict=True) if place < 0]
    if strange:
        raise DataError(
            f"labels are classes of the fitted estimators, {len(strange)} are none: found "
            f"{class_name(strange[0])!r}, the classes are {listed(map(repr, places))}"
        )
    return np.array(found)


def _named_costs(costs: Any, names: tuple[str, ...]) -> dict[str, float] | None:
    """The costs by name.

    Raises:
        ModelError: not one number for each.
    """
    if costs is None:
        return None
    named = dict(costs) if isinstance(costs, Mapping) else dict(enumerate(costs))
    wanted = names if isinstance(costs, Mapping) else tuple(range(len(names)))
    numbers = all(isinstance(cost, Real) for cost in named.values())
    if set(named) != set(wanted) or not numbers:
        raise ModelError(
            f"costs are one number per estimator ({', '.join(names)}), found {costs!r}: give as "
            "many, in their order or by name"
        )
    return {name: float(named[key]) for name, key in zip(names, wanted, strict=True)}


def _nothing_proved(big: str, max_drop: float, delta: float, certified: int) -> Certificate:
    """The certificate of the last classifier alone, where no search was made."""
    return Certificate(
        policy=Policy.single(big),
        reference=big,
        kind="gap",
        budget=max_drop,
        delta=delta,
        samples=certified,
        losses=0,
        gains=0,
        p_value=None,
        path=(),
        steps=0,
        samples_needed=None,
        looks=1,
        table="",
        split={},
        failed=certified > 0,
    )
