"""Gatekeeper's loss, beside its formula sample by sample."""

from __future__ import annotations

import math

import pytest
import torch

from understudy.training.gatekeeper import gatekeeper_losses
from understudy.training.targets import Targets


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_it_is_the_formula(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 2, 7, generator=generator)
    labels = torch.randint(0, 7, (50,), generator=generator)
    found = gatekeeper_losses(logits, Targets({}, labels, None), alpha=alpha)
    for row in range(50):
        for exit in range(2):
            p = logits[row, exit].softmax(0).tolist()
            truth = int(labels[row])
            if p.index(max(p)) == truth:
                expected = -alpha * math.log(p[truth])
            else:
                expected = (1 - alpha) * sum(one * math.log(7 * one) for one in p)
            assert float(found[row, exit]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_without_labels_the_teacher_is_right_and_of_a_mixture_the_larger_part() -> None:
    logits = torch.tensor([[[4.0, 0.0]], [[4.0, 0.0]]])
    labels = torch.tensor([0, 1])
    expected = gatekeeper_losses(logits, Targets({}, labels, None), alpha=0.5)
    backbone = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(gatekeeper_losses(logits, Targets({}, None, backbone), alpha=0.5), expected)
    mixed = torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    assert torch.equal(gatekeeper_losses(logits, Targets({}, mixed, None), alpha=0.5), expected)


def test_a_wrong_answer_becomes_less_sure_and_a_right_one_surer() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0]], [[2.0, 0.0, 0.0]]], requires_grad=True)
    targets = Targets({}, torch.tensor([0, 1]), None)
    torch.autograd.backward(gatekeeper_losses(logits, targets, alpha=0.5).sum())
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0]) < 0 < float(logits.grad[1, 0, 0])
