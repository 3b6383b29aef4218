"""A learned deferral score as it runs: the tensor twin of `DeferralScore.of`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from understudy.deferral import CLIP, DeferralScore
from understudy.nn.confidence import margin, max_softmax


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
