"""The verbs `ask` and `import-labels`: a round of labelling, and exit code 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from command_line import Run, refused
from tables import synthetic
from understudy.looks import count_looks, log_look
from understudy.searching.search import search
from understudy.store import load_table, save_table

FULL = synthetic(4000)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    save_table(replace(FULL, label=None), tmp_path / "t")
    return tmp_path / "t"


def test_labels_are_added_until_none_is_needed(run: Run, unlabelled: Path, tmp_path: Path) -> None:
    """What `ask` writes is filled in and imported; then the search is that with all labels."""
    words = (unlabelled, "--max-drop", "1,2")
    splits = []
    for number in range(9):
        out = tmp_path / f"round{number}.csv"
        data = run("ask", *words, "--out", out, "--json").json
        if not data["split"]:
            break
        splits.append(data["split"])
        listed = pl.read_csv(out, schema_overrides={"id": pl.String})
        assert listed["id"].to_list() == data["ids"]
        assert listed["label"].null_count() == len(listed)
        assert listed["split"].unique().to_list() == [data["split"]]
        listed.with_columns(label=pl.lit(1)).write_csv(out)
        added = run("import-labels", out, "--into", unlabelled, "--json").json
        assert added["added"] == len(data["ids"])
    assert not out.exists()
    assert [*dict.fromkeys(splits)] == ["tune", "certify", "test"]
    assert added["labels"] == data["labels"] == load_table(unlabelled).label_counts()
    found, expected = run("search", *words, "--json").json, search(FULL, max_drop=[1.0, 2.0])
    assert found["labels"] == data["labels"]
    assert found["samples"] == data["samples"]
    for one, choice in zip(found["results"], expected.choices, strict=True):
        assert choice.certificate is not None
        for name in ("losses", "gains", "p_value", "path"):
            assert one["certificate"][name] == choice.certificate.to_dict()[name]
        assert one["drop"] == choice.outcome.drop


def test_the_answer_for_people(run: Run, unlabelled: Path, tmp_path: Path) -> None:
    command = run("ask", unlabelled, "--max-drop", "1")
    text = " ".join(command.stdout.split())
    assert (command.exit_code, command.stderr) == (0, "")
    assert text.startswith("reference net2: ")
    assert "samples of tune need a label next" in text
    assert "--out FILE.csv" in text
    whole = tmp_path / "whole"
    save_table(FULL, whole)
    text = " ".join(run("ask", whole, "--max-drop", "1", "--out", tmp_path / "o").stdout.split())
    assert "No label is needed: search. Labelled: 748 of 748 on tune" in text
    assert not (tmp_path / "o").exists()


def test_a_partly_labelled_search_says_so(run: Run, tmp_path: Path) -> None:
    assert FULL.label is not None
    part = replace(FULL, label=np.where(np.arange(4000) % 4, FULL.label, -1))
    save_table(part, tmp_path / "t")
    command = run("search", tmp_path / "t", "--max-drop", "2", "--out", tmp_path / "r.json")
    text = " ".join(command.stdout.split())
    assert "Labelled: " in text
    assert "a drop can only be lower than shown" in text
    assert "accuracy*" in text
    assert run("verify", tmp_path / "r.json", tmp_path / "t").exit_code == 0
    assert run("report", tmp_path / "r.json", "--out", tmp_path / "r.html").exit_code == 0
    assert "a drop can only be lower than shown" in (tmp_path / "r.html").read_text()
    assert "3,000 of 4,000 samples have a label" in run("difficulty", tmp_path / "t").stderr
    refused(run("search", tmp_path / "t", "--max-drop", 2, "--class-drop", "1=2"), "have none: add")


def test_a_list_takes_the_place_of_no_file(run: Run, unlabelled: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n1,1\n")
    command = run("ask", unlabelled, "--max-drop", "1", "--out", tmp_path / "labels.csv")
    refused(command, "exists: choose another name")
    assert (tmp_path / "labels.csv").read_text() == "id,label\n1,1\n"


def test_labels_are_added_in_place(run: Run, unlabelled: Path, tmp_path: Path) -> None:
    log_look(unlabelled, FULL.ids, why="before")
    files = {path: path.read_bytes() for path in unlabelled.rglob("*") if path.is_file()}
    (tmp_path / "l.csv").write_text("key,truth\n5,2\n7,\n9,0\n")
    words = ("import-labels", tmp_path / "l.csv", "--into", unlabelled)
    command = run(*words, "--key", "key", "--label", "truth")
    assert "Added 2 labels" in " ".join(command.stdout.split())
    table = load_table(unlabelled)
    assert table.label is not None
    assert table.ids[table.labelled].tolist() == ["5", "9"]
    assert table.label[table.labelled].tolist() == [2, 0]
    changed = {path.name for path, content in files.items() if path.read_bytes() != content}
    assert changed == {"samples.parquet"}
    assert count_looks(unlabelled, FULL.ids) == 1
    assert run(*words, "--key", "key", "--label", "truth", "--json").json["added"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\nnobody,1\n5,1\n", "1 of 2 ids are unknown: 'nobody'"),
        ("id,label\n3,0\n", "1 of 1 differ: '3'"),
        ("id,label\n5,1\n5,1\n", "keys are unique"),
        ("id,label\n5,cat\n", "write whole numbers"),
        ("id,label\n5,0.5\n", "write whole numbers"),
        ("id,label\n5,-7\n", "class numbers from 0, found -7"),
        ("id,truth\n5,1\n", "no column 'label'"),
    ],
)
def test_wrong_labels_are_one_sentence(
    run: Run, unlabelled: Path, tmp_path: Path, content: str, message: str
) -> None:
    save_table(load_table(unlabelled).with_labels({"3": 1}), unlabelled)
    before = load_table(unlabelled).hash
    (tmp_path / "l.csv").write_text(content)
    refused(run("import-labels", tmp_path / "l.csv", "--into", unlabelled), message)
    assert load_table(unlabelled).hash == before


def test_labels_of_named_classes(run: Run, unlabelled: Path, tmp_path: Path) -> None:
    """Names are names, also where they look like numbers."""
    save_table(load_table(unlabelled).with_classes(["10", "9"]), unlabelled)
    (tmp_path / "l.csv").write_text("id,label\n5,9\n6,10\n7,\n")
    assert run("import-labels", tmp_path / "l.csv", "--into", unlabelled).exit_code == 0
    table = load_table(unlabelled)
    assert table.label is not None
    assert table.label[5:8].tolist() == [1, 0, -1]
    (tmp_path / "l.csv").write_text("id,label\n8,8\n")
    command = run("import-labels", tmp_path / "l.csv", "--into", unlabelled)
    refused(command, "no class '8'")


def test_a_missing_table(run: Run, tmp_path: Path) -> None:
    refused(run("ask", tmp_path / "none", "--max-drop", "1"), "a score table is a folder")
    (tmp_path / "l.csv").write_text("id,label\n5,1\n")
    command = run("import-labels", tmp_path / "l.csv", "--into", tmp_path / "none")
    refused(command, "a score table is a folder")


def test_a_table_judged_by_other_labels(run: Run, table: Path, tmp_path: Path) -> None:
    """Those of several right answers; the looks at the samples come along."""
    log_look(table, ["0", "1"], why="a test")
    (tmp_path / "l.csv").write_text('id,real\n0,"[0, 1]"\n1,[1]\n2,[]\n3,[0]\n')
    words = ("import-labels", tmp_path / "l.csv", "--of", table, "--label", "real", "--into")
    data = run(*words, tmp_path / "new", "--json").json
    assert (data["samples"], data["left_out"]) == (3, 3997)
    found = load_table(tmp_path / "new")
    assert found.label_sets is not None
    assert found.label_sets.tolist() == [[0, 1], [1, -1], [0, -1]]
    assert load_table(table).label_sets is None
    assert count_looks(tmp_path / "new", ["1"]) == 1
    refused(run(*words, tmp_path / "new"), "choose another name")
    refused(run(*words, table), "choose another name")
