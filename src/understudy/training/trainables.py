"""What learns in a network, and how it answers from features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from understudy.early_exit.heads import Head, PooledHead
from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.stages import ESN
from understudy.training.features import CLASSIFIED, SAVER, SAVER_LOGITS, Features, feature_of

CLASSIFIER = "classifier"


@dataclass(frozen=True, eq=False)
class Trainable:
    """A module that learns.

    Attributes:
        module: what learns.
        exits: the names of the exits whose logits it gives.
        answer: features -> logits (N, E, C).
    """

    module: nn.Module
    exits: tuple[str, ...]
    answer: Callable[[Features], Tensor]


def trainables_of(network: ExitNetwork) -> tuple[Trainable, ...]:
    """What learns in a network: every head, and its Exit Sequence Network as one."""
    paths = [tap.path for tap in network.taps]
    found = []
    for point in network.locations:
        head, path = network.head(point), paths[point.tap]
        answer = partial(_ask_head, head, feature_of(path, head.reduction))
        found.append(Trainable(head, (f"{path}/{point.head}",), answer))
    if network.saver_branch is not None:
        sequence = network.saver_branch.sequence
        pooled = [SAVER, *(feature_of(path, PooledHead.reduction) for path in paths)]
        exits = tuple(f"{path}/{ESN}" for path in paths)
        found.append(Trainable(sequence, exits, partial(_ask_sequence, sequence, pooled)))
    return tuple(found)


def trainable_of_classifier(classifier: nn.Module) -> Trainable:
    """The backbone's own last layer."""
    return Trainable(classifier, (CLASSIFIER,), partial(_ask_classifier, classifier))


def _ask_head(head: Head, feature: str, features: Features) -> Tensor:
    dtype, told = _dtype(head), None
    if head.saver_width:
        told = torch.cat([features[SAVER], features[SAVER_LOGITS]], 1).to(dtype)
    logits: Tensor = head(features[feature].to(dtype), told)
    return logits.unsqueeze(1)


def _ask_sequence(sequence: nn.Module, pooled: Sequence[str], features: Features) -> Tensor:
    logits: Tensor = sequence([features[name] for name in pooled], features[SAVER_LOGITS].float())
    return logits


def _ask_classifier(classifier: nn.Module, features: Features) -> Tensor:
    return classified(classifier, features).unsqueeze(1)


def classified(classifier: nn.Module, features: Features) -> Tensor:
    """The logits (N, C) of the backbone's last layer."""
    logits: Tensor = classifier(features[CLASSIFIED].to(_dtype(classifier)))
    return logits


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters()), torch.float32)
