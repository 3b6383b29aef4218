"""What a search fits to tune before it chooses: learned scores, and ensembles with the reference.

Both are small: coefficients and temperatures. They are applied to other samples of the same models
by `with_fitted`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from understudy.confidence_functions import LEARNED
from understudy.deferral import DeferralScore, with_deferral, with_scores
from understudy.ensemble import Ensemble, ensemble_of, ensemble_pairs, with_ensembles
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable


def chosen_confidence(table: ScoreTable, confidence: str | None, without: Collection[str]) -> str:
    """The confidence that thresholds apply to: the one that is named, else the learned score.

    Without it, or where there are no probabilities to learn from, the max softmax.
    """
    if confidence is not None:
        return confidence
    top = table.scores(DEFAULT_CONFIDENCE)
    learnable = "learned" not in without and top.min() >= 0 and top.max() <= 1
    return LEARNED if learnable else DEFAULT_CONFIDENCE


def with_learned_score(
    table: ScoreTable, reference: str, *, confidence: str, unit: str
) -> ScoreTable:
    """The table with the deferral score learned on all of its samples, cross-fitted, where that is
    the confidence."""
    if confidence != LEARNED or LEARNED in table.confidence:
        return table
    return with_deferral(table, reference, fit_on="all", unit=unit)


def with_candidate_ensembles(tune: ScoreTable, reference: str, *, unit: str) -> ScoreTable:
    """Tune with an ensemble of the reference and each cheaper model whose logits were kept.

    Unchanged without labels, where no ensemble can be better than the reference, and for exits
    that share parts.
    """
    kept = [name for name in tune.names if _has_logits(tune, name)]
    full = tune.cost_of([reference], unit)
    littles = [name for name in kept if tune.cost_of([name], unit) < full]
    if tune.label is None or tune.shares_parts or reference not in kept or not littles:
        return tune
    return ensemble_pairs(tune, reference, littles=littles, fit_on="all", unit=unit)


def fitted_ensembles(table: ScoreTable, policies: Iterable[Policy]) -> dict[str, Ensemble]:
    """The ensembles among the exits of some policies, by name."""
    used = {name for policy in policies for name in policy.exits}
    found = {exit.name: ensemble_of(exit.origin) for exit in table.exits if exit.name in used}
    return {name: one for name, one in found.items() if one is not None}


def with_fitted(
    table: ScoreTable,
    *,
    scores: Mapping[str, DeferralScore],
    ensembles: Mapping[str, Ensemble],
) -> ScoreTable:
    """The table with scores and ensembles that were fitted to other samples of its models.

    Raises:
        TableError: the table lacks one of the exits, or the logits of a member.
    """
    if scores:
        table = with_scores(table, scores)
    return with_ensembles(table, ensembles)


def _has_logits(table: ScoreTable, exit: str) -> bool:
    detail = table.details.get(exit)
    return detail is not None and detail.logits is not None
