"""A learned deferral score: the confidence that a little model may answer, as JSON coefficients.

Confidence alone ignores which class was predicted and whether the reference would do better
(Jitkrittum et al. 2023, arXiv 2307.02764). A logistic regression on the log-odds of the top class,
the margin and the two top classes learns both from the tune split; its value is a confidence like
any other, under the name `deferral`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import LEARNED, margin, max_softmax
from understudy.ensemble import cheaper_models
from understudy.errors import PolicyError, TableError
from understudy.json_codec import Stored
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.scores import ScoreTable
from understudy.split import ALL, SPLITS, uniform

Array = npt.NDArray[Any]
MARGIN = "margin"
CLIP = 1e-4  # clip of probabilities; closer to 0 and 1 float32 has no log-odds
FOLDS = 5
_PENALTY = 0.1  # scikit-learn's C: scaled weights are expected to be about its root in size
_PRECISION = {"maxiter": 500, "ftol": 1e-10, "gtol": 1e-3}
_LEAST_SD = 0.05
_OF_CLASS = 0.6  # a class is expected to shift the log-odds by about 0.5, however rare it is
_LEAST = 10  # samples of a class, or of either target, that are needed to learn from it


@dataclass(frozen=True)
class DeferralScore(Stored, what="a learned score", error=PolicyError, remedy="search again"):
    """The score of one exit: bias + log_odds * logit(top probability) + margin * (top - second
    probability) + first[top class] + second[second class]; higher is safer.

    Classes beyond the end of `first` or `second` weigh nothing.

    >>> score = DeferralScore("tiny", "big", 0.0, 1.0, 0.0, first=(0.0, -0.5))
    >>> score.of(np.array([0.5, 0.5]), np.zeros(2), np.array([0, 1]), None).tolist()
    [0.0, -0.5]
    """

    exit: str
    reference: str
    bias: float
    log_odds: float
    margin: float
    first: tuple[float, ...] = ()
    second: tuple[float, ...] = ()

    def of(self, top: Array, margin: Array, first: Array, second: Array | None) -> Array:
        """The score (N,) float32 from the top probability, the margin and the top two classes."""
        inside = np.clip(top.astype(np.float64), CLIP, 1 - CLIP)
        score = self.bias + self.log_odds * np.log(inside / (1 - inside))
        score = score + self.margin * margin.astype(np.float64) + _weight(self.first, first)
        if second is not None:
            score = score + _weight(self.second, second)
        return np.asarray(score, np.float32)

    def apply(self, table: ScoreTable) -> Array:
        """The score of every sample of a table, (N,) float32.

        Raises:
            TableError: the table lacks the exit, a confidence, or its top classes.
        """
        features = _Features.of(table, self.exit)
        if features.margin is None and self.margin:
            table.scores(MARGIN)
        if features.second is None and any(self.second):
            raise TableError(
                f"this learned score needs the two top classes, the table has none of "
                f"{self.exit!r}: score that model again"
            )
        return features.score(self)


def deferral_score(score: DeferralScore, logits: Array) -> Array:
    """A learned score from logits, (N, C) -> (N,) float32.

    >>> score = DeferralScore("tiny", "big", 0.0, 1.0, 0.0, first=(0.0, -0.5))
    >>> deferral_score(score, np.array([[1, 1], [0, 2]], np.float32)).round(3).tolist()
    [0.0, 1.5]
    """
    first = logits.argmax(1)
    second = None
    if score.second:
        power = np.exp(logits - logits.max(1, keepdims=True))
        np.put_along_axis(power, first[:, None], -1, axis=1)
        second = power.argmax(1)
    return score.of(max_softmax(logits), margin(logits), first, second)


def fit_deferral(table: ScoreTable, little: str, reference: str) -> DeferralScore:
    """The score that is learned from all samples of a table, which should be the tune split.

    The target is 1 where the little model is right, 0 where only the reference is, and 1/2
    where both are wrong: nothing is lost there, but rare losses alone are too few to learn from.
    With few samples of either kind the score is the log-odds, which orders like max softmax.

    Raises:
        TableError: unknown exits, or top probabilities outside 0 to 1.
    """
    targets = _targets(table, little, reference)
    return _fitted(_Features.of(table, little), targets, little, reference)[0]


def cross_fitted(
    table: ScoreTable, little: str, reference: str, fold: Array
) -> tuple[DeferralScore, npt.NDArray[np.float32]]:
    """The score, and for choosing thresholds its value (N,) for every sample by a fit to the
    samples of other folds; `fold` (N,) numbers them."""
    features, targets = _Features.of(table, little), _targets(table, little, reference)
    whole, start = _fitted(features, targets, little, reference)
    values = np.empty(len(table), np.float32)
    for number in np.unique(fold):
        inside = fold == number
        part, _ = _fitted(features.rows(~inside), targets[~inside], little, reference, start)
        values[inside] = features.rows(inside).score(part)
    return whole, values


def folds_of(table: ScoreTable, *, folds: int = FOLDS) -> npt.NDArray[np.intp]:
    """The number of every sample's fold (N,), by a hash of its id; folds are equal in size."""
    order = np.argsort(uniform(table.ids, salt=b"-folds"), kind="stable")
    return np.argsort(order) % folds


