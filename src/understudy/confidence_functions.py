"""Confidences of an exit, from its logits or probabilities (NumPy). `nn.confidence` holds the same
functions for tensors.

Higher is more confident; any real number. The five are those of the deferral literature: max
softmax (Hendrycks & Gimpel 2017), margin, negative entropy, energy (Liu et al. 2020) and the max
logit over the p-norm of the centred logits (Cattelan & Silva, arXiv 2305.15508, with p = 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError

Array = npt.NDArray[Any]
LEARNED = "deferral"  # the score that a search learns; see `deferral`
SUM_TOLERANCE = 1e-2  # by how much the sum of probabilities may be off before they are normalised
_SUM = 1e-3  # the same where they are only guessed to be probabilities, in half precision too


def softmax(logits: Array) -> Array:
    """Probabilities (N, C) of logits (N, C), in their dtype.

    >>> softmax(np.zeros((1, 2), np.float32)).tolist()
    [[0.5, 0.5]]
    """
    found = _Softmax.of(logits)
    return np.asarray(found.power / found.total[:, None])


def max_softmax(logits: Array) -> Array:
    """The probability of the top class, (N, C) -> (N,).

    >>> max_softmax(np.zeros((1, 4), np.float32))
    array([0.25], dtype=float32)
    """
    return _Softmax.of(logits).top()


def margin(logits: Array) -> Array:
    """The probability of the top class minus the second's, (N, C) -> (N,).

    With one class it is that class's probability.
    """
    return _Softmax.of(logits).margin()


def negative_entropy(logits: Array) -> Array:
    """Minus the entropy of the softmax in nats, (N, C) -> (N,); at most 0."""
    return _Softmax.of(logits).negative_entropy()


def energy(logits: Array) -> Array:
    """The log-sum-exp of the logits, (N, C) -> (N,)."""
    top = logits.max(1)
    base = np.where(np.isinf(top), np.float32(0), top)
    return np.asarray(base + np.log(np.exp(logits - base[:, None]).sum(1)))


def pnorm_max_logit(logits: Array) -> Array:
    """The top centred logit over the 4-norm of all, (N, C) -> (N,); 0 where all are equal."""
    centred = logits - logits.mean(1, keepdims=True)
    scale = np.abs(centred).max(1, keepdims=True)
    unit = centred / np.where(scale == 0, np.float32(1), scale)
    norm = np.sqrt(np.sqrt(np.square(np.square(unit)).sum(1)))
    return np.asarray(unit.max(1) / np.where(norm == 0, np.float32(1), norm))


confidence_functions: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "max_softmax": max_softmax,
        "margin": margin,
        "negative_entropy": negative_entropy,
        "energy": energy,
        "pnorm_max_logit": pnorm_max_logit,
    }
)
"""The confidences by name, each (N, C) logits -> (N,) of the same dtype. NaN gives NaN."""

CONFIDENCES = tuple(confidence_functions)


def confidences_of(log_probability: Array) -> dict[str, Array]:
    """All confidences that log-probabilities (N, C) carry, each (N,) float32.

    Energy is missing: it needs logits before they were normalised.

    >>> rows = confidences_of(np.log(np.array([[0.5, 0.25, 0.25]])))
    >>> {name: round(float(values[0]), 4) for name, values in rows.items()}
    {'max_softmax': 0.5, 'margin': 0.25, 'negative_entropy': -1.0397, 'pnorm_max_logit': 0.971}
    """
    softmax = _Softmax(log_probability, np.exp(log_probability), np.ones(len(log_probability)))
    return {
        "max_softmax": softmax.top().astype(np.float32),
        "margin": softmax.margin().astype(np.float32),
        "negative_entropy": softmax.negative_entropy().astype(np.float32),
        "pnorm_max_logit": pnorm_max_logit(log_probability).astype(np.float32),
    }


def log_probabilities(probability: Array, name: str) -> Array:
    """Checked log-probabilities of one exit, (N, C) float64; zeros become 1e-12.

    Raises:
        TableError: not two-dimensional, NaN, negative, or rows that do not sum to 1.
    """
    if probability.ndim != 2 or not probability.size:
        raise TableError(
            f"probabilities have the shape (samples, classes), exit {name!r} has "
            f"{probability.shape}"
        )
    values = probability.astype(np.float64)
    total = values.sum(1)
    wrong = ~(np.abs(total - 1) < SUM_TOLERANCE) | (values < 0).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        raise TableError(
            f"probabilities are not negative and sum to 1, {int(wrong.sum())} rows of exit "
            f"{name!r} do not (row {row} sums to {total[row]:.4g}): apply a softmax first, or use "
            "`ScoreTable.from_logits`"
        )
    return normalised_logs(values)


def normalised_logs(probability: Array) -> Array:
    """The logarithms of probabilities (N, C) whose rows are divided by their sums; zeros become
    1e-12, and rows with NaN are NaN.

    >>> normalised_logs(np.array([[0.99, 0.0]])).round(2).tolist()
    [[0.0, -27.63]]
    """
    shares = probability / probability.sum(1, keepdims=True)
    return np.asarray(np.log(np.maximum(shares, 1e-12)))


def are_probabilities(rows: Any) -> bool:
    """Whether all rows (N, C) lie between 0 and 1 and sum to 1: no logits do, but by design.

    Arrays and tensors; with one class nothing can be told.

    >>> are_probabilities(np.array([[0.9, 0.1]])), are_probabilities(np.array([[2.0, -1.0]]))
    (True, False)
    """
    inside = bool(((rows >= 0) & (rows <= 1)).all())
    return inside and rows.shape[1] > 1 and bool((abs(rows.sum(1) - 1) < _SUM).all())


def checked_logits(logits: Array, name: str) -> Array:
    """Logits of one exit as float64.

    Raises:
        TableError: NaN, or rows that are probabilities.
    """
    values = np.asarray(logits, np.float64)
    if np.isnan(values).any():
        raise TableError(f"logits are numbers, exit {name!r} has NaN: run that model again")
    if are_probabilities(values):
        raise TableError(
            f"logits are not normalised, the rows of exit {name!r} are probabilities (from 0 to 1, "
            "with the sum 1): use `ScoreTable.from_probabilities`"
        )
    return values


class _Softmax(NamedTuple):
    """A softmax before it is normalised: power / total, with power = exp(logarithm).

    Shapes: `logarithm` and `power` (N, C), `total` (N,).
    """

    logarithm: Array
    power: Array
    total: Array

    @staticmethod
    def of(logits: Array) -> _Softmax:
        shifted = logits - logits.max(1, keepdims=True)
        power = np.exp(shifted)
        return _Softmax(shifted, power, power.sum(1))

    def top(self) -> Array:
        return np.asarray(self.power.max(1) / self.total)

    def margin(self) -> Array:
        if self.power.shape[1] == 1:
            return self.top()
        top = np.partition(self.power, -2, axis=1)[:, -2:]
        return np.asarray((top[:, 1] - top[:, 0]) / self.total)

    def negative_entropy(self) -> Array:
        total = self.total[:, None]
        terms = self.power / total * (self.logarithm - np.log(total))
        return np.asarray(np.where(self.power == 0, 0, terms).sum(1))
