"""Images for a student, with the answers of its teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exit_digits import big, small
from understudy.errors import ModelError
from understudy.nn.stage import Stage
from understudy.runtime.fitting_parts import FittingParts
from understudy.training.augmentation import Augmentation
from understudy.training.features import CLASSIFIER_INPUT, LOGITS, TrainingImages
from understudy.training.sampling import SampleOrder
from understudy.training.teacher_answers import (
    IMAGES,
    HeldOutAnswers,
    StudentImages,
    TeacherAnswers,
)
from understudy.zoo.data import open_data

DIGITS = open_data("digits:train")
SOME = torch.stack([DIGITS.image(number) for number in range(70)])


def answered(stage: Stage) -> list[int]:
    """How many images the model answers, by run from now on."""
    found: list[int] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
        found.append(len(args[0]))

    stage.model.register_forward_hook(note)
    return found


def test_they_are_those_of_both_stages_and_can_be_trained_on() -> None:
    """In parts; also in full precision, and with the input of the classifier."""
    teacher, student = big(), small()
    student.model.train()
    runs = answered(teacher)
    extract = TeacherAnswers(teacher, StudentImages(student), classifier="linear")
    found = extract(SOME)
    assert student.model.training  # the format is tried in eval mode, which does not stay
    assert max(runs) == 32
    assert torch.equal(found[IMAGES], student.prepare(SOME))
    torch.testing.assert_close(found[LOGITS], teacher(SOME))
    layer = teacher.model.get_submodule("linear")
    torch.testing.assert_close(layer(found[CLASSIFIER_INPUT]), found[LOGITS])
    torch.autograd.backward(layer(found[CLASSIFIER_INPUT]).sum())
    assert not any(value.is_inference() for value in found.values())
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_logits_that_are_not_finite_are_refused() -> None:
    teacher = big()
    nn.init.constant_(teacher.model.get_parameter("linear.bias"), torch.nan)
    with pytest.raises(ModelError, match="found 700 that are not in 70 answers"):
        TeacherAnswers(teacher, StudentImages(small()))(SOME)


def test_a_teacher_for_which_memory_runs_out_gets_smaller_parts() -> None:
    class Large(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x.flatten(1))

    teacher = Stage(Large(64, 10), preprocess=big().preprocess)
    found = TeacherAnswers(teacher, StudentImages(small()))(SOME)
    assert found[LOGITS].shape == (70, 10)
    assert FittingParts(size=32, too_large="").size == 32


def test_images_held_out_are_answered_once() -> None:
    teacher, student = big(), StudentImages(small())
    images = TrainingImages(DIGITS, Augmentation(shift=0.1, flip=False, seed=0), student, 0)
    positions = np.arange(5, 105)
    order = SampleOrder(positions, np.zeros(100, np.int64))
    held = HeldOutAnswers(images, TeacherAnswers(teacher, student, classifier="linear"), student)
    runs = answered(teacher)
    first = list(held.batches(order, size=40))
    count = sum(runs)
    again = list(held.batches(order, size=64))
    some = list(held.batches(SampleOrder(positions[::7], order.views[::7]), size=64))
    assert sum(runs) == count == 100 + 4  # two images in both formats
    for name in (IMAGES, LOGITS, CLASSIFIER_INPUT):
        whole = torch.cat([batch.features[name] for batch in first])
        assert torch.equal(whole, torch.cat([batch.features[name] for batch in again]))
        assert torch.equal(whole[::7], torch.cat([batch.features[name] for batch in some]))
    assert not len(held.corrupt())