def with_deferral(
    table: ScoreTable,
    reference: str,
    *,
    littles: Sequence[str] | None = None,
    fit_on: str = "tune",
    unit: str | None = None,
) -> ScoreTable:
    """The table with the confidence `deferral`, learned on one split for each cheaper exit.

    On the split it was learned on the rows are cross-fitted, elsewhere they are those of the whole
    fit, which the provenance keeps under the same name and which a running cascade applies: there
    alone its answers are those of `evaluate`. Other exits hold their max softmax.

    Args:
        littles: the exits to learn a score for; all that are cheaper than the reference if None.
        fit_on: the split that is learned from.

    >>> rows = np.random.default_rng(0).dirichlet([.5, .5, .5], 400)
    >>> labels = (rows.cumsum(1) > np.random.default_rng(1).random((400, 1))).argmax(1)
    >>> table = ScoreTable.from_probabilities(
    ...     {"tiny": rows, "big": np.eye(3)[labels]}, labels,
    ...     costs={"tiny": 1, "big": 9})
    >>> learned = with_deferral(table, "big")
    >>> sorted(learned.confidence)
    ['deferral', 'margin', 'max_softmax', 'negative_entropy', 'pnorm_max_logit']

    Raises:
        TableError: unknown names, or top probabilities outside 0 to 1.
    """
    import scipy.optimize  # noqa: F401  (its BLAS has to be loaded to be limited)
    from threadpoolctl import threadpool_limits

    if littles is None:
        littles = cheaper_models(table, reference, unit=unit)
    part = table.on(fit_on)
    fold = folds_of(part)
    with threadpool_limits(1, "blas"):  # the fits are small: a team of threads would only wait
        found = {name: cross_fitted(part, name, reference, fold) for name in littles}
    wider = with_scores(table, {name: score for name, (score, _) in found.items()})
    rows = wider.confidence[LEARNED].copy()
    inside = slice(None) if fit_on == ALL else table.split == SPLITS.index(fit_on)
    for name, (_, values) in found.items():
        rows[table.index(name), inside] = values
    return replace(wider, confidence={**wider.confidence, LEARNED: rows})


def with_scores(table: ScoreTable, scores: Mapping[str, DeferralScore]) -> ScoreTable:
    """The table with the confidence `deferral` from scores that were learned before, by exit.

    Raises:
        TableError: the table lacks an exit, a confidence, or its top classes.
    """
    rows = table.scores(DEFAULT_CONFIDENCE).astype(np.float32)
    for name, score in scores.items():
        rows[table.index(name)] = score.apply(table)
    coefficients = {name: score.to_dict() for name, score in scores.items()}
    return replace(
        table,
        confidence={**table.confidence, LEARNED: rows},
        provenance={**table.provenance, LEARNED: coefficients},
    )


def scores_of(provenance: Mapping[str, Any]) -> dict[str, DeferralScore]:
    """The scores that `with_deferral` left in a table's provenance, by exit."""
    scores = provenance.get(LEARNED, {})
    return {name: DeferralScore.from_dict(data) for name, data in scores.items()}


@dataclass(frozen=True, eq=False)
class _Features:
    """The inputs of the score, each (N,); None for what the table lacks.

    `kinds` are the top classes, and the second classes, that are frequent enough to learn from.
    """

    top: Array
    margin: Array | None
    first: Array
    second: Array | None
    kinds: tuple[Array, Array]

    @staticmethod
    def of(table: ScoreTable, exit: str) -> _Features:
        row = table.index(exit)
        top = table.scores(DEFAULT_CONFIDENCE)[row]
        low, high = float(top.min()), float(top.max())
        if low < 0 or high > 1:
            raise TableError(
                f"a score is learned from probabilities, {DEFAULT_CONFIDENCE} of {exit!r} lies "
                f"between {low:g} and {high:g}: name another confidence"
            )
        margin = table.confidence.get(MARGIN)
        detail = table.details.get(exit)
        known = detail is not None and detail.top_classes.shape[1] > 1
        second = detail.top_classes[:, 1] if detail is not None and known else None
        first = table.prediction[row]
        kinds = _frequent(first), np.empty(0, np.intp) if second is None else _frequent(second)
        return _Features(top, None if margin is None else margin[row], first, second, kinds)

    def score(self, score: DeferralScore) -> Array:
        margin = np.zeros(len(self.top)) if self.margin is None else self.margin
        return score.of(self.top, margin, self.first, self.second)

    def rows(self, index: Array) -> _Features:
        margin = None if self.margin is None else self.margin[index]
        second = None if self.second is None else self.second[index]
        return _Features(self.top[index], margin, self.first[index], second, self.kinds)


