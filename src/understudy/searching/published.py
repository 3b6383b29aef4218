"""What the papers' own rules choose, beside the exact search: own code, faithful to theirs.

TinySaver (arXiv 2403.17726) lowers one threshold in steps of 0.001 and stops at the first crossing.
DyCE (2403.01695) goes through the positions once (`onepass`). Both answer when `confidence > t`,
which is converted exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import PolicyError
from understudy.import_exits import from_strict
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.result import Published
from understudy.scores import ScoreTable
from understudy.searching.onepass import check_range, in_range, onepasses
from understudy.searching.pairs import allowed_gap

ONEPASS, FIRST_CROSSING = "onepass", "first crossing"
STEP = 0.001
WEIGHTS = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
MOST_EXITS, MOST_SHARED, MOST_SAMPLES = 24, 200, 2_000  # onepass takes 30 ms per exit
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
    """What TinySaver's and DyCE's rules choose on `tune` for every budget, on `measured`.

    Both rules take confidences between 0 and 1; where they are others, nothing is returned. DyCE's
    runs where exits share parts or are few, on at most 2,000 evenly spaced samples of `tune`; its
    51 trade-offs are compared on all of `tune`.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> found = published_rules(table, table, reference="big", unit="MACs", max_drop=[0.0])
    >>> [(one.rule, one.outcome.drop, one.outcome.shares["tiny"]) for one in found]
    [('first crossing', 0.0, 0.9), ('onepass', 0.0, 0.9)]
    """
    if not _fits(tune, reference, unit=unit, confidence=confidence):
        return ()
    candidates = _onepass_policies(tune, reference, unit=unit, confidence=confidence)
    tried = [(one, evaluate(tune, one, reference=reference)) for one in candidates]
    chosen = []
    for drop in max_drop if tried else ():
        within = [pair for pair in tried if pair[1].drop <= drop + 1e-9]
        best = min(within, key=lambda pair: pair[1].cost[unit], default=None)
        chosen.append((ONEPASS, drop, Policy.single(reference) if best is None else best[0]))
    savers = saver_rules(
        tune, measured, reference=reference, unit=unit, max_drop=max_drop, confidence=confidence
    )
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
    """What TinySaver's rule alone chooses: the one for models that share no parts."""
    if not _fits(tune, reference, unit=unit, confidence=confidence):
        return ()
    chosen = [
        (
            FIRST_CROSSING,
            drop,
            _saver(tune, reference, unit=unit, confidence=confidence, max_drop=drop),
        )
        for drop in max_drop
    ]
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

    That t is taken, though it has crossed. With `max_drop` (points) the gap over all samples is
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
    return _crossing(table, little, reference, unit=unit, confidence=confidence, max_drop=max_drop)[
        1
    ]


def _saver(
    table: ScoreTable, reference: str, *, unit: str, confidence: str, max_drop: float
) -> Policy:
    """The pair of least cost among all cheaper exits, each at its own crossing."""
    full = table.cost_of([reference], unit)
    crossings = [
        _crossing(table, name, reference, unit=unit, confidence=confidence, max_drop=max_drop)
        for name in table.names
        if table.cost_of([name], unit) < full
    ]
    return min(crossings, key=lambda found: found[0])[1]


def _crossing(
    table: ScoreTable,
    little: str,
    reference: str,
    *,
    unit: str,
    confidence: str,
    max_drop: float | None,
) -> tuple[float, Policy]:
    """The mean cost and the policy of a pair at its crossing."""
    row, truth = table.index(little), table.truth(reference)
    sure = table.scores(confidence)[row].astype(np.float64)
    lost = (table.prediction[table.index(reference)] == truth).astype(np.int64)
    lost -= table.prediction[row] == truth
    order = np.argsort(sure)
    grid = np.arange(1, 0, -STEP)
    accepted = len(sure) - np.searchsorted(sure[order], grid, side="right")
    gap = np.append(0, np.cumsum(lost[order[::-1]]))[accepted]
    crossed = gap > (0 if max_drop is None else allowed_gap(max_drop, len(sure)))
    last = int(np.argmax(crossed)) - (max_drop is not None) if crossed.any() else len(grid) - 1
    full, both = table.cost_of([reference], unit), table.cost_of([little, reference], unit)
    share = accepted[max(last, 0)] / len(sure)
    cost = share * table.cost_of([little], unit) + (1 - share) * both
    if last < 0 or not cost < full:
        return full, Policy.single(reference)
    threshold = from_strict(float(grid[last]), sure)
    return cost, Policy.pair(little, reference, threshold, confidence=confidence)


def _fits(table: ScoreTable, reference: str, *, unit: str, confidence: str) -> bool:
    full = table.cost_of([reference], unit)
    if confidence not in table.confidence or (table.exit_costs(unit) >= full).all():
        return False
    return in_range(table.confidence[confidence])


def _onepass_policies(
    tune: ScoreTable, reference: str, *, unit: str, confidence: str
) -> list[Policy]:
    """The policies of all trade-offs; none where the rule is not defined or would take long."""
    if len(tune.exits) > (MOST_SHARED if tune.shares_parts else MOST_EXITS):
        return []
    few = tune
    if len(tune) > MOST_SAMPLES:
        few = tune.rows(np.linspace(0, len(tune) - 1, MOST_SAMPLES).astype(np.intp))
    try:
        found = onepasses(few, WEIGHTS, reference=reference, unit=unit, confidence=confidence)
    except PolicyError:
        return []
    return list(dict.fromkeys(found))
