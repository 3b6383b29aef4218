"""How sure an exit is, from its logits (tensors). `understudy.confidence` holds the NumPy twins.

All are computed in float32 whatever the dtype of the logits, on the device the logits are on; NaN
in a row of logits gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from understudy.confidence import PNORM

LOWEST = torch.finfo(torch.float32).min  # times the probability 0 it is 0, where -inf would be NaN


def max_softmax(logits: Tensor) -> Tensor:
    """The probability of the top class, (N, C) -> (N,) (Hendrycks & Gimpel 2017)."""
    return logits.float().softmax(1).amax(1)


def margin(logits: Tensor) -> Tensor:
    """The probability of the top class minus the second's, (N, C) -> (N,).

    With one class it is that class's probability.
    """
    probability = logits.float().softmax(1)
    if probability.shape[1] == 1:
        return probability[:, 0]
    top = probability.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def negative_entropy(logits: Tensor) -> Tensor:
    """Minus the entropy of the softmax in nats, (N, C) -> (N,); at most 0."""
    log_probability = logits.float().log_softmax(1).clamp_min(LOWEST)
    return (log_probability.exp() * log_probability).sum(1)


def energy(logits: Tensor) -> Tensor:
    """The log-sum-exp of the logits, (N, C) -> (N,) (Liu et al. 2020, negated)."""
    return logits.float().logsumexp(1)


def pnorm_max_logit(logits: Tensor) -> Tensor:
    """The top centred logit over the 4-norm of all, (N, C) -> (N,); 0 where all are equal.

    Cattelan & Silva, arXiv 2305.15508.
    """
    values = logits.float()
    centred = values - values.mean(1, keepdim=True)
    scale = centred.abs().amax(1, keepdim=True)
    unit = centred / scale.masked_fill(scale == 0, 1.0)
    norm = (unit**PNORM).sum(1) ** (1 / PNORM)
    return unit.amax(1) / norm.masked_fill(norm == 0, 1.0)


confidence_functions: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "max_softmax": max_softmax,
        "margin": margin,
        "negative_entropy": negative_entropy,
        "energy": energy,
        "pnorm_max_logit": pnorm_max_logit,
    }
)
"""The confidences by name, each (N, C) logits -> (N,) float32; higher is surer."""


def acceptance_floor(threshold: float) -> float:
    """The smallest float32 that is not below a float64 threshold.

    A float32 confidence reaches the floor exactly where it reaches the threshold in float64, so
    that a comparison on the device decides like `understudy.policy.accepts`. (Compared with the
    threshold itself, a tensor would first round it to float32, in either direction.)

    >>> acceptance_floor(0.5), acceptance_floor(0.1) >= 0.1
    (0.5, True)
    """
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
        if math.isinf(threshold) or float(nearest) >= threshold:
            return float(nearest)
        return float(np.nextafter(nearest, np.float32(np.inf)))
