"""A cascade made of NumPy alone that looks its answers up in a table, and fails when it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from understudy import Policy, ScoreTable
from understudy.outcome import decide
from understudy.policy import PolicyStage
from understudy.runtime.protocol import RunnerOutput, decided

Array = npt.NDArray[Any]
Hook = Callable[[str, Array], None]


def nothing(name: str, rows: Array) -> None:
    """No fault."""


def images_of(rows: npt.ArrayLike) -> Array:
    """One "image" per row number, int64 (N, 1, 1, 1)."""
    return np.asarray(rows, np.int64).reshape(-1, 1, 1, 1)


def rows_of(images: Any) -> Array:
    """The row numbers of images: one array, or a list of any sizes."""
    if isinstance(images, np.ndarray):
        return images[:, 0, 0, 0]
    return np.array([image[0, 0, 0] for image in images])


@dataclass(frozen=True)
class Lookup:
    """A stage that looks up what it says by the row number in the image."""

    number: int
    name: str
    prediction: Array
    confidence: Array
    floor: float | None
    owner: Lookups

    def run_stage(self, images: Any, state: Mapping[str, Any]) -> RunnerOutput:
        rows = rows_of(images)
        for handed in state.values():
            assert np.array_equal(handed[:, 0], rows), "the state went with other rows"
        self.owner.hook(self.name, rows)
        if self.owner.keep:
            self.owner.ran.append((self.name, rows.tolist()))
        lost = np.isin(rows, list(self.owner.nan.get(self.name, ())))
        confidence = np.where(lost, np.nan, self.confidence[rows]).astype(np.float32)
        state = {**state, f"from {len(state)}": np.stack([rows, rows], 1)}
        left, classes = decided(confidence, self.floor), self.owner.classes.get(self.name, 10)
        return RunnerOutput(self.prediction[rows], confidence, left, images, state, classes)

    def stack(self, samples: Sequence[Array]) -> Array:
        return np.stack(samples)

    def buffer(self, size: int, like: Array) -> Array:
        return np.empty((size, *like.shape[1:]), like.dtype)

    def gather(self, source: Array, rows: Array, target: Array) -> None:
        np.take(source, rows, axis=0, out=target)

    def ran_out(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


@dataclass
class Lookups:
    """A cascade over a table; `hook` is told of every batch before it is answered, `ran` after."""

    table: ScoreTable
    first: Policy
    hook: Hook = nothing
    classes: Mapping[str, int] = field(default_factory=dict)
    nan: Mapping[str, set[int]] = field(default_factory=dict)
    keep: bool = True
    ran: list[tuple[str, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policy = self.first

    @property
    def exits(self) -> tuple[str, ...]:
        return self.table.names

    @property
    def policy(self) -> Policy:
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self.runners = tuple(self._judge(step) for step in policy.stages)

    def _judge(self, step: PolicyStage) -> Lookup:
        number = self.table.index(step.exit)
        sure = self.table.confidence[step.confidence][number]
        return Lookup(
            number, step.exit, self.table.prediction[number], sure, step.threshold, owner=self
        )

    def sizes(self, name: str) -> list[int]:
        """The batches that a stage has answered."""
        return [len(rows) for one, rows in self.ran if one == name]


def truth_of(table: ScoreTable, policy: Policy) -> list[tuple[int, float, str]]:
    """Prediction, confidence and exit of every row, as `evaluate` has them."""
    told = decide(table, policy)
    names = [policy.exits[number] for number in told.stage]
    return list(zip(told.prediction.tolist(), told.confidence.tolist(), names, strict=True))


def said(answers: Any) -> list[tuple[int, float, str]]:
    """The same of what was answered."""
    prediction, confidence = answers.prediction.tolist(), answers.confidence.tolist()
    return list(zip(prediction, confidence, answers.exit_names(), strict=True))


def table_of(
    samples: int, seed: int = 0, *, exits: int = 3, levels: int = 8, **sure: Array
) -> ScoreTable:
    """Random answers of `tiny`, `middle`, `big`, with many ties: confidences are eighths.

    `sure` sets the confidences of some exits.
    """
    random = np.random.default_rng(seed)
    names = ("tiny", "middle", "big", "huge")[:exits]
    said = {
        name: (random.integers(0, 10, samples), random.integers(0, levels, samples) / levels)
        for name in names
    }
    said |= {name: (said[name][0], values) for name, values in sure.items()}
    costs = {name: 10.0**number for number, name in enumerate(names)}
    return ScoreTable.from_predictions(said, random.integers(0, 10, samples), costs=costs)


def chain(first: float = 0.5, second: float = 0.5) -> Policy:
    """Three stages; half of the rows go on at each."""
    return Policy((PolicyStage("tiny", first), PolicyStage("middle", second), PolicyStage("big")))


@st.composite
def cascades(draw: st.DrawFn) -> Lookups:
    """Tables with many ties under policies with thresholds on and between what was observed."""
    exits, levels = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4, 8]))
    seed, samples = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60))
    table = table_of(samples, seed, exits=exits, levels=levels)
    names = draw(st.permutations(table.names))[: draw(st.integers(1, exits))]
    places = st.sampled_from([k / (2 * levels) for k in range(2 * levels + 1)])
    steps = [
        PolicyStage(name, draw(places | st.sampled_from([-np.inf, np.inf]))) for name in names[:-1]
    ]
    return Lookups(table, Policy((*steps, PolicyStage(names[-1]))))
