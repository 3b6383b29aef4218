"""Cascades that run in ONNX Runtime, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import confidence_functions
from understudy.deferral import DeferralScore, deferral_score
from understudy.ensemble import Ensemble
from understudy.errors import DataError, ModelError
from understudy.onnx.bundle import IMAGES, OnnxBundle, Value, file_of, logits_of, read_bundle
from understudy.onnx.session import CPU, Session, check_providers
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.runtime.base_cascade import AcceptanceRule, BaseCascade, checked_names
from understudy.runtime.loader_batch import taken_apart
from understudy.runtime.protocol import Answers, RunnerOutput, deferred_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Computation:
    """Computes some named values from others: arrays in, arrays out, rows first."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Sequence[Array]], Sequence[Array]]


class ValueGraph:
    """Computations that feed one another. Every value depends on the images alone.

    >>> double = Computation(("x",), ("y",), lambda values: [2 * values[0]])
    >>> ValueGraph([double]).value("y", {"x": 21})
    42
    """

    def __init__(self, computations: Iterable[Computation]) -> None:
        self._producers: Mapping[str, Computation] = {
            name: computation for computation in computations for name in computation.outputs
        }

    def value(self, name: str, values: dict[str, Array]) -> Array:
        """A value, computed from those that are known; intermediate values are added to them."""
        if name not in values:
            producer = self._producers[name]
            outputs = producer.run([self.value(one, values) for one in producer.inputs])
            values.update(zip(producer.outputs, outputs, strict=True))
        return values[name]

    def known_after(self, name: str, known: Set[str]) -> frozenset[str]:
        """The names of the values that are known once `name` was computed from known ones."""
        if name in known:
            return frozenset(known)
        producer, found = self._producers[name], frozenset(known)
        for one in producer.inputs:
            found = self.known_after(one, found)
        return found | set(producer.outputs)

    def needed(self, name: str, known: Set[str]) -> frozenset[str]:
        """Those of the known values that `name` is computed from."""
        if name in known:
            return frozenset({name})
        inputs = self._producers[name].inputs
        return frozenset().union(*(self.needed(one, known) for one in inputs))


@dataclass(frozen=True, eq=False)
class OnnxRunner:
    """An exit with its acceptance rule.

    Attributes:
        rule: when it answers.
        graph: the computations of the cascade.
        images: the dtype and shape of an image.
        keeps: the names of the values that later stages need.
    """

    rule: AcceptanceRule
    graph: ValueGraph
    images: Value
    keeps: frozenset[str]

    @property
    def number(self) -> int:
        """The position of the exit in the cascade's `exits`."""
        return self.rule.number

    @property
    def name(self) -> str:
        """The name of the exit."""
        return self.rule.name

    def run(self, images: Any, state: Mapping[str, Array]) -> RunnerOutput:
        """The output of the exit, and the rows that it defers; NaN is deferred if possible.

        Raises:
            DataError: no image, or images of another shape or dtype than the cascade takes.
        """
        batch = as_batch(images, self.images)
        values = {**state, IMAGES: batch}
        logits = self.graph.value(logits_of(self.name), values)
        with np.errstate(all="ignore"):
            confidence = self.rule.confidence(logits)
        return RunnerOutput(
            prediction=logits.argmax(1),
            confidence=confidence,
            deferred=deferred_rows(confidence, self.rule.floor),
            images=batch,
            state={name: values[name] for name in self.keeps},
            classes=logits.shape[1],
            logits=logits,
        )

    def stack(self, samples: Sequence[Any]) -> Array:
        """Single images as one batch."""
        return np.stack([np.asarray(sample) for sample in samples])

    def buffer(self, size: int, like: Any) -> Array:
        """An array of `size` rows like those of `like`, not filled.

        In memory of its own: for large arrays NumPy asks Linux for huge pages, which are cleared
        and looked for at the first access; that took longer than copying the rows.
        """
        rows = np.asarray(like[:1])
        shape = (size, *rows.shape[1:])
        memory = mmap(-1, max(1, math.prod(shape) * rows.itemsize))
        return np.ndarray(shape, rows.dtype, memory)

    def gather(self, source: Any, rows: Array, target: Array) -> None:
        """Copy rows of `source` into `target`."""
        np.take(np.asarray(source), rows, axis=0, out=target, mode="clip")


class OnnxCascade(BaseCascade[OnnxRunner]):
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

    confidence_functions = confidence_functions
    deferral_score = staticmethod(deferral_score)

    def __init__(
        self,
        graph: ValueGraph,
        policy: Policy,
        *,
        images: Value,
        exits: Sequence[str],
        operating_points: Sequence[OperatingPoint] = (),
        scores: Mapping[str, DeferralScore] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.images = images
        self.exits = tuple(exits)
        self.operating_points = tuple(operating_points)
        self.scores = dict(scores or {})
        self.classes = checked_names(classes)
        self._graph = graph
        self.policy = policy

    def answer(self, images: Any) -> Answers:
        """The answers with their confidences, and the exit that gave each.

        Args:
            images: an array (N, ...) of the dtype and shape in `images`, or a list of images; or
                what a loader yields, whose labels are not used.

        Raises:
            DataError: no image, or images of another shape or dtype.
        """
        return self._answer(as_batch(taken_apart(images).images, self.images))

    def logits(self, exit: str, images: Any) -> Array:
        """The logits of one exit, (N, C) float32, everything being run.

        Raises:
            DataError: no image, or images of another shape or dtype.
            PolicyError: no such exit.
        """
        self._check_exit(exit)
        return self._graph.value(logits_of(exit), {IMAGES: as_batch(images, self.images)})

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "a cascade of ONNX Runtime holds sessions of this process, found a copy of "
            f"{self!r} being made: use load_onnx in each process, on the folder it came from"
        )

    def _runners(self, rules: Sequence[AcceptanceRule], policy: Policy) -> tuple[OnnxRunner, ...]:
        goals = [logits_of(name) for name in policy.exits]
        known, runners = frozenset({IMAGES}), []
        for position, rule in enumerate(rules):
            known = self._graph.known_after(goals[position], known)
            later = (self._graph.needed(goal, known) for goal in goals[position + 1 :])
            keeps = frozenset().union(*later) - {IMAGES}
            known = keeps | {IMAGES}
            runners.append(OnnxRunner(rule, self._graph, self.images, keeps))
        return tuple(runners)


def load_onnx(
    path: str | Path, *, providers: Sequence[str] = (CPU,), threads: int | None = None
) -> OnnxCascade:
    """Read a cascade that `export_onnx` or `understudy export` wrote; PyTorch is not needed.

    Args:
        path: the folder.
        providers: ONNX Runtime's execution providers, the preferred first.
        threads: the number of threads per operator; by default the number of cores.

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
        *(_mean(name, ensemble) for name, ensemble in bundle.averages.items()),
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


def _mean(name: str, ensemble: Ensemble) -> Computation:
    """The weighted sum of members' logits, in float32 and their order, as in `with_ensemble`."""

    def run(logits: Sequence[Array]) -> list[Array]:
        total: Array = logits[0] * np.float32(ensemble.weights[0])
        for rows, weight in zip(logits[1:], ensemble.weights[1:], strict=True):
            total = total + rows * np.float32(weight)
        return [total]

    return Computation(tuple(map(logits_of, ensemble.exits)), (logits_of(name),), run)
