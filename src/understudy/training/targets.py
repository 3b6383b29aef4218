"""What exits are trained towards: labels, the backbone's answers, and the weight of each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.errors import DataError
from understudy.training.config import TrainingConfig
from understudy.training.features import SAVER_LOGITS, FeatureBatch, Features, FeatureSource
from understudy.training.sampling import SampleOrder
from understudy.zoo.data import Array, DataSet

Teacher = Callable[[Features], Tensor]
"""Makes the backbone's logits (N, C) from features."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Some samples to train on, or to measure exits on.

    Attributes:
        features: the input of the heads.
        labels: (N,) classes, (N, C) probabilities of classes where images are mixed, or None.
        backbone: (N, C) the backbone's logits, or None where they are not a target.
    """

    features: Features
    labels: Tensor | None
    backbone: Tensor | None

    def __len__(self) -> int:
        return len(self.truth())

    def without_features(self) -> Targets:
        """The same without the input of the heads."""
        return Targets({}, self.labels, self.backbone)

    def truth(self) -> Tensor:
        """The correct classes, (N,): the labels, or the backbone's answers where there are none.

        Of a mixed image it is the class that has most of it.
        """
        if self.labels is not None:
            return self.labels if self.labels.ndim == 1 else self.labels.argmax(1)
        assert self.backbone is not None, "an exit learns from one of the two"
        return self.backbone.argmax(1)


@dataclass(frozen=True, eq=False)
class TargetSet:
    """A source of features, with the targets of each sample.

    Attributes:
        source: gives features.
        labels: (N,) classes of all images, or None.
        teacher: makes the backbone's logits, or None where they are not a target.
        device: where the targets of a batch are put.
        classes: how many there are; needed where images with labels are mixed.
    """

    source: FeatureSource
    labels: Array | None
    teacher: Teacher | None
    device: torch.device
    classes: int | None = None

    def batches(self, order: SampleOrder, *, size: int) -> Iterator[Targets]:
        """Targets of `size` samples; corrupt images are left out."""
        for batch in self.source.batches(order, size=size):
            features = {name: value.to(self.device) for name, value in batch.features.items()}
            labels = None if self.labels is None else self._labels(self.labels, batch)
            backbone = None if self.teacher is None else self.teacher(features)
            yield Targets(features, labels, backbone)

    def _labels(self, labels: Array, batch: FeatureBatch) -> Tensor:
        found = torch.from_numpy(labels[batch.positions]).long()
        if batch.mixture is None:
            return found.to(self.device)
        assert self.classes is not None, "labels that are mixed are probabilities of so many"
        return (batch.mixture @ F.one_hot(found, self.classes).float()).to(self.device)


def joined(parts: Sequence[Targets]) -> Targets:
    """The targets of several batches, without the input of the heads.

    >>> one = Targets({}, labels=torch.tensor([1]), backbone=None)
    >>> joined([one, one]).labels
    tensor([1, 1])
    """
    labels = [one.labels for one in parts if one.labels is not None]
    backbone = [one.backbone for one in parts if one.backbone is not None]
    return Targets(
        {}, torch.cat(labels) if labels else None, torch.cat(backbone) if backbone else None
    )


def losses(
    logits: Tensor, targets: Targets, config: TrainingConfig, *, smoothing: float = 0.0
) -> Tensor:
    """The loss of every sample at every exit, (N, E), from logits (N, E, C).

    >>> targets = Targets({}, labels=torch.tensor([1]), backbone=None)
    >>> losses(torch.zeros(1, 2, 3), targets, TrainingConfig())
    tensor([[1.0986, 1.0986]])
    """
    if config.targets == "labels":
        return _label_losses(logits, targets, smoothing)
    distilled = _distillation_losses(logits, targets, config.temperature)
    if config.targets == "backbone":
        return distilled
    labelled = _label_losses(logits, targets, smoothing)
    return config.share * distilled + (1 - config.share) * labelled


def weights(targets: Targets, logits: Sequence[Tensor], config: TrainingConfig) -> list[Tensor]:
    """The weight of every sample at the exits of each trainable, (N, 1) or (N, E).

    Args:
        targets: the samples.
        logits: those of each trainable, (N, E, C), the first exit's in front.
        config: `config.weights` is the rule.
    """
    even = torch.ones(len(targets), 1, device=logits[0].device)
    if config.weights == "even":
        return [even for _ in logits]
    if config.weights == "tinysaver":
        return [_doubt(targets.features[SAVER_LOGITS]) for _ in logits]
    doubt = _doubt(logits[0][:, 0].detach())
    exits = logits[0].shape[1]
    return [torch.cat([even, doubt.expand(-1, exits - 1)], 1), *(doubt for _ in logits[1:])]


def _doubt(logits: Tensor) -> Tensor:
    """2 (1 - the largest probability), (N, 1)."""
    return 2 * (1 - logits.float().softmax(1).amax(1, keepdim=True))


def _label_losses(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    assert targets.labels is not None, "labels are a target where there are some"
    rows, exits, classes = logits.shape
    labels = targets.labels.repeat_interleave(exits, 0)
    flat = logits.float().reshape(-1, classes)
    loss = F.cross_entropy(flat, labels, reduction="none", label_smoothing=smoothing)
    return loss.view(rows, exits)


def _distillation_losses(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    assert targets.backbone is not None, "the backbone's answers are a target where there are some"
    probability = (targets.backbone.float() / temperature).softmax(1).unsqueeze(1)
    log_probability = (logits.float() / temperature).log_softmax(2)
    return -(probability * log_probability).sum(2) * temperature**2


def check_targets(data: DataSet, classes: int, config: TrainingConfig, *, classifier: bool) -> None:
    """Refuse labels that exits of `classes` classes cannot learn.

    Raises:
        DataError: there are none where they are a target, they are not the network's classes, or
            all are one.
    """
    spec, labels = repr(data.spec), data.labels
    if labels is None:
        if config.targets != "backbone" or classifier:
            raise DataError(
                f"exits learn from labels, {spec} has none: take the backbone's answers as the "
                "targets and leave its classifier as it is, or give labelled images"
            )
        return
    data.check_classes(classes)
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"training tells classes apart, all {len(labels)} labels in {spec} are "
            f"{labels[0]}: give images of every class"
        )
