"""A stage of an exported cascade with the rule it is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError
from understudy.onnx.bundle import IMAGES, Value, logits_of
from understudy.onnx.flow import ValueGraph
from understudy.policy import accepts
from understudy.runtime.protocol import RunnerOutput

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class OnnxRunner:
    """An exit as a cascade asks it.

    Attributes:
        number: the exit's place in the cascade's `exits`.
        name: the exit.
        sure: logits (n, C) -> the confidence it is judged by, (n,) float32.
        threshold: how sure it must be to answer; None answers whatever is left.
        flow: the work of the cascade.
        takes: what images are like.
        keeps: the names of the values that later stages need.
    """

    number: int
    name: str
    sure: Callable[[Array], Array]
    threshold: float | None
    flow: ValueGraph
    takes: Value
    keeps: frozenset[str]

    def run_stage(self, images: Any, state: Mapping[str, Array]) -> RunnerOutput:
        """What the exit says, and which rows it leaves to the next; NaN reaches no threshold.

        Raises:
            DataError: no image, or images of another shape or dtype than the cascade takes.
        """
        pixels = taken(images, self.takes)
        values = {**state, IMAGES: pixels}
        logits = self.flow.value(logits_of(self.name), values)
        with np.errstate(all="ignore"):
            confidence = self.sure(logits)
        return RunnerOutput(
            prediction=logits.argmax(1),
            confidence=confidence,
            left=np.flatnonzero(~accepts(confidence, self.threshold)),
            images=pixels,
            state={name: values[name] for name in self.keeps},
            classes=logits.shape[1],
        )

    def stack(self, samples: Sequence[Any]) -> Array:
        """Single images as one batch."""
        return np.stack([np.asarray(sample) for sample in samples])

    def buffer(self, size: int, like: Any) -> Array:
        """An array of `size` rows like those of `like`, not filled.

        In memory of its own: for large arrays NumPy asks Linux for huge pages, which it clears and
        finds at the first touch; that took longer than all the copying into them.
        """
        rows = np.asarray(like[:1])
        shape = (size, *rows.shape[1:])
        memory = mmap(-1, max(1, math.prod(shape) * rows.itemsize))
        return np.ndarray(shape, rows.dtype, memory)

    def gather(self, source: Any, rows: Array, target: Array) -> None:
        """Copy rows of `source` into `target`."""
        np.take(np.asarray(source), rows, axis=0, out=target, mode="clip")

    def ran_out(self, error: Exception) -> bool:
        """Whether memory ran out: Python's, NumPy's or ONNX Runtime's."""
        texts = ("allocate memory", "bad_alloc", "out of memory", "bfc_arena")
        return isinstance(error, MemoryError) or any(one in str(error).lower() for one in texts)


def taken(images: Any, value: Value) -> Array:
    """A batch as an array that lies row by row, checked; a list of images of one shape is stacked.

    Raises:
        DataError: no image, or images of another shape or dtype.
    """
    if not len(images):
        raise DataError("a batch has at least one image, found none")
    if isinstance(images, list | tuple):
        arrays = [np.asarray(image) for image in images]
        odd = next((one for one in arrays if one.shape != value.shape), arrays[0])
        _check(odd.shape, odd.dtype, value)
        return np.stack(arrays)
    batch = np.ascontiguousarray(images)
    _check(batch.shape[1:], batch.dtype, value)
    return batch


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], value: Value) -> None:
    if shape != value.shape or dtype != np.dtype(value.dtype):
        raise DataError(
            f"images must come in the size and type that the cascade was exported for, "
            f"{value.dtype} {value.shape}, found {dtype} {shape}: resize or convert them, or "
            "export for that size"
        )
