"""The arrays behind the search over many exits: correctness, confidences and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError, listed

Array = npt.NDArray[Any]
OFF = -1
CORRECT, LAST, LOW_BITS = 1, 2, 2
MOST_COST = 1e100
MOST_SAMPLES = 2 ** (32 - LOW_BITS)


@dataclass(frozen=True, eq=False)
class ExitProblem:
    """K exits in visiting order and the full model behind them, on N samples.

    At most one exit of a group is on. A sample leaves at the first exit that is on and whose
    confidence reaches its threshold, else the full model answers. It pays the trunk up to where it
    leaves, the head of every exit that is on until there, and each shared part once.

    Attributes:
        confidence: (K, N) float32 or float64.
        correct: (K, N) whether each exit is correct.
        final: (N,) whether the full model is correct.
        group: (K,) integers that never fall; equal ones exclude each other (types at one position).
        trunk: (K + 1,) cost of the trunk up to each exit, never falling; the full model's is last.
        head: (K,) cost of what runs for one exit alone.
        shared: (K + 1, S) which exits use which shared parts; the last row is the full model's.
        shared_cost: (S,) their costs.

    >>> problem = ExitProblem(
    ...     confidence=np.array([[0.9, 0.6, 0.3]]), correct=np.array([[1, 1, 0]]),
    ...     final=np.array([1, 0, 1]), group=np.array([0]), trunk=np.array([1.0, 10.0]),
    ...     head=np.array([0.0]))
    >>> problem.exits, problem.samples, problem.highest_cost
    (1, 3, 10.0)

    Raises:
        TableError: shapes that do not agree, confidences that are not finite, negative or huge
            costs, groups or trunk out of order.
    """

    confidence: Array
    correct: Array
    final: Array
    group: Array
    trunk: Array
    head: Array
    shared: Array = field(default_factory=lambda: np.zeros((0, 0), bool))
    shared_cost: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"correct": bool, "final": bool, "group": np.int64, "shared": bool}
        if np.asarray(self.confidence).dtype == np.float32:
            kinds["confidence"] = np.float32
        if not np.size(self.shared):
            empty = np.zeros((len(self.trunk), len(self.shared_cost)), bool)
            object.__setattr__(self, "shared", empty)
        for one in fields(self):
            kind = kinds.get(one.name, np.float64)
            whole = np.ascontiguousarray(getattr(self, one.name))
            view = whole.astype(kind, copy=kind is not np.float32).view()
            view.flags.writeable = False
            object.__setattr__(self, one.name, view)
        _check_shapes(self)
        _check_values(self)

    @staticmethod
    def from_parts(
        confidence: Array,
        correct: Array,
        final: Array,
        *,
        group: Array,
        parts: Sequence[Sequence[int]],
        price: Array,
    ) -> ExitProblem:
        """The problem of exits that run `parts`: a sample pays the union of the parts it visited.

        `parts` has K + 1 lists of indexes into `price` (P,), the full model's last. Parts that one
        exit after another needs, up to the full model, become the trunk; those of a single group
        become heads; the rest is shared.

        >>> one = ExitProblem.from_parts(
        ...     np.ones((2, 1)), np.ones((2, 1)), np.ones(1), group=np.array([0, 1]),
        ...     parts=[[0, 3], [0, 1, 4], [0, 1, 2]], price=np.array([10., 10., 10., 1., 1.]))
        >>> one.trunk.tolist(), one.head.tolist(), one.shared.shape
        ([10.0, 20.0, 30.0], [1.0, 1.0], (3, 0))
        """
        trunk, head, shared, shared_cost = _split_parts(np.asarray(group), parts, np.asarray(price))
        return ExitProblem(confidence, correct, final, group, trunk, head, shared, shared_cost)

    @property
    def exits(self) -> int:
        """K, the number of exits."""
        return int(self.confidence.shape[0])

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return int(self.confidence.shape[1])

    @cached_property
    def first(self) -> Array:
        """(J + 1,) the first exit of each of the J groups, and K."""
        starts = np.flatnonzero(np.diff(self.group, prepend=self.group[0] - 1))
        return np.append(starts, self.exits)

    @cached_property
    def highest_cost(self) -> float:
        """No configuration costs more than this per sample."""
        heads = np.maximum.reduceat(self.head, self.first[:-1]).sum()
        return float(self.trunk[-1] + heads + self.shared_cost.sum())

    @cached_property
    def order(self) -> Array:
        """(K, N) uint32: the samples of each exit by falling confidence; sorted once.

        A sample number is shifted by `LOW_BITS`; the bit `CORRECT` marks a sample that the exit has
        correct, `LAST` the last one of a tie.
        """
        order = np.empty(self.confidence.shape, np.uint32)
        for exit, (confidence, correct) in enumerate(
            zip(self.confidence, self.correct, strict=True)
        ):
            falling = np.argsort(confidence)[::-1]
            ranked = confidence[falling]
            last = np.append(ranked[:-1] != ranked[1:], True)
            order[exit] = (falling << LOW_BITS) | (correct[falling] * CORRECT) | (last * LAST)
        return order


def _check_shapes(problem: ExitProblem) -> None:
    if problem.confidence.ndim != 2 or not problem.confidence.size:
        raise TableError(
            f"confidences have the shape (exits, samples), found {problem.confidence.shape}: "
            "give at least one exit and one sample"
        )
    exits, samples = problem.confidence.shape
    if samples >= MOST_SAMPLES:
        raise TableError(f"at most {MOST_SAMPLES - 1} samples are searched, found {samples}")
    expected: dict[str, tuple[int, ...]] = {
        "correct": (exits, samples),
        "final": (samples,),
        "group": (exits,),
        "trunk": (exits + 1,),
        "head": (exits,),
        "shared": (exits + 1, len(problem.shared_cost)),
    }
    for name, shape in expected.items():
        found = getattr(problem, name).shape
        if found != shape:
            raise TableError(
                f"with {exits} exits and {samples} samples `{name}` has the shape {shape}, "
                f"found {found}"
            )


def _check_values(problem: ExitProblem) -> None:
    strange = ~np.isfinite(problem.confidence).all(1)
    if strange.any():
        raise TableError(
            f"confidences are finite numbers, those of the exits {listed(np.flatnonzero(strange))} "
            "are not: score them again, or leave them out"
        )
    for name in ("trunk", "head", "shared_cost"):
        values = getattr(problem, name)
        strange = values[~((values >= 0) & (values <= MOST_COST))]
        if len(strange):
            raise TableError(
                f"a cost lies between 0 and {MOST_COST:g}, `{name}` has {listed(strange)}: fix it"
            )
    for name in ("group", "trunk"):
        steps = np.diff(getattr(problem, name))
        if (steps < 0).any():
            at = int((steps < 0).argmax())
            raise TableError(
                f"`{name}` never falls from one exit to the next, it does after exit {at}: "
                "put the exits in visiting order"
            )


def _split_parts(
    group: Array, parts: Sequence[Sequence[int]], price: Array
) -> tuple[Array, Array, Array, Array]:
    """Trunk, head, shared and shared cost of exits that run `parts`."""
    exits = len(parts) - 1
    first, last, users = np.full(len(price), exits), np.zeros(len(price), int), np.zeros(len(price))
    for exit, one in enumerate(parts):
        index = np.unique(np.asarray(one, np.int64))
        first[index] = np.minimum(first[index], exit)
        last[index] = exit
        users[index] += 1
    used = users > 0
    trunk_part = used & (last == exits) & (users == exits + 1 - first)
    groups = np.append(group, group[-1] + 1) if exits else np.zeros(1, np.int64)
    head_part = used & ~trunk_part & (groups[first] == groups[last])
    shared_part = np.flatnonzero(used & ~trunk_part & ~head_part)
    steps = np.bincount(first[trunk_part], price[trunk_part], exits + 1)
    head = np.array([sum(price[p] for p in set(one) if head_part[p]) for one in parts[:-1]], float)
    shared = np.array([np.isin(shared_part, list(one)) for one in parts], bool)
    return np.cumsum(steps), head, shared, price[shared_part]
