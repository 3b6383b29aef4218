"""The kinds of samples (answered early, deferred, rescued, lost, ...), and those that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.choice import Choice
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.scores import ScoreTable

Array = npt.NDArray[Any]

MOST_PICTURES = 200
"""Pictures of a page, which its plans share evenly."""

MOST_OF_CLASS = 6
"""Pictures of one class within a kind of a plan."""


@dataclass(frozen=True)
class OutcomeKind:
    """A kind of samples; every sample is of one.

    Attributes:
        title: what it is called, with labels and without.
        words: what it is, the same; `{first}`, `{last}` and `{reference}` stand for exits.
        opened: whether the page shows its pictures at once.
    """

    title: tuple[str, str]
    words: tuple[str, str]
    opened: bool = False


LOST, GAINED, RESCUED, EARLY, EARLY_WRONG, UNNEEDED, WRONG = range(7)
KINDS = (
    OutcomeKind(
        ("Lost", "Disagreeing"),
        (
            "{reference} is right, the plan is wrong.",
            "The plan answers otherwise than {reference}.",
        ),
        opened=True,
    ),
    OutcomeKind(("Gained", "Gained"), ("The plan is right, {reference} is wrong.",) * 2),
    OutcomeKind(
        ("Rescued", "Rescued"),
        (
            "{first} alone would be wrong. The sample was deferred to {last}, which is right.",
            "{first} alone would disagree with {reference}. The sample was deferred to {last}, "
            "which agrees.",
        ),
        opened=True,
    ),
    OutcomeKind(
        ("Answered early, right", "Answered early, agreeing"),
        (
            "Answered before {last}, and right, as {reference} is.",
            "Answered before {last}, as {reference} answers.",
        ),
        opened=True,
    ),
    OutcomeKind(
        ("Answered early, wrong", "Answered early, wrong"),
        ("Answered before {last}, and wrong, as {reference} is: nothing is lost.",) * 2,
    ),
    OutcomeKind(
        ("Deferred without need", "Deferred without need"),
        (
            "Deferred to {last}, which is right; {first} alone would be right as well.",
            "Deferred to {last}, which agrees with {reference}; {first} alone would agree as well.",
        ),
    ),
    OutcomeKind(
        ("Deferred, wrong", "Deferred, wrong"),
        ("Deferred to {last}, and wrong, as {reference} is.",) * 2,
    ),
)
"""Every kind, in the order in which a sample is tried for them; see `kinds_of`."""


def kinds_of(table: ScoreTable, policy: Policy, reference: str) -> Array:
    """The kind of every sample, (N,) positions in `KINDS`.

    Lost and gained samples are the losses and gains of `evaluate`. Of the others, which the policy
    and the reference both have right or both wrong, those that the last stage answers were
    deferred, all else was answered early. What is right, `ScoreTable.right` says.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 0, 0, 0], costs={"tiny": 1, "big": 9})
    >>> kinds = kinds_of(table, Policy.pair("tiny", "big", 0.65), "big")
    >>> [KINDS[kind].title[0] for kind in kinds]
    ['Answered early, right', 'Answered early, wrong', 'Rescued', 'Answered early, right']

    Raises:
        TableError: the policy names an exit or a confidence that the table lacks.
    """
    stage = decide(table, policy).stage
    right = table.right(reference, [table.index(name) for name in (*policy.exits, reference)])
    ours, first, theirs = right[stage, np.arange(len(table))], right[0], right[-1]
    deferred = stage == len(policy.stages) - 1
    conditions = {
        LOST: theirs & ~ours,
        GAINED: ours & ~theirs,
        RESCUED: deferred & ours & ~first,
        EARLY: ~deferred & ours,
        EARLY_WRONG: ~deferred,
        UNNEEDED: ours,
    }
    return np.select(list(conditions.values()), list(conditions), WRONG)


@dataclass(frozen=True, eq=False)
class PlanSamples:
    """What a plan does with every sample, and which samples are shown of each kind.

    Attributes:
        choices: the budgets that it was chosen for.
        kinds: (N,) positions in `KINDS`.
        label: (N,) the class number that each sample is shown with, see `samples_shown`.
        rank: (C,) the places of the classes: those that lose most on tune, then the others.
        shown: by kind, the positions of samples: class by class, by rank.
    """

    choices: tuple[Choice, ...]
    kinds: Array
    label: Array
    rank: Array
    shown: tuple[Array, ...]

    def at_most(self, most: int) -> PlanSamples:
        """The same with fewer samples that are shown: those that are taken first, by class."""
        counts = _shares(most, list(map(len, self.shown)))
        taken = (rows[:count] for rows, count in zip(self.shown, counts, strict=True))
        ordered = (rows[np.argsort(self.rank[self.label[rows]], kind="stable")] for rows in taken)
        return replace(self, shown=tuple(ordered))


def samples_shown(
    choices: Sequence[Choice],
    table: ScoreTable,
    reference: str,
    there: Array,
    *,
    most: int = MOST_PICTURES,
) -> tuple[PlanSamples, ...]:
    """What the cascades among the plans do with each sample, and the samples that are shown.

    The plans share `most` evenly, and so do the kinds of a plan, as far as they have so many. Of a
    kind classes take turns, those first that lose most on tune (`Choice.classes`), with the samples
    that the exit which answered early, or else the first, is most confident of. The class of a
    sample is its first right answer: the reference's where it has no label.

    Args:
        choices: the plans.
        table: the samples that their figures are measured on.
        reference: the exit that they are compared with.
        there: (N,) which of them have an image.
        most: how many are shown.
    """
    plans: dict[Policy, list[Choice]] = {}
    for choice in choices:
        if len(choice.policy.exits) > 1:
            plans.setdefault(choice.policy, []).append(choice)
    label = table.right_answers(reference)[:, 0]
    found = []
    for policy, aims in plans.items():
        kinds = kinds_of(table, policy, reference)
        rank, sure = _class_ranks(table, aims[0], label), _sureness(table, policy)
        members = (np.flatnonzero((kinds == kind) & there) for kind in range(len(KINDS)))
        queues = tuple(_queue(rows, rank[label], sure) for rows in members)
        found.append(PlanSamples(tuple(aims), kinds, label, rank, queues))
    shares = _shares(most, [sum(map(len, one.shown)) for one in found])
    return tuple(one.at_most(share) for share, one in zip(shares, found, strict=True))


def _class_ranks(table: ScoreTable, choice: Choice, label: Array) -> Array:
    """The rank of every class by number: the classes that lose most first, the others in order."""
    count = int(label.max()) + 1
    worst = {gap.name: place for place, gap in enumerate(choice.classes)}
    names = map(str, range(count)) if table.classes is None else table.classes[:count]
    order = np.argsort([worst.get(name, len(worst)) for name in names], kind="stable")
    rank = np.empty(count, np.intp)
    rank[order] = np.arange(count)
    return rank


def _sureness(table: ScoreTable, policy: Policy) -> Array:
    """How confident of each sample the exit is that answered it early, or else the first, (N,).

    Confidences of several exits are compared as the share of samples that have a lower one.
    """
    stage = decide(table, policy).stage
    judge = np.where(stage == len(policy.stages) - 1, 0, stage)
    sure = np.empty(len(table))
    for number, rule in enumerate(policy.stages[:-1]):
        values = table.scores(rule.confidence)[table.index(rule.exit)]
        rows = judge == number
        sure[rows] = np.searchsorted(np.sort(values), values[rows]) / len(values)
    return sure


def _queue(rows: Array, rank: Array, sure: Array) -> Array:
    """Samples in the order in which they are taken: classes in turn, a few of each."""
    rows = rows[np.lexsort((-sure[rows], rank[rows]))]
    turn = np.arange(len(rows)) - np.searchsorted(rank[rows], rank[rows])
    return rows[np.lexsort((rank[rows], turn))][: int((turn < MOST_OF_CLASS).sum())]


def _shares(total: int, wanted: Sequence[int]) -> list[int]:
    """A number divided evenly; what one does not want, the others get.

    >>> _shares(10, [1, 9, 6])
    [1, 5, 4]
    """
    shares = [0] * len(wanted)
    for done, place in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[place] = min(wanted[place], total // (len(wanted) - done))
        total -= shares[place]
    return shares
