"""How sure an exit is, from its logits (NumPy). `nn.confidence` holds the same functions for
tensors.

Higher is surer; any real number. The five are those of the deferral literature: max softmax
(Hendrycks & Gimpel 2017), margin, negative entropy, energy (Liu et al. 2020) and the max logit over
the p-norm of the centred logits (Cattelan & Silva, arXiv 2305.15508, with p = 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError

CONFIDENCES = ("max_softmax", "margin", "negative_entropy", "energy", "pnorm_max_logit")
PNORM = 4

Array = npt.NDArray[Any]


def confidences_of(log_probability: Array) -> dict[str, Array]:
    """All confidences that log-probabilities (N, C) carry, each (N,) float32.

    Energy is missing: it needs logits before they were normalised.

    >>> rows = confidences_of(np.log(np.array([[0.5, 0.25, 0.25]])))
    >>> {name: round(float(values[0]), 4) for name, values in rows.items()}
    {'max_softmax': 0.5, 'margin': 0.25, 'negative_entropy': -1.0397, 'pnorm_max_logit': 0.971}
    """
    probability = np.exp(log_probability)
    return {
        "max_softmax": probability.max(1).astype(np.float32),
        "margin": _margin(probability).astype(np.float32),
        "negative_entropy": (probability * log_probability).sum(1).astype(np.float32),
        "pnorm_max_logit": _pnorm_max(log_probability).astype(np.float32),
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
    wrong = ~(np.abs(total - 1) < 1e-2) | (values < 0).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        raise TableError(
            f"probabilities are not negative and sum to 1, {int(wrong.sum())} rows of exit "
            f"{name!r} do not (row {row} sums to {total[row]:.4g}): apply a softmax first"
        )
    return np.asarray(np.log(np.maximum(values / total[:, None], 1e-12)))


def _margin(probability: Array) -> Array:
    if probability.shape[1] == 1:
        return np.asarray(probability[:, 0])
    top = np.partition(probability, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def _pnorm_max(logits: Array) -> Array:
    centred = logits - logits.mean(1, keepdims=True)
    scale = np.abs(centred).max(1, keepdims=True)
    safe = np.where(scale > 0, scale, 1.0)
    norm = (np.abs(centred / safe) ** PNORM).sum(1) ** (1 / PNORM)
    return np.asarray(centred.max(1) / np.where(scale[:, 0] > 0, norm * safe[:, 0], 1.0))
