"""What the runtime and its backends exchange: answers, errors, state and output of stages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from understudy.display import shares_text
from understudy.errors import DataError, UnderstudyError
from understudy.policy import Policy
from understudy.short_repr import clipped
from understudy.tabular import Tabular

Array = npt.NDArray[Any]

FAILED = -1
"""The prediction and the exit of a row that has no answer."""


class AnswerFields(NamedTuple):
    """The class, the confidence and the exit that answered."""

    prediction: int
    confidence: float
    exit: str


class Answer(AnswerFields):
    """The answer to one sample: the class, the confidence and the exit that answered; and its
    `logits` (C,) float32 where the request asked for them.

    >>> answer = Answer(1, 0.75, "tiny").with_logits(np.zeros(3, np.float32))
    >>> answer, answer.logits.shape
    (Answer(prediction=1, confidence=0.75, exit='tiny'), (3,))
    """

    logits: Array | None = None

    def with_logits(self, logits: Array) -> Answer:
        """The same answer with the logits behind it."""
        answer = Answer(*self)
        answer.logits = logits
        return answer


@dataclass(frozen=True, eq=False)
class Answers(Tabular):
    """The answers to a batch, with the exit that gave each.

    A row without an answer has the prediction and the exit -1 and the confidence NaN; `failed`
    holds the reason.

    Attributes:
        prediction: (N,) int64, the class.
        confidence: (N,) float32, the confidence of the exit that answered.
        exit: (N,) int64, positions in `exits`.
        exits: the names of the cascade's stages.
        failed: row -> the reason why it has no answer; empty in general.
        classes: the names of the classes, or None where they are not known.

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
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.prediction)

    def exit_names(self) -> list[str]:
        """The name of the exit that answered, per row; empty for a row without an answer."""
        return ["" if n == FAILED else self.exits[n] for n in self.exit.tolist()]

    def class_names(self) -> list[str]:
        """The name of the class of each row; empty for a row without an answer.

        Raises:
            DataError: the classes have no names, or not all of them.
        """
        found = self.prediction.tolist()
        if self.classes is None or max(found, default=FAILED) >= len(self.classes):
            raise DataError(
                f"every class has a name, found {len(self.classes or ())} names: give `classes` to "
                "`score`, or to the Cascade"
            )
        return ["" if n == FAILED else self.classes[n] for n in found]

    def columns(self) -> dict[str, list[Any]]:
        """A row per sample: prediction, the name of the class if known, confidence and exit."""
        named = {} if self.classes is None else {"class": self.class_names()}
        return {
            "prediction": self.prediction.tolist(),
            **named,
            "confidence": self.confidence.tolist(),
            "exit": self.exit_names(),
        }

    def __repr__(self) -> str:
        counts = Counter(self.exit_names())
        failed = counts.pop("", 0)
        shares = {name: counts[name] / len(self) for name in self.exits if name in counts}
        missing = f", {failed:,} without an answer" if failed else ""
        return f"<Answers to {len(self):,} samples: {clipped(shares_text(shares), 200)}{missing}>"


class ExecutionError(UnderstudyError):
    """A request cannot be accepted or answered."""


class ExecutorClosed(ExecutionError):
    """The executor is closed, or was closed before this request was answered."""


class BackgroundFull(ExecutionError):
    """At most `most` requests may be in the background: this one was not taken."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"at most {most:,} requests are in the background, found one more: drop it, or set "
            "max_background higher"
        )


class RequestFailed(ExecutionError):
    """A stage could not answer this sample; an exception of the stage is chained as the cause."""


class NotANumber(ExecutionError):
    """The last stage that could answer a sample returned NaN."""

    def __init__(self, exit: str) -> None:
        super().__init__(
            f"the last stage answers all samples that reach it, found NaN in the logits of "
            f"{exit!r}: look at the sample's values, or at the weights and dtype of the model"
        )


class NoFurtherStage(ExecutionError):
    """The last stage that a request was given defers a sample."""

    def __init__(self, exit: str) -> None:
        super().__init__(
            f"the last stage answers all samples that reach it, found one that {exit!r} defers: "
            "give all of what `cascade.runners_of(policy)` returned"
        )


class StageFailed(ExecutionError):
    """A function raised on a batch; it is not called again, since it retries by itself.

    Args:
        stage: the name of the stage.
        samples: the number of samples in the batch.
        error: what the function raised.
    """

    def __init__(self, stage: str, samples: int, error: Exception) -> None:
        batch = "one sample" if samples == 1 else f"a batch of {samples:,} samples"
        cause = cause_of(error).rstrip(".:")
        super().__init__(
            f"every stage answers its samples, {stage!r} raised on {batch}: {cause}; "
            "mend the samples, or let it return None for those that it cannot answer"
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


Kind = Literal["logits", "feature", "pooled", "esn_cache", "esn_output"]


class StateKey(NamedTuple):
    """What a value of the stage state is.

    `str(key)` is the name of the same value in an exported cascade.

    Attributes:
        kind: "logits" (N, C) of an exit; "feature", one of the values that a segment hands to the
            next; "pooled", the pooled feature of a tap; "esn_cache" and "esn_output", the keys and
            values and the last token of an Exit Sequence Network.
        owner: the exit whose logits they are, or the network that computed the value.
        tap: the number of the tap, for what belongs to one.
        place: the place among the values that cross a cut; the feature of the tap has place 0.

    >>> str(StateKey("logits", "tiny")), str(StateKey("feature", "net", 2, 0))
    ('logits of tiny', 'net@2.0')
    """

    kind: Kind
    owner: str
    tap: int = 0
    place: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "logits":
                return f"logits of {self.owner}"
            case "feature":
                return f"{self.owner}@{self.tap}.{self.place}"
            case "pooled":
                return f"{self.owner}~{self.tap}"
            case "esn_cache":
                return f"keys and values of {self.owner}@{self.tap}"
            case "esn_output":
                return f"token output of {self.owner}@{self.tap}"


StageState = Mapping[StateKey, Any]
"""Arrays or tensors that stages hand on, rows first; empty between whole models."""


_OUT_OF_MEMORY = (
    *("outofmemory", "out of memory", "allocate memory", "not enough memory", "alloc_failed"),
    *("bad_alloc", "bfc_arena"),  # ONNX Runtime
)


class RunnerOutput(NamedTuple):
    """The output of a stage for n rows, and the rows that it defers to the next stage.

    Attributes:
        prediction: (n,) int64 on the host, the class.
        confidence: (n,) float32 on the host; NaN where the logits hold NaN.
        deferred: (k,) int64, ascending: the rows that go on, those of NaN among them; none where
            the stage is the last of its policy.
        images: the rows' images where this stage took them, for the next stage.
        state: arrays or tensors for later stages, rows first.
        classes: the number of classes C.
        logits: (n, C), where the stage runs.
    """

    prediction: Array
    confidence: Array
    deferred: Array
    images: Any
    state: Any
    classes: int
    logits: Any = None


class SampleKind(NamedTuple):
    """What the samples of a cascade are, as far as it is known.

    Attributes:
        dtype: their type, such as ``uint8``.
        shape: the size of each dimension, (C, H, W) for images; None where it may be any.
        resized: whether images of any height and width are taken, because the models resize them.

    >>> kind = SampleKind("uint8", (3, None, None), resized=True)
    >>> kind.fits("uint8", (3, 40, 60)), kind.fits("uint8", (1, 40, 60)), str(kind)
    (True, False, 'uint8 (3, any, any)')
    """

    dtype: str
    shape: tuple[int | None, ...]
    resized: bool = False

    def fits(self, dtype: str, shape: Sequence[int]) -> bool:
        """Whether a sample of this type and shape is of the kind, and not empty."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(own in (None, size) for own, size in zip(self.shape, shape, strict=True))
            and 0 not in shape
        )

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes})"


