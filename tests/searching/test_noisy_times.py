"""A saving by time within the noise is no saving: in search, savers, view and report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command_line import Run
from understudy.app.report.page import write_report
from understudy.documents import write_document
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.best_savers import best_savers
from understudy.searching.search import search, search_in_sample
from understudy.searching.verify import verify
from understudy.sitting import Sitting
from understudy.store import load_table, save_table

UNIT = "ms@64"
COPIES = [f"copy {number}" for number in range(8)]
MEASURED = dict(zip(COPIES, np.linspace(0.77, 1.42, 8).tolist(), strict=True))


def timed(table: ScoreTable, noise: float, times: dict[str, float]) -> ScoreTable:
    """The table with times that are known to a fraction."""
    low, high = ({part: ms * (1 + end * noise) for part, ms in times.items()} for end in (-1, 1))
    sitting = Sitting(UNIT, "2026-01-02T03:04:05+00:00", "cpu", 2, 1, 5.0, 0.6, 9, times, low, high)
    return replace(table, times={UNIT: times}, sittings=(sitting,))


def copies(noise: float = 0.4) -> ScoreTable:
    """Eight exits that answer alike, with the times of the same network under changing load."""
    random = np.random.default_rng(0)
    right = random.random(3000) < 0.9
    answers = (1 - right.astype(int), np.where(right, 0.95, 0.6))
    table = ScoreTable.from_predictions(
        dict.fromkeys(COPIES, answers), np.zeros(3000, int), costs=dict.fromkeys(COPIES, 7.0)
    )
    return timed(table, noise, MEASURED)


def pair(noise: float, little: float = 1.0) -> ScoreTable:
    right = np.arange(3000) % 10 < 9
    table = ScoreTable.from_predictions(
        {"tiny": (1 - right, np.where(right, 0.9, 0.6)), "big": (0 * right, np.ones(3000))},
        np.zeros(3000, int),
        costs={"tiny": 1, "big": 9},
    )
    return timed(table, noise, {"tiny": little, "big": 9.0})


def test_copies_of_one_network_save_nothing() -> None:
    """Before, this was a saving of 45.8 %."""
    table = copies()
    result = search(table, max_drop=[0.5, 5.0], reference="copy 7", unit=UNIT)
    for choice in result.choices:
        assert choice.policy == Policy.single("copy 7")
        assert choice.outcome.saving[UNIT] == 0
        assert "A cascade does not pay here: use copy 7" in choice.verdict
        assert "and 2 more are faster than copy 7 by no more than the noise" in choice.verdict
        assert "search with --reference" not in choice.verdict
    text = " ".join(str(result).split())
    assert text.count("within noise") >= 7
    assert "45.8 %" not in text
    assert "known to no better than ±10 %" in text
    assert search_in_sample(table, max_drop=5.0, reference="copy 7", unit=UNIT).choices[
        0
    ].policy.exits == ("copy 7",)


def test_copies_are_no_savers_of_each_other() -> None:
    assert [one.little for one in best_savers(copies(), 1.0, unit=UNIT)] == [None] * 7


def test_of_precise_times_the_saving_has_its_interval() -> None:
    result = search(pair(0.02), max_drop=1.0, unit=UNIT)
    exact = search(replace(pair(0.02), sittings=()), max_drop=1.0, unit=UNIT)
    (choice,), (known,) = result.choices, exact.choices
    assert choice.policy == known.policy
    assert choice.outcome.saving == known.outcome.saving
    low, high = choice.outcome.saving_intervals[UNIT]
    assert 0 < low < choice.outcome.saving[UNIT] < high
    assert f"({100 * low:.1f} % to {100 * high:.1f} % by the noise of the times)" in choice.verdict
    assert choice.certificate is not None
    assert known.certificate is not None
    assert choice.certificate.saving_bounds[UNIT] < known.certificate.saving_bounds[UNIT]
    assert choice.certificate.saving_bounds["MACs"] == known.certificate.saving_bounds["MACs"]
    assert all(check.holds for check in verify(result, pair(0.02)))


def test_a_saver_has_to_be_faster_by_more_than_the_noise() -> None:
    table = pair(0.5, little=4.0)
    (choice,) = search(table, max_drop=1.0, unit=UNIT).choices
    assert choice.policy.exits == ("big",)
    (counted,) = search(table, max_drop=1.0, unit="MACs").choices
    assert counted.policy.exits[0] == "tiny"
    assert counted.outcome.saving_text(UNIT) == "within noise"


def test_results_tables_and_the_page_keep_the_noise(tmp_path: Path, run: Run) -> None:
    save_table(copies(), tmp_path / "table")
    table = load_table(tmp_path / "table")
    assert table.sittings == copies().sittings
    assert table.hash == replace(copies(), times={}, sittings=()).hash
    result = search(table, max_drop=5.0, unit=UNIT)
    result.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")
    assert str(again) == str(result)
    write_report(again, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("within noise") >= 7
    assert "known to no better than ±10\N{NO-BREAK SPACE}%" in page
    savers = run("savers", tmp_path / "table", "--max-drop", 1, "--unit", UNIT)
    assert savers.stdout.count("nothing proved") == 7


@pytest.mark.parametrize("damage", ["rounds", "low"])
def test_damaged_sittings_are_refused(tmp_path: Path, damage: str, run: Run) -> None:
    save_table(copies(), tmp_path / "table")
    file = tmp_path / "table" / "times.json"
    stored = json.loads(file.read_text().replace(f'"{damage}"', '"x"'))
    write_document(file, stored)
    refused = run("search", tmp_path / "table", "--max-drop", 1)
    assert refused.exit_code == 2
    assert "a sitting of measured times" in refused.stderr
