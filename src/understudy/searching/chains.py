"""Search for chains of independent models, little -> middle -> large, in a zoo of hundreds.

Pairs are exact for every last exit. Before the most promising last exits, all pairs of cheaper
models are screened on a grid of thresholds and the best of them solved exactly: one threshold is
swept while a tree over the other model's prefix losses gives its longest prefix within the budget,
in O(N log N). Longer chains grow from the best shorter ones, which keep their first stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from understudy.errors import PolicyError, TableError
from understudy.frontier import Frontier, Point
from understudy.outcome import evaluate
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.all_pairs import gap_budgets
from understudy.searching.chain_solver import Chain, ChainProblem, best_chains

DROPS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
KEEP = 32


def search_chains(
    table: ScoreTable,
    *,
    reference: str | None = None,
    max_drops: Sequence[float] = DROPS,
    stages: int = 3,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
    keep: int = KEEP,
    threads: int | None = None,
) -> Frontier:
    """The cheapest chains found within each drop, of up to `stages` exits visited by rising cost.

    The frontier holds the reference, and for each drop the best pair and the best chain found,
    where nothing found beats them; so its cheapest point within a drop never costs more than the
    best pair. A chain may end before the reference. Two stages are exact, and so are three where at
    most four exits are cheaper than the reference. The result does not depend on `threads`.

    Args:
        reference, confidence, unit: as for `search`; exits that cost more are left out.
        max_drops: budgets in points; a negative one requires a gain. One that nothing meets adds
            nothing.
        stages: the most exits in a chain.
        keep: for each drop and last exit, how many pairs of models are solved exactly.
        threads: how many to use; all cores by default.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 1], [.9, .2, .3, .1]), "mid": ([1, 0, 0, 1], [.1, .9, .8, .2]),
    ...      "big": ([0, 0, 0, 0], [.9, .9, .9, .9])}, [0, 0, 0, 0],
    ...     costs={"tiny": 1, "mid": 2, "big": 9})
    >>> search_chains(table, max_drops=[0]).points[0].policy.describe()
    'tiny when max_softmax >= 0.6, else mid when max_softmax >= 0.5, else big'

    Raises:
        TableError: unknown names, costs that are missing, or exits that share a part.
        PolicyError: fewer than two stages, or a drop, `keep` or `threads` that makes no sense.
    """
    _check(max_drops, stages=stages, keep=keep, threads=threads)
    unit = table.unit(unit)
    reference = table.reference(reference, unit=unit)
    problem = _problem(table, reference, confidence=confidence, unit=unit, threads=threads)
    budgets = gap_budgets(np.asarray(max_drops, np.float64), len(table))
    policies = [Policy.single(reference)]
    if problem is not None and len(budgets):
        found = best_chains(problem, budgets, stages, keep)
        policies += [_policy(chain, confidence) for chain in found]
    points = [
        Point.of(policy, evaluate(table, policy, reference=reference), unit=unit)
        for policy in dict.fromkeys(policies)
    ]
    return Frontier.of(points, unit=unit, reference=reference)


def _policy(chain: Chain, confidence: str) -> Policy:
    stages = [PolicyStage(name, limit, confidence) for name, limit in chain.stages]
    if stages[-1].threshold == -math.inf:
        return Policy((*stages[:-1], PolicyStage(stages[-1].exit)))
    return Policy((*stages, PolicyStage(chain.last)))


def _problem(
    table: ScoreTable, reference: str, *, confidence: str, unit: str, threads: int | None
) -> ChainProblem | None:
    """All exits that cost less than the reference, by rising cost; None if there is none."""
    costs, last, right = table.exit_costs(unit), table.index(reference), table.right(reference)
    rows = [int(row) for row in np.argsort(costs, kind="stable") if costs[row] < costs[last]]
    names = [table.names[row] for row in rows]
    _check_independent(table, [*names, reference])
    scores = table.scores(confidence)
    if not rows:
        return None
    correct = right[last].astype(np.int8)
    loss = np.stack([correct - right[row] for row in rows])
    full, price = float(costs[last]), costs[rows]
    return ChainProblem(tuple(names), reference, price, full, scores[rows], loss, threads).sorted()


def _check_independent(table: ScoreTable, names: Iterable[str]) -> None:
    owner: dict[str, str] = {}
    for name in names:
        for part in set(table.exits[table.index(name)].parts):
            if part in owner:
                raise TableError(
                    f"chains are searched among independent models, {owner[part]!r} and {name!r} "
                    f"share the part {part!r}: use search_exits, or leave one of them out"
                )
            owner[part] = name


def _check(drops: Sequence[float], *, stages: int, keep: int, threads: int | None) -> None:
    for drop in drops:
        if not -100 <= drop <= 100:
            raise PolicyError(f"a drop lies between -100 and 100 points, found {drop:g}")
    if stages < 2:
        raise PolicyError(f"a chain has two stages or more, found {stages}: give 3")
    if keep < 1:
        raise PolicyError(f"at least one pair is solved exactly, found keep={keep}: give {KEEP}")
    if threads is not None and threads < 1:
        raise PolicyError(f"a search runs in at least one thread, found {threads}: give 1 or more")
