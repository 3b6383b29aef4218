"""What is trained: heads, the Exit Sequence Network, a last layer, each with what it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from understudy.early_exit.heads import Head, PooledHead
from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.stages import ESN
from understudy.training.config import TrainingConfig
from understudy.training.features import (
    CLASSIFIER_INPUT,
    SAVER,
    SAVER_LOGITS,
    Features,
    feature_name,
)
from understudy.training.targets import Targets, losses

CLASSIFIER = "classifier"

Losses = Callable[[Tensor, Targets], Tensor]
"""Logits (N, E, C) and targets -> the loss of every sample at every exit, (N, E)."""

Judge = Callable[[Tensor, Targets], float]
"""Logits (N, E, C) of the images held out, and their targets -> what certified plans save."""


@dataclass(frozen=True, eq=False)
class Trainable:
    """A module that is trained.

    Attributes:
        module: the module.
        exits: the names of the exits whose logits it gives.
        logits: features -> logits (N, E, C).
        losses: what it learns.
        measured: the losses that are measured on the images held out.
        backbone: the part of the module that learns at `TrainingConfig.backbone_lr`.
        saving: judges an epoch by what a cascade saves; by default the measured losses do.
    """

    module: nn.Module
    exits: tuple[str, ...]
    logits: Callable[[Features], Tensor]
    losses: Losses
    measured: Losses
    backbone: nn.Module | None = None
    saving: Judge | None = None


def trainables_of(network: ExitNetwork, config: TrainingConfig) -> tuple[Trainable, ...]:
    """Every head of a network, and its Exit Sequence Network as one."""
    learned = losses_of(config)
    paths = [tap.path for tap in network.taps]
    found = []
    for point in network.locations:
        head, path = network.head(point), paths[point.tap]
        logits = partial(_head_logits, head, feature_name(path, head.reduction))
        found.append(Trainable(head, (f"{path}/{point.head}",), logits, *learned))
    if network.saver_branch is not None:
        sequence = network.saver_branch.sequence
        pooled = [SAVER, *(feature_name(path, PooledHead.reduction) for path in paths)]
        exits = tuple(f"{path}/{ESN}" for path in paths)
        found.append(
            Trainable(sequence, exits, partial(_sequence_logits, sequence, pooled), *learned)
        )
    return tuple(found)


def trainable_of_classifier(classifier: nn.Module, config: TrainingConfig) -> Trainable:
    """The backbone's own last layer."""
    return Trainable(
        classifier,
        (CLASSIFIER,),
        lambda features: classifier_logits(classifier, features).unsqueeze(1),
        *losses_of(config),
    )


def losses_of(config: TrainingConfig) -> tuple[Losses, Losses]:
    """What is learned, and what is measured on the images held out: that has no smoothed labels."""
    smoothed = partial(losses, config=config, smoothing=config.label_smoothing)
    return smoothed, partial(losses, config=config)


def _head_logits(head: Head, feature: str, features: Features) -> Tensor:
    dtype, saver_features = _dtype(head), None
    if head.saver_width:
        parts = [features[SAVER].to(dtype), features[SAVER_LOGITS].to(dtype)]
        saver_features = torch.cat(parts, 1)
    logits: Tensor = head(features[feature].to(dtype), saver_features)
    return logits.unsqueeze(1)


def _sequence_logits(sequence: nn.Module, pooled: Sequence[str], features: Features) -> Tensor:
    logits: Tensor = sequence([features[name] for name in pooled], features[SAVER_LOGITS].float())
    return logits


def classifier_logits(classifier: nn.Module, features: Features) -> Tensor:
    """The logits (N, C) of the backbone's last layer."""
    logits: Tensor = classifier(features[CLASSIFIER_INPUT].to(_dtype(classifier)))
    return logits


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters()), torch.float32)
