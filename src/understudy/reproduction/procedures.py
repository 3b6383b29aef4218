"""A row of a paper on score tables: chosen as the paper does, the same held out, and certified.

As the paper chooses, the policy of a budget is chosen on the images that it is measured on, so its
figures are too good. Held out, the same rule sees the tune split alone and is measured on the test
split: the difference is what the paper's procedure promises too much. Certified is `search`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from understudy.errors import PolicyError, TableError
from understudy.outcome import Outcome, evaluate
from understudy.policy import Policy
from understudy.reproduction.papers import LITTLE_BIG, PaperRow
from understudy.reproduction.record import (
    AS_PUBLISHED,
    CERTIFIED,
    HELD_OUT,
    CurvePoint,
    Finding,
    HalvesGap,
    RowFindings,
)
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.onepass import onepass
from understudy.searching.pairs import cheapest_pair, pair_curves
from understudy.searching.published_rules import WEIGHTS
from understudy.searching.saver_ranking import RankedSaver, best_of, rank_savers, swept_pair
from understudy.searching.search import search
from understudy.split import ALL, headline_split

SEQUENCE_WEIGHTS = tuple(round(0.5 + 0.001 * step, 3) for step in range(10))
"""The trade-offs that TinySaver's code evaluates for exits."""

CUTS = 10  # of the samples into halves
TRAIN, TUNE = "train images", "tune"
Choose = Callable[[ScoreTable, float], Policy]


@dataclass(frozen=True, eq=False)
class RowTables:
    """What a row is searched on.

    Attributes:
        table: the scores of the images that figures are reported of, with their splits.
        train: the scores of train images, or None: the tune split takes their place.
        unit: the unit of cost that is minimised.
    """

    table: ScoreTable
    train: ScoreTable | None = None
    unit: str = "MACs"

    @property
    def records(self) -> ScoreTable:
        """Where savers are ranked and exits are searched."""
        return self.table.on("tune") if self.train is None else self.train

    @property
    def records_name(self) -> str:
        """Which samples these are, in words."""
        return TUNE if self.train is None else TRAIN

    @property
    def hash(self) -> str:
        """Of the scores that figures depend on."""
        return self.table.hash + ("" if self.train is None else f"+{self.train.hash}")

    @property
    def measured_on(self) -> str:
        """The split that nothing held out was chosen on."""
        return headline_split(self.table.splits)


@dataclass(frozen=True, eq=False)
class _Rule:
    """How a paper chooses for one large model: `choose(samples, budget)` is a policy.

    Attributes:
        ranking, curve: what it finds on the records, before any budget.
        records: which samples these are, in words; empty where it needs none.
        undefined: why there is no policy; empty where there is.
    """

    choose: Choose
    ranking: tuple[RankedSaver, ...] = ()
    policies: tuple[tuple[float, Policy], ...] = ()
    records: str = ""
    undefined: str = ""


def reproduce_row(
    paper: str, row: PaperRow, tables: RowTables, *, looks: int = 1
) -> tuple[RowFindings, Result]:
    """What a row of a paper gives on score tables, with the result of the certified search.

    Args:
        paper: its name (`papers.NAMES`).
        row: of the paper; its savers and its large model, or exits inside that, are in the tables.
        tables: what it is searched on.
        looks: how often the certify split has been read, this time included.

    Raises:
        TableError: the tables lack an exit or a cost, or have no tune and certify split.
        PolicyError: confidences outside 0 to 1.

    >>> from understudy.reproduction.papers import PublishedFigure
    >>> import numpy as np
    >>> right = np.arange(9000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(9000))},
    ...     np.zeros(9000, int), costs={"tiny": 1, "big": 9})
    >>> row = PaperRow("toy", (PublishedFigure(0.0, "ours"),), "timm:big", ("timm:tiny",))
    >>> found, _ = reproduce_row("little-big", row, RowTables(table))
    >>> [(one.way, round(one.outcome.saving["MACs"], 2)) for one in found.findings[:2]]
    [('as the paper chooses', 0.79), ('the same, held out', 0.79)]
    """
    table, reference = tables.table, row.reference
    rule = _rule(paper, row, tables)
    result = search(table, reference=reference, max_drop=row.budgets, unit=tables.unit, looks=looks)
    alone = evaluate(table, Policy.single(reference), reference=reference)
    findings = [one for drop in row.budgets for one in _findings(rule, tables, row, drop, result)]
    found = RowFindings(
        row=row,
        samples=len(table),
        unit=tables.unit,
        base_accuracy=alone.accuracy,
        base_cost=dict(alone.cost),
        findings=tuple(findings),
        optimism=tuple(_halves_gap(rule, table, reference, drop) for drop in row.budgets)
        if not rule.undefined
        else (),
        ranking=rule.ranking,
        ranked_on=rule.records,
        curve=tuple(_curve(rule, table, reference)),
        table=tables.hash,
    )
    return found, result


