"""What a cascade answered: to many samples (offline), or to one (online)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.runtime.errors import NotANumber
from understudy.runtime.protocol import RunnerOutput, StageRunner

Array = npt.NDArray[Any]

FAILED = -1
"""The prediction and the exit of a row that no stage could answer."""


class Answer(NamedTuple):
    """The answer to one sample: the class, how sure the exit is that gave it, and its name."""

    prediction: int
    confidence: float
    exit: str


@dataclass(frozen=True, eq=False)
class Answers:
    """What a cascade answered, and which exit did.

    A row that no stage could answer has the prediction and the exit -1 and the confidence NaN;
    `failed` says why.

    Attributes:
        prediction: (N,) int64, the class.
        confidence: (N,) float32, the one that the exit which answered is judged by.
        exit: (N,) int64, positions in `exits`.
        exits: the names of the cascade's stages.
        failed: row -> why nobody answered it; empty as a rule.

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
        """The name of the exit that answered, per row; empty where none did."""
        return ["" if n == FAILED else self.exits[n] for n in self.exit.tolist()]


def gathered(
    visits: Iterable[tuple[Array, RunnerOutput, StageRunner]], count: int, exits: tuple[str, ...]
) -> Answers:
    """The answers to one batch: whoever spoke of a row last has answered it.

    Args:
        visits: the rows that reached a stage, what it said about them, and the stage, in order.
        count: how many rows the batch has.
        exits: the names of the cascade's stages.
    """
    prediction, exit = np.empty(count, np.int64), np.empty(count, np.int64)
    confidence, failed = np.empty(count, np.float32), dict[int, str]()
    for rows, said, runner in visits:
        prediction[rows], confidence[rows] = said.prediction, said.confidence
        exit[rows] = runner.number
        silent = np.isnan(said.confidence)
        silent[said.left] = False
        prediction[rows[silent]] = exit[rows[silent]] = FAILED
        failed |= dict.fromkeys(rows[silent].tolist(), str(NotANumber(runner.name)))
    return Answers(prediction, confidence, exit, exits, failed)
