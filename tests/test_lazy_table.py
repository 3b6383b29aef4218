"""A table whose exits are read late: the same scores; what was damaged or exchanged is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from large_tables import LargeTable
from tables import score_tables, synthetic
from understudy.errors import TableError
from understudy.lazy_table import PREDICTION, LazyTable
from understudy.scores import ScoreTable
from understudy.searching.all_pairs import search_all_pairs
from understudy.searching.best_savers import best_savers
from understudy.searching.stored_pairs import search_stored_pairs, write_table_bits
from understudy.store import load_table, open_table, save_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_table(synthetic(300, exits=4), tmp_path / "table")
    return tmp_path / "table"


@settings(max_examples=40)
@given(score_tables())
def test_parts_are_those_of_a_table_in_memory(table: ScoreTable) -> None:
    lazy = LazyTable.of(table)
    assert (lazy.hash, len(lazy), lazy.names) == (table.hash, len(table), table.names)
    name = table.names[-1]
    np.testing.assert_array_equal(lazy.column(name, PREDICTION), table.prediction[-1])
    np.testing.assert_array_equal(
        lazy.is_right(table.prediction[-1]), table.right(name, -1) & table.labelled
    )
    for split in table.splits:
        if (table.split == ("tune", "certify", "test").index(split)).any():
            assert lazy.on(split).hash == table.on(split).hash
            part = lazy.on(split).only(table.names[::-1], "margin")
            expected = table.on(split).only(table.names[::-1])
            np.testing.assert_array_equal(part.scores("margin"), expected.scores("margin"))
            np.testing.assert_array_equal(part.prediction, expected.prediction)


def test_on_disk_it_is_the_table_that_was_saved(folder: Path) -> None:
    table, lazy = load_table(folder), open_table(folder)
    assert lazy.hash == table.hash
    assert lazy.on("certify").hash == table.on("certify").hash
    found, expected = best_savers(lazy, [1.0, 5.0]), best_savers(table, [1.0, 5.0])
    assert found.to_dict() == expected.to_dict()


def test_all_pairs_of_a_split_on_disk(folder: Path, tmp_path: Path) -> None:
    table, lazy = load_table(folder).on("certify"), open_table(folder).on("certify")
    write_table_bits(lazy, tmp_path / "bits")
    found = search_stored_pairs(lazy, tmp_path / "bits", [0, 5], confidence="max_softmax")
    right, scores = table.right(table.names[0]), table.scores("max_softmax")
    expected = search_all_pairs(right, scores, table.exit_costs(table.unit()), [0, 5])
    np.testing.assert_array_equal(found.accepted, expected.accepted)
    np.testing.assert_array_equal(found.threshold, expected.threshold)
    with pytest.raises(TableError, match="of another table"):
        search_stored_pairs(open_table(folder).on("tune"), tmp_path / "bits", [0])


def test_samples_without_a_label_are_refused_as_bits(tmp_path: Path) -> None:
    table = synthetic(30).with_labels({})
    lazy = LazyTable.of(ScoreTable(**{**_fields(table), "label": None}))
    with pytest.raises(TableError, match="30 of 30 samples have no label"):
        write_table_bits(lazy, tmp_path / "bits")


def _fields(table: ScoreTable) -> dict[str, Any]:
    names = ("exits", "prediction", "confidence", "label", "ids", "split", "costs")
    return {name: getattr(table, name) for name in names}


def test_an_exit_that_was_damaged_or_exchanged_meanwhile(folder: Path) -> None:
    lazy = open_table(folder)
    file = folder / "exits" / "002.parquet"
    other = (folder / "exits" / "001.parquet").read_bytes()
    file.write_bytes(other)
    with pytest.raises(TableError, match=r"002\.parquet.*changed while it was read"):
        lazy.only([lazy.names[2]], "max_softmax")
    file.write_bytes(other[:-9] + b"x" + other[-8:])
    with pytest.raises(TableError, match=r"002\.parquet.*damaged"):
        lazy.column(lazy.names[2], PREDICTION)
    lazy.column(lazy.names[1], PREDICTION)


def test_what_is_damaged_from_the_start_is_refused_like_any_table(folder: Path) -> None:
    (folder / "samples.parquet").write_bytes(b"")
    with pytest.raises(TableError, match="damaged"):
        open_table(folder)
    with pytest.raises(TableError, match="is none"):
        open_table(folder / "exits")


def test_its_fingerprint_is_of_all_that_can_be_replaced(folder: Path) -> None:
    before = open_table(folder).fingerprint
    assert open_table(folder).fingerprint == before
    head = json.loads((folder / "table.json").read_text())
    (folder / "table.json").write_text(json.dumps(head, indent=3))
    assert open_table(folder).fingerprint != before


def test_unknown_exits_and_confidences(folder: Path) -> None:
    lazy = open_table(folder)
    with pytest.raises(TableError, match="nett"):
        lazy.only(["nett"], "max_softmax")
    with pytest.raises(TableError, match="mx_softmax"):
        lazy.only([lazy.names[0]], "mx_softmax")


SEARCH = """
import resource, sys
from understudy.searching.stored_pairs import search_stored_pairs, write_table_bits
from understudy.store import open_table
table = open_table(sys.argv[1])
write_table_bits(table, sys.argv[2])
found = search_stored_pairs(table, sys.argv[2], [0.5, 1], threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scores(tmp_path: Path) -> None:
    """400 models take 320 MB as arrays; the difference to 40 models is a fraction of it."""
    peaks = []
    for models in (40, 400):
        LargeTable(models, 100_000).write(tmp_path / f"{models}")
        command = [
            sys.executable,
            "-c",
            SEARCH,
            str(tmp_path / f"{models}"),
            str(tmp_path / f"{models}.bits"),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout) / 1e3)
    assert peaks[1] - peaks[0] < 120
