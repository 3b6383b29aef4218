"""TinySaver's choice of a saver (arXiv 2403.17726): the cheaper models by delta C.

Written anew from the paper's code. It has no budget and proves nothing: the savers of
`best_savers` are chosen by what they are expected to cost once certified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from understudy.errors import TableError
from understudy.json_codec import Stored
from understudy.outcome import Outcome, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable
from understudy.searching.onepass import check_range
from understudy.searching.published_rules import GRID, GridSweep, first_crossing
from understudy.split import headline_split


@dataclass(frozen=True)
class RankedSaver(Stored, what="a ranked saver"):
    """A saver of one large model at its first crossing.

    Attributes:
        big, saver: the two models.
        threshold: t of the grid; the saver answers where its confidence is larger.
        share: the fraction of samples that it answers, r in the paper.
        relative_cost: its cost as a fraction of the large model's, c in the paper.
    """

    big: str
    saver: str
    threshold: float
    share: float
    relative_cost: float

    @property
    def delta_c(self) -> float:
        """What the pair costs more than the large model, as a fraction of its cost: c - r."""
        return self.relative_cost - self.share


def rank_savers(
    table: ScoreTable,
    big: str,
    *,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> tuple[RankedSaver, ...]:
    """All cheaper exits by delta C, the best first; a saver pays where delta C is below zero.

    For each, t falls from 1 in steps of 0.001 to the first at which, on the samples that the saver
    answers, it is less accurate than the large model (1.0 where it is so from the start).

    Args:
        table: the samples to choose on; the paper takes augmented train images.
        big: the large model.
        unit: the unit of cost; the table's first if None.
        confidence: the stored confidence, between 0 and 1.

    Raises:
        PolicyError: confidences outside 0 to 1.
        TableError: an unknown name, a cost that is missing, or no cheaper exit.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6055, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 8})
    >>> [(one.saver, one.share, one.delta_c) for one in rank_savers(table, "big")]
    [('tiny', 1.0, -0.875)]
    """
    unit = table.unit(unit)
    full = table.cost_of([big], unit)
    costs = {name: table.cost_of([name], unit) for name in table.names}
    cheaper = [name for name, cost in costs.items() if cost < full]
    if not cheaper:
        raise TableError(f"a saver is cheaper than {big!r}, found none: score a smaller model")
    ranked = [
        _ranked(table, name, big, costs[name] / full, unit=unit, confidence=confidence)
        for name in cheaper
    ]
    return tuple(sorted(ranked, key=lambda one: one.delta_c))


def swept_pair(
    table: ScoreTable,
    saver: str,
    big: str,
    max_drop: float,
    *,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> Policy:
    """The cheapest pair of two models within a drop, over thresholds from 0 to 1 in steps of 0.001.

    The large model alone where none saves: a point of the curve that TinySaver's code reports.

    Raises:
        PolicyError: confidences outside 0 to 1.
        TableError: an unknown name, or a cost that is missing.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6055, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 8})
    >>> swept_pair(table, "tiny", "big", 0.0).describe()
    'tiny when max_softmax >= 0.7, else big'
    """
    check_range(table.scores(confidence)[table.index(saver)])
    sweep = GridSweep.of(table, saver, big, unit=table.unit(unit), confidence=confidence)
    return sweep.policy(sweep.swept(max_drop))


def _ranked(
    table: ScoreTable, saver: str, big: str, relative_cost: float, **names: Any
) -> RankedSaver:
    check_range(table.scores(names["confidence"])[table.index(saver)])
    sweep = GridSweep.of(table, saver, big, **names)
    step = sweep.crossed()
    share = float((sweep.scores > GRID[step]).mean())
    return RankedSaver(big, saver, float(GRID[step]), share, relative_cost)


def best_of(ranked: Sequence[RankedSaver]) -> RankedSaver | None:
    """The first of a ranking where it pays; None where no saver does."""
    return ranked[0] if ranked and ranked[0].delta_c < 0 else None


@dataclass(frozen=True)
class SaverChoice(Stored, what="a choice of a saver"):
    """TinySaver's choice for one large model, on tune, as measured elsewhere.

    Attributes:
        big: the large model.
        ranking: its savers by delta C, the best first.
        policy: the best one at its first crossing; the large model alone where none pays.
        outcome: of that policy, on the split of the headline figures.
    """

    big: str
    ranking: tuple[RankedSaver, ...]
    policy: Policy
    outcome: Outcome


def choose_savers(
    table: ScoreTable, *, unit: str | None = None, confidence: str = DEFAULT_CONFIDENCE
) -> tuple[SaverChoice, ...]:
    """For every model that has a cheaper one, TinySaver's saver: dearest model first.

    Chosen on `tune`, measured on `test`, or on `certify` where there is no test split. Nothing is
    certified, and no budget is kept: the drop is whatever the first crossing gives.

    Raises:
        PolicyError: confidences outside 0 to 1.
        TableError: a cost that is missing, an empty split, or exits that all cost alike.

    >>> import numpy as np
    >>> right = np.arange(3000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(3000))},
    ...     np.zeros(3000, int), costs={"tiny": 1, "big": 10})
    >>> [(one.ranking[0].saver, round(one.outcome.drop)) for one in choose_savers(table)]
    [('tiny', 10)]
    """
    unit = table.unit(unit)
    costs = dict(zip(table.names, table.exit_costs(unit).tolist(), strict=True))
    bigs = [name for name in costs if costs[name] > min(costs.values())]
    if not bigs:
        raise TableError(f"a saver is cheaper than its model, all {len(costs)} exits cost alike")
    tune, measured = table.on("tune"), table.on(headline_split(table.splits))
    chosen = []
    for big in sorted(bigs, key=lambda name: -costs[name]):
        ranking = rank_savers(tune, big, unit=unit, confidence=confidence)
        best = best_of(ranking)
        policy = (
            Policy.single(big)
            if best is None
            else first_crossing(tune, best.saver, big, unit=unit, confidence=confidence)
        )
        outcome = evaluate(measured, policy, reference=big)
        chosen.append(SaverChoice(big, ranking, policy, outcome))
    return tuple(chosen)
