"""The steps of one little model: those of each pair's curve, counted as on the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings

from tables import score_tables
from understudy.lazy_table import LazyTable
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.little_steps import LittleSteps, ModelAnswers
from understudy.searching.pairs import pair_curve
from understudy.searching.policy_sequences import SequenceCounts, pair_sequence


@given(score_tables(least_exits=2))
@settings(max_examples=25)
def test_they_are_those_of_the_curve(table: ScoreTable) -> None:
    if len(table) < 3:
        return
    table = replace(table, split=np.arange(len(table)) % 3)
    lazy = LazyTable.of(table)
    parts = {split: lazy.on(split) for split in table.splits}
    for little in table.names:
        steps = LittleSteps.of(parts, little, "max_softmax")
        for big in set(table.names) - {little}:
            answers = {split: ModelAnswers.of(part, big) for split, part in parts.items()}
            found = steps.sequence(big, answers["tune"], table, "MACs")
            expected = pair_sequence(pair_curve(table.on("tune"), little, big, unit="MACs"))
            assert (found.policies, found.full) == (expected.policies, expected.full)
            for name in ("losses", "gains", "cost"):
                assert getattr(found, name).tolist() == getattr(expected, name).tolist()
            for split, own in answers.items():
                _check_counts(
                    steps.counts(split, own, found.policies), table.on(split), big, found.policies
                )


def _check_counts(
    found: SequenceCounts, part: ScoreTable, big: str, policies: Sequence[Policy]
) -> None:
    expected = SequenceCounts.of(part, policies, reference=big)
    for name in ("answered", "reference_right", "samples"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("losses", "gains", "missing"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
