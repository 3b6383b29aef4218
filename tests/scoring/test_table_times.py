"""The times of a table that is there already, measured again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from command_line import Run
from progress import RecordedProgress
from understudy.errors import ModelError, TableError
from understudy.scoring.in_memory import score
from understudy.scoring.on_disk import score_into
from understudy.scoring.table_times import measure_table
from understudy.store import load_table, save_table

TINY, BIG = {"tiny": "py:digit_nets:tiny"}, {"big": "py:digit_nets:big"}
DIGITS, ALLOWED = "digits:heldout", ["digit_nets"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table whose models were measured in two sittings."""
    score_into(tmp_path / "table", TINY, DIGITS, measure_batches=(4,))
    score_into(tmp_path / "table", BIG, DIGITS)
    return tmp_path / "table"


def test_all_exits_are_measured_in_one_sitting(path: Path) -> None:
    before, log = load_table(path), RecordedProgress()
    table = measure_table(path, allow_code=ALLOWED, on_progress=log)
    (sitting,) = table.sittings
    assert (sitting.unit, set(sitting.median)) == ("ms@4", {"tiny", "big"})
    assert table.times == {"ms@4": sitting.median}
    assert {name for name, *_ in log.calls} == {"measuring ms@4"}
    stored = load_table(path)
    assert (stored.times, stored.sittings) == (table.times, table.sittings)
    assert stored.hash == before.hash


def test_further_batches_are_added(path: Path) -> None:
    table = measure_table(path, batches=(2, 8), data="digits:train", allow_code=ALLOWED)
    assert set(table.times) == {"ms@4", "ms@2", "ms@8"}
    assert [one.unit for one in table.sittings] == ["ms@4", "ms@4", "ms@2", "ms@8"]


def test_a_table_without_times(tmp_path: Path) -> None:
    score_into(tmp_path / "table", TINY, DIGITS, measure_batches=())
    assert set(measure_table(tmp_path / "table", allow_code=ALLOWED).times) == {"ms@256"}


def test_only_the_models_that_were_scored_are_measured(path: Path) -> None:
    with pytest.raises(ModelError, match=r"run no code unless you allow it, .*table' would"):
        measure_table(path)
    table = load_table(path)
    tiny, big = table.exits
    other = replace(big, origin={**big.origin, "weights_hash": "0" * 64})
    save_table(replace(table, exits=(tiny, other)), path)
    with pytest.raises(ModelError, match=r"'big' from .* is not the model that was scored"):
        measure_table(path, allow_code=ALLOWED)


def test_models_in_memory_have_no_spec(tmp_path: Path) -> None:
    images = torch.rand(64, 1, 8, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_table(score({"flat": model}, [(images, [0] * 64)]), tmp_path / "table")
    with pytest.raises(TableError, match=r"flat by predictions only: .*score\(\.\.\., measure=256"):
        measure_table(tmp_path / "table")


def test_the_command(path: Path, run: Run) -> None:
    done = run("measure", str(path), "--batches", "2,4", "--allow-code", "digit_nets", "--json")
    found = json.loads(done.stdout)
    assert set(found["times"]) == {"ms@2", "ms@4"}
    assert set(found["times"]["ms@4"]) == {"tiny", "big"}
    assert found["hash"] == load_table(path).hash
    assert [one["rounds"] >= 3 for one in found["sittings"]] == [True, True]
    refused = run("measure", str(path), "--batches", "0")
    assert refused.exit_code == 2
