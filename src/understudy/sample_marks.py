"""Marks of a few samples of a table, by which they are found again in another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from understudy.scores import ScoreTable

COUNT = 64
ALIKE = 0.9  # of the samples with equal ids: the least share with equal answers
_CLOSE = 1e-3  # a difference of confidences that another machine makes
Mark = Sequence[float]  # split, class and max softmax, where there is one


def sample_marks(table: ScoreTable, exit: str) -> dict[str, Mark]:
    """The split of samples spread over the table, and the answers of an exit, by hashes of ids.

    >>> table = ScoreTable.from_predictions({"a": ([2, 1], [.5, .75])}, [2, 2], ids=["x", "y"])
    >>> list(sample_marks(table, "a").values())
    [[1, 2.0, 0.5], [1, 1.0, 0.75]]
    """
    rows = np.unique(np.linspace(0, len(table) - 1, COUNT).astype(np.intp))
    return dict(_marks(table.rows(rows), exit))


def found_again(marks: Mapping[str, Mark], table: ScoreTable, exit: str) -> list[bool] | None:
    """Of the marked samples that a table has, whether they are in the same split there.

    None where it has none, or where the answers differ: samples that are counted have the same ids
    in every table.
    """
    here = dict(_marks(table, exit, marks))
    pairs = [(here[key], mark) for key, mark in marks.items() if key in here]
    alike = [
        all(
            np.isclose(one, other, _CLOSE, _CLOSE) for one, other in zip(a[1:], b[1:], strict=False)
        )
        for a, b in pairs
    ]
    if not alike or sum(alike) < ALIKE * len(alike):
        return None
    return [a[0] == b[0] for a, b in pairs]


def _marks(
    table: ScoreTable, exit: str, wanted: Mapping[str, Mark] | None = None
) -> Iterator[tuple[str, Mark]]:
    row, bound = table.index(exit), np.finfo(np.float32).max
    scores = [table.confidence["max_softmax"][row]] if "max_softmax" in table.confidence else []
    for at, name in enumerate(table.ids.tolist()):
        key = hashlib.sha256(str(name).encode()).hexdigest()[:16]
        if wanted is None or key in wanted:
            answer = [int(table.prediction[row, at]), *(float(one[at]) for one in scores)]
            yield key, [int(table.split[at]), *np.clip(answer, -bound, bound).tolist()]
