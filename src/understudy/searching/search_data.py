"""What one search works on: a table, what is fitted to it, and what is reported of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from understudy.baseline import Baseline, baseline_of
from understudy.certificate import Certificate
from understudy.choice import Choice, Single
from understudy.confidence_functions import LEARNED
from understudy.deciles import difficulty
from understudy.deferral import DeferralScore, scores_of, with_scores
from understudy.ensemble import cheaper_models, models_of, with_ensembles
from understudy.errors import PolicyError, TableError, check_number, unknown
from understudy.frontier import Frontier
from understudy.outcome import Outcome, class_gaps, evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.result import Result
from understudy.sample_marks import sample_marks
from understudy.scores import ScoreTable
from understudy.searching.baselines import baselines, dominating, verdict
from understudy.searching.fitted_exits import (
    chosen_confidence,
    fitted_ensembles,
    with_candidate_ensembles,
    with_learned_score,
)
from understudy.searching.policy_sequences import PolicySequence
from understudy.searching.published_rules import published_rules, saver_rules
from understudy.searching.search_spec import SearchNames, SearchSpec
from understudy.searching.strategies import choose_sequences, strategies_for
from understudy.split import ALL, SPLITS, headline_split
from understudy.time_noise import time_remarks, with_cautious_times, within_noise

FAMILIES = ("learned", "ensembles", "chains")
STAGES = 4  # more save nothing more on the tables that were measured
STAGES_OF_EXITS = 6


@dataclass(frozen=True)
class SearchOptions:
    """What limits a search; all of it is searched where nothing does. Fields are as for `search`.

    Raises:
        PolicyError: a cost that is not above 0, a family that does not exist, or a learned score
            that is both requested and left out.
    """

    reference: str | None = None
    unit: str | None = None
    max_cost: float | None = None
    confidence: str | None = None
    at_most_stages: int | None = None
    without: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.max_cost is not None:
            check_number(self.max_cost, "a cost to stay within", PolicyError)
        if self.max_cost is not None and not 0 < self.max_cost < math.inf:
            raise PolicyError(
                f"a cost to stay within is a number above 0, found {self.max_cost:g}: correct it"
            )
        if self.at_most_stages is not None:
            check_number(self.at_most_stages, "the most exits that a sample visits", PolicyError)
        if isinstance(self.without, str):
            raise PolicyError(
                f"families to leave out are a list, found {self.without!r}: write "
                f"[{self.without!r}]"
            )
        strange = [name for name in self.without if name not in FAMILIES]
        if strange:
            raise PolicyError(unknown("family of policies", strange[0], FAMILIES))
        if self.confidence == LEARNED and "learned" in self.without:
            raise PolicyError(
                f"the confidence {LEARNED!r} is a learned score, which is also left out: drop "
                "one of the two"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """What a result does not hold elsewhere, as plain JSON."""
        return {
            "max_cost": self.max_cost,
            "confidence": self.confidence,
            "at_most_stages": self.at_most_stages,
            "without": list(self.without),
        }

    def most_stages(self, table: ScoreTable) -> int:
        """The most exits that a sample may visit."""
        if "chains" in self.without:
            return 2
        if self.at_most_stages is not None:
            return self.at_most_stages
        return STAGES_OF_EXITS if table.shares_parts else STAGES


def check_costs(table: ScoreTable, unit: str) -> None:
    """Refuse a unit in which all exits cost nothing.

    Raises:
        TableError: the message has the unit.
    """
    if not table.exit_costs(unit).any():
        raise TableError(
            f"where everything costs 0 nothing can be saved, found only zeros in {unit}: give "
            "costs, search in another unit, or import without costs, which counts calls"
        )


@dataclass(frozen=True)
class SearchData:
    """A table with its splits ("all" alone for a search in-sample) and what is searched for.

    Attributes:
        source: the table as it was given; `models`: its models, without ensembles.
        splits: the models by split, with the learned score where thresholds apply to it, and with
            the ensembles that a chosen policy uses.
        searched: where policies are chosen, with all ensembles that may be, and with cautious
            times: a saving that noise could explain is none. Its samples are in the order of their
            ids, so that the order in the table decides nothing.
        scores: the learned scores, by exit.
    """

    source: ScoreTable
    models: ScoreTable
    splits: Mapping[str, ScoreTable]
    searched: ScoreTable
    scores: Mapping[str, DeferralScore]
    spec: SearchSpec
    max_cost: float | None

    @staticmethod
    def of(
        table: ScoreTable,
        drops: tuple[float, ...],
        *,
        delta: float,
        options: SearchOptions,
        splits: Sequence[str] = (),
    ) -> SearchData:
        """The table's splits, with what is fitted to tune."""
        models = models_of(table)
        unit = table.unit(options.unit)
        reference = models.reference(options.reference, unit=unit)
        if len(models.exits) < 2:
            raise TableError(
                f"a cascade needs at least two exits, this table has {reference!r} alone: score "
                "or import a cheaper model into it"
            )
        check_costs(models, unit)
        first, *others = splits or table.splits
        confidence = chosen_confidence(models, options.confidence, options.without)
        samples = int((table.split == SPLITS.index("certify")).sum()) or len(table)
        stages = options.most_stages(models)
        spec = SearchSpec(reference, unit, confidence, drops, delta, samples, stages)
        tune = with_cautious_times(models, reference).on(first)
        tune = tune.rows(np.argsort(tune.ids.astype(str), kind="stable"))
        tune = searched = with_learned_score(tune, **spec.names)
        scores = scores_of(tune.provenance) if confidence == LEARNED else {}
        rest = {name: models.on(name) for name in others}
        if scores:
            rest = {name: with_scores(part, scores) for name, part in rest.items()}
        parts = {first: replace(tune, times=models.times), **rest}
        if "ensembles" not in options.without and first != ALL:
            searched = with_candidate_ensembles(tune, reference, unit=unit)
        return SearchData(table, models, parts, searched, scores, spec, options.max_cost)

    def chosen(self) -> tuple[SearchData, list[PolicySequence], Frontier]:
        """For every budget the sequence to certify, with the data that has its exits; and the
        frontier of all that was found on tune."""
        strategies = strategies_for(self.searched, self.spec)
        sequences, frontier = choose_sequences(self.searched, self.spec, strategies)
        first = [policy for one in sequences for policy in one.policies[:1]]
        return self.with_exits_of(first), sequences, frontier

    def with_exits_of(self, policies: Iterable[Policy]) -> SearchData:
        """The same with the ensembles that some policies use, on all samples."""
        ensembles = fitted_ensembles(self.searched, policies)
        parts = {name: with_ensembles(part, ensembles) for name, part in self.splits.items()}
        return replace(self, splits=parts)

    @property
    def certified_on(self) -> ScoreTable:
        """The certify split, with cautious times for the bound on the saving."""
        return with_cautious_times(self.splits["certify"], self.spec.reference)

    @property
    def tune(self) -> ScoreTable:
        """Where policies are chosen."""
        return self.splits.get("tune", self.measured)

    @property
    def stored(self) -> SearchNames:
        """The names of the search with the stored confidence, for what is compared with it."""
        names = self.spec.names
        learned = names["confidence"] == LEARNED and LEARNED not in self.source.confidence
        return {**names, "confidence": DEFAULT_CONFIDENCE} if learned else names

    @property
    def measured(self) -> ScoreTable:
        """Where the headline figures are measured."""
        return self.splits[headline_split(self.splits)]

    def choice(
        self, policy: Policy, max_drop: float, certificate: Certificate | None = None
    ) -> Choice:
        """A policy with its figures on every split, what is compared with it, the verdict, and what
        is normal of it."""
        reference, unit, on = self.spec.reference, self.spec.unit, self._outcomes(policy)
        cost = (on.get("tune") or on[ALL]).cost[unit]
        compared = baselines(
            policy,
            tune=self.tune,
            measured=self.measured,
            reference=reference,
            unit=unit,
            cost=cost,
        )
        classes = class_gaps(self.tune, self.measured, policy, reference=reference)
        normal = self._baseline(policy)
        choice = Choice(max_drop, policy, on, certificate, compared, "", classes, normal)
        better = dominating(
            with_cautious_times(self.tune, reference), reference=reference, unit=unit
        )
        alike = within_noise(self.tune, unit, reference)
        words = verdict(
            choice,
            unit=unit,
            max_cost=self.max_cost,
            better=better,
            alike=alike,
            labelled=self.models.label is not None,
            least=not cheaper_models(self.tune, reference, unit=unit),
        )
        return replace(choice, verdict=words)

    def proved_choice(self, proof: Certificate) -> Choice:
        """The policy of a certificate; the reference where that policy saves nothing on certify.

        It was chosen because it is cheaper on tune. A policy that must gain accuracy is kept.
        """
        choice = self.choice(proof.policy, proof.budget, proof)
        if proof.falls_back or proof.budget < 0 or choice.on["certify"].saving[self.spec.unit] > 0:
            return choice
        alone = proof.of_reference()
        return self.choice(alone.policy, alone.budget, alone)

    def result(
        self, choices: Sequence[Choice], frontier: Frontier, requested: Mapping[str, Any]
    ) -> Result:
        """All that was found, with every exit alone and what the papers' rules choose."""
        spec, models = self.spec, self.models
        rules = published_rules if models.shares_parts else saver_rules
        drops = [choice.max_drop for choice in choices]
        certified = "certify" in self.splits
        remarks = list(time_remarks(self.source, spec.unit))
        return Result(
            unit=spec.unit,
            reference=spec.reference,
            delta=spec.delta if certified else 0.0,
            choices=tuple(choices),
            singles=self._singles(),
            frontier=frontier,
            searched_on="tune" if certified else ALL,
            difficulty=difficulty(models, **self.stored),
            table={
                "hash": self.source.hash,
                "samples": {name: len(part) for name, part in self.splits.items()},
                "labelled": models.label is not None,
                "labels": {name: int(part.labelled.sum()) for name, part in self.splits.items()},
                "marks": sample_marks(self.source, spec.reference),
                "provenance": self._provenance(choices),
                **({"time_remarks": remarks} if remarks else {}),
                **({"classes": list(models.classes)} if models.classes else {}),
            },
            arguments=requested,
            published=rules(
                models_of(self.tune), models_of(self.measured), max_drop=drops, **self.stored
            ),
        )

    def _provenance(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The table's provenance, with the learned scores that the choices and their paths use."""
        used = {name for choice in choices for name in choice.exits}
        scores = {name: one.to_dict() for name, one in self.scores.items() if name in used}
        provenance = {k: v for k, v in self.models.provenance.items() if k != LEARNED}
        return {**provenance, **({LEARNED: scores} if scores else {})}

    def _singles(self) -> tuple[Single, ...]:
        """Every exit alone, cheapest first."""
        order = np.argsort(self.tune.exit_costs(self.spec.unit), kind="stable")
        singles = []
        for row in order:
            exit, alone = self.tune.exits[row], Policy.single(self.tune.names[row])
            normal = self._baseline(alone) if exit.name == self.spec.reference else None
            singles.append(Single(exit.name, dict(exit.origin), self._outcomes(alone), normal))
        return tuple(singles)

    def _baseline(self, policy: Policy) -> Baseline | None:
        """What is normal of a policy; None in-sample."""
        if "certify" not in self.splits:
            return None
        certify, reference = self.splits["certify"], self.spec.reference
        return baseline_of(self.tune, certify, policy, reference=reference)

    def _outcomes(self, policy: Policy) -> dict[str, Outcome]:
        reference = self.spec.reference
        return {
            name: evaluate(part, policy, reference=reference) for name, part in self.splits.items()
        }
