"""Features of a student: images as it takes them, with the answers of its teacher to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from understudy.errors import ModelError
from understudy.nn.execution_mode import PLAIN
from understudy.nn.stage import Images, Stage
from understudy.runtime.fitting_parts import FittingParts
from understudy.training.backbone import BackboneSettings, FrozenModel, ModelInput
from understudy.training.features import (
    LOGITS,
    WIDE,
    FeatureBatch,
    Features,
    StreamedFeatures,
    TrainingImages,
    extract,
)
from understudy.training.sampling import SampleOrder
from understudy.zoo.data import Array

IMAGES = "images"
"""The name of the images that a student takes, ready for its model."""


class StudentImages:
    """An extractor (`features.Extractor`) of images alone, ready for a student's model and in the
    memory format in which it is faster.

    Args:
        student: the model that is taught; its weights stay as they are.

    >>> from torch import nn
    >>> StudentImages(Stage(nn.Linear(4, 3)))(torch.zeros(2, 4))[IMAGES].shape
    torch.Size([2, 4])
    """

    def __init__(self, student: Stage) -> None:
        self._student = student
        self._input = ModelInput(student, BackboneSettings(PLAIN, student.device))

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return self._student.device

    @torch.no_grad()
    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The student's input (N, ...).

        Raises:
            DataError: images that the student cannot take.
        """
        return {IMAGES: self._input.prepare(images)}


class TeacherAnswers:
    """An extractor (`features.Extractor`) of a student's images and of a teacher's logits for the
    same views.

    Both are in full precision, since nothing is cached; they are ordinary tensors, which a backward
    pass may keep. The teacher runs in eval mode, on the device where it is, on parts of the images
    that fit into memory.

    Args:
        teacher: it answers the images as they are, before the student's preprocessing.
        images: those of its student.
        dtype: of the teacher's products.
        classifier: the module path of a layer of the teacher whose input is a feature as well.

    >>> from torch import nn
    >>> teacher, student = Stage(nn.Linear(4, 3)), Stage(nn.Linear(4, 3))
    >>> found = TeacherAnswers(teacher, StudentImages(student))(torch.zeros(2, 4))
    >>> {name: tuple(value.shape) for name, value in found.items()}
    {'images': (2, 4), 'logits': (2, 3)}
    """

    def __init__(
        self,
        teacher: Stage,
        images: StudentImages,
        *,
        dtype: torch.dtype = torch.float32,
        classifier: str | None = None,
    ) -> None:
        self._settings = BackboneSettings(PLAIN, teacher.device)
        self._teacher = FrozenModel(teacher, self._settings)
        self._images = images
        self._dtype = dtype
        self._classifier = classifier
        self._parts = FittingParts(
            size=self._settings.part,
            too_large="a teacher answers one image at least, found no memory for one on the "
            f"device {str(teacher.device)!r}: choose one with more",
        )

    @property
    def device(self) -> torch.device:
        """Where the teacher is."""
        return self._teacher.stage.device

    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The student's input (N, ...), and float32: the teacher's logits (N, C) and, where there
        is one, the input of its classifier (N, D).

        Raises:
            DataError: images that the student or the teacher cannot take.
            ModelError: the teacher's logits are not finite, or memory runs out on one image.
        """
        pieces = self._parts.run(len(images), lambda part: self._answers(images[part]))
        answers = _joined(pieces)
        lacking = int((~answers[LOGITS].isfinite()).sum())
        if lacking:
            raise ModelError(
                f"a teacher's logits are finite numbers, found {lacking} that are not in "
                f"{len(images)} answers: check its weights"
            )
        return self._images(images) | answers

    def _answers(self, images: Images) -> dict[str, Tensor]:
        autocast = torch.autocast(
            self.device.type, self._dtype, enabled=self._dtype != torch.float32
        )
        with self._settings.running(), autocast:
            found = extract(self._teacher, images, {}, input_of=self._classifier, logits=LOGITS)
        return {name: value.to(WIDE, copy=True) for name, value in found.items()}


class HeldOutAnswers:
    """A source of features (`features.FeatureSource`) of images that come again and again in their
    plain view: the teacher answers them once.

    Args:
        images: the images.
        teacher: its answers to them are kept, in main memory.
        student: makes what is not kept.
    """

    def __init__(
        self, images: TrainingImages, teacher: TeacherAnswers, student: StudentImages
    ) -> None:
        self._first = StreamedFeatures(images.by(teacher))
        self._again = StreamedFeatures(images.by(student))
        self._positions: Array | None = None
        self._answers: Mapping[str, Tensor] = {}

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded, as far as is known."""
        return self._first.corrupt()

    def add_corrupt(self, positions: Array) -> None:
        """Take note of images that an interrupted run could not decode."""
        self._first.add_corrupt(positions)

    def batches(self, order: SampleOrder, *, size: int) -> Iterator[FeatureBatch]:
        """Features in batches of `size`, without those of corrupt images; always in one order."""
        if self._positions is None:
            yield from self._answered(order, size=size)
            return
        for batch in self._again.batches(order, size=size):
            rows = torch.from_numpy(np.searchsorted(self._positions, batch.positions))
            kept = {name: values[rows] for name, values in self._answers.items()}
            yield batch._replace(features={**batch.features, **kept})

    def _answered(self, order: SampleOrder, *, size: int) -> Iterator[FeatureBatch]:
        """The first pass, whose answers are kept when it is complete."""
        positions, answers = [], []
        for batch in self._first.batches(order, size=size):
            positions.append(batch.positions)
            answers.append({k: v.cpu() for k, v in batch.features.items() if k != IMAGES})
            yield batch
        if answers:
            self._positions, self._answers = np.concatenate(positions), _joined(answers)


def _joined(pieces: Sequence[Features]) -> dict[str, Tensor]:
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
