"""Features of a student: images as it takes them, with the answers of its teacher to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from understudy.errors import ModelError
from understudy.nn.stage import Images, Stage
from understudy.training.features import LOGITS

IMAGES = "images"
"""The name of the images that a student takes, ready for its model."""


class TeacherAnswers:
    """An extractor (`features.Extractor`) of images and of a teacher's logits for the same views.

    Both are in full precision, since nothing is cached; they are ordinary tensors, which a backward
    pass may keep. The teacher runs in eval mode, on the device where it is.

    Args:
        teacher: it answers the images as they are, before the student's preprocessing.
        student_prepare: images -> the input of the student's model, such as `Stage.prepare`.

    >>> from torch import nn
    >>> teacher, student = Stage(nn.Linear(4, 3)), Stage(nn.Linear(4, 3))
    >>> found = TeacherAnswers(teacher, student.prepare)(torch.zeros(2, 4))
    >>> {name: tuple(value.shape) for name, value in found.items()}
    {'images': (2, 4), 'logits': (2, 3)}
    """

    def __init__(self, teacher: Stage, student_prepare: Callable[[Images], Tensor]) -> None:
        self._teacher = teacher
        self._prepare = student_prepare

    @property
    def device(self) -> torch.device:
        """Where the teacher is."""
        return self._teacher.device

    @torch.no_grad()
    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The student's input (N, ...) and the teacher's logits (N, C), float32.

        Raises:
            DataError: images that the student or the teacher cannot take.
            ModelError: the teacher's logits are not finite.
        """
        logits = self._teacher(images).to(torch.float32, copy=True)
        if not logits.isfinite().all():
            raise ModelError(
                "a teacher's logits are finite numbers, found "
                f"{int((~logits.isfinite()).sum())} that are not in {len(logits)} answers: check "
                "its weights"
            )
        return {IMAGES: self._prepare(images), LOGITS: logits}
