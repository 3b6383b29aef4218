"""What data and models have to agree on: how many classes there are, and their numbers."""

from __future__ import annotations

from collections.abc import Iterable

from understudy.errors import DataError
from understudy.zoo.data import Array


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