class StageRunner(Protocol):
    """A stage of a policy with its acceptance rule.

    Images are an array or tensor (N, ...) that can be sliced, or a list of single images, which may
    differ in size. Arrays and tensors have `shape` and `dtype`. All methods may be called from any
    thread; `run` from one at a time.
    """

    @property
    def number(self) -> int:
        """The position of the stage in the cascade's `exits`."""

    @property
    def name(self) -> str:
        """The name of the exit."""

    def run(self, images: Any, state: Any) -> RunnerOutput:
        """The output for at least one row, with one transfer to the host.

        Neither images nor state are kept or written to: their memory is reused.
        """

    def stack(self, samples: Sequence[Any]) -> Any:
        """Single images of one shape and dtype as one batch."""

    def buffer(self, size: int, like: Any) -> Any:
        """An array or tensor of `size` rows like those of `like`, not filled, on the device."""

    def gather(self, source: Any, rows: Array, target: Any) -> None:
        """Copy rows of `source`, on any device, into `target`, a slice of a buffer."""

    def host_logits(self, logits: Any, rows: Array) -> Array:
        """Some rows (k, C) of an output's logits as float32, in memory of their own on the host."""


class Runnable(Protocol):
    """A cascade of any backend; it may have `classes`, the names of the classes."""

    @property
    def exits(self) -> tuple[str, ...]:
        """The names of all stages."""

    @property
    def policy(self) -> Policy:
        """The policy that is executed."""

    @property
    def runners(self) -> tuple[StageRunner, ...]:
        """The stages of the policy in order.

        The identical tuple until the policy is set: a batch goes on with the tuple that it read
        first, so that it is never answered by parts of two policies.
        """

    def samples_in(self, loaded: Any) -> Any:
        """The samples in what a loader yields, as the stages take them.

        Raises:
            DataError: something else.
        """

    def request(self, sample: Any) -> Any:
        """One sample of a request, as `StageRunner.stack` takes it.

        Raises:
            DataError: something else.
        """


def class_names_of(cascade: Runnable) -> tuple[str, ...] | None:
    """The names of the classes, of a cascade that has them."""
    names: tuple[str, ...] | None = getattr(cascade, "classes", None)
    return names


def acceptance_floor(threshold: float) -> float:
    """The smallest float32 that is not below a float64 threshold.

    A float32 confidence reaches the floor exactly where it reaches the threshold in float64, so
    that a comparison in float32 decides like `understudy.policy.accepts`. (Comparing with the
    threshold itself would first round it to float32, in either direction.)

    >>> acceptance_floor(0.5), acceptance_floor(0.1) >= 0.1
    (0.5, True)
    """
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
        if math.isinf(threshold) or float(nearest) >= threshold:
            return float(nearest)
        return float(np.nextafter(nearest, np.float32(np.inf)))


def deferred_rows(confidence: Array, floor: float | None) -> Array:
    """The rows that a stage defers: those whose confidence is below the floor, and NaN.

    Args:
        confidence: (n,) float32.
        floor: the least confidence that answers, exact in float32; None accepts all rows.

    >>> deferred_rows(np.array([0.5, np.nan, 0.25], np.float32), 0.5)
    array([1, 2])
    """
    if floor is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(~(confidence >= np.float32(floor)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of a stage means that memory ran out, on a device or on the host.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory")), is_out_of_memory(ValueError("size"))
    (True, False)
    """
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)
