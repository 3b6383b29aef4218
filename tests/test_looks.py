"""Looks at certify samples: numbered, kept by sample id, and paid for."""

from __future__ import annotations

import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import synthetic
from understudy.errors import PolicyError, TableError
from understudy.looks import count_looks, delta_of_look, log_look, logged_looks
from understudy.scores import ScoreTable
from understudy.store import load_table, save_table


def certify_ids(table: ScoreTable) -> list[str]:
    return [str(one) for one in table.on("certify").ids]


def split_anew(table: ScoreTable, seed: int) -> ScoreTable:
    names = np.random.default_rng(seed).choice(["tune", "certify", "test"], len(table))
    return ScoreTable.from_predictions(
        {
            name: (table.prediction[row], table.scores("max_softmax")[row])
            for row, name in enumerate(table.names)
        },
        table.label,
        costs=table.costs,
        ids=[str(one) for one in table.ids],
        split=names.tolist(),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_table(synthetic(100), tmp_path / "t")
    return tmp_path / "t"


def test_looks_are_numbered(saved: Path) -> None:
    ids = certify_ids(load_table(saved))
    assert count_looks(saved, ids) == 0
    assert [log_look(saved, ids, why="search") for _ in range(3)] == [1, 2, 3]
    assert count_looks(saved, ids) == 3
    assert load_table(saved).hash == synthetic(100).hash
    assert [line["look"] for line in logged_looks(saved)] == [1, 2, 3]


def test_a_table_that_is_made_again_or_split_anew_brings_its_looks(saved: Path) -> None:
    table = load_table(saved)
    assert log_look(saved, certify_ids(table), why="search") == 1
    for seed in range(5):
        again = split_anew(table, seed)
        save_table(again, saved)
        assert log_look(saved, certify_ids(again), why="search") == seed + 2
    save_table(synthetic(200), saved)
    assert count_looks(saved, [str(one) for one in range(100, 200)]) == 0
    assert count_looks(saved, certify_ids(synthetic(200))) == 6
    assert len(logged_looks(saved)) == 6


def test_samples_that_nobody_looked_at_are_new(saved: Path) -> None:
    log_look(saved, ["1", "2"], why="search")
    assert count_looks(saved, ["3", "4"]) == count_looks(saved, []) == 0
    assert log_look(saved, ["3", "4"], why="search") == 1


@given(st.lists(st.sets(st.integers(0, 5), min_size=1), max_size=6))
def test_looks_that_share_a_sample_have_different_numbers(
    tmp_path_factory: pytest.TempPathFactory, reads: list[set[int]]
) -> None:
    folder = tmp_path_factory.mktemp("looks")
    numbers = [log_look(folder, sorted(map(str, ids)), why="search") for ids in reads]
    for (one, first), (other, second) in combinations(zip(reads, numbers, strict=True), 2):
        assert first < second or not one & other


def test_folders_of_before_count_every_line_for_every_certify_sample(saved: Path) -> None:
    table = load_table(saved)
    lines = [json.dumps({"look": look, "why": "search"}) for look in (1, 2)]
    (saved / "looks.jsonl").write_text("\n".join(lines) + "\n")
    assert count_looks(saved, certify_ids(table)) == 2
    assert count_looks(saved, [str(one) for one in table.on("tune").ids]) == 0
    save_table(split_anew(table, 1), saved)
    assert count_looks(saved, certify_ids(table)) == 2
    assert log_look(saved, certify_ids(table), why="search") == 3
    assert len(logged_looks(saved)) == 3


@pytest.mark.parametrize("content", [b"", b"PAR1", b"columns"])
def test_a_damaged_count_is_a_sentence(saved: Path, content: bytes) -> None:
    file = saved / "looks.parquet"
    if content == b"columns":
        pl.DataFrame({"id": ["1"], "look": ["one"]}).write_parquet(file)
    else:
        file.write_bytes(content)
    with pytest.raises(TableError, match=r"looks\.parquet.*damaged.*restore it") as raised:
        count_looks(saved, ["1"])
    assert "\n" not in str(raised.value)
    with pytest.raises(TableError):
        log_look(saved, ["1"], why="search")


@pytest.mark.parametrize("content", ["{", "[]\n", '{"look": "1"}\n'])
def test_a_damaged_log_is_a_sentence(saved: Path, content: str) -> None:
    (saved / "looks.jsonl").write_text(content)
    with pytest.raises(TableError, match=r"looks\.jsonl.*damaged"):
        logged_looks(saved)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_table_is_looked_at_all_the_same(saved: Path) -> None:
    saved.chmod(0o555)
    try:
        assert log_look(saved, ["1"], why="a") == log_look(saved, ["1"], why="b") == 1
    finally:
        saved.chmod(0o755)


def test_a_folder_that_is_gone_is_no_failure_and_stays_gone(saved: Path) -> None:
    shutil.rmtree(saved)
    assert log_look(saved, ["1"], why="search") == 1
    assert not saved.exists()


def test_the_levels_of_all_looks_sum_to_the_whole() -> None:
    levels = [delta_of_look(0.05, look) for look in range(1, 10_000)]
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) < 0.05
    for delta, look, words in ((0.05, 0, "found 0"), (1.5, 1, "found 1.5"), (0.0, 1, "found 0")):
        with pytest.raises(PolicyError, match=words):
            delta_of_look(delta, look)


def test_a_count_of_looks_without_its_hash_is_refused(tmp_path: Path) -> None:
    save_table(synthetic(300), tmp_path / "table")
    log_look(tmp_path / "table", ["0", "1"], why="search")
    file = tmp_path / "table" / "looks.parquet"
    pl.read_parquet(file).reverse().write_parquet(file)
    with pytest.raises(TableError, match="has no hash"):
        count_looks(tmp_path / "table", ["0"])


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    save_table(synthetic(300), tmp_path / "table")
    (tmp_path / "table" / "times.json").symlink_to("times.json")
    with pytest.raises(TableError, match="leads nowhere"):
        load_table(tmp_path / "table")
