"""Cascades on arrays: values that are computed from the samples, each at most once per sample.

What ONNX Runtime, functions and estimators share; PyTorch has stages of its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import confidence_functions
from understudy.deferral import DeferralScore, deferral_score
from understudy.ensemble import Ensemble
from understudy.operating_point import OperatingPoint, checked_points
from understudy.policy import Policy
from understudy.runtime.base_cascade import AcceptanceRule, BaseCascade, checked_names
from understudy.runtime.protocol import Answers, RunnerOutput, StateKey, deferred_rows

Array = npt.NDArray[Any]

IMAGES = "images"
"""The name of the first value: a batch of images, or of other samples."""


def logits_of(exit: str) -> str:
    """The name of an exit's logits among the values."""
    return str(StateKey("logits", exit))


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


def mean_of(name: str, ensemble: Ensemble) -> Computation:
    """The weighted sum of members' logits, in float32 and their order, as in `with_ensemble`."""

    def run(logits: Sequence[Array]) -> list[Array]:
        total: Array = logits[0] * np.float32(ensemble.weights[0])
        for rows, weight in zip(logits[1:], ensemble.weights[1:], strict=True):
            total = total + rows * np.float32(weight)
        return [total]

    return Computation(tuple(map(logits_of, ensemble.exits)), (logits_of(name),), run)


@dataclass(frozen=True, eq=False)
class ArrayRunner:
    """An exit with its acceptance rule.

    Attributes:
        rule: when it answers.
        graph: the computations of the cascade.
        prepare: a batch as the computations take it.
        keeps: the names of the values that later stages need.
    """

    rule: AcceptanceRule
    graph: ValueGraph
    prepare: Callable[[Any], Any]
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
            DataError: no sample, or samples that the cascade does not take.
        """
        batch = self.prepare(images)
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
        """Single samples of one shape as one batch."""
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

    def host_logits(self, logits: Array, rows: Array) -> Array:
        """Some rows of logits, copied, in float32."""
        return logits[rows].astype(np.float32, copy=False)


class ArrayCascade(BaseCascade[ArrayRunner]):
    """Executes a policy over a graph of values, and can switch it while running.

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
        exits: Sequence[str],
        operating_points: Sequence[OperatingPoint] = (),
        scores: Mapping[str, DeferralScore] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.exits = tuple(exits)
        self.operating_points = checked_points(operating_points)
        self.scores = dict(scores or {})
        self.classes = checked_names(classes)
        self._graph = graph
        self.policy = policy

    @abstractmethod
    def prepare(self, samples: Any) -> Any:
        """A batch as the computations take it.

        Raises:
            DataError: no sample, or samples that the cascade does not take.
        """

    def answer(self, images: Any) -> Answers:
        """The answers with their confidences, and the exit that gave each.

        Args:
            images: what the stages take, or what a loader yields, whose labels are not used.

        Raises:
            DataError: no sample, or samples that the cascade does not take.
        """
        return self._answer(self.prepare(self.samples_in(images)))

    def logits(self, exit: str, images: Any) -> Array:
        """The logits of one exit, (N, C) float32, everything being run.

        Raises:
            DataError: no sample, or samples that the cascade does not take.
            PolicyError: no such exit.
        """
        self._check_exit(exit)
        return self._graph.value(logits_of(exit), {IMAGES: self.prepare(images)})

    def _runners(self, rules: Sequence[AcceptanceRule], policy: Policy) -> tuple[ArrayRunner, ...]:
        goals = [logits_of(name) for name in policy.exits]
        known, runners = frozenset({IMAGES}), []
        for position, rule in enumerate(rules):
            known = self._graph.known_after(goals[position], known)
            later = (self._graph.needed(goal, known) for goal in goals[position + 1 :])
            keeps = frozenset().union(*later) - {IMAGES}
            known = keeps | {IMAGES}
            runners.append(ArrayRunner(rule, self._graph, self.prepare, keeps))
        return tuple(runners)
