"""The answers of a cascade, and the errors that stand for a missing answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy.typing as npt

from understudy.errors import UnderstudyError

Array = npt.NDArray[Any]

FAILED = -1
"""The prediction and the exit of a row that has no answer."""


class Answer(NamedTuple):
    """The answer to one sample: the class, the confidence and the exit that answered."""

    prediction: int
    confidence: float
    exit: str


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to a batch, with the exit that gave each.

    A row without an answer has the prediction and the exit -1 and the confidence NaN; `failed`
    holds the reason.

    Attributes:
        prediction: (N,) int64, the class.
        confidence: (N,) float32, the confidence of the exit that answered.
        exit: (N,) int64, positions in `exits`.
        exits: the names of the cascade's stages.
        failed: row -> the reason why it has no answer; empty in general.

    >>> import numpy as np
    >>> two = np.array([3, -1]), np.array([0.9, np.nan], np.float32), np.array([0, -1])
    >>> answers = Answers(*two, exits=("tiny", "big"), failed={1: "the logits of 'big' are NaN"})
    >>> answers.exit_names()
    ['tiny', '']
    """

    prediction: Array
    confidence: Array
    exit: Array
    exits: tuple[str, ...]
    failed: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return len(self.prediction)

    def exit_names(self) -> list[str]:
        """The name of the exit that answered, per row; empty for a row without an answer."""
        return ["" if n == FAILED else self.exits[n] for n in self.exit.tolist()]


class ExecutionError(UnderstudyError):
    """A request cannot be accepted or answered."""


class ExecutorClosed(ExecutionError):
    """The executor is closed, or was closed before this request was answered."""


class RequestFailed(ExecutionError):
    """A stage could not answer this sample; an exception of the stage is chained as the cause."""


class NotANumber(ExecutionError):
    """The last stage that could answer a sample returned NaN."""

    def __init__(self, exit: str) -> None:
        super().__init__(
            f"the last stage answers all samples that reach it, found NaN in the logits of "
            f"{exit!r}: look at the sample's values, or at the weights and dtype of the model"
        )


def cause_of(error: Exception) -> str:
    """An error as a reason in one line: our own as they are, others with their type.

    >>> cause_of(ZeroDivisionError("division by zero"))
    'ZeroDivisionError: division by zero'
    """
    if isinstance(error, UnderstudyError):
        return str(error)
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    return text.splitlines()[0]
