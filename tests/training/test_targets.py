from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.training.config import TrainingConfig
from understudy.training.features import SAVER_LOGITS
from understudy.training.targets import Targets, losses, weights

SAVER = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2])
BACKBONE = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
TARGETS = Targets({SAVER_LOGITS: SAVER}, LABELS, BACKBONE)


def random_logits(*exits: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, count, 3, generator=generator) for count in exits]


def test_labels_are_learnt_by_cross_entropy() -> None:
    (logits,) = random_logits(4)
    found = losses(logits, TARGETS, TrainingConfig())
    assert found.shape == (2, 4)
    expected = -logits.log_softmax(2)[torch.arange(2), :, LABELS]
    torch.testing.assert_close(found, expected)
    smooth = losses(logits, TARGETS, TrainingConfig(), smoothing=0.3)
    torch.testing.assert_close(smooth, 0.7 * expected - 0.3 * logits.log_softmax(2).mean(2))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_backbone_is_learnt_best_by_its_own_random_logits(temperature: float) -> None:
    config = TrainingConfig(targets="backbone", temperature=temperature)
    same = BACKBONE[:, None].clone().requires_grad_()
    loss = losses(same, TARGETS, config)
    torch.autograd.backward(loss.sum())
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-6
    assert (losses(same + torch.tensor([1.0, 0.0, 0.0]), TARGETS, config) > loss).all()


def test_both_is_a_mixture() -> None:
    (logits,) = random_logits(2)
    hard, soft = (
        losses(logits, TARGETS, TrainingConfig(targets=t)) for t in ("labels", "backbone")
    )
    mixed = losses(logits, TARGETS, TrainingConfig(targets="both", share=0.25))
    torch.testing.assert_close(mixed, 0.25 * soft + 0.75 * hard)


def test_probabilities_are_learnt_as_the_labels_that_they_mix() -> None:
    (logits,) = random_logits(4)
    share = torch.tensor([[0.7], [0.2]])
    hard, other = F.one_hot(LABELS, 3).float(), F.one_hot(LABELS.roll(1), 3).float()
    mixed = Targets({}, share * hard + (1 - share) * other, BACKBONE)
    for settings in ({"targets": "labels"}, {"targets": "both", "share": 0.25}):
        config = TrainingConfig(**settings)
        one, two = (
            losses(logits, Targets({}, labels, BACKBONE), config, smoothing=0.1)
            for labels in (LABELS, LABELS.roll(1))
        )
        found = losses(logits, mixed, config, smoothing=0.1)
        torch.testing.assert_close(found, share * one + (1 - share) * two)
    assert mixed.truth().tolist() == [0, 0]
    assert len(mixed) == 2


def test_truth_is_the_labels_or_else_the_backbone() -> None:
    assert TARGETS.truth().tolist() == [0, 2]
    assert Targets({}, None, BACKBONE).truth().tolist() == [0, 1]


def test_even_weights() -> None:
    for weight in weights(TARGETS, random_logits(1, 2), TrainingConfig()):
        assert (weight == 1).all()


def test_tinysaver_weighs_by_the_doubt_of_the_saver() -> None:
    sure = 2 * (1 - math.exp(9) / (math.exp(9) + 2))
    for weight in weights(TARGETS, random_logits(1, 2), TrainingConfig(weights="tinysaver")):
        torch.testing.assert_close(weight, torch.tensor([[sure], [4 / 3]]))


def test_dyce_weighs_by_the_doubt_of_the_first_exit_which_itself_has_even_weights() -> None:
    """The released code leaves the first exit out of the loss."""
    logits = random_logits(1, 2)
    logits[0].requires_grad_()
    doubt = 2 * (1 - logits[0][:, 0].softmax(1).amax(1, keepdim=True))
    first, others = weights(TARGETS, logits, TrainingConfig(weights="dyce"))
    assert (first == 1).all()
    torch.testing.assert_close(others, doubt)
    assert not others.requires_grad
    (sequence,) = weights(TARGETS, random_logits(3), TrainingConfig(weights="dyce"))
    assert sequence.shape == (2, 3)
    assert (sequence[:, 0] == 1).all()
