"""What a cascade answered: to many samples (offline), or to one (online)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy.typing as npt

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
