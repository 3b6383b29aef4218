"""Optimism of a choice: its claimed against its true drop, by where its thresholds were tuned.

The papers tune and report on one set of samples. Here the table is taken as the population: each
resample draws a tune, a certify and a test split from it, with replacement, and chooses a policy on
them in three ways, among all that `search` tries. The true figures of each choice are those on the
whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from understudy.ensemble import cheaper_models, models_of
from understudy.errors import PolicyError, TableError
from understudy.exit import Array, LazyDetails
from understudy.frontier import Frontier
from understudy.intervals import Interval, exact_interval
from understudy.json_codec import Stored
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.progress_bars import Advance
from understudy.scores import ScoreTable
from understudy.searching.certify import certify
from understudy.searching.fitted_exits import chosen_confidence, fitted_ensembles, with_fitted
from understudy.searching.pairs import checked_drops
from understudy.searching.search_data import SearchData, SearchOptions
from understudy.searching.strategies import cheapest_within
from understudy.split import ALL, SPLITS, headline_split
from understudy.tabular import Tabular

IN_SAMPLE, HELD_OUT, CERTIFIED = "in-sample", "held-out", "certified"
RESAMPLES = 400  # a share of 5 % is then known to 3.1 to 7.6 %
WAYS = (IN_SAMPLE, HELD_OUT, CERTIFIED)


@dataclass(frozen=True)
class Spread(Stored):
    """The mean over resamples, and the range from the 5th to the 95th percentile.

    >>> Spread.of([0.0, 1.0, 2.0])
    Spread(mean=1.0, low=0.1, high=1.9)
    """

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        low, high = np.quantile(values, [0.05, 0.95])
        return Spread(float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Tuning(Stored):
    """One way to choose within one budget, over all resamples.

    Attributes:
        max_drop: the budget in points.
        way: "in-sample" (the cheapest policy within the budget on test itself), "held-out" (the
            same on tune) or "certified" (as `search`: a sequence frozen on tune, tested on
            certify).
        claimed: the drop in points on the samples that decided: test, tune or certify.
        given: the drop in points on the whole table.
        saving: the share of the reference's cost that is saved on the whole table.
        broken: the share of resamples in which the drop on the whole table exceeds the budget.
        broken_interval: its exact 95 % interval: what more resamples might show.
        fell_back: the share of resamples in which the choice is the reference alone.
    """

    max_drop: float
    way: str
    claimed: Spread
    given: Spread
    saving: Spread
    broken: float
    broken_interval: Interval
    fell_back: float


@dataclass(frozen=True)
class Optimism(Stored, Tabular):
    """Claimed and true drops of choosing in-sample, held-out and certified.

    Attributes:
        unit, reference, confidence, delta: the unit of cost minimised, the exit compared with, the
            confidence that thresholds apply to, and the level of the certificates.
        resamples, seed: how many, and from which random numbers.
        samples: how many samples each split draws.
        tunings: one per budget and way.
    """

    unit: str
    reference: str
    confidence: str
    delta: float
    resamples: int
    seed: int
    samples: Mapping[str, int]
    tunings: tuple[Tuning, ...]

    def columns(self) -> dict[str, list[Any]]:
        """A row per budget and way, with the means over resamples."""
        return {
            "max_drop": [one.max_drop for one in self.tunings],
            "way": [one.way for one in self.tunings],
            "claimed": [one.claimed.mean for one in self.tunings],
            "given": [one.given.mean for one in self.tunings],
            "saving": [one.saving.mean for one in self.tunings],
            "broken": [one.broken for one in self.tunings],
            "broken_low": [one.broken_interval[0] for one in self.tunings],
            "broken_high": [one.broken_interval[1] for one in self.tunings],
        }


def optimism(
    table: ScoreTable,
    *,
    max_drop: float | Sequence[float],
    reference: str | None = None,
    unit: str | None = None,
    confidence: str | None = None,
    delta: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_progress: Advance | None = None,
) -> Optimism:
    """Claimed and true drops of policies tuned in-sample, held-out and certified, over resamples.

    Every resample draws as many tune, certify and test samples as the table has, one by one and
    with replacement, whatever its groups. The true figures of a choice are known exactly, without
    the noise of a test set: they are those on the whole table.

    Args:
        max_drop, reference, unit, confidence: as for `search`.
        delta: the level of the certificates; of these at most this share should break its budget.
        resamples: how many; each takes about as long as one search.
        on_progress: called with ("resamples", done, total).

    Raises:
        TableError: an unknown name, a missing cost, an empty split, no exit that is cheaper.
        PolicyError: a budget, a level or a number of resamples that makes no sense.

    >>> rng = np.random.default_rng(0)
    >>> hard = rng.random(2000)
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ((hard > .7).astype(int), 1 - hard), "big": ((hard > .8).astype(int), hard)},
    ...     np.zeros(2000, int), costs={"tiny": 1, "big": 9})
    >>> found = optimism(table, max_drop=1.0, confidence="max_softmax", resamples=20)
    >>> [(one.way, one.broken) for one in found.tunings]
    [('in-sample', 0.3), ('held-out', 0.45), ('certified', 0.0)]
    """
    drops = checked_drops(max_drop)
    if resamples < 1:
        raise PolicyError(f"optimism takes at least one resample, found {resamples}: try 400")
    table = models_of(table)
    unit = table.unit(unit)
    reference = table.reference(reference, unit=unit)
    if not cheaper_models(table, reference, unit=unit):
        raise TableError(f"a cascade needs an exit that is cheaper than {reference!r}, found none")
    samples = {name: len(table.on(name)) for name in table.splits}
    split = np.repeat([SPLITS.index(name) for name in samples], list(samples.values()))
    confidence = chosen_confidence(table, confidence, ())
    options = SearchOptions(reference, unit, confidence=confidence)
    rng = np.random.default_rng(seed)
    trials: dict[tuple[float, str], list[_Trial]] = {(d, way): [] for d in drops for way in WAYS}
    for done in range(resamples):
        drawn = resampled(table, rng.integers(0, len(table), len(split)), split)
        for key, policy, claimed, population in _choices(table, drawn, drops, delta, options):
            outcome = evaluate(population, policy, reference=reference)
            trials[key].append(_Trial(policy, claimed, outcome.drop, outcome.saving[unit]))
        if on_progress is not None:
            on_progress("resamples", done + 1, resamples)
    tunings = tuple(_tuning(*key, found, reference) for key, found in trials.items())
    return Optimism(unit, reference, confidence, delta, resamples, seed, samples, tunings)


class _Trial(NamedTuple):
    policy: Policy
    claimed: float
    given: float
    saving: float


def _choices(
    table: ScoreTable,
    drawn: ScoreTable,
    drops: tuple[float, ...],
    delta: float,
    options: SearchOptions,
) -> Iterator[tuple[tuple[float, str], Policy, float, ScoreTable]]:
    """For every budget and way the chosen policy, its claimed drop and the table of its truth."""
    test = drawn.on(headline_split(drawn.splits))
    inside = SearchData.of(test, drops, delta=delta, options=options, splits=[ALL])
    _, _, frontier = inside.chosen()
    for drop in drops:
        yield (drop, IN_SAMPLE), *_within(frontier, drop, inside, table)
    data, sequences, frontier = SearchData.of(drawn, drops, delta=delta, options=options).chosen()
    certified_on, reference = data.certified_on, data.spec.reference
    for drop, sequence in zip(drops, sequences, strict=True):
        yield (drop, HELD_OUT), *_within(frontier, drop, data, table)
        proof = certify(sequence, certified_on, reference=reference, max_drop=drop, delta=delta)
        claimed = 100 * (proof.losses - proof.gains) / proof.samples
        population = _population(table, data, proof.policy)
        yield (drop, CERTIFIED), proof.policy, claimed, population


def _within(
    frontier: Frontier, drop: float, data: SearchData, table: ScoreTable
) -> tuple[Policy, float, ScoreTable]:
    """The cheapest policy within a drop, its drop, and the whole table with its exits."""
    policy = cheapest_within(frontier, drop)
    claimed = next((point.drop for point in frontier if point.policy == policy), 0.0)
    return policy, claimed, _population(table, data, policy)


def _population(table: ScoreTable, data: SearchData, policy: Policy) -> ScoreTable:
    """The whole table, with the scores and ensembles that were fitted to samples drawn from it."""
    ensembles = fitted_ensembles(data.searched, [policy])
    return with_fitted(table, scores=data.scores, ensembles=ensembles)


def resampled(table: ScoreTable, rows: Array, split: Array) -> ScoreTable:
    """A table of some samples of another, repeats allowed, under new ids.

    Args:
        rows: (M,) positions in the table.
        split: (M,) codes of the splits.
    """
    return replace(
        table,
        prediction=table.prediction[:, rows],
        confidence={name: values[:, rows] for name, values in table.confidence.items()},
        label=None if table.label is None else table.label[rows],
        ids=np.arange(len(rows)).astype(str).astype(object),
        split=split,
        details=LazyDetails.of(table.details).rows(rows),
        label_sets=None if table.label_sets is None else table.label_sets[rows],
    )


def _tuning(max_drop: float, way: str, trials: Sequence[_Trial], reference: str) -> Tuning:
    alone = Policy.single(reference)
    policies, claimed, given, saving = zip(*trials, strict=True)
    spreads = (Spread.of(claimed), Spread.of(given), Spread.of(saving))
    broken = sum(drop > max_drop + 1e-9 for drop in given)
    share, ends = broken / len(trials), exact_interval(broken, len(trials))
    fell_back = float(np.mean([policy == alone for policy in policies]))
    return Tuning(max_drop, way, *spreads, share, ends, fell_back)
