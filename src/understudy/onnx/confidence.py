"""How sure an exit is, from its logits (NumPy, float32): the twins of `nn.confidence`.

They agree with those of PyTorch up to float32's rounding. NaN in a row of logits gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence import PNORM
from understudy.deferral import DeferralScore

Array = npt.NDArray[Any]


def max_softmax(logits: Array) -> Array:
    """The probability of the top class, (N, C) -> (N,).

    >>> max_softmax(np.zeros((1, 4), np.float32))
    array([0.25], dtype=float32)
    """
    return np.asarray(1 / _powers(logits).sum(1))


def margin(logits: Array) -> Array:
    """The probability of the top class minus the second's, (N, C) -> (N,)."""
    powers = _powers(logits)
    if powers.shape[1] == 1:
        return np.asarray(powers[:, 0])
    top = np.partition(powers, -2, axis=1)[:, -2:]
    return np.asarray((top[:, 1] - top[:, 0]) / powers.sum(1))


def negative_entropy(logits: Array) -> Array:
    """Minus the entropy of the softmax in nats, (N, C) -> (N,); at most 0."""
    shifted = logits - logits.max(1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(1, keepdims=True)
    terms = np.where(powers == 0, 0, powers / total * (shifted - np.log(total)))
    return np.asarray(terms.sum(1))


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
    norm = (unit**PNORM).sum(1) ** np.float32(1 / PNORM)
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
"""The confidences by name, each (N, C) float32 logits -> (N,) float32; higher is surer."""


def deferral_score(score: DeferralScore, logits: Array) -> Array:
    """A learned score, (N, C) -> (N,) float32.

    >>> score = DeferralScore("tiny", "big", 0.0, 1.0, 0.0, first=(0.0, -0.5))
    >>> deferral_score(score, np.array([[1, 1], [0, 2]], np.float32)).round(3).tolist()
    [0.0, 1.5]
    """
    first = logits.argmax(1)
    second = None
    if score.second:
        powers = _powers(logits)
        np.put_along_axis(powers, first[:, None], -1, axis=1)
        second = powers.argmax(1)
    return score.of(max_softmax(logits), margin(logits), first, second)


def _powers(logits: Array) -> Array:
    """exp(logits - the largest), (N, C): the softmax before it is normalised."""
    return np.asarray(np.exp(logits - logits.max(1, keepdims=True)))
