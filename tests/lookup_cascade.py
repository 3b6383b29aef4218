"""A cascade of NumPy alone that looks its outputs up in a table, and fails on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sample_rows import Array, rows_of
from understudy.policy import Policy, PolicyStage
from understudy.runtime.loader_batch import ImageInput
from understudy.runtime.protocol import RunnerOutput, deferred_rows
from understudy.scores import ScoreTable

Hook = Callable[[str, Array], None]
"""Takes the name of a stage and the row numbers of a batch."""


def no_fault(name: str, rows: Array) -> None:
    """A hook that does nothing."""


@dataclass(frozen=True)
class LookupRunner:
    """A stage that looks its output up by the row number in the image."""

    number: int
    name: str
    prediction: Array
    confidence: Array
    floor: float | None
    owner: LookupCascade

    def run(self, images: Any, state: Mapping[Any, Any]) -> RunnerOutput:
        rows = rows_of(images)
        for value in state.values():
            assert np.array_equal(value[:, 0], rows), "the state belongs to other rows"
        self.owner.hook(self.name, rows)
        if self.owner.record:
            self.owner.ran.append((self.name, rows.tolist()))
        lost = np.isin(rows, list(self.owner.nan.get(self.name, ())))
        confidence = np.where(lost, np.nan, self.confidence[rows]).astype(np.float32)
        return RunnerOutput(
            prediction=self.prediction[rows],
            confidence=confidence,
            deferred=deferred_rows(confidence, self.floor),
            images=images,
            state={**state, f"from {len(state)}": np.stack([rows, rows], 1)},
            classes=self.owner.class_counts.get(self.name, 10),
            logits=self.owner.logits_of(self.number, rows),
        )

    def stack(self, samples: Sequence[Array]) -> Array:
        return np.stack(samples)

    def buffer(self, size: int, like: Array) -> Array:
        return np.empty((size, *like.shape[1:]), like.dtype)

    def gather(self, source: Array, rows: Array, target: Array) -> None:
        np.take(source, rows, axis=0, out=target)

    def host_logits(self, logits: Array, rows: Array) -> Array:
        self.owner.transferred.append((self.name, logits[rows, 0].astype(int).tolist()))
        return logits[rows].astype(np.float32)


@dataclass
class LookupCascade(ImageInput):
    """A cascade over a table; `hook` is called with every batch before it runs.

    `nan` names the rows whose confidence is NaN, by stage; `class_counts` a number of classes other
    than 10. `ran` holds the stage and the rows of every batch, unless `record` is off;
    `transferred` the stage and the rows whose logits were copied to the host.
    """

    table: ScoreTable
    first: Policy
    hook: Hook = no_fault
    class_counts: Mapping[str, int] = field(default_factory=dict)
    nan: Mapping[str, set[int]] = field(default_factory=dict)
    record: bool = True
    ran: list[tuple[str, list[int]]] = field(default_factory=list)
    transferred: list[tuple[str, list[int]]] = field(default_factory=list)

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
        self.runners = self.runners_of(policy)

    def runners_of(self, policy: Policy) -> tuple[LookupRunner, ...]:
        return tuple(self._runner(stage) for stage in policy.stages)

    def logits_of(self, exit: int, rows: Array) -> Array:
        """The row number and the number of the exit, in place of logits."""
        return np.stack([rows, np.full(len(rows), exit)], 1).astype(np.float64)

    def _runner(self, stage: PolicyStage) -> LookupRunner:
        number = self.table.index(stage.exit)
        confidence = self.table.confidence[stage.confidence][number]
        return LookupRunner(
            number, stage.exit, self.table.prediction[number], confidence, stage.threshold, self
        )

    def sizes(self, name: str) -> list[int]:
        """The sizes of the batches that a stage has run."""
        return [len(rows) for one, rows in self.ran if one == name]


def random_table(
    samples: int, seed: int = 0, *, exits: int = 3, levels: int = 8, **confidence: Array
) -> ScoreTable:
    """Random predictions of `tiny`, `middle`, `big`, with many ties: confidences are eighths.

    `confidence` sets the confidences of some exits.
    """
    random = np.random.default_rng(seed)
    names = ("tiny", "middle", "big", "huge")[:exits]
    predictions = {
        name: (random.integers(0, 10, samples), random.integers(0, levels, samples) / levels)
        for name in names
    }
    predictions |= {name: (predictions[name][0], values) for name, values in confidence.items()}
    costs = {name: 10.0**number for number, name in enumerate(names)}
    return ScoreTable.from_predictions(predictions, random.integers(0, 10, samples), costs=costs)


@st.composite
def cascades(draw: st.DrawFn) -> LookupCascade:
    """Tables with many ties under policies with thresholds on and between observed values."""
    exits, levels = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4, 8]))
    seed, samples = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60))
    table = random_table(samples, seed, exits=exits, levels=levels)
    names = draw(st.permutations(table.names))[: draw(st.integers(1, exits))]
    thresholds = st.sampled_from([k / (2 * levels) for k in range(2 * levels + 1)])
    stages = [
        PolicyStage(name, draw(thresholds | st.sampled_from([-np.inf, np.inf])))
        for name in names[:-1]
    ]
    return LookupCascade(table, Policy((*stages, PolicyStage(names[-1]))))
