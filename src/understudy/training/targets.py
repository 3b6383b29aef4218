"""What exits are taught: labels, the backbone's answers, and how much each sample weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.training.config import TrainingConfig
from understudy.training.features import SAVER_LOGITS, Features
from understudy.training.hold_out import Array, Order
from understudy.training.source import FeatureSource

Teacher = Callable[[Features], Tensor]
"""The backbone's logits (N, C) of some features."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Some samples to learn from, or to be checked on.

    Attributes:
        features: what heads read.
        labels: (N,) classes, or None.
        taught: (N, C) the backbone's logits, or None where they are not learnt.
    """

    features: Features
    labels: Tensor | None
    taught: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    def truth(self) -> Tensor:
        """What is right, (N,): the labels, or the backbone's answer where there are none."""
        if self.labels is not None:
            return self.labels
        assert self.taught is not None, "an exit learns from one of the two"
        return self.taught.argmax(1)


@dataclass(frozen=True, eq=False)
class TargetSet:
    """A source of features, with what is to be learnt of each sample.

    Attributes:
        source: gives features.
        labels: (N,) classes of all images, or None.
        teacher: makes the backbone's logits of features, or None.
        device: where lessons are wanted.
    """

    source: FeatureSource
    labels: Array | None
    teacher: Teacher | None
    device: torch.device

    def of(self, order: Order, *, size: int) -> Iterator[Targets]:
        """TargetSet of `size` samples; corrupt images are left out."""
        for positions, kept in self.source.batches(order, size=size):
            features = {name: value.to(self.device) for name, value in kept.items()}
            labels = None
            if self.labels is not None:
                labels = torch.from_numpy(self.labels[positions]).long().to(self.device)
            taught = None if self.teacher is None else self.teacher(features)
            yield Targets(features, labels, taught)


def losses(
    logits: Tensor, lesson: Targets, recipe: TrainingConfig, *, smoothing: float = 0.0
) -> Tensor:
    """The loss of every sample at every exit, (N, E), from logits (N, E, C).

    >>> lesson = Targets({}, labels=torch.tensor([1]), taught=None)
    >>> losses(torch.zeros(1, 2, 3), lesson, TrainingConfig())
    tensor([[1.0986, 1.0986]])
    """
    wanted = recipe.targets
    if wanted == "labels":
        return _hard(logits, lesson, smoothing)
    soft = _soft(logits, lesson, recipe.temperature)
    if wanted == "backbone":
        return soft
    return recipe.share * soft + (1 - recipe.share) * _hard(logits, lesson, smoothing)


def weights(lesson: Targets, answers: Sequence[Tensor], recipe: TrainingConfig) -> list[Tensor]:
    """How much every sample weighs at the exits of each learner, (N, 1) or (N, E).

    Args:
        lesson: the samples.
        answers: the logits (N, E, C) of each learner, the first exit's in front.
        recipe: says how samples weigh.
    """
    alike = torch.ones(len(lesson), 1, device=answers[0].device)
    if recipe.weights == "even":
        return [alike for _ in answers]
    if recipe.weights == "tinysaver":
        return [_doubt(lesson.features[SAVER_LOGITS]) for _ in answers]
    doubt = _doubt(answers[0][:, 0].detach())
    exits = answers[0].shape[1]
    return [torch.cat([alike, doubt.expand(-1, exits - 1)], 1), *(doubt for _ in answers[1:])]


def _doubt(logits: Tensor) -> Tensor:
    """2 (1 - the largest probability), (N, 1)."""
    return 2 * (1 - logits.float().softmax(1).amax(1, keepdim=True))


def _hard(logits: Tensor, lesson: Targets, smoothing: float) -> Tensor:
    assert lesson.labels is not None, "labels are learnt where there are some"
    rows, exits, classes = logits.shape
    labels = lesson.labels.repeat_interleave(exits)
    flat = logits.float().reshape(-1, classes)
    loss = F.cross_entropy(flat, labels, reduction="none", label_smoothing=smoothing)
    return loss.view(rows, exits)


def _soft(logits: Tensor, lesson: Targets, temperature: float) -> Tensor:
    assert lesson.taught is not None, "the backbone's answers are learnt where there are some"
    aim = (lesson.taught.float() / temperature).softmax(1).unsqueeze(1)
    said = (logits.float() / temperature).log_softmax(2)
    return -(aim * said).sum(2) * temperature**2