def _targets(table: ScoreTable, little: str, reference: str) -> Array:
    right = table.right(reference)
    first, big = right[table.index(little)], right[table.index(reference)]
    return np.where(first, 1.0, np.where(big, 0.0, 0.5))


def _fitted(
    inputs: _Features, targets: Array, little: str, reference: str, start: Array | None = None
) -> tuple[DeferralScore, Array | None]:
    """The score, and the scaled weights from which a fit to similar samples may start."""
    if min((targets == 1).sum(), (targets < 1).sum()) < _LEAST:
        return DeferralScore(little, reference, 0.0, 1.0, 0.0), None
    design = _Design.of(inputs)
    scaled = design.regressed(targets, start)
    bias, log_odds, margin, *of_class = (scaled / design.scale).tolist()
    kinds, first = len(inputs.kinds[0]), inputs.kinds[0]
    score = DeferralScore(
        little,
        reference,
        bias,
        log_odds,
        margin,
        _by_class(first, np.array(of_class[:kinds])),
        _by_class(inputs.kinds[1], np.array(of_class[kinds:])),
    )
    return score, scaled


@dataclass(frozen=True, eq=False)
class _Design:
    """The regression's inputs: log-odds and margin (N,), and for the first and the second class
    the column of each sample, one behind the last where the class is rare.

    `scale` (F,) is what a weight is multiplied by, so that all are expected to be alike in size.
    """

    log_odds: Array
    margin: Array
    columns: tuple[tuple[Array, int], ...]
    scale: Array

    @staticmethod
    def of(inputs: _Features) -> _Design:
        inside = np.clip(inputs.top.astype(np.float64), CLIP, 1 - CLIP)
        log_odds = np.log(inside / (1 - inside))
        margin = np.zeros(len(inside)) if inputs.margin is None else inputs.margin.astype(float)
        spread = [max(float(values.std()), _LEAST_SD) for values in (log_odds, margin)]
        columns = []
        for classes, kinds in zip((inputs.first, inputs.second), inputs.kinds, strict=True):
            if classes is None:
                continue
            column = np.full(max(int(classes.max()), int(kinds.max(initial=0))) + 1, len(kinds))
            column[kinds] = np.arange(len(kinds))
            columns.append((column[classes], len(kinds)))
        total = sum(count for _, count in columns)
        scale = np.array([1.0, *spread, *[_OF_CLASS] * total])
        return _Design(log_odds / spread[0], margin / spread[1], tuple(columns), scale)

    def regressed(self, targets: Array, start: Array | None) -> Array:
        """The scaled weights (F,) of a ridge logistic regression; the bias is free.

        A target of 1/2 is half a sample of either kind.
        """
        from scipy.optimize import minimize

        penalty = np.full(len(self.scale), 1 / _PENALTY)
        penalty[0] = 0.0

        def loss(weights: Array) -> tuple[float, Array]:
            score = self._score(weights)
            small = np.exp(-np.abs(score))
            chance = np.where(score >= 0, 1.0, small) / (1 + small)
            value = np.maximum(score, 0) + np.log1p(small) - targets * score
            shrunk = penalty * weights
            slope = self._slope(chance - targets) + shrunk
            return float(value.sum() + shrunk @ weights / 2), slope

        first = np.zeros(len(self.scale)) if start is None else start
        found = minimize(loss, first, jac=True, method="L-BFGS-B", options=_PRECISION)
        return np.asarray(found.x, np.float64)

    def _score(self, weights: Array) -> Array:
        score, at = weights[0] + self.log_odds * weights[1] + self.margin * weights[2], 3
        for column, count in self.columns:
            score += np.append(weights[at : at + count] / _OF_CLASS, 0.0)[column]
            at += count
        return np.asarray(score, np.float64)

    def _slope(self, residual: Array) -> Array:
        sums = [
            np.bincount(column, residual, count + 1)[:count] / _OF_CLASS
            for column, count in self.columns
        ]
        numbers = [residual.sum(), (residual * self.log_odds).sum(), (residual * self.margin).sum()]
        return np.concatenate([numbers, *sums])


def _frequent(classes: Array) -> npt.NDArray[np.intp]:
    return np.flatnonzero(np.bincount(classes) >= _LEAST)


def _by_class(classes: Array, weights: Array) -> tuple[float, ...]:
    table = np.zeros(int(classes.max()) + 1 if len(classes) else 0)
    table[classes] = weights
    return tuple(table.tolist())


def _weight(weights: tuple[float, ...], classes: Array) -> Array:
    """The weight of each class (N,); 0 beyond the end."""
    padded = np.append(weights, 0.0)
    return np.asarray(padded[np.minimum(classes, len(weights))])
