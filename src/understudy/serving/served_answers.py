"""The answer to one image of a request, as a service gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from understudy.runtime.protocol import Answer


class Served(NamedTuple):
    """The answer to one image of a request.

    Attributes:
        answer: of the cascade.
        request_id: of this image: that of its request, and its place where there are several.
        operating_point: the name of the one that answered; None for a policy that is none.
        cost: what the image cost, in the unit of the operating point; None where it is not known.
        classes: the names of the classes, or None.
    """

    answer: Answer
    request_id: str
    operating_point: str | None
    cost: float | None
    classes: tuple[str, ...] | None

    @property
    def class_name(self) -> str | None:
        """The name of the predicted class, where it is known."""
        return name_of(self.classes, self.answer.prediction)


def name_of(classes: Sequence[str] | None, number: int) -> str | None:
    """The name of a class, where it is known.

    >>> name_of(("cat", "dog"), 1), name_of(None, 1)
    ('dog', None)
    """
    return classes[number] if classes is not None and number < len(classes) else None
