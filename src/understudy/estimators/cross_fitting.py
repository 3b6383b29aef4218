"""Logits of models for samples that they were not fitted to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.utils.parallel import Parallel, delayed

from understudy.callables.samples import rows_at
from understudy.callables.stage import as_callable_stage
from understudy.errors import DataError

Array = npt.NDArray[Any]
Fold = tuple[Array, Array]

FOLDS = 5
ABSENT = np.log(1e-12)
"""The logit, against the lowest one, of a class that a fold's training samples lack."""


def folds_of(cv: Any, samples: Any, labels: Array) -> list[Fold]:
    """The rows to fit and to answer, (fold, 2), so that each row is answered once.

    Args:
        cv: None for 5 folds, their number, a splitter of scikit-learn or pairs of row numbers. A
            number of folds is stratified, and lowered where no class has so many samples.
        samples, labels: the samples and their classes, (N,).

    >>> [answered.tolist() for _, answered in folds_of(2, None, np.array([0, 0, 1, 1]))]
    [[0, 2], [1, 3]]

    Returns no folds where every class has one sample only, or where samples of one class alone
    would be fitted.

    Raises:
        DataError: a row is answered more than once, or never.
    """
    if cv is None or isinstance(cv, int | np.integer):
        folds = _stratified(FOLDS if cv is None else int(cv), labels)
    else:
        splitter = check_cv(cv, labels, classifier=True)
        rows = np.zeros(len(labels)) if samples is None else samples
        folds = [(np.asarray(a), np.asarray(b)) for a, b in splitter.split(rows, labels)]
        _check_once(folds, len(labels))
    return folds if all(len(np.unique(labels[fitted])) > 1 for fitted, _ in folds) else []


def _stratified(count: int, labels: Array) -> list[Fold]:
    most = int(np.unique(labels, return_counts=True)[1].max())
    if count < 2:
        raise DataError(f"samples are divided into at least 2 folds, found cv={count}: raise it")
    if most < 2:
        return []
    splitter = StratifiedKFold(min(count, most))
    with warnings.catch_warnings():  # a class of fewer samples than folds is absent from some
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(splitter.split(np.zeros(len(labels)), labels))


def _check_once(folds: Sequence[Fold], count: int) -> None:
    answered = np.concatenate([np.arange(0), *(np.arange(count)[rows] for _, rows in folds)])
    times = np.bincount(answered, minlength=count)
    if (times != 1).any():
        raise DataError(
            "the folds of cv answer each sample once, "
            f"{int((times == 0).sum())} of {count} samples are answered never and "
            f"{int((times > 1).sum())} more than once: give a partition such as KFold"
        )


def out_of_fold_logits(
    estimators: Mapping[str, Any],
    samples: Any,
    labels: Array,
    folds: Sequence[Fold],
    *,
    classes: Sequence[str],
    n_jobs: int | None = None,
) -> dict[str, Array]:
    """The logits (N, C) of every estimator, by clones that were not fitted to the sample.

    Args:
        estimators: by name; they stay as they are.
        samples, labels: by rows, and (N,).
        folds: as `folds_of` returns them.
        classes: (C,) the names of the classes in the order that is wanted.
        n_jobs: how many clones are fitted side by side, as in scikit-learn.
    """
    found = Parallel(n_jobs=n_jobs)(
        delayed(_answered)(clone(one), samples, labels, fold, name=name, classes=tuple(classes))
        for name, one in estimators.items()
        for fold in folds
    )
    logits = {name: np.empty((len(labels), len(classes)), np.float32) for name in estimators}
    places = ((name, rows) for name in estimators for _, rows in folds)
    for (name, rows), values in zip(places, found, strict=True):
        logits[name][rows] = values
    return logits


def _answered(
    model: Any, samples: Any, labels: Array, fold: Fold, *, name: str, classes: tuple[str, ...]
) -> Array:
    """The logits of the rows of a fold, by a model that is fitted to the other rows."""
    fitted, answered = fold
    stage = as_callable_stage(model.fit(rows_at(samples, fitted), labels[fitted]))
    logits, own = stage.logits(rows_at(samples, answered), name=name), stage.class_names
    if own is None or own == classes:
        return logits
    whole = np.repeat(logits.min(1, keepdims=True) + ABSENT, len(classes), axis=1)
    whole[:, [classes.index(one) for one in own]] = logits
    return whole.astype(np.float32)
