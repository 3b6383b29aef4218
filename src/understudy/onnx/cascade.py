"""Cascades that run in ONNX Runtime, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, ModelError
from understudy.onnx.bundle import OnnxBundle, Value, file_of, read_bundle
from understudy.onnx.session import CPU, Session, check_providers
from understudy.policy import Policy
from understudy.runtime.protocol import SampleKind
from understudy.runtime.value_graph import ArrayCascade, Computation, ValueGraph, mean_of

Array = npt.NDArray[Any]


class OnnxCascade(ArrayCascade):
    """Executes a policy in ONNX Runtime, and can switch it while running; see `load_onnx`.

    It decides like the cascade that it was exported from, except within rounding of a threshold.
    Work that exits share is done once per sample. One cascade may be used from several threads.

    Attributes:
        images: the dtype and shape of an image.
        exits: the names of its exits.
        operating_points: the certified points that it can be set to.
        classes: the names of the classes, or None where they are not known.

    Raises:
        PolicyError: the policy names an exit or a confidence that the cascade lacks.
    """

    def __init__(self, graph: ValueGraph, policy: Policy, *, images: Value, **more: Any) -> None:
        self.images = images
        super().__init__(graph, policy, **more)

    @property
    def sample_kind(self) -> SampleKind:
        """The type and shape that images have."""
        return SampleKind(self.images.dtype, self.images.shape)

    def prepare(self, samples: Any) -> Array:
        """A batch as a contiguous array; a list of images of one shape is stacked.

        Raises:
            DataError: no image, or images of another shape or dtype.
        """
        return as_batch(samples, self.images)

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "a cascade of ONNX Runtime holds sessions of this process, found a copy of "
            f"{self!r} being made: use load_onnx in each process, on the folder it came from"
        )


def load_onnx(
    path: str | Path, *, providers: Sequence[str] = (CPU,), threads: int | None = None
) -> OnnxCascade:
    """Read a cascade that `export_onnx` or `understudy export` wrote; PyTorch is not needed.

    Args:
        path: the folder.
        providers: ONNX Runtime's execution providers, the preferred first.
        threads: the number of threads per operator; by default the number of cores.

    ```python
    cascade = load_onnx("out", threads=4)
    images = np.zeros((2, *cascade.images.shape), np.uint8)
    answers = cascade.answer(images)
    ```

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        ModelError: the folder is no exported cascade, a newer understudy wrote it, a file is
            missing or damaged, or there is no such provider.
    """
    if threads is not None and threads < 1:
        raise ModelError(f"work runs on at least one thread, found {threads}: leave it out")
    check_providers(providers)
    bundle = read_bundle(path)
    computations = [
        *_sessions(Path(path), bundle, providers=providers, threads=threads),
        *(mean_of(name, ensemble) for name, ensemble in bundle.averages.items()),
    ]
    return OnnxCascade(
        ValueGraph(computations),
        bundle.policy,
        images=bundle.images,
        exits=bundle.exits,
        operating_points=bundle.frontier,
        scores=bundle.scores,
        classes=bundle.classes,
    )


def as_batch(images: Any, value: Value) -> Array:
    """A batch as a contiguous array, checked; a list of images of one shape is stacked.

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


def _sessions(
    folder: Path, bundle: OnnxBundle, *, providers: Sequence[str], threads: int | None
) -> list[Computation]:
    computations = []
    for piece in bundle.pieces:
        inputs = tuple(value.name for value in piece.takes)
        outputs = tuple(value.name for value in piece.gives)
        session = Session(
            file_of(folder, piece.file),
            piece.part,
            inputs=inputs,
            outputs=outputs,
            providers=providers,
            threads=threads,
        )
        computations.append(Computation(inputs, outputs, session))
    return computations
