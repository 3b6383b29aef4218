"""What a cascade of any backend offers to those that run it: judges that are asked in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from understudy.policy import Policy

Array = npt.NDArray[Any]


class RunnerOutput(NamedTuple):
    """What a stage says about n rows, and which of them it leaves to the next.

    Attributes:
        prediction: (n,) int64 on the host, the class.
        confidence: (n,) float32 on the host; NaN where the logits hold NaN.
        left: (k,) int64, ascending: the rows that go on, those of NaN among them; none where the
            stage is the last of its policy.
        images: the rows' images where this stage took them, for the next one.
        state: arrays or tensors for later stages, rows first.
        classes: how many classes the logits have.
    """

    prediction: Array
    confidence: Array
    left: Array
    images: Any
    state: Mapping[str, Any]
    classes: int


class StageRunner(Protocol):
    """A stage of a policy with the rule it is judged by.

    Images are an array or tensor (N, ...) that can be sliced, or a list of single images, which may
    differ in size. Arrays and tensors have `shape` and `dtype`. All methods may be called from any
    thread; `ask` from one at a time.
    """

    @property
    def number(self) -> int:
        """The stage's place in the cascade's `exits`."""

    @property
    def name(self) -> str:
        """The name of the exit."""

    def run_stage(self, images: Any, state: Mapping[str, Any]) -> RunnerOutput:
        """What the stage says about at least one row; one transfer to the host, no more.

        Neither images nor state are kept or written to: their memory is used again.
        """

    def stack(self, samples: Sequence[Any]) -> Any:
        """Single images of one shape and dtype as one batch."""

    def buffer(self, size: int, like: Any) -> Any:
        """An array or tensor of `size` rows like those of `like`, not filled, where this runs."""

    def gather(self, source: Any, rows: Array, target: Any) -> None:
        """Copy rows of `source`, wherever it lies, into `target`, a slice of a buffer."""

    def ran_out(self, error: Exception) -> bool:
        """Whether an error that `ask` raised says that memory ran out."""


class Runnable(Protocol):
    """A cascade of any backend."""

    @property
    def exits(self) -> tuple[str, ...]:
        """The names of all stages."""

    @property
    def policy(self) -> Policy:
        """What is executed."""

    @property
    def runners(self) -> tuple[StageRunner, ...]:
        """The stages of the policy in the order they are asked.

        The very same tuple as long as the policy is not set: whoever has read it goes on with it,
        so that nobody is answered by half of two policies.
        """


def decided(confidence: Array, floor: float | None) -> Array:
    """The rows that a stage leaves to the next: those that do not reach the floor, and NaN.

    Args:
        confidence: (n,) float32.
        floor: the least confidence that answers, exact in float32; None answers all.

    >>> decided(np.array([0.5, np.nan, 0.25], np.float32), 0.5)
    array([1, 2])
    """
    if floor is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(~(confidence >= np.float32(floor)))
