"""Accuracy of every exit by difficulty, and the gain of each further unit of cost there.

Little-Big's finding (arXiv 2406.17117): most samples are easy, on those a little model is as good
as a large one, and the large one's advantage lies in a hard tail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import LEARNED
from understudy.deferral import with_deferral
from understudy.errors import TableError
from understudy.json_codec import Stored, stored
from understudy.label_sets import is_right
from understudy.outcome import decide
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable
from understudy.tabular import Tabular

EQUAL_WITHIN = 0.5


@dataclass(frozen=True)
class Bin(Stored):
    """Samples of like difficulty: how many, and every exit's accuracy on them (fractions)."""

    name: str
    samples: int
    accuracy: Mapping[str, float]
    gain_per_cost: Mapping[str, float]


@dataclass(frozen=True)
class Difficulty(
    Stored,
    Tabular,
    what="a survey of difficulty",
    keys=(
        *("little", "reference", "unit", "costs", "by_confidence", "by_agreement", "helps"),
        *("unlabelled", "words"),
    ),
):
    """Accuracy of every exit by difficulty, seen in two ways.

    Attributes:
        little: the exit whose confidence orders the samples in `by_confidence`.
        reference: the exit that others are compared with.
        unit: the unit of `costs`; `gain_per_cost` is points of accuracy per further unit of cost
            over the next cheaper exit.
        by_confidence: tenths of the samples, by falling confidence of `little`.
        by_agreement: by how many exits are right, from all to none.
        helps: for every cheaper exit, in how many of the easiest tenths (by its own confidence) it
            is at most 0.5 points behind the reference, counted from the easiest on.
        unlabelled: whether no sample has a label, so that accuracy is agreement with the reference.
    """

    little: str
    reference: str
    unit: str
    costs: Mapping[str, float]
    by_confidence: tuple[Bin, ...]
    by_agreement: tuple[Bin, ...]
    helps: Mapping[str, int]
    unlabelled: bool = field(default=False, metadata=stored(optional=True, sparse=True))

    def columns(self) -> dict[str, list[Any]]:
        """A row per tenth and per level of agreement, with every exit's accuracy there."""
        bins = [*self.by_confidence, *self.by_agreement]
        grouped = ["confidence"] * len(self.by_confidence) + ["agreement"] * len(self.by_agreement)
        return {
            "by": grouped,
            "group": [one.name for one in bins],
            "samples": [one.samples for one in bins],
            **{f"accuracy {name}": [one.accuracy[name] for one in bins] for name in self.costs},
        }

    def words(self) -> str:
        """When a little model can help, in one or two sentences."""
        if not self.helps:
            return f"No exit is cheaper than {self.reference}: score a smaller model."
        best = max(self.helps, key=lambda name: (self.helps[name], -self.costs[name]))
        if not self.helps[best]:
            return (
                f"No little model can help here: even on the tenth of the samples that each is "
                f"surest of, none comes within {EQUAL_WITHIN:g} points of {self.reference}."
            )
        hardest = self.by_confidence[-1].accuracy
        if self.unlabelled:
            return (
                f"{best} answers as {self.reference} does (but for {EQUAL_WITHIN:g} %) on the "
                f"{10 * self.helps[best]} % of the samples that it is surest of. On the hardest "
                f"tenth {self.little} agrees on {100 * hardest[self.little]:.1f} %."
            )
        return (
            f"{best} is as good as {self.reference} (within {EQUAL_WITHIN:g} points) on the "
            f"{10 * self.helps[best]} % of the samples that it is surest of. On the hardest tenth "
            f"{self.little} has {100 * hardest[self.little]:.1f} % right, {self.reference} "
            f"{100 * hardest[self.reference]:.1f} %."
        )


