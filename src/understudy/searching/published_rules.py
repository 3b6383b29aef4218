"""The thresholds that the papers' own rules choose, for comparison with the exact search.

Written anew, faithful to the papers' code. TinySaver (arXiv 2403.17726) lowers one threshold in
steps of 0.001 and stops at the first crossing. DyCE's `onepass` (2403.01695) goes through the
positions once, shallow to deep, applies a smooth scalar optimiser to each step function, and never
revisits an exit. Both answer when `confidence > t`, which is converted exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.choice import Published
from understudy.errors import PolicyError
from understudy.import_exits import from_strict
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable
from understudy.searching.onepass import check_range, in_range, onepass
from understudy.searching.pairs import allowed_gap

ONEPASS, FIRST_CROSSING = "onepass", "first crossing"
GRID = np.arange(1, 0, -0.001)
WEIGHTS = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
MOST_EXITS, MOST_SHARED = 24, 200  # for `onepass`; of models that share nothing, of exits that do
Array = npt.NDArray[Any]


def published_rules(
    tune: ScoreTable,
    measured: ScoreTable,
    *,
    reference: str,
    unit: str,
    max_drop: Sequence[float],
    confidence: str = DEFAULT_CONFIDENCE,
) -> tuple[Published, ...]:
    """What TinySaver's and DyCE's rules choose on `tune` for every budget, measured on `measured`.

    Both rules need confidences between 0 and 1; with others nothing is returned. DyCE's runs where
    exits share parts or are few; its 51 trade-offs are compared on `tune` too.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> found = published_rules(table, table, reference="big", unit="MACs", max_drop=[0.0])
    >>> [(one.rule, one.outcome.drop, one.outcome.shares["tiny"]) for one in found]
    [('first crossing', 0.0, 0.9), ('onepass', 0.0, 0.9)]
    """
    savers = saver_rules(
        tune, measured, reference=reference, unit=unit, max_drop=max_drop, confidence=confidence
    )
    if not savers:
        return ()
    policies = _onepass_policies(tune, reference, unit, confidence)
    on_tune = [(one, evaluate(tune, one, reference=reference)) for one in policies]
    chosen = []
    for drop in max_drop if on_tune else ():
        within = [pair for pair in on_tune if pair[1].drop <= drop + 1e-9]
        best = min(within, key=lambda pair: pair[1].cost[unit], default=None)
        chosen.append((ONEPASS, drop, Policy.single(reference) if best is None else best[0]))
    return (*savers, *_measured(chosen, measured, reference))


def saver_rules(
    tune: ScoreTable,
    measured: ScoreTable,
    *,
    reference: str,
    unit: str,
    max_drop: Sequence[float],
    confidence: str = DEFAULT_CONFIDENCE,
) -> tuple[Published, ...]:
    """The policies of TinySaver's rule only, the one for models that share no parts.

    For each budget the pair of least cost among all cheaper exits, each at its own crossing.
    """
    full = tune.cost_of([reference], unit)
    littles = [name for name in tune.names if tune.cost_of([name], unit) < full]
    if not littles or confidence not in tune.confidence:
        return ()
    if not in_range(tune.confidence[confidence]):
        return ()
    spec = {"unit": unit, "confidence": confidence}
    sweeps = [GridSweep.of(tune, name, reference, **spec) for name in littles]
    chosen = []
    for drop in max_drop:
        ends = [sweep.crossing(drop) for sweep in sweeps]
        best = min(range(len(ends)), key=lambda number: ends[number][0])
        chosen.append((FIRST_CROSSING, drop, sweeps[best].policy(ends[best][1])))
    return _measured(chosen, measured, reference)


def _measured(
    chosen: Sequence[tuple[str, float, Policy]], measured: ScoreTable, reference: str
) -> tuple[Published, ...]:
    outcomes = {
        one: evaluate(measured, one, reference=reference)
        for one in dict.fromkeys(policy for _, _, policy in chosen)
    }
    return tuple(Published(rule, drop, policy, outcomes[policy]) for rule, drop, policy in chosen)


def first_crossing(
    table: ScoreTable,
    little: str,
    reference: str,
    *,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    max_drop: float | None = None,
) -> Policy:
    """TinySaver's pair: t falls from 1 in steps of 0.001 to the first at which, on the samples that
    the little model answers, it is less accurate than the reference.

    That t is taken, although it has crossed. With `max_drop` (points) the gap over all samples is
    compared with it instead, and the last t before the crossing is taken. Where this saves nothing
    (delta C >= 0 in the paper), it is the reference alone.

    Raises:
        PolicyError: confidences outside 0 to 1.
        TableError: an unknown name, or a cost that is missing.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6055, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> first_crossing(table, "tiny", "big").describe()
    'tiny when max_softmax >= 0.605, else big'
    >>> first_crossing(table, "tiny", "big", max_drop=0.0).describe()
    'tiny when max_softmax >= 0.606, else big'
    """
    unit = table.unit(unit)
    check_range(table.scores(confidence)[table.index(little)])
    spec = {"unit": unit, "confidence": confidence}
    sweep = GridSweep.of(table, little, reference, **spec)
    return sweep.policy(sweep.crossing(max_drop)[1])


@dataclass(frozen=True, eq=False)
class GridSweep:
    """A pair as its threshold falls from 1 to 0 in steps of 0.001.

    `scores` (N,) are the little model's. At each step of the grid, (G,): `gap` is how many samples
    are lost net, `cost` the mean cost. `full` is the reference's.
    """

    little: str
    reference: str
    confidence: str
    scores: Array
    gap: Array
    cost: Array
    full: float

    @staticmethod
    def of(
        table: ScoreTable, little: str, reference: str, *, unit: str, confidence: str
    ) -> GridSweep:
        """The sweep on a table."""
        row = table.index(little)
        scores = table.scores(confidence)[row].astype(np.float64)
        lost = table.right(reference, table.index(reference)).astype(np.int64)
        lost -= table.right(reference, row)
        order = np.argsort(scores)
        accepted = len(scores) - np.searchsorted(scores[order], GRID, side="right")
        share = accepted / len(scores)
        alone, both = (table.cost_of(names, unit) for names in ([little], [little, reference]))
        return GridSweep(
            little=little,
            reference=reference,
            confidence=confidence,
            scores=scores,
            gap=np.append(0, np.cumsum(lost[order[::-1]]))[accepted],
            cost=share * alone + (1 - share) * both,
            full=table.cost_of([reference], unit),
        )

    def crossing(self, max_drop: float | None) -> tuple[float, int]:
        """The mean cost and the step of the crossing; the reference's cost and -1 for no step."""
        last = self.crossed() if max_drop is None else self._within(max_drop)
        saves = last >= 0 and self.cost[last] < self.full
        return (float(self.cost[last]), last) if saves else (self.full, -1)

    def crossed(self) -> int:
        """The first step whose gap is above 0; the last of the grid where there is none."""
        crossed = self.gap > 0
        return int(np.argmax(crossed)) if crossed.any() else len(GRID) - 1

    def _within(self, max_drop: float) -> int:
        """The step before the first whose gap exceeds the drop; -1 where that is the first."""
        crossed = self.gap > allowed_gap(max_drop, len(self.scores))
        return int(np.argmax(crossed)) - 1 if crossed.any() else len(GRID) - 1

    def swept(self, max_drop: float) -> int:
        """The step of least cost among all whose gap is within the drop; -1 where none saves."""
        within = self.gap <= allowed_gap(max_drop, len(self.scores))
        costs = np.where(within, self.cost, np.inf)
        return int(np.argmin(costs)) if costs.min() < self.full else -1

    def policy(self, step: int) -> Policy:
        """The policy at a step."""
        if step < 0:
            return Policy.single(self.reference)
        threshold = from_strict(float(GRID[step]), self.scores)
        return Policy.pair(self.little, self.reference, threshold, confidence=self.confidence)


def _onepass_policies(tune: ScoreTable, reference: str, unit: str, confidence: str) -> list[Policy]:
    """The policies of all trade-offs; none where the rule is undefined or would take long."""
    if len(tune.exits) > (MOST_SHARED if tune.shares_parts else MOST_EXITS):
        return []
    try:
        found = onepass(tune, WEIGHTS, reference=reference, unit=unit, confidence=confidence)
    except PolicyError:
        return []
    return list(dict.fromkeys(found))
