"""Small fakes that make the runtime testable exactly, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sample_rows import Array, images_of, rows_of
from understudy.baseline import Baseline, StageBaseline
from understudy.ensemble import Ensemble, ensemble_of
from understudy.nn.cascade import Cascade
from understudy.nn.confidence_functions import confidence_functions
from understudy.nn.stage import EMPTY, Images, Stage
from understudy.policy import Policy
from understudy.runtime.protocol import StageState, StateKey
from understudy.scores import Detail, ScoreTable


def tensors_of(rows: npt.ArrayLike) -> Tensor:
    """The images of row numbers as a tensor, int64 (N, 1, 1, 1)."""
    return torch.from_numpy(images_of(rows))


class TableModel(nn.Module):
    """Looks up the logits of one exit in a table, by the row number in the image.

    Records the sizes of the batches that it was run on.
    """

    logits: Tensor

    def __init__(self, table: ScoreTable, exit: str) -> None:
        super().__init__()
        logits = table.details[exit].logits
        assert logits is not None, "the table has no logits"
        self.register_buffer("logits", torch.from_numpy(logits.astype(np.float32)))
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.logits[rows_of(images)]


def table_models(table: ScoreTable) -> dict[str, TableModel]:
    """The model of every exit of a table that is no ensemble."""
    names = [exit.name for exit in table.exits if ensemble_of(exit.origin) is None]
    return {name: TableModel(table, name) for name in names}


def ensembles_of(table: ScoreTable) -> dict[str, Ensemble]:
    """The ensembles among the exits of a table."""
    found = {exit.name: ensemble_of(exit.origin) for exit in table.exits}
    return {name: ensemble for name, ensemble in found.items() if ensemble is not None}


def batch_sizes(cascade: Cascade) -> dict[str, list[int]]:
    """The sizes of the batches that each `TableModel` of a cascade was run on, by stage."""
    models = {name: stage.model for name, stage in cascade.stages.items()}
    return {name: model.batches for name, model in models.items() if isinstance(model, TableModel)}


def scored(logits: Mapping[str, Array], labels: npt.ArrayLike | None = None) -> ScoreTable:
    """The table that scoring these logits gives: exit -> (N, C), exact in float16."""
    halves = {name: np.asarray(rows, np.float16) for name, rows in logits.items()}
    tensors = {name: torch.from_numpy(rows.astype(np.float32)) for name, rows in halves.items()}
    table = ScoreTable.from_predictions(
        {
            name: (
                rows.argmax(1).numpy(),
                {key: function(rows).numpy() for key, function in confidence_functions.items()},
            )
            for name, rows in tensors.items()
        },
        labels,
        costs={name: 10.0**number for number, name in enumerate(halves)},
    )
    nothing = np.empty((len(table), 0))
    return replace(
        table, details={name: Detail(nothing, nothing, rows) for name, rows in halves.items()}
    )


def baseline_for(policy: Policy) -> Baseline:
    """A made-up baseline: half of the samples that reach a stage go on to the next one."""
    stages = [
        StageBaseline(name, (-0.25, 0.1), (2 ** (9 - number), 0, 2 ** (9 - number)))
        for number, name in enumerate(policy.exits)
    ]
    costs = {"MACs": {name: float(number + 1) for number, name in enumerate(policy.exits)}}
    last = policy.exits[-1]
    return Baseline(last, stages[0].samples, 7, tuple(stages), costs, {"MACs": 9.0})


def result_of(table: ScoreTable, *policies: Policy) -> Any:
    """A stand-in for a search result with these choices, for drops of 1, 2, 3... points."""
    cost = {"MACs": 1.0}
    choices = [
        SimpleNamespace(max_drop=float(drop), policy=policy, certificate=None, monitoring=None)
        for drop, policy in enumerate(policies, 1)
    ]
    return SimpleNamespace(
        unit="MACs",
        measured_on="test",
        reference=table.names[-1],
        choices=choices,
        choice=lambda drop=None: choices[0 if drop is None else int(drop) - 1],
        singles=[
            SimpleNamespace(
                name=exit.name,
                origin=exit.origin,
                on={"test": SimpleNamespace(cost=cost)},
                monitoring=None,
            )
            for exit in table.exits
        ],
        table={"provenance": dict(table.provenance)},
    )


class StatefulStage(Stage):
    """A stage that adds its rows' numbers to the state and checks those that it finds there."""

    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        assert isinstance(images, Tensor)
        rows = rows_of(images)
        added = [key for key in state if key.kind == "pooled"]
        for key in added:
            assert torch.equal(state[key][:, 0], rows), key
        logits, _ = super().resume(images, EMPTY)
        key = StateKey("pooled", "stateful", len(added))
        return logits, {**state, key: torch.stack([rows, rows], 1)}
