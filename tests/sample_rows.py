"""Samples by row number: their images, batches of any sizes, and the answers row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.outcome import decide
from understudy.policy import Policy, PolicyStage
from understudy.runtime.protocol import Answers
from understudy.scores import ScoreTable

Array = npt.NDArray[Any]
Row = tuple[int, float, str]
"""Prediction, confidence, and the exit that answered."""


def images_of(rows: npt.ArrayLike) -> Array:
    """One "image" per row number, int64 (N, 1, 1, 1)."""
    return np.asarray(rows, np.int64).reshape(-1, 1, 1, 1)


def rows_of(images: Any) -> Any:
    """The row numbers of images (N,): an array or tensor, or a list of arrays of any sizes."""
    if isinstance(images, list):
        return np.array([image[0, 0, 0] for image in images])
    return images[:, 0, 0, 0]


def in_batches(images: Any, sizes: Sequence[int]) -> Iterator[Any]:
    """The images in batches of these sizes, over and over."""
    start = 0
    for size in cycle(sizes):
        if start >= len(images):
            return
        yield images[start : start + size]
        start += size


def chain(first: float = 0.5, second: float = 0.5) -> Policy:
    """A policy of three stages."""
    return Policy((PolicyStage("tiny", first), PolicyStage("middle", second), PolicyStage("big")))


def expected_rows(table: ScoreTable, policy: Policy) -> list[Row]:
    """Prediction, confidence and exit of every row, as `evaluate` has them."""
    decisions = decide(table, policy)
    names = [policy.exits[number] for number in decisions.stage]
    columns = decisions.prediction.tolist(), decisions.confidence.tolist(), names
    return list(zip(*columns, strict=True))


def answered_rows(*batches: Answers) -> list[Row]:
    """Prediction, confidence and exit of every answer to some batches."""
    rows: list[Row] = []
    for answers in batches:
        columns = answers.prediction.tolist(), answers.confidence.tolist(), answers.exit_names()
        rows += zip(*columns, strict=True)
    return rows


def without_confidence(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """Prediction and exit of each row, where confidences are equal up to rounding."""
    return [(prediction, exit) for prediction, _, exit in rows]