def difficulty(
    table: ScoreTable,
    *,
    little: str | None = None,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str = "max_softmax",
) -> Difficulty:
    """Accuracy of every exit per tenth of difficulty; see `Difficulty`.

    `little` is the cheapest exit unless named. Samples of equal confidence keep their order. The
    confidence "deferral" is learned on tune for every cheaper exit (`with_deferral`).

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> [(b.name, b.samples, b.accuracy["tiny"]) for b in difficulty(table).by_agreement]
    [('2 of 2 right', 3, 1.0), ('1 of 2 right', 1, 0.0)]

    Raises:
        TableError: an unknown name, or a table of a single exit.
    """
    if len(table.exits) < 2:
        raise TableError(
            f"difficulty compares exits, this table has {table.names[0]!r} alone: score another "
            "model"
        )
    unit = table.unit(unit)
    costs = table.exit_costs(unit)
    big = table.reference(reference, unit=unit)
    if confidence == LEARNED and LEARNED not in table.confidence:
        table = with_deferral(table, big, unit=unit)
    small = table.names[int(costs.argmin())] if little is None else table.names[table.index(little)]
    right = table.right(big)
    values = table.scores(confidence)
    by_exit = dict(zip(table.names, costs.tolist(), strict=True))
    cheaper = [name for name in _by_cost(by_exit) if by_exit[name] < by_exit[big]]
    row = table.index
    return Difficulty(
        little=small,
        reference=big,
        unit=unit,
        costs=by_exit,
        by_confidence=tuple(
            _bin(f"{number + 1}", right[:, rows], by_exit)
            for number, rows in enumerate(_tenths(values[row(small)]))
        ),
        by_agreement=tuple(
            _bin(name, right[:, rows], by_exit) for name, rows in _levels(right) if rows.any()
        ),
        helps={name: _easy_tenths(right, values, row(name), row(big)) for name in cheaper},
        unlabelled=table.label is None,
    )


def policy_by_tenth(
    table: ScoreTable,
    policy: Policy,
    *,
    little: str,
    reference: str,
    confidence: str = DEFAULT_CONFIDENCE,
) -> tuple[float, ...]:
    """The accuracy of a policy in the tenths of `Difficulty.by_confidence`, fractions.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 1], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> policy_by_tenth(
    ...     table, Policy.pair("tiny", "big", 0.65), little="tiny", reference="big")
    (1.0, 1.0, 1.0, 1.0)

    Raises:
        TableError: an unknown name.
    """
    answers = decide(table, policy).prediction
    right = is_right(answers, table.right_answers(reference))
    values = table.scores(confidence)[table.index(little)]
    return tuple(float(right[rows].mean()) for rows in _tenths(values))


def _by_cost(costs: Mapping[str, float]) -> list[str]:
    """The exits, cheapest first."""
    return sorted(costs, key=costs.__getitem__)


def _bin(name: str, right: npt.NDArray[np.bool_], costs: Mapping[str, float]) -> Bin:
    """The samples of a bin, (E, n) marks of who is right, exits in the order of `costs`."""
    accuracy = dict(zip(costs, right.mean(1).tolist(), strict=True))
    gains = {
        b: 100 * (accuracy[b] - accuracy[a]) / (costs[b] - costs[a])
        for a, b in pairwise(_by_cost(costs))
        if costs[b] > costs[a]
    }
    return Bin(name, right.shape[1], accuracy, gains)


def _tenths(confidence: npt.NDArray[Any]) -> list[npt.NDArray[np.intp]]:
    parts = np.array_split(np.argsort(-confidence, kind="stable"), 10)
    return [rows for rows in parts if len(rows)]


def _easy_tenths(
    right: npt.NDArray[np.bool_], confidence: npt.NDArray[Any], little: int, big: int
) -> int:
    tenths = 0
    for rows in _tenths(confidence[little]):
        if 100 * (right[big, rows].mean() - right[little, rows].mean()) > EQUAL_WITHIN:
            break
        tenths += 1
    return tenths


def _levels(right: npt.NDArray[np.bool_]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The samples that so many exits have right, from all to none; in ten ranges if many."""
    exits, hits = len(right), right.sum(0)
    if exits <= 10:
        return [(f"{k} of {exits} right", hits == k) for k in range(exits, -1, -1)]
    edges = [exits * k // 10 for k in range(10, 0, -1)]
    lowest = [edge + 1 for edge in edges[1:]] + [0]
    return [
        (f"{low} to {high} of {exits} right", (low <= hits) & (hits <= high))
        for low, high in zip(lowest, edges, strict=True)
    ]
