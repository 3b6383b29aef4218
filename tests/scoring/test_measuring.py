"""Measuring in rounds over all models; batch sizes that a table's models share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from command_line import Run
from progress import RecordedProgress
from understudy.measured_rounds import (
    BRIEF,
    FEW,
    LEAST,
    MOST,
    SECONDS,
    rounds_left,
    seconds_after,
)
from understudy.nn.stage import Stage
from understudy.scoring import measuring
from understudy.scoring.measuring import PASSES, measure
from understudy.scoring.on_disk import score_into
from understudy.store import load_table

TINY, BIG = {"tiny": "py:digit_nets:tiny"}, {"big": "py:digit_nets:big"}
DIGITS = "digits:heldout"


class Logged(nn.Module):
    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(self.name)
        return x


def logged(
    names: str, size: int = 1, on_progress: RecordedProgress | None = None
) -> tuple[list[str], list[str]]:
    """The runs of models of these letters, and how often each was loaded."""
    runs: list[str] = []
    loads: list[str] = []

    def load(name: str) -> dict[str, Stage]:
        loads.append(name)
        return {name: Stage(Logged(name, runs))}

    sources = {name: (lambda name=name: load(name)) for name in names}
    measure(
        sources,
        torch.ones(2, 3),
        bytes_of=dict.fromkeys(names, size),
        device="cpu",
        on_progress=on_progress or RecordedProgress(),
    )
    return runs, loads


def test_models_take_turns() -> None:
    runs, loads = logged("abc")
    assert loads == ["a", "b", "c"]
    rounds = ["".join(runs[start : start + 3]) for start in range(0, len(runs), 3)]
    assert rounds[:5] == ["abc", "abc", "bca", "cab", "abc"]
    assert FEW <= len(rounds) - 1 <= MOST


def test_models_that_do_not_fit_are_loaded_in_groups_again_and_again() -> None:
    runs, loads = logged("abc", size=measuring.MEMORY // 2)
    assert loads == ["a", "b", "c"] * PASSES
    assert all(runs.count(name) >= LEAST for name in "abc")


@pytest.mark.parametrize("size", [1, measuring.MEMORY // 2])
def test_progress_is_in_rounds_and_ends_with_them(size: int) -> None:
    log = RecordedProgress()
    logged("abc", size, log)
    rounds = len(log.calls)
    assert log.steps == [("measuring ms@2", number + 1) for number in range(rounds)]
    assert log.calls[-1] == ("measuring ms@2", rounds, rounds)
    assert all(done <= total for _, done, total in log.calls)


def test_rounds_end_when_times_are_precise_or_have_taken_long() -> None:
    assert rounds_left(LEAST, 1.0, 20.0, precise=True) == 0
    assert rounds_left(LEAST - 1, 1.0, 20.0, precise=True) == 1
    assert rounds_left(10, 10.0, 20.0, precise=False) == 10  # as many as there is time for
    assert rounds_left(10, 0.1, 20.0, precise=False) == MOST - 10
    assert rounds_left(MOST, 0.1, 20.0, precise=False) == 0
    assert [rounds_left(done, 21.0, 20.0, precise=False) for done in (1, FEW, 5)] == [2, 0, 0]


def test_measuring_takes_no_longer_than_scoring() -> None:
    assert [seconds_after(spent) for spent in (0.0, 8.0, 900.0)] == [BRIEF, 8.0, SECONDS]


def test_a_sitting_has_the_spread_and_the_load(tmp_path: Path) -> None:
    score_into(tmp_path / "table", TINY | BIG, DIGITS, measure_batches=(1, 4))
    table = load_table(tmp_path / "table")
    assert [one.unit for one in table.sittings] == ["ms@1", "ms@4"]
    for one in table.sittings:
        assert table.times[one.unit] == one.median
        assert set(one.median) == {"tiny", "big"}
        assert all(one.low[part] <= ms <= one.high[part] for part, ms in one.median.items())
        assert one.rounds >= FEW
        assert one.cpu > 0
        assert one.device == "cpu"
    stored = json.loads((tmp_path / "table" / "times.json").read_text())
    assert stored["version"] == 2


@pytest.mark.parametrize(
    ("measured", "units"),
    [(None, {"ms@4"}), ((), set()), ((8,), {"ms@4", "ms@8"}), ((4,), {"ms@4"})],
)
def test_a_further_model_is_measured_as_the_others_were(
    tmp_path: Path, measured: tuple[int, ...] | None, units: set[str]
) -> None:
    path = tmp_path / "table"
    score_into(path, TINY, DIGITS, batch=64, measure_batches=(4,))
    table = score_into(path, BIG, DIGITS, batch=256, measure_batches=measured)
    assert {unit for unit, parts in table.times.items() if "big" in parts} == units
    assert len(table.sittings) == 1 + len(units)


def test_measure_none_and_the_batch_by_default(tmp_path: Path) -> None:
    assert score_into(tmp_path / "a", TINY, DIGITS, measure_batches=()).times == {}
    assert list(score_into(tmp_path / "b", TINY, DIGITS, batch=64).times) == ["ms@64"]


def test_a_batch_is_no_larger_than_the_data_by_default(tmp_path: Path) -> None:
    path = tmp_path / "table"
    assert list(score_into(path, TINY, DIGITS, batch=1024).times) == ["ms@900"]
    named = score_into(tmp_path / "named", TINY, DIGITS, measure_batches=(1024,))
    assert list(named.times) == ["ms@1024"]


def test_the_command_adds_a_model_of_another_batch_size(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    score = ("score", "--data", DIGITS, "--into", "table")
    assert run(*score, "tiny=py:digit_nets:tiny", "--batch", "64").exit_code == 0
    assert run(*score, "big=py:digit_nets:big", "--batch", "256").exit_code == 0
    search = ("search", "table", "--max-drop", "20", "--json")
    assert json.loads(run(*search, "--unit", "ms@64").stdout)["unit"] == "ms@64"
    assert run(*score, "more=py:digit_nets:big", "--measure", "none").exit_code == 0
    assert set(load_table("table").times["ms@64"]) == {"tiny", "big"}
