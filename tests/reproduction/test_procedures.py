"""Rows of the papers on prepared tables: what each way chooses, and on which samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tables import record, synthetic
from understudy.outcome import evaluate
from understudy.reproduction.papers import ExitSettings, PaperRow, PublishedFigure
from understudy.reproduction.procedures import RowTables, reproduce_row
from understudy.reproduction.record import (
    AS_PUBLISHED,
    CERTIFIED,
    HELD_OUT,
    WAYS,
    Reproduction,
    RowFindings,
)
from understudy.scores import ScoreTable
from understudy.searching.pairs import search_pairs
from understudy.searching.saver_ranking import rank_savers

FIGURES = tuple(PublishedFigure(drop, "abstract", saving=0.5) for drop in (0.0, 1.0))
PAIRS = PaperRow("pairs", FIGURES, "timm:net2", ("timm:net0", "timm:net1"))
EXITS = PaperRow("exits", FIGURES[1:], "timm:full", exits=ExitSettings(("linear",)))
SIZE = 4_000


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    return synthetic(SIZE, seed=3)


@pytest.fixture(scope="module")
def little_big(table: ScoreTable) -> RowFindings:
    return reproduce_row("little-big", PAIRS, RowTables(table))[0]


def test_every_way_is_measured_where_it_says(table: ScoreTable, little_big: RowFindings) -> None:
    assert little_big.samples == SIZE
    for drop in PAIRS.budgets:
        found = {one.way: one for one in little_big.at(drop)}
        assert tuple(found) == WAYS
        for way, split in ((AS_PUBLISHED, "all"), (HELD_OUT, "test"), (CERTIFIED, "test")):
            one = found[way]
            assert one.outcome is not None
            assert one.measured_on == split
            assert one.outcome.samples == (SIZE if split == "all" else len(table.on(split)))
            assert one.in_sample == (way == AS_PUBLISHED)


def test_little_big_takes_the_cheapest_threshold_in_sample(
    table: ScoreTable, little_big: RowFindings
) -> None:
    frontier = search_pairs(table, reference="net2")
    for drop in PAIRS.budgets:
        least = min(one.cost for one in frontier if one.drop <= drop)
        outcome = little_big.at(drop)[0].outcome
        assert outcome is not None
        assert outcome.cost["MACs"] == pytest.approx(least)
        assert outcome.drop <= drop


def test_optimism_is_what_other_halves_show(little_big: RowFindings) -> None:
    for one, drop in zip(little_big.optimism, PAIRS.budgets, strict=True):
        assert one.max_drop == drop
        assert one.claimed <= drop
        assert one.points == one.given - one.claimed > 0


def test_held_out_thresholds_do_not_depend_on_what_they_are_measured_on(
    table: ScoreTable, little_big: RowFindings
) -> None:
    """Other answers on test change what is measured, and nothing that was chosen."""
    wrong = table.prediction.copy()
    tests = np.flatnonzero(np.isin(table.ids, table.on("test").ids))
    wrong[0, tests] = 1 - wrong[0, tests]
    other = reproduce_row("little-big", PAIRS, RowTables(replace(table, prediction=wrong)))[0]
    for before, after in zip(little_big.findings, other.findings, strict=True):
        if before.way != AS_PUBLISHED:
            assert before.policy == after.policy


def test_tinysaver_ranks_on_train_images_where_there_are_some(table: ScoreTable) -> None:
    found, _ = reproduce_row("tinysaver", PAIRS, RowTables(table))
    assert found.ranked_on == "tune"
    assert found.ranking == rank_savers(table.on("tune"), "net2")
    train = synthetic(3_000, seed=8)
    ranked, _ = reproduce_row("tinysaver", PAIRS, RowTables(table, train))
    assert ranked.ranked_on == "train images"
    assert ranked.ranking == rank_savers(train, "net2")
    for one in ranked.findings[:2]:
        assert one.policy is not None
        assert one.policy.exits[0] == ranked.ranking[0].saver
        assert one.chosen_on.startswith("train images, then ")


def test_dyce_has_a_curve_of_its_trade_offs() -> None:
    table = record(2_000)
    sure = {name: np.clip(rows, 0, 1) for name, rows in table.confidence.items()}
    table = replace(table, confidence=sure)
    found, result = reproduce_row("dyce", EXITS, RowTables(table))
    assert [point.weight for point in found.curve[:2]] == [0.5, 0.51]
    assert len(found.curve) == 51
    chosen = found.at(1.0)[0]
    assert chosen.policy in {point.policy for point in found.curve}
    assert chosen.outcome == evaluate(table, chosen.policy, reference="full")
    assert chosen.outcome.drop <= 1.0
    assert result.choice(1.0).policy == found.at(1.0)[2].policy
    sequence = replace(EXITS, exits=ExitSettings((), "2x512"))
    assert len(reproduce_row("tinysaver", sequence, RowTables(table))[0].curve) == 60


def test_where_onepass_is_not_defined_the_row_says_so() -> None:
    table = synthetic(3_000, seed=1)
    best = table.prediction.copy()
    best[0] = 1  # the first exit is always right
    row = replace(EXITS, big="timm:net2")
    found, _ = reproduce_row("dyce", row, RowTables(replace(table, prediction=best)))
    first, held_out, certified = found.findings
    assert first.policy is held_out.policy is None
    assert "less accurate" in first.remark
    assert certified.outcome is not None
    assert found.optimism == ()


def test_a_record_is_read_as_it_was_written(tmp_path: Path, little_big: RowFindings) -> None:
    whole = Reproduction("little-big", "folder:val", None, "", (little_big,), {"other": "gone"})
    whole.save(tmp_path / "record.json")
    assert Reproduction.load(tmp_path / "record.json") == whole
