"""What the page shows of the table beside the result: pairs, deferral, reliability, ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from understudy.app.report.record import Report
from understudy.confidence_functions import LEARNED
from understudy.deferral import scores_of, with_deferral
from understudy.ensemble import models_of
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.scores import ScoreTable
from understudy.searching.deferral_curves import DeferralCurves, deferral_curves
from understudy.searching.pair_savings import PairSavings, pair_savings
from understudy.searching.reliability import Reliability, RightRanking, reliability, right_ranking

MOST_MODELS = 60  # on the map of pairs
MOST_WRITTEN = 30  # models whose savings stand in a table
MOST_EXITS = 6  # whose confidences are judged
MOST_CURVES = 4


@dataclass(frozen=True)
class TableFindings:
    """What is measured on the samples on which a search chose.

    Attributes:
        split: those samples: "tune", or "all" in-sample.
        samples, unlabelled: how many there are, and how many of them have no label.
        models: how many models the table has.
        confidence: that of the pairs.
        pairs: of at most 60 models; None where a label is missing or there is one model.
        curves: of the first little model of the plans; None where nothing is cheaper.
        reliabilities: by exit, where its max softmax is a probability.
        rankings: exit -> confidence -> how it ranks.
    """

    split: str
    samples: int
    unlabelled: int
    models: int
    confidence: str
    pairs: PairSavings | None
    curves: DeferralCurves | None
    reliabilities: Mapping[str, Reliability]
    rankings: Mapping[str, Mapping[str, RightRanking]]

    @staticmethod
    def of(report: Report, table: ScoreTable) -> TableFindings:
        """What a table says that was searched, with what the search fitted."""
        result = report.result
        table = table.on(result.searched_on)
        little = _little(report, table)
        judged = _judged(report, table, little)
        table = _cross_fitted(report, table, judged)
        models = models_of(table.only([name for name in report.singles if name in table.names]))
        stored = {name: _own(report, table, name) for name in judged}
        confidence = min(table.confidence, key=lambda name: name != DEFAULT_CONFIDENCE)
        return TableFindings(
            split=result.searched_on,
            samples=len(table),
            unlabelled=int((~table.labelled).sum()),
            models=len(models.names),
            confidence=confidence,
            pairs=_pairs(report, models, confidence),
            curves=None
            if little is None
            else deferral_curves(
                table,
                little=little,
                big=result.reference,
                confidences=_own(report, table, little),
                unit=result.unit,
            ),
            reliabilities={
                name: reliability(table, name, reference=result.reference)
                for name in judged
                if _is_probability(table, name)
            },
            rankings={
                name: {
                    one: right_ranking(table, name, confidence=one, reference=result.reference)
                    for one in stored[name]
                }
                for name in judged
            },
        )

    @property
    def confidences(self) -> tuple[str, ...]:
        """All that rank an exit, in the order of the table."""
        return tuple(dict.fromkeys(one for ranks in self.rankings.values() for one in ranks))

    @property
    def drawn(self) -> tuple[str, ...]:
        """The confidences with a curve: the best ones that pay, and max softmax; at most four."""
        if self.curves is None:
            return ()
        gains = self.curves.gains
        best = [name for name, gain in gains.items() if gain > 0] or list(gains)[:1]
        if DEFAULT_CONFIDENCE in gains and DEFAULT_CONFIDENCE not in best[:MOST_CURVES]:
            return (*best[: MOST_CURVES - 1], DEFAULT_CONFIDENCE)
        return tuple(best[:MOST_CURVES])

    @property
    def best_pairs(self) -> list[tuple[str, str, float, float]]:
        """For every big model of the map the little one that saves most: both names, the saving
        and the share that the little one answers; not where none saves."""
        if self.pairs is None:
            return []
        found = self.pairs
        savings = np.nan_to_num(found.saving)
        return [
            (found.names[little], found.names[big], float(savings[little, big]), float(share))
            for big, little in enumerate(savings.argmax(0).tolist())
            for share in [found.answered[little, big]]
            if savings[little, big] > 0
        ]


def _little(report: Report, table: ScoreTable) -> str | None:
    """The first exit of the first plan that is a cascade; else the cheapest exit, if any is."""
    first = [plan.policy.exits[0] for plan in report.result.choices if len(plan.policy.exits) > 1]
    known = [name for name in (*first, *report.singles) if name in table.names]
    return known[0] if known and known[0] != report.result.reference else None


def _judged(report: Report, table: ScoreTable, little: str | None) -> list[str]:
    """The exits whose confidences are judged, cheapest first; without labels the reference is
    right by definition."""
    trivial = set() if table.labelled.any() else {report.result.reference}
    wanted = [name for name in report.by_importance if name in report.planned | {little}]
    found = [name for name in wanted if name in table.names and name not in trivial][:MOST_EXITS]
    return [name for name in report.singles if name in found]


def _cross_fitted(report: Report, table: ScoreTable, judged: list[str]) -> ScoreTable:
    """The table with learned scores as the search saw them: cross-fitted on its own samples."""
    learned = [name for name in judged if name in _learned(report)]
    if LEARNED not in table.confidence or not learned:
        return table
    result = report.result
    fitted = with_deferral(
        table, result.reference, littles=learned, fit_on=result.searched_on, unit=result.unit
    )
    return replace(table, confidence={**table.confidence, LEARNED: fitted.confidence[LEARNED]})


def _learned(report: Report) -> set[str]:
    """The exits with a learned score; others hold their max softmax in its place."""
    return set(scores_of(report.result.table.get("provenance", {})))


def _own(report: Report, table: ScoreTable, exit: str) -> list[str]:
    """The confidences that are an exit's own."""
    learned = _learned(report)
    own = not learned or exit in learned
    return [name for name in table.confidence if name != LEARNED or own]


def _is_probability(table: ScoreTable, exit: str) -> bool:
    """Whether the max softmax of an exit is stored, and lies between 0 and 1."""
    if DEFAULT_CONFIDENCE not in table.confidence:
        return False
    values = table.scores(DEFAULT_CONFIDENCE)[table.index(exit)]
    return bool((values >= 0).all() and (values <= 1).all())


def _pairs(report: Report, models: ScoreTable, confidence: str) -> PairSavings | None:
    """What all pairs save at the smallest positive budget, or at the first if none is."""
    if len(models.names) < 2 or not models.labelled.all():
        return None
    budgets = [plan.max_drop for plan in report.result.choices]
    positive = [budget for budget in budgets if budget > 0]
    budget = min(positive, default=budgets[0])
    found = pair_savings(models, max_drop=budget, confidence=confidence, unit=report.result.unit)
    return _of_most(found, report)


def _of_most(found: PairSavings, report: Report) -> PairSavings:
    """The pairs of at most 60 models: the reference and those of plans, then those of the pairs
    that save most."""
    if len(found.names) <= MOST_MODELS:
        return found
    rows = {name: row for row, name in enumerate(found.names)}
    first = report.planned | {report.result.reference}
    kept = dict.fromkeys(rows[n] for n in report.by_importance if n in first and n in rows)
    order = np.argsort(-np.nan_to_num(found.saving), axis=None, kind="stable")
    for pair in order.tolist():
        if len(kept) >= MOST_MODELS:
            break
        kept |= dict.fromkeys(divmod(pair, len(found.names)))
    some = np.array(sorted(list(kept)[:MOST_MODELS]))
    return replace(
        found,
        names=tuple(found.names[row] for row in some.tolist()),
        saving=found.saving[np.ix_(some, some)],
        answered=found.answered[np.ix_(some, some)],
    )
