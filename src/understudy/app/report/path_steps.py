"""The policies from safe to cheap that the page steps through, per budget, each measured.

A certificate keeps the policies that were proved. The rest of the sequence that was frozen with
them is found again on tune: a search reads no label of the certify split before it tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from understudy.app.report.record import WORST
from understudy.choice import Choice
from understudy.confidence_functions import LEARNED
from understudy.ensemble import models_of
from understudy.outcome import ClassGap, Outcome, class_gaps, evaluate
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.split import ALL

if TYPE_CHECKING:
    from understudy.searching.search_data import SearchData

MOST_STEPS = 200  # steps per budget
_SAME = 1e-6  # a relative difference of thresholds that were found on two machines


@dataclass(frozen=True)
class PathStep:
    """One policy of a path, and what it does.

    Attributes:
        number: its position in the whole path.
        proved: whether it is certified to keep the budget.
        measured_on: the samples of `outcome` and `classes`: those of the headline figures, but
            tune for a policy that is not proved where the only others are those that proved.
        classes: the classes that lose most on tune, at most three.
    """

    number: int
    policy: Policy
    proved: bool
    measured_on: str
    outcome: Outcome
    classes: tuple[ClassGap, ...]


@dataclass(frozen=True)
class BudgetPath:
    """The path of one budget, from safe to cheap.

    Attributes:
        choice: what was chosen for the budget.
        steps: at most 200, evenly spaced; first, last, the plan and the one behind it among them.
        length: the number of policies in the whole path.
        frozen: whether this is the sequence that was tested; else it is the frontier.
        plan: the position of the plan in `steps`; None where that is the reference alone.
    """

    choice: Choice
    steps: tuple[PathStep, ...]
    length: int
    frozen: bool
    plan: int | None

    @property
    def proved(self) -> int:
        """How many steps are proved; where the path was tested these are the first."""
        return sum(step.proved for step in self.steps)


def budget_paths(result: Result, table: ScoreTable) -> tuple[BudgetPath, ...]:
    """The path of every budget, measured; none for a budget without any policy but the reference.

    All policies up to the certified one are proved at once, since fixed-sequence testing lets none
    of them be wrong with a probability above the level. Behind it stand those that were frozen with
    them: the first was not proved, the others were not tested. In-sample, where the test had a
    single step, and where the sequence is not found again, the frontier takes its place.

    Args:
        result: what a search found.
        table: that which was searched, with what the search fitted or without.

    >>> import numpy as np
    >>> from understudy import search
    >>> right = np.arange(1000) % 10 < 9
    >>> exits = {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, 0 * right)}
    >>> table = ScoreTable.from_predictions(exits, 0 * right, costs={"tiny": 1, "big": 9})
    >>> [path] = budget_paths(search(table, max_drop=2.0, without=["learned"]), table)
    >>> [(step.policy.exits, step.proved) for step in path.steps]
    [(('tiny', 'big'), True), (('tiny',), False)]

    Raises:
        TableError: the table lacks what the search read.
    """
    paths = [_Path(choice, _on_frontier(result), frozen=False) for choice in result.choices]
    few = _exits_of_paths(result, table) if all(path.proves_a_sequence for path in paths) else None
    data, found = _refrozen(_search_data(result, table, few), paths)
    if few is not None and not all(path.whole for path in found):
        data, found = _refrozen(_search_data(result, table), paths)
    paths = found
    data = data.with_exits_of(path.policies[row] for path in paths for row in path.kept)

    @cache
    def measured(policy: Policy, split: str) -> tuple[Outcome, tuple[ClassGap, ...]]:
        part, names = data.splits[split], {"reference": result.reference}
        return evaluate(part, policy, **names), class_gaps(
            data.tune, part, policy, most=WORST, **names
        )

    def step(path: _Path, row: int) -> PathStep:
        proved = row in path.proved
        split = result.measured_on if proved or result.measured_on != "certify" else "tune"
        policy = path.policies[row]
        return PathStep(row, policy, proved, split, *measured(policy, split))

    return tuple(
        BudgetPath(
            path.choice,
            tuple(step(path, row) for row in path.kept),
            len(path.policies),
            path.frozen,
            None if path.plan is None else path.kept.index(path.plan),
        )
        for path in paths
        if path.policies
    )


@dataclass(frozen=True)
class _Path:
    """All policies of a budget, from safe to cheap, before they are measured."""

    choice: Choice
    policies: tuple[Policy, ...]
    frozen: bool

    @property
    def tests_a_sequence(self) -> bool:
        """Whether the certificate tested more than the one policy of `--max-cost`."""
        proof = self.choice.certificate
        return proof is not None and proof.steps > 1

    def refrozen(self, found: tuple[Policy, ...]) -> _Path:
        """The path that was tested: the proved policies, and behind them those of `found`, the
        sequence that is chosen now, unless that is another one."""
        proof = self.choice.certificate
        if proof is None or not self.tests_a_sequence:
            return self
        same = len(found) == proof.steps and all(map(_alike, proof.path, found))
        policies = (*proof.path, *(found[len(proof.path) :] if same else ()))
        return _Path(self.choice, policies, frozen=True) if policies else self

    @property
    def proves_a_sequence(self) -> bool:
        """Whether a policy of that sequence was proved, so that its exits are known."""
        proof = self.choice.certificate
        return self.tests_a_sequence and proof is not None and not proof.falls_back

    @property
    def whole(self) -> bool:
        """Whether these are all policies that were to be tested."""
        proof = self.choice.certificate
        return proof is not None and len(self.policies) == proof.steps

    @cached_property
    def plan(self) -> int | None:
        """The position of the chosen policy; None where it is not on the path."""
        found = self.choice.policy
        return self.policies.index(found) if found in self.policies else None

    @cached_property
    def proved(self) -> range:
        """The positions of the proved policies."""
        proof = self.choice.certificate
        if self.plan is None or proof is None or proof.falls_back:
            return range(0)
        return range(0 if self.frozen else self.plan, self.plan + 1)

    @cached_property
    def kept(self) -> list[int]:
        """Up to `MOST_STEPS` positions, evenly spaced; the ends, the plan and the next one too."""
        count, last = len(self.policies), len(self.policies) - 1
        if count <= MOST_STEPS:
            return [*range(count)]
        ends = {0, last} if self.plan is None else {0, self.plan, min(self.plan + 1, last), last}
        even = np.linspace(0, last, MOST_STEPS - len(ends)).round().astype(int)
        return sorted(ends.union(even.tolist()))


def _exits_of_paths(result: Result, table: ScoreTable) -> list[str] | None:
    """The exits of proved policies, and the reference; None where an ensemble is among them.

    A sequence is of the exits of its first policy, so that it is found again among these alone.
    """
    used = {result.reference}.union(*(choice.exits for choice in result.choices))
    models = models_of(table).names
    return [name for name in models if name in used] if used <= set(models) else None


def _refrozen(data: SearchData, paths: list[_Path]) -> tuple[SearchData, list[_Path]]:
    """The paths that were tested, with the data in which they are chosen again."""
    if any(path.tests_a_sequence for path in paths):
        _, sequences, _ = data.chosen()
        paths = [
            path.refrozen(sequence.policies)
            for path, sequence in zip(paths, sequences, strict=True)
        ]
    return data, paths


def _search_data(result: Result, table: ScoreTable, exits: list[str] | None = None) -> SearchData:
    """What the search of a result worked on, or its part of some exits, fitted to tune again."""
    from understudy.searching.search_data import SearchData, SearchOptions

    arguments = result.arguments
    options = SearchOptions(
        result.reference,
        result.unit,
        arguments.get("max_cost"),
        arguments.get("confidence"),
        arguments.get("at_most_stages"),
        tuple(arguments.get("without", ())),
    )
    drops = tuple(choice.max_drop for choice in result.choices)
    source, splits = _without_fitted(result, table), [ALL] if result.in_sample else ()
    source = source if exits is None else source.only(exits)
    delta = result.delta or 0.5  # in-sample there is none
    return SearchData.of(source, drops, delta=delta, options=options, splits=splits)


def _on_frontier(result: Result) -> tuple[Policy, ...]:
    """The policies of the frontier, dearest first."""
    return tuple(point.policy for point in reversed(result.frontier.points))


def _without_fitted(result: Result, table: ScoreTable) -> ScoreTable:
    """The table without what the search fitted: on tune its scores are those of other folds."""
    if table.hash == result.table.get("hash"):
        return table
    stored = {name: rows for name, rows in table.confidence.items() if name != LEARNED}
    return replace(table, confidence=stored)


def _alike(one: Policy, other: Policy) -> bool:
    """Whether two policies are the same but for the last bits of their thresholds."""
    (forms, thresholds), (other_forms, others) = _parts(one), _parts(other)
    return forms == other_forms and all(
        math.isclose(a, b, rel_tol=_SAME) for a, b in zip(thresholds, others, strict=True)
    )


def _parts(policy: Policy) -> tuple[list[tuple[str, str]], list[float]]:
    """The exits of a policy with their confidences, and its thresholds."""
    forms = [(stage.exit, stage.confidence) for stage in policy.stages]
    return forms, [stage.threshold for stage in policy.stages if stage.threshold is not None]
