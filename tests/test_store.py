"""Tables on disk: the same table back, whole or not at all, a sentence where broken."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from bit_flips import bit_flips
from tables import score_tables, synthetic
from understudy.documents import write_document
from understudy.errors import TableError, UnderstudyError
from understudy.looks import count_looks, log_look, logged_looks
from understudy.parquet_files import write_parquet
from understudy.scores import Exit, ScoreTable
from understudy.store import (
    check_target,
    load_table,
    save_labels,
    save_table,
    save_times,
    stored_shares,
)

GOLD = Path(__file__).parent / "gold"


def probable(count: int = 30, *, seed: int = 0) -> ScoreTable:
    rng = np.random.default_rng(seed)
    weights = rng.random((2, count, 7))
    rows = weights / weights.sum(2, keepdims=True)
    return ScoreTable.from_probabilities(
        {"a/b: ü": rows[0], "big": rows[1]},
        rng.integers(0, 7, count),
        costs={"a/b: ü": 1, "big": 2},
    )


def same(found: ScoreTable, table: ScoreTable) -> None:
    assert found.hash == table.hash
    assert found.exits == table.exits
    assert list(found.confidence) == list(table.confidence)
    for name, rows in table.confidence.items():
        assert found.confidence[name].dtype == rows.dtype
    assert (found.costs, found.times, found.classes) == (table.costs, table.times, table.classes)
    assert found.provenance == table.provenance
    assert (found.label is None) == (table.label is None)


@settings(max_examples=25)
@given(score_tables())
def test_a_table_comes_back(tmp_path_factory: pytest.TempPathFactory, table: ScoreTable) -> None:
    folder = tmp_path_factory.mktemp("tables")
    save_table(table, folder / "t")
    same(load_table(folder / "t"), table)
    assert [path.name for path in folder.iterdir()] == ["t"]


def test_details_origins_and_classes_come_back(tmp_path: Path) -> None:
    table = probable()
    exits = (replace(table.exits[0], origin={"spec": "timm:x", "size": [32, 32]}), Exit("big"))
    table = replace(table, exits=exits).with_classes([f"class {k}" for k in range(7)])
    save_table(table, tmp_path / "t")
    found = load_table(tmp_path / "t")
    same(found, table)
    for name in table.names:
        for row in ("top_classes", "top_probabilities", "logits"):
            stored, kept = getattr(found.details[name], row), getattr(table.details[name], row)
            assert stored.dtype == kept.dtype
            assert (stored == kept).all()
    part = found.on("certify")
    assert len(part.details["big"].top_classes) == len(part)


def test_a_stored_table_tells_its_shares(tmp_path: Path) -> None:
    assert stored_shares(tmp_path / "none") is None
    save_table(synthetic(30, split={"tune": 0.5, "certify": 0.5}), tmp_path / "by_id")
    assert stored_shares(tmp_path / "by_id") == {"tune": 0.5, "certify": 0.5, "test": 0.0}
    save_table(synthetic(3, split=["tune", "certify", "test"]), tmp_path / "by_column")
    assert stored_shares(tmp_path / "by_column") is None


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save_table(probable(), tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) >= 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_labels_are_written_alone(tmp_path: Path) -> None:
    table = replace(probable(), label=None)
    save_table(table, tmp_path / "t")
    newer = table.with_labels({"3": 6, "4": 0})
    save_labels(tmp_path / "t", newer)
    found = load_table(tmp_path / "t")
    same(found, newer)
    assert found.label_counts() == newer.label_counts()
    with pytest.raises(TableError, match="has other samples"):
        save_labels(tmp_path / "t", newer.on("tune"))


def test_a_newer_table_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    save_table(probable(), tmp_path / "t")
    save_table(synthetic(40), tmp_path / "t")
    same(load_table(tmp_path / "t"), synthetic(40))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_failing_write_leaves_the_older_table(tmp_path: Path) -> None:
    save_table(synthetic(40), tmp_path / "t")
    broken = replace(synthetic(40), provenance={"not": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_table(broken, tmp_path / "t")
    same(load_table(tmp_path / "t"), synthetic(40))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_nothing_else_is_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "mine"
    if what == "file":
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("precious")
    with pytest.raises(TableError, match="is neither"):
        save_table(synthetic(10), target)
    assert (
        next(path for path in (target, *target.glob("*")) if path.is_file()).read_text()
        == "precious"
    )


def test_an_empty_folder_is_a_place(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    check_target(tmp_path / "t")
    save_table(synthetic(10), tmp_path / "t")
    assert len(load_table(tmp_path / "t")) == 10


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnderstudyError, match="cannot be written"):
        save_table(synthetic(10), tmp_path / "file" / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- damage -----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_table(probable(), tmp_path / "t")
    return tmp_path / "t"


def head_of(folder: Path) -> dict[str, Any]:
    head: dict[str, Any] = json.loads((folder / "table.json").read_text())
    return head


def edit(folder: Path, **changes: object) -> None:
    """Change table.json, hash and all."""
    write_document(folder / "table.json", head_of(folder) | changes)


def rewrite(folder: Path, name: str, frame: pl.DataFrame) -> None:
    """Put another frame into a table, with its hash where it is noted."""
    digest = write_parquet(frame, folder / name)
    edit(folder, files={**head_of(folder)["files"], name: digest})


def refused(folder: Path, words: str) -> None:
    with pytest.raises(TableError, match=words) as raised:
        dict(load_table(folder).details)
    assert "\n" not in str(raised.value)


def test_no_table_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is none: make one")
    refused(tmp_path, "is none: make one")


def test_a_newer_version(saved: Path) -> None:
    edit(saved, version=3)
    refused(saved, "version 3, this understudy reads up to 2: upgrade")


@pytest.mark.parametrize("version", [None, "1", 1.5, 0, True])
def test_a_strange_version(saved: Path, version: object) -> None:
    edit(saved, version=version)
    refused(saved, "version")


def test_another_format(saved: Path) -> None:
    edit(saved, format="understudy.result")
    refused(saved, "is no understudy.table file: its format is 'understudy.result'")


def test_broken_json(saved: Path) -> None:
    (saved / "table.json").write_text('{"format": ')
    refused(saved, "is a JSON file")
    (saved / "table.json").write_text("[]")
    refused(saved, "its format is None")


@pytest.mark.parametrize(
    "key",
    ["exits", "confidences", "costs", "classes", "provenance", "files", "samples", "samples_hash"],
)
def test_a_head_that_lacks_something(saved: Path, key: str) -> None:
    head = head_of(saved)
    del head[key]
    write_document(saved / "table.json", head)
    refused(saved, "damaged")


@pytest.mark.parametrize("file", ["samples.parquet", "exits/000.parquet", "exits/001.parquet"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "text"])
def test_a_damaged_file(saved: Path, file: str, damage: str) -> None:
    path = saved / file
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"id,x\n"}[damage])
    refused(saved, "damaged")


def test_flipped_bits_are_refused(saved: Path) -> None:
    save_times(saved, {"ms@1": {"big": 1.25}})
    log_look(saved, ["1", "2"], why="search")
    for file, _ in bit_flips(saved, 120):
        if file.startswith("looks"):
            with pytest.raises(TableError, match=r"looks.* damaged"):
                count_looks(saved, ["1"]), logged_looks(saved)
        else:
            refused(saved, saved.as_posix())
    same(load_table(saved), replace(probable(), times={"ms@1": {"big": 1.25}}))


def test_flipped_bytes_of_older_tables_give_a_sentence_or_a_table(tmp_path: Path) -> None:
    """Version 1 had no hashes."""
    saved = Path(shutil.copytree(GOLD / "table-v1", tmp_path / "t"))
    rng = np.random.default_rng(0)
    for path in [*saved.rglob("*.parquet")] * 8:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        for place in rng.integers(max(len(whole) - 600, 0), len(whole), 4):
            flipped[place] = rng.integers(256)
        path.write_bytes(flipped)
        with suppress(TableError):
            dict(load_table(saved).details)
        path.write_bytes(whole)


def test_labels_are_added_to_older_tables(tmp_path: Path) -> None:
    saved = Path(shutil.copytree(GOLD / "table-v1", tmp_path / "t"))
    table = replace(load_table(saved), label=None).with_labels({"5": 1})
    save_labels(saved, table)
    assert load_table(saved).hash == table.hash


def test_exits_of_other_lengths(saved: Path) -> None:
    rewrite(saved, "exits/001.parquet", pl.read_parquet(saved / "exits/001.parquet").head(5))
    refused(saved, "damaged .*001.parquet has 30 rows, found 5")


def test_too_few_samples(saved: Path) -> None:
    write_parquet(pl.read_parquet(saved / "samples.parquet").head(5), saved / "samples.parquet")
    refused(saved, "damaged .*samples.parquet has 30 rows, found 5")


def test_exits_with_more_rows(saved: Path) -> None:
    frame = pl.read_parquet(saved / "exits/001.parquet")
    rewrite(saved, "exits/001.parquet", pl.concat([frame, frame]))
    refused(saved, "damaged .*001.parquet has 30 rows, found more")


def test_more_samples_than_a_file_can_hold(saved: Path) -> None:
    edit(saved, samples=10**12)
    refused(saved, "too small for 1,000,000,000,000 samples")


def test_an_unknown_split(saved: Path) -> None:
    file = saved / "samples.parquet"
    write_parquet(pl.read_parquet(file).with_columns(split=pl.lit("train")), file)
    refused(saved, "damaged")


def test_other_ids_or_splits(saved: Path) -> None:
    file = saved / "samples.parquet"
    write_parquet(pl.read_parquet(file).with_columns(pl.col("split").reverse()), file)
    refused(saved, "samples.parquet has other ids or splits")


def test_exits_that_changed_places(saved: Path) -> None:
    files = [saved / "exits" / f"{number:03}.parquet" for number in (0, 1)]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    refused(saved, "000.parquet is that of another table")


def test_logits_that_are_gone(saved: Path) -> None:
    (saved / "logits" / "001.parquet").unlink()
    refused(saved, "001.parquet.* or its logits cannot be read .*score that model again")


def test_nan_confidences_on_disk(saved: Path) -> None:
    frame = pl.read_parquet(saved / "exits" / "000.parquet")
    nan = pl.lit(float("nan"), pl.Float32)
    rewrite(saved, "exits/000.parquet", frame.with_columns(margin=nan))
    refused(saved, "'margin' of exit 'a/b: ü' has 30 NaN among 30")


def test_damaged_details_are_a_sentence_when_asked_for(saved: Path) -> None:
    (saved / "logits" / "000.parquet").write_bytes(b"PAR1")
    table = load_table(saved)
    assert table.details["big"] is not None
    with pytest.raises(TableError, match="score that model again"):
        table.details["a/b: ü"]
