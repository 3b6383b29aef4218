"""Which samples need a label for a certificate: only some of those where models disagree.

Where a cascade answers as the reference does the paired gap is 0, whatever the label is. So a
policy is tested exactly with the labels of the samples that it answers otherwise; and policies are
tested in order until the first that fails, so that later ones need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import LEARNED
from understudy.ensemble import models_of
from understudy.json_codec import Stored
from understudy.outcome import decide, evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.baselines import best_single
from understudy.searching.certify import largest_p_value
from understudy.searching.exact_test import drop_p_value
from understudy.searching.expected_cost import would_be_proved
from understudy.searching.pairs import checked_drops
from understudy.searching.policy_sequences import (
    Counts,
    PolicySequence,
    labels_missing,
    losses_and_gains,
)
from understudy.searching.search import Drops
from understudy.searching.search_data import SearchData, SearchOptions
from understudy.split import headline_split

MARGIN = 4  # further policies of 200: a few labels more, and fewer rounds
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelsNeeded(
    Stored,
    what="a list of labels that are needed",
    keys=("split", "ids", "labels", "samples", "words"),
):
    """The samples that need a label next.

    Attributes:
        split: where they are: first in tune, then in certify, at last in test if there is one; ""
            where no label is needed any more.
        ids: their ids, in the table's order.
        labels, samples: how many samples of each split have a label, and how many there are.
    """

    split: str
    ids: tuple[str, ...]
    labels: Mapping[str, int]
    samples: Mapping[str, int]

    def words(self) -> str:
        """What is needed and what to do next, in one or two sentences."""
        counts = ", ".join(
            f"{self.labels[name]:,} of {self.samples[name]:,} on {name}" for name in self.samples
        )
        if not self.split:
            return f"No label is needed: search. Labelled: {counts}."
        purpose = {
            "tune": "the policies are chosen by them; what certify needs depends on them",
            "certify": "the policies that are tested next, or the exits that the certified one is "
            "compared with, disagree with the reference there",
            "test": "the certificate needs no more, its policy is measured on them",
        }
        return (
            f"{len(self.ids):,} samples of {self.split} need a label next: "
            f"{purpose[self.split]}. Labelled: {counts}."
        )


def labels_needed(
    table: ScoreTable,
    *,
    max_drop: Drops,
    reference: str | None = None,
    unit: str | None = None,
    confidence: str | None = None,
    at_most_stages: int | None = None,
    without: Sequence[str] = (),
    delta: float = 0.05,
) -> LabelsNeeded:
    """The samples that need a label before `search`, with the same arguments, is at its end.

    Label them, add the labels (`ScoreTable.with_labels`) and call this again, until none is needed:
    once for tune, where the policies are chosen, a few times for certify, once where the certified
    ones are measured: on test, or on certify too. All is then as with labels of all samples there.

    Args:
        table: some of its labels may be missing, or all of them.
        max_drop, reference, unit, confidence, at_most_stages, without, delta: as for `search`.

    Raises:
        TableError: an unknown name, a missing cost, a single exit, an empty split.
        PolicyError: a budget or level that makes no sense.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     None, costs={"tiny": 1, "big": 9})
    >>> needed = labels_needed(table, max_drop=2.0, without=["learned"])
    >>> needed.split, len(needed.ids), len(table.on("tune"))
    ('tune', 18, 210)
    >>> table = table.with_labels(dict.fromkeys(needed.ids, 0))
    >>> labels_needed(table, max_drop=2.0, without=["learned"]).split
    'certify'
    """
    drops = checked_drops(max_drop)
    options = SearchOptions(reference, unit, None, confidence, at_most_stages, without)
    data = SearchData.of(table, drops, delta=delta, options=options)
    rows = _needed_on_tune(data)
    split = "tune"
    if not rows.any():
        data, sequences, _ = data.chosen()
        tests = [_LabelledTest.of(*pair, data) for pair in zip(sequences, drops, strict=True)]
        split, rows = "certify", np.any([test.needed() for test in tests], axis=0)
        if not rows.any():
            marks = [_needed_to_measure(test.policy, data) for test in tests]
            split, rows = headline_split(data.splits), np.any(marks, axis=0)
    needed = set(data.splits[split].ids[rows].tolist())
    ids = tuple(one for one in table.ids.tolist() if one in needed)  # tune is sorted by id
    samples = {name: len(part) for name, part in data.splits.items()}
    return LabelsNeeded(split if ids else "", ids, table.label_counts(), samples)


def _needed_on_tune(data: SearchData) -> Marks:
    """The tune samples that some exit of the search answers otherwise than the reference, (N,).

    Their labels decide how all policies and exits compare; those of others, on which all are right
    or all are wrong, do not. All labels are needed where something is fitted to them: a learned
    score, the temperatures of ensembles.
    """
    models = models_of(data.tune)
    if data.spec.confidence == LEARNED or len(models.exits) < len(data.searched.exits):
        return ~data.tune.labelled
    full = models.cost_of([data.spec.reference], data.spec.unit)
    used = models.exit_costs(data.spec.unit) < full
    answers = models.prediction if models.shares_parts else models.prediction[used]
    return np.asarray(models.needs_label(data.spec.reference, answers).any(0))


def _needed_to_measure(policy: Policy, data: SearchData) -> Marks:
    """The samples of the headline split that the policy answers otherwise, or an exit that it is
    compared with."""
    measured, reference, unit = data.measured, data.spec.reference, data.spec.unit
    cost = evaluate(data.tune, policy, reference=reference).cost[unit]
    single = best_single(data.tune, reference=reference, unit=unit, cost=cost)
    rows = [measured.index(name) for name in {*policy.exits, single} if name is not None]
    answers = [decide(measured, policy).prediction, *measured.prediction[rows]]
    return np.asarray(measured.needs_label(reference, np.stack(answers)).any(0))


@dataclass(frozen=True, eq=False)
class _LabelledTest:
    """The test of one sequence on certify as far as labels decide it.

    Attributes:
        proved: how many policies are proved whatever the missing labels are.
        decided: whether the next one fails whatever they are, or there is none.
        missing: (P,) the labels that are missing for each policy.
    """

    sequence: PolicySequence
    data: SearchData
    max_drop: float
    proved: int
    decided: bool
    missing: Counts

    @staticmethod
    def of(sequence: PolicySequence, max_drop: float, data: SearchData) -> _LabelledTest:
        certify, delta, reference = data.splits["certify"], data.spec.delta, data.spec.reference
        losses, gains = losses_and_gains(certify, sequence.policies, reference=reference)
        missing = labels_missing(certify, sequence.policies, reference=reference)
        p_value = cache(partial(drop_p_value, samples=len(certify), max_drop=max_drop, delta=delta))
        for step, (lost, gained, unknown) in enumerate(
            zip(losses.tolist(), gains.tolist(), missing.tolist(), strict=True)
        ):
            if largest_p_value(p_value, lost, gained, unknown, delta=delta) > delta:
                least = smallest_p_value(p_value, lost, gained, unknown, delta=delta)
                return _LabelledTest(sequence, data, max_drop, step, least > delta, missing)
        return _LabelledTest(sequence, data, max_drop, len(losses), True, missing)

    @property
    def policy(self) -> Policy:
        """The last policy that is proved; the reference alone where there is none."""
        policies = self.sequence.policies
        return policies[self.proved - 1] if self.proved else Policy.single(self.data.spec.reference)

    def needed(self) -> Marks:
        """The certify samples whose labels are needed next, (N,).

        Those of the policy that is certified, so that its counts are complete; before that also
        those of the policies behind it, to a little beyond the one that is expected to fail.
        """
        certify, reference = self.data.splits["certify"], self.data.spec.reference
        first = max(self.proved - 1, 0)
        last = self.proved if self.decided else self._expected_end() + 1
        marks = np.zeros(len(certify), bool)
        for row in range(first, last):
            if self.missing[row]:
                prediction = decide(certify, self.sequence.policies[row]).prediction
                marks |= certify.needs_label(reference, prediction)
        return marks

    def _expected_end(self) -> int:
        """The policy that is expected to fail, where the missing labels are as on tune."""
        sequence, spec, certify = self.sequence, self.data.spec, self.data.splits["certify"]
        policies, reference = sequence.policies, spec.reference
        unlabelled = replace(self.data.tune, label=None)
        differing = labels_missing(unlabelled, policies, reference=reference)
        losses, gains = losses_and_gains(certify, policies, reference=reference)
        losses = losses - self.missing + self.missing * sequence.losses // np.maximum(differing, 1)
        gains = gains + self.missing * sequence.gains // np.maximum(differing, 1)
        expected = replace(sequence, losses=losses, gains=gains, samples=len(certify))
        proved = would_be_proved(
            expected, budget=self.max_drop / 100, samples=len(certify), delta=spec.delta
        )
        end = len(proved) if proved.all() else int(np.argmin(proved))
        return min(max(end, self.proved) + MARGIN, len(policies) - 1)


def smallest_p_value(
    p_value: Callable[[int, int], float], losses: int, gains: int, missing: int, *, delta: float
) -> float:
    """The smallest p-value of these counts whatever the labels of `missing` of the losses are, or
    one within `delta`.

    At a given number of discordant samples it is that where those are gains; see `largest_p_value`.

    >>> smallest_p_value(lambda losses, gains: (losses - gains) / 100, 9, 0, 2, delta=0.01)
    0.05
    """
    smallest = 1.0
    for gained in range(missing, -1, -1):
        smallest = min(smallest, p_value(losses - missing, gains + gained))
        if smallest <= delta:
            break
    return smallest
