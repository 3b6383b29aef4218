"""Gatekeeper's loss: a little model learns to be sure where it is right, and unsure elsewhere."""

from __future__ import annotations

from math import log

from torch import Tensor

from understudy.training.targets import Targets


def gatekeeper_losses(logits: Tensor, targets: Targets, *, alpha: float) -> Tensor:
    """The loss of every sample at every exit, (N, E), from logits (N, E, C).

    Where an answer is right: `alpha` times its cross-entropy. Where it is wrong: 1 - `alpha` times
    the divergence of its probabilities from equal ones (Rabanser et al., arXiv 2502.19335, eq. 4).
    A small `alpha` makes a model that defers what it does not know, at the price of accuracy.

    >>> import torch
    >>> targets = Targets({}, labels=torch.tensor([0, 1]), backbone=None)
    >>> sure = torch.tensor([[[9.0, 0.0]], [[9.0, 0.0]]])
    >>> gatekeeper_losses(sure, targets, alpha=0.5).round(decimals=3)
    tensor([[0.0000],
            [0.3460]])
    """
    log_probability = logits.float().log_softmax(2)
    truth = targets.truth()[:, None, None].expand(-1, logits.shape[1], 1)
    cross_entropy = -log_probability.gather(2, truth).squeeze(2)
    divergence = log(logits.shape[2]) + (log_probability.exp() * log_probability).sum(2)
    right = logits.argmax(2) == truth.squeeze(2)
    return (alpha * cross_entropy).where(right, (1 - alpha) * divergence)
