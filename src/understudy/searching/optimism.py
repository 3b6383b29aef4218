"""Optimism of a choice: its claimed against its true drop, by where its thresholds were tuned.

The papers tune and report on one set of samples. Here the table is taken as the population: each
resample draws a tune, a certify and a test split from it, with replacement, and chooses a pair on
them in three ways. The true figures of each choice are those on the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from understudy.errors import PolicyError, TableError
from understudy.json_codec import Stored
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.scores import ScoreTable
from understudy.searching.certify import certify
from understudy.searching.pairs import cheapest_pair, checked_drops, pair_curves
from understudy.searching.strategies import SearchSpec, cheapest_expected, find_pairs
from understudy.split import headline_split

IN_SAMPLE, HELD_OUT, CERTIFIED = "in-sample", "held-out", "certified"
WAYS = (IN_SAMPLE, HELD_OUT, CERTIFIED)
Progress = Callable[[str, int, int], None]


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
        way: "in-sample" (the best pair on test itself), "held-out" (the best pair on tune) or
            "certified" (a sequence frozen on tune, tested on certify).
        claimed: the drop in points on the samples that decided: test, tune or certify.
        given: the drop in points on the whole table.
        saving: the share of the reference's cost that is saved on the whole table.
        broken: the share of resamples in which the drop on the whole table exceeds the budget.
        fell_back: the share of resamples in which the choice is the reference alone.
    """

    max_drop: float
    way: str
    claimed: Spread
    given: Spread
    saving: Spread
    broken: float
    fell_back: float


@dataclass(frozen=True)
class Optimism(Stored):
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


def optimism(
    table: ScoreTable,
    *,
    max_drop: float | Sequence[float],
    reference: str | None = None,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    delta: float = 0.05,
    resamples: int = 100,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Optimism:
    """Claimed and true drops of pairs tuned in-sample, held-out and certified, over resamples.

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
    >>> found = optimism(table, max_drop=1.0, resamples=20)
    >>> [(one.way, one.broken) for one in found.tunings]
    [('in-sample', 0.3), ('held-out', 0.45), ('certified', 0.0)]
    """
    drops = checked_drops(max_drop)
    if resamples < 1:
        raise PolicyError(f"optimism takes at least one resample, found {resamples}: try 100")
    unit = table.unit(unit)
    reference = table.reference(reference, unit=unit)
    if not pair_curves(table, reference, confidence=confidence, unit=unit):
        raise TableError(f"a cascade needs an exit that is cheaper than {reference!r}, found none")
    samples = {name: len(table.on(name)) for name in table.splits}
    spec = SearchSpec(reference, unit, confidence, drops, delta, samples["certify"])
    rng = np.random.default_rng(seed)
    trials: dict[tuple[float, str], list[_Trial]] = {(d, way): [] for d in drops for way in WAYS}
    for done in range(resamples):
        drawn = {name: _drawn(table, rng, count) for name, count in samples.items()}
        for key, policy, claimed in _choices(drawn, spec):
            outcome = evaluate(table, policy, reference=reference)
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
    drawn: Mapping[str, ScoreTable], spec: SearchSpec
) -> list[tuple[tuple[float, str], Policy, float]]:
    """For every budget and way the chosen policy and its claimed drop."""
    chosen = []
    sequences = find_pairs(drawn["tune"], spec).sequences
    for way, split in ((IN_SAMPLE, headline_split(drawn)), (HELD_OUT, "tune")):
        curves = pair_curves(drawn[split], **spec.names)
        for drop in spec.drops:
            curve, position = cheapest_pair(curves, drop)
            chosen.append(((drop, way), curve.policy(position), float(curve.drop[position])))
    prove = partial(certify, reference=spec.reference, delta=spec.delta)
    for drop in spec.drops:
        sequence = cheapest_expected(sequences, spec, drop)
        proof = prove(sequence, drawn["certify"], max_drop=drop)
        claimed = 100 * (proof.losses - proof.gains) / proof.samples
        chosen.append(((drop, CERTIFIED), proof.policy, claimed))
    return chosen


def _drawn(table: ScoreTable, rng: np.random.Generator, count: int) -> ScoreTable:
    """`count` samples of a table, with replacement, under new ids."""
    index = rng.integers(0, len(table), count)
    return replace(
        table,
        prediction=table.prediction[:, index],
        confidence={name: rows[:, index] for name, rows in table.confidence.items()},
        label=None if table.label is None else table.label[index],
        ids=np.arange(count).astype(object),
        split=table.split[index],
        details={},
    )


def _tuning(max_drop: float, way: str, trials: Sequence[_Trial], reference: str) -> Tuning:
    alone = Policy.single(reference)
    policies, claimed, given, saving = zip(*trials, strict=True)
    spreads = (Spread.of(claimed), Spread.of(given), Spread.of(saving))
    broken = float(np.mean([drop > max_drop + 1e-9 for drop in given]))
    fell_back = float(np.mean([policy == alone for policy in policies]))
    return Tuning(max_drop, way, *spreads, broken, fell_back)
