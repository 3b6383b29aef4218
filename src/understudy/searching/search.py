"""`search`: a pool of models in, a certified cascade out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from understudy.frontier import Frontier
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.certify import certify, certify_one
from understudy.searching.pairs import checked_drops
from understudy.searching.saving_bound import saving_bounds
from understudy.searching.search_data import SearchData, SearchOptions
from understudy.searching.strategies import cheapest_within, frontier_in_sample
from understudy.split import ALL

Drops = float | Sequence[float]


def search(
    table: ScoreTable,
    *,
    max_drop: Drops,
    reference: str | None = None,
    max_cost: float | None = None,
    unit: str | None = None,
    confidence: str | None = None,
    at_most_stages: int | None = None,
    without: Sequence[str] = (),
    delta: float = 0.05,
    class_drops: Mapping[str, float] = MappingProxyType({}),
    looks: int = 1,
) -> Result:
    """The cheapest policy whose accuracy drop is proved to lie within each budget.

    Pairs of a cheaper exit and the reference at every threshold, cascades of more exits, and
    ensembles of the reference with an exit that a sample has visited are compared on `tune` by
    what they are expected to cost once certified. Thresholds apply to a learned deferral score,
    which is fitted there too. What was chosen is certified on `certify` and measured once on
    `test`, or on `certify` too where the table has no test split. Options only limit the search.

    Args:
        max_drop: budget(s) in points against the reference.
        reference: the exit whose accuracy is to be kept; the most accurate on tune if None (see
            `ScoreTable.reference`).
        max_cost: a mean cost per sample; the verdict names policies that exceed it.
        unit: the unit of cost to minimise; the table's first if None.
        confidence: the stored confidence that thresholds apply to; if None (or "deferral") a score
            learned on tune, which predicts where the reference does better (`with_deferral`). Where
            the top confidences are no probabilities it is the stored `max_softmax`.
        at_most_stages: the most exits that a sample may visit; 4 if None, 6 for the exits of one
            network.
        without: families to leave out: "learned" scores, "ensembles", "chains" (of three exits and
            more).
        delta: the chance, per budget, that the bound is wrong.
        class_drops: budgets in points of named classes, which every certificate then covers too.
        looks: how often the certify split has been read, this time included; see
            `looks.delta_of_look` for a level that makes up for it.

    Raises:
        TableError: an unknown name, a missing cost, a single exit, an empty split.
        PolicyError: a budget or level that makes no sense.

    Source: pairs as in TinySaver (arXiv 2403.17726) and Little-Big (2406.17117), searched exactly;
    deferral by expected loss (2307.02764); fixed-sequence testing as in Learn then Test
    (2110.01052).

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> result = search(table, max_drop=2.0, without=["learned"])
    >>> result.choices[0].policy.describe()
    'tiny when max_softmax >= 0.75, else big'
    """
    drops = checked_drops(max_drop)
    if class_drops:
        checked_drops([*class_drops.values()])
    options = SearchOptions(reference, unit, max_cost, confidence, at_most_stages, without)
    data, sequences, frontier = SearchData.of(table, drops, delta=delta, options=options).chosen()
    found = []
    for drop, sequence in zip(drops, sequences, strict=True):
        proof = certify(
            sequence,
            data.certified_on,
            reference=data.spec.reference,
            max_drop=drop,
            delta=delta,
            class_drops=class_drops,
            looks=looks,
        )
        found.append(replace(proof, table=table.on("certify").hash))
    choices = [data.proved_choice(one) for one in found]
    spec = {"max_drop": list(drops), "class_drops": dict(class_drops), "looks": looks}
    return data.result(choices, frontier, {"by": "search", **spec, **options.arguments})


def search_jointly(
    table: ScoreTable, *, max_drop: Sequence[float], delta: float = 0.05, **options: Any
) -> Result:
    """`search`, with certificates that hold all at once: each of k budgets at delta / k.

    For a frontier of operating points that are switched at run time. `options` are those of
    `search`.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> search_jointly(table, max_drop=[1.0, 2.0]).delta
    0.025
    """
    drops = checked_drops(max_drop)
    return search(table, max_drop=drops, delta=delta / len(drops), **options)


def search_within_cost(
    table: ScoreTable,
    *,
    max_cost: float,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str | None = None,
    at_most_stages: int | None = None,
    without: Sequence[str] = (),
    delta: float = 0.05,
    looks: int = 1,
) -> Result:
    """The most accurate policy whose mean cost per sample lies within `max_cost`.

    It is chosen on `tune`, among those whose mean cost lies within it even at its upper limit
    there, so that the certified cost should do too: the verdict compares both. Its certificate
    proves the smallest drop that the certify samples can, which becomes the choice's `max_drop`.
    The arguments are those of `search`.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> choice = search_within_cost(table, max_cost=3.0, without=["learned"]).choices[0]
    >>> choice.policy.describe()
    'tiny when max_softmax >= 0.75, else big'

    Raises:
        PolicyError: every policy costs more.
    """
    options = SearchOptions(reference, unit, max_cost, confidence, at_most_stages, without)
    data, _, frontier = SearchData.of(table, (0.0,), delta=delta, options=options).chosen()
    policy = _surely_within(data, frontier, max_cost, delta)
    data = data.with_exits_of([policy])
    certify_on, reference = data.certified_on, data.spec.reference
    proof = certify_one(policy, certify_on, reference=reference, delta=delta, looks=looks)
    proof = replace(proof, table=table.on("certify").hash)
    choice = data.choice(policy, proof.budget, proof)
    requested = {"by": "search_within_cost", "looks": looks, **options.arguments}
    return data.result([choice], frontier, requested)


def _surely_within(data: SearchData, frontier: Frontier, max_cost: float, delta: float) -> Policy:
    """The most accurate policy whose mean cost is at most `max_cost` even at its upper limit on
    tune; the most accurate one as measured there where all limits are above.

    Raises:
        PolicyError: every policy costs more.
    """
    best, unit = frontier.within(max_cost).policy, frontier.unit
    full = data.searched.cost_of([frontier.reference], unit)
    affordable = [point for point in frontier if point.cost <= max_cost]
    for point in sorted(affordable, key=lambda point: (point.drop, point.cost)):
        bounds = saving_bounds(
            data.searched,
            point.policy,
            [point.policy],
            reference=frontier.reference,
            delta=delta,
        )
        if (1 - bounds[unit]) * full <= max_cost:
            return point.policy
    return best


def search_in_sample(
    table: ScoreTable,
    *,
    max_drop: Drops,
    reference: str | None = None,
    max_cost: float | None = None,
    unit: str | None = None,
    confidence: str | None = None,
    at_most_stages: int | None = None,
    without: Sequence[str] = (),
) -> Result:
    """The cheapest policy within each budget on all samples, reported on the same samples.

    For comparison with published figures only: thresholds chosen and measured on one set of samples
    look better than they are. The arguments are those of `search`, but thresholds apply to a stored
    confidence, the max softmax if None.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> result = search_in_sample(table, max_drop=0)
    >>> result.choices[0].policy.describe(), result.in_sample
    ('tiny when max_softmax >= 0.75, else big', True)
    """
    drops = checked_drops(max_drop)
    stored = DEFAULT_CONFIDENCE if confidence is None else confidence
    options = SearchOptions(reference, unit, max_cost, stored, at_most_stages, without)
    data = SearchData.of(table, drops, delta=0.5, options=options, splits=[ALL])
    frontier = frontier_in_sample(data.searched, data.spec)
    choices = [data.choice(cheapest_within(frontier, drop), drop) for drop in drops]
    requested = {"by": "search_in_sample", "max_drop": list(drops), **options.arguments}
    return data.result(choices, frontier, requested)
