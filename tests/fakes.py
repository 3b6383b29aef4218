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

from understudy.nn.confidence import confidence_functions
from understudy.nn.device import Images
from understudy.nn.stage import EMPTY, Stage
from understudy.policy import Policy
from understudy.runtime.protocol import StageState, StateKey
from understudy.scores import Detail, ScoreTable

Array = npt.NDArray[Any]


def images_of(rows: npt.ArrayLike) -> Tensor:
    """One "image" per row number: its four bytes as channels, uint8 (N, 4, 1, 1)."""
    numbers = np.atleast_1d(np.asarray(rows, dtype="<u4"))
    return torch.from_numpy(numbers.view(np.uint8).reshape(-1, 4, 1, 1).copy())


def rows_of(images: Tensor) -> Tensor:
    """The row numbers that `images_of` wrote, (N,) int64."""
    return (images.flatten(1).long() << torch.tensor([0, 8, 16, 24])).sum(1)


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


def result_of(table: ScoreTable, *policies: Policy) -> Any:
    """Stands for a search result with these plans, for drops of 1, 2, 3... points; unproved."""
    cost = {"MACs": 1.0}
    plans = [
        SimpleNamespace(max_drop=float(drop), policy=policy, certificate=None)
        for drop, policy in enumerate(policies, 1)
    ]
    return SimpleNamespace(
        unit="MACs",
        measured_on="test",
        reference=table.names[-1],
        choices=plans,
        choice=lambda drop=None: plans[0 if drop is None else int(drop) - 1],
        singles=[
            SimpleNamespace(
                name=exit.name, origin=exit.origin, on={"test": SimpleNamespace(cost=cost)}
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
        key = StateKey.pooled("stateful", len(added))
        return logits, {**state, key: torch.stack([rows, rows], 1)}
