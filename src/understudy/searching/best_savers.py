"""The best saver for every large model of a table: which little model, at which threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.errors import TableError
from understudy.json_codec import encode
from understudy.outcome import Outcome, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable
from understudy.searching.all_pairs import search_all_pairs
from understudy.searching.pairs import cheapest_pair, checked_drops, pair_curves
from understudy.split import headline_split


@dataclass(frozen=True)
class Saver:
    """The best little model before one large model within one budget.

    Attributes:
        big: the large model.
        max_drop: the budget in points.
        policy: little -> big; the little model or the big one alone where that is cheapest.
        on: its outcome on tune, where it was chosen, and on test, or on certify without a test
            split.
    """

    big: str
    max_drop: float
    policy: Policy
    on: Mapping[str, Outcome]

    @property
    def little(self) -> str | None:
        """The little model; None where nothing cheaper stays within the budget."""
        first = self.policy.exits[0]
        return None if first == self.big else first

    @property
    def threshold(self) -> float:
        """The little model's threshold: -inf where it always answers, inf where it never does."""
        threshold = self.policy.stages[0].threshold
        alone = -np.inf if self.little else np.inf
        return alone if threshold is None else threshold

    @property
    def measured_on(self) -> str:
        """The split that it was not chosen on."""
        return headline_split(self.on)

    def share(self, split: str) -> float:
        """The fraction of samples that the little model answers."""
        return self.on[split].shares[self.little] if self.little else 0.0

    def to_dict(self, unit: str) -> dict[str, Any]:
        return {
            "big": self.big,
            "max_drop": self.max_drop,
            "little": self.little,
            "threshold": encode(self.threshold),
            "policy": self.policy.to_dict(),
            "share": {split: self.share(split) for split in self.on},
            "saving": {split: outcome.saving[unit] for split, outcome in self.on.items()},
            "drop": {split: outcome.drop for split, outcome in self.on.items()},
            "measured_on": self.measured_on,
            f"{self.measured_on}_drop_interval": list(self.on[self.measured_on].drop_interval),
        }


@dataclass(frozen=True)
class Savers:
    """The best saver of every large model, dearest model first, its budgets together.

    Attributes:
        unit: the unit of cost that was minimised.
        confidence: the stored confidence that thresholds apply to.
        rows: one per large model and budget.
    """

    unit: str
    confidence: str
    rows: tuple[Saver, ...]

    def __iter__(self) -> Iterator[Saver]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "confidence": self.confidence,
            "certified": False,
            "savers": [row.to_dict(self.unit) for row in self.rows],
        }


def best_savers(
    table: ScoreTable,
    max_drop: float | Sequence[float],
    *,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
) -> Savers:
    """For every model that has a cheaper one, the cheapest pair within each budget.

    Every ordered pair is tried at every threshold, exactly, on `tune`; the best is measured on
    `test`, or on `certify` where the table has no test split, and not certified. Where exits share
    parts, or where the answers of each large model stand in for missing labels, pairs are searched
    one by one, which takes longer.

    `max_drop` is in points against each large model; `unit` and `confidence` are as for `search`.

    Raises:
        TableError: an unknown name, a missing cost, an empty split, no exit cheaper than another.
        PolicyError: no budget, or one beyond 100 points.

    Source: TinySaver's choice of savers (arXiv 2403.17726), with its first crossing made exact.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0] * 2, [.9, .8, .6, .7] * 2), "big": ([0, 1, 0, 0] * 2, [.9] * 8)},
    ...     [0, 1, 0, 0] * 2, costs={"tiny": 1, "big": 9}, split=["tune"] * 4 + ["test"] * 4)
    >>> [(s.big, s.little, s.share("test")) for s in best_savers(table, 0.0)]
    [('big', 'tiny', 0.75)]
    """
    drops = checked_drops(max_drop)
    unit = table.unit(unit)
    tune, last = table.on("tune"), headline_split(table.splits)
    costs = table.exit_costs(unit)
    bigs = [int(row) for row in np.argsort(-costs, kind="stable") if costs[row] > costs.min()]
    if not bigs:
        raise TableError("a saver is cheaper than its large model, all exits cost alike")
    one_by_one = table.shares_parts or not table.labelled.all()
    choose = _one_by_one if one_by_one else _all_at_once
    rows = []
    for (big, drop), policy in choose(tune, bigs, drops, unit, confidence).items():
        parts = {"tune": tune, last: table.on(last)}
        on = {name: evaluate(part, policy, reference=big) for name, part in parts.items()}
        rows.append(Saver(big, drop, policy, on))
    return Savers(unit, confidence, tuple(rows))


def _all_at_once(
    tune: ScoreTable, bigs: Sequence[int], drops: Sequence[float], unit: str, confidence: str
) -> dict[tuple[str, float], Policy]:
    """The cheapest pair of every large model and budget, from all pairs at once."""
    costs, names = tune.exit_costs(unit), tune.names
    found = search_all_pairs(tune.prediction == tune.label, tune.scores(confidence), costs, drops)
    share = found.accepted / len(tune)
    chosen = {}
    for big in bigs:
        littles = np.flatnonzero(costs < costs[big])
        for number, drop in enumerate(drops):
            answered = share[littles, big, number]
            cost = costs[littles] + np.where(answered < 1, (1 - answered) * costs[big], 0.0)
            best = int(littles[np.argmin(cost)])
            threshold = float(found.threshold[best, big, number])
            pays = float(cost.min()) < costs[big]
            policy = Policy.single(names[best if pays else big])
            if pays and threshold != -np.inf:
                policy = Policy.pair(names[best], names[big], threshold, confidence=confidence)
            chosen[names[big], drop] = policy
    return chosen


def _one_by_one(
    tune: ScoreTable, bigs: Sequence[int], drops: Sequence[float], unit: str, confidence: str
) -> dict[tuple[str, float], Policy]:
    """The same from the curve of every pair, for shared parts and missing labels."""
    chosen = {}
    for big in bigs:
        curves = pair_curves(tune, tune.names[big], confidence=confidence, unit=unit)
        for drop in drops:
            curve, position = cheapest_pair(curves, drop)
            chosen[tune.names[big], drop] = curve.policy(position)
    return chosen
