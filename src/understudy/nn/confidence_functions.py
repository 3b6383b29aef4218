"""Confidences from logits (tensors); `understudy.confidence_functions` has the NumPy twins.

All are computed in float32 whatever the dtype of the logits, on the device the logits are on; NaN
in a row of logits gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from understudy.deferral import CLIP, DeferralScore

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
    norm = unit.square().square().sum(1).sqrt().sqrt()  # a power would round by the batch's size
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


def deferral_score(score: DeferralScore, logits: Tensor) -> Tensor:
    """The score of every row, (N, C) -> (N,) float32, on the device of the logits.

    Computed in float64 where the device has it (in float32 on `mps`), from the float32
    probabilities that a table stores, so that both come to the same number.

    >>> score = DeferralScore("tiny", "big", 0.0, 1.0, 0.0, first=(0.0, -0.5))
    >>> deferral_score(score, torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    tensor([0.0000, 1.5000])
    """
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    top = max_softmax(logits).to(exact).clamp(CLIP, 1 - CLIP)
    total = score.bias + score.log_odds * (top / (1 - top)).log()
    total = total + score.margin * margin(logits).to(exact)
    total = total + _weight(score.first, logits.argmax(1), exact)
    if score.second:
        total = total + _weight(score.second, _second(logits), exact)
    return total.float()


def _second(logits: Tensor) -> Tensor:
    """The second class by probability, the earlier one where two are tied."""
    probability = logits.float().softmax(1)
    return probability.scatter(1, probability.argmax(1, keepdim=True), -1.0).argmax(1)


def _weight(weights: tuple[float, ...], classes: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of each class (N,); 0 beyond the end."""
    return _padded(weights, dtype, classes.device)[classes.clamp_max(len(weights))]


@lru_cache(maxsize=64)
def _padded(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights and a 0 behind them; kept, because an upload waits for the device."""
    with torch.inference_mode(False):
        return torch.tensor([*weights, 0.0], dtype=dtype, device=device)
