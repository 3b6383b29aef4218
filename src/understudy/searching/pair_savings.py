"""What the best cascade of every ordered pair of a table saves at one budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.scores import ScoreTable
from understudy.searching.all_pairs import search_all_pairs
from understudy.searching.pairs import checked_drops
from understudy.short_repr import short_repr


@dataclass(frozen=True, eq=False)
class PairSavings:
    """The savings of all pairs of M exits, cheapest first; arrays are (M, M), [little, big].

    Attributes:
        names: (M,) the exits by rising cost.
        unit, max_drop: what is saved, and the budget in points.
        saving: of the big model's cost, as a fraction; 0 where the pair saves nothing and the big
            model is used alone, NaN where the little one is not strictly cheaper.
        answered: the share of the samples that the little model answers; 0 where it is not used.
    """

    names: tuple[str, ...]
    unit: str
    max_drop: float
    saving: npt.NDArray[np.float64]
    answered: npt.NDArray[np.float64]

    __repr__ = short_repr


def pair_savings(
    table: ScoreTable,
    *,
    max_drop: float,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
) -> PairSavings:
    """The saving of every pair at its best threshold, chosen and measured on all of `table`.

    So nothing is certified; on a few hundred samples the figures are too good. Exits that share
    parts pay for them once.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 0, 1, 1], [.9, .8, .6, .5]), "big": ([0, 0, 0, 1], [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 10})
    >>> found = pair_savings(table, max_drop=0)
    >>> found.answered[0, 1].item(), found.saving[0, 1].round(3).item()
    (0.5, 0.4)

    Raises:
        TableError: fewer than two exits, samples without a label, unknown names, a missing cost.
        PolicyError: a budget beyond 100 points.
    """
    (drop,) = checked_drops(max_drop)
    unit = table.unit(unit)
    if len(table.exits) < 2:
        raise TableError(f"pairs take two exits, found {table.names[0]!r} alone: score another")
    without = int((~table.labelled).sum())
    if without:
        raise TableError(
            f"all pairs are compared by right answers, {without:,} of {len(table):,} samples have "
            "no label: add labels (`understudy import-labels`)"
        )
    costs = table.exit_costs(unit)
    order = np.argsort(costs, kind="stable")
    right, values = table.right(table.names[0])[order], table.scores(confidence)[order]
    found = search_all_pairs(right, values, costs[order], [drop])
    names = tuple(table.names[row] for row in order)
    answered = found.accepted[:, :, 0] / len(table)
    saving = _savings(table, names, costs[order], answered, unit)
    saving[np.isnan(found.threshold[:, :, 0])] = np.nan
    answered[~(saving > 0)] = 0.0
    return PairSavings(names, unit, drop, saving, answered)


def _savings(
    table: ScoreTable,
    names: tuple[str, ...],
    costs: npt.NDArray[np.float64],
    answered: npt.NDArray[np.float64],
    unit: str,
) -> npt.NDArray[np.float64]:
    """1 minus the mean cost of every pair over that of its big model, at least 0."""
    both = costs[:, None] + costs
    if table.shares_parts:
        both = np.array([[table.cost_of([a, b], unit) for b in names] for a in names])
    mean = answered * costs[:, None] + (1 - answered) * both
    with np.errstate(divide="ignore", invalid="ignore"):
        saving = 1 - mean / costs
    return np.asarray(np.maximum(saving, 0.0))
