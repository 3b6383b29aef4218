"""What is known of a model before it is scored: its classes, its cost, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from understudy.errors import DataError, ModelError
from understudy.nn.cost import count_macs
from understudy.nn.stage import Stage
from understudy.scoring.said import Array


@dataclass(frozen=True)
class Exam:
    """One model seen on one image: plain JSON for the exit's origin, MACs per sample, classes."""

    origin: Mapping[str, Any]
    macs: float
    classes: int


def examine(stage: Stage, image: Tensor) -> Exam:
    """Run a stage on one image and count what it does.

    Raises:
        ModelError: it returns no logits (N, C).
        DataError: it cannot take such an image.
    """
    classes = int(stage([image]).shape[1])
    count = count_macs(stage, image)
    origin = {
        **stage.to_origin(),
        "classes": classes,
        "parameters": sum(parameter.numel() for parameter in stage.parameters()),
        "uncounted": list(count.uncounted),
    }
    return Exam(origin, count.total, classes)


def check_together(classes: Mapping[str, int]) -> int:
    """The number of classes that all models tell.

    Raises:
        ModelError: they differ.
    """
    if len(set(classes.values())) > 1:
        raise ModelError(
            f"all models of a table tell the same classes, found {dict(classes)}: "
            "leave some out, or load them with ?classes=N and a fitting checkpoint"
        )
    return next(iter(classes.values()))


def check_classes(names: Iterable[str] | None, classes: int, *, data: str) -> None:
    """Refuse class names that are not as many as the models' classes: their numbers would differ.

    Raises:
        DataError: the message has both counts.
    """
    count = classes if names is None else len(list(names))
    if count != classes:
        raise DataError(
            f"class numbers follow the classes' names, {data} has {count} names where the models "
            f"tell {classes} classes: give one name (one folder) per class"
        )


def check_labels(labels: Array | None, classes: int, *, data: str) -> None:
    """Refuse labels that the models cannot answer.

    Raises:
        DataError: the message counts them and has their range.
    """
    if labels is None or not len(labels):
        return
    wrong = int(((labels < 0) | (labels >= classes)).sum())
    if wrong:
        raise DataError(
            f"labels are class numbers from 0 to {classes - 1}, {wrong} of {len(labels)} in {data} "
            f"lie outside (found {labels.min()} to {labels.max()}): check the label column and the "
            "models' classes"
        )