def _rule(paper: str, row: PaperRow, tables: RowTables) -> _Rule:
    if row.exits is not None:
        return _exit_rule(row, tables)
    if paper == LITTLE_BIG:
        return _Rule(_cheapest_pair(row.reference, tables.unit))
    return _saver_rule(row, tables)


def _cheapest_pair(reference: str, unit: str) -> Choose:
    """Little-Big's: the threshold of least cost, exactly; of several little models the cheapest."""

    def choose(samples: ScoreTable, max_drop: float) -> Policy:
        curves = pair_curves(samples, reference, unit=unit)
        if not curves:
            raise TableError(f"a little model is cheaper than {reference!r}, found none: name one")
        curve, position = cheapest_pair(curves, max_drop)
        return curve.policy(position)

    return choose


def _saver_rule(row: PaperRow, tables: RowTables) -> _Rule:
    """TinySaver's: the saver of least delta C on the records, then a sweep of its threshold."""
    ranking = rank_savers(tables.records, row.reference, unit=tables.unit)
    best = best_of(ranking)

    def choose(samples: ScoreTable, max_drop: float) -> Policy:
        if best is None:
            return Policy.single(row.reference)
        return swept_pair(samples, best.saver, row.reference, max_drop, unit=tables.unit)

    return _Rule(choose, ranking=ranking, records=tables.records_name)


def _exit_rule(row: PaperRow, tables: RowTables) -> _Rule:
    """DyCE's: `onepass` for every trade-off on the records; of its policies the cheapest."""
    reference, unit = row.reference, tables.unit
    weights = WEIGHTS if not row.exits or not row.exits.sequence else _all_weights()
    try:
        found = onepass(tables.records, weights, reference=reference, unit=unit)
        undefined = ""
    except PolicyError as error:
        found, undefined = [], str(error)

    def choose(samples: ScoreTable, max_drop: float) -> Policy:
        points = [(one, evaluate(samples, one, reference=reference)) for one in set(found)]
        within = [(one, out) for one, out in points if out.drop <= max_drop + 1e-9]
        if not within:
            return Policy.single(reference)
        return min(within, key=lambda point: (point[1].cost[unit], point[1].drop))[0]

    policies = tuple(zip(weights, found, strict=False))
    return _Rule(choose, policies=policies, records=tables.records_name, undefined=undefined)


def _all_weights() -> tuple[float, ...]:
    return tuple(sorted({*SEQUENCE_WEIGHTS, *WEIGHTS}))


def _findings(
    rule: _Rule, tables: RowTables, row: PaperRow, max_drop: float, result: Result
) -> Iterator[Finding]:
    """The three findings of a budget."""
    reference, table, other = row.reference, tables.table, tables.measured_on
    before = f"{rule.records}, then " if rule.records else ""
    tune = TUNE if rule.records == TUNE else f"{before}{TUNE}"
    for way, chosen_on, samples, measured_on, measured in (
        (AS_PUBLISHED, f"{before}all images", table, ALL, table),
        (HELD_OUT, tune, table.on(TUNE), other, table.on(other)),
    ):
        policy = None if rule.undefined else rule.choose(samples, max_drop)
        outcome = None if policy is None else evaluate(measured, policy, reference=reference)
        yield Finding(way, max_drop, chosen_on, measured_on, policy, outcome, remark=rule.undefined)
    choice = result.choice(max_drop)
    proof = choice.certificate
    yield Finding(
        CERTIFIED,
        max_drop,
        "tune, certified on certify",
        choice.measured_on,
        choice.policy,
        choice.outcome,
        None if proof is None or proof.falls_back else proof.saving_bounds.get(tables.unit),
        choice.verdict,
    )


def _halves_gap(rule: _Rule, table: ScoreTable, reference: str, max_drop: float) -> HalvesGap:
    """What the rule claims on random halves of the samples, and gives on the other halves.

    Each cut is used both ways, so that halves of different difficulty cancel out.
    """
    rng, claimed, given = np.random.default_rng(0), list[float](), list[float]()
    for _ in range(CUTS):
        order = rng.permutation(len(table))
        halves = [table.rows(np.sort(part)) for part in np.array_split(order, 2)]
        for own, other in (halves, halves[::-1]):
            policy = rule.choose(own, max_drop)
            claimed.append(evaluate(own, policy, reference=reference).drop)
            given.append(evaluate(other, policy, reference=reference).drop)
    means = float(np.mean(claimed)), float(np.mean(given))
    return HalvesGap(max_drop, *means, halves=2 * CUTS)


def _curve(rule: _Rule, table: ScoreTable, reference: str) -> Iterator[CurvePoint]:
    """The policies of all trade-offs on all samples; each policy is measured once."""
    known: dict[Policy, Outcome] = {}
    for weight, policy in rule.policies:
        if policy not in known:
            known[policy] = evaluate(table, policy, reference=reference)
        yield CurvePoint(weight, policy, known[policy])
