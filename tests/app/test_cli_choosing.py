"""import, search and difficulty as typed: answers, JSON for machines, and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import understudy
from command_line import Run, Said
from tables import synthetic
from understudy.frontier import Point
from understudy.result import Result
from understudy.searching.search import search, search_in_sample
from understudy.store import load_table, save_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    save_table(synthetic(4000), tmp_path / "table")
    return tmp_path / "table"


def refused(said: Said, words: str, folder: Path, left: set[str]) -> None:
    """Exit code 2, one sentence, and nothing on disk that was not there."""
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert {path.name for path in folder.iterdir()} == left


# -- search -----------------------------------------------------------------------------------


def test_search_answers_in_json(run: Run, table: Path) -> None:
    said = run("search", table, "--max-drop", "0.1,2", "--max-drop", "4", "--json")
    assert said.code == 0
    data = json.loads(said.out)
    expected = search(synthetic(4000), max_drop=[0.1, 2, 4]).to_dict()
    assert data["results"] == json.loads(json.dumps(expected["results"]))
    assert [one["max_drop"] for one in data["results"]] == [0.1, 2, 4]
    for one in data["results"]:
        assert set(KEYS) <= set(one)
        for stage in one["policy"]["stages"]:
            assert set(stage) == {"exit", "confidence", "threshold"}
        assert set(one["on"]) == {"tune", "certify", "test"}
        assert sum(one["shares"].values()) == pytest.approx(1)


def test_search_answers_people(run: Run, table: Path) -> None:
    said = run("search", table, "--max-drop", "2", "--max-cost", "0.5")
    assert said.code == 0
    for word in ("single exits, measured on test", "net2 (reference)", "more than the 0.5"):
        assert word in " ".join(said.out.split())
    assert said.err == ""


def test_search_writes_a_result_and_a_frontier(run: Run, table: Path, tmp_path: Path) -> None:
    out, frontier = tmp_path / "out" / "result.json", tmp_path / "frontier.json"
    said = run("search", table, "--max-drop", 2, "--out", out, "--frontier", frontier)
    assert said.code == 0
    found = Result.load(out)
    assert found == search(synthetic(4000), max_drop=2.0)
    points = json.loads(frontier.read_text())
    assert all({"cost", "saving", "drop", "shares", "policy"} <= set(point) for point in points)
    assert tuple(map(Point.from_dict, points)) == found.frontier.points


def test_search_in_sample_says_so_loudly(run: Run, table: Path) -> None:
    said = run("search", table, "--max-drop", "1", "--in-sample", "--json")
    assert "in-sample" in said.err
    data = json.loads(said.out)
    expected = search_in_sample(synthetic(4000), max_drop=1.0).to_dict()
    assert data["results"] == json.loads(json.dumps(expected["results"]))
    assert data["searched_on"] == "all"
    assert "IN-SAMPLE" in run("search", table, "--max-drop", "1", "--in-sample").out


def test_looks_are_counted_and_quoted(run: Run, table: Path) -> None:
    for look in (1, 2):
        said = run("search", table, "--max-drop", "2", "--json")
        certificate = json.loads(said.out)["results"][0]["certificate"]
        assert certificate["looks"] == look
    assert "read 2 times" in certificate["words"]
    run("search", table, "--max-drop", "2", "--in-sample")
    said = run("search", table, "--max-drop", "2", "--json")
    assert json.loads(said.out)["results"][0]["certificate"]["looks"] == 3


def test_a_budget_that_cannot_be_certified_is_no_error(run: Run, table: Path) -> None:
    said = run("search", table, "--max-drop", "0.01", "--json")
    assert said.code == 0
    (one,) = json.loads(said.out)["results"]
    assert one["policy"]["stages"] == [
        {"exit": "net2", "confidence": "max_softmax", "threshold": None}
    ]
    assert (one["drop"], one["saving"]) == (0.0, 0.0)
    assert one["certificate"]["samples_needed"] > one["certificate"]["samples"]
    assert "certify samples would do" in one["verdict"]


KEYS = ["max_drop", "policy", "cost", "saving", "drop", "shares", "on", "certificate", "verdict"]
WRONG_SEARCHES = {
    "reference": (["--max-drop", "1", "--reference", "net22"], "did you mean 'net2'"),
    "unit": (["--max-drop", "1", "--unit", "MAC"], "did you mean 'MACs'"),
    "confidence": (["--max-drop", "1", "--confidence", "margin"], "no confidence 'margin'"),
    "text": (["--max-drop", "little"], "--max-drop takes a number, found 'little'"),
    "nan": (["--max-drop", "nan"], "found nan"),
    "none": (["--max-drop", ","], "a search has a budget"),
    "delta": (["--max-drop", "1", "--delta", "2"], "found 2"),
}


@pytest.mark.parametrize("case", WRONG_SEARCHES)
def test_a_wrong_search_is_one_sentence(run: Run, table: Path, case: str) -> None:
    options, words = WRONG_SEARCHES[case]
    out = table.parent / "result.json"
    refused(run("search", table, *options, "--out", out), words, table.parent, {"table"})


def test_no_budget_is_a_usage_error(run: Run, table: Path) -> None:
    said = run("search", table)
    assert said.code == 2
    assert "--max-drop" in said.err
    assert "Traceback" not in said.err


def test_a_table_that_is_not_there(run: Run, tmp_path: Path) -> None:
    said = run("search", tmp_path / "nowhere", "--max-drop", "1")
    refused(said, "understudy score", tmp_path, set())


def test_a_newer_table(run: Run, table: Path) -> None:
    head = json.loads((table / "table.json").read_text())
    (table / "table.json").write_text(json.dumps(head | {"version": 99}))
    refused(run("search", table, "--max-drop", "1"), "version 99", table.parent, {"table"})


def test_a_damaged_table(run: Run, table: Path) -> None:
    file = table / "exits" / "001.parquet"
    file.write_bytes(file.read_bytes()[:100])
    refused(run("search", table, "--max-drop", "1"), "damaged", table.parent, {"table"})


def test_a_table_without_the_reference(run: Run, table: Path) -> None:
    save_table(synthetic(4000).only(["net0", "net1"]), table)
    said = run("search", table, "--max-drop", "1", "--reference", "net2")
    refused(said, "no exit 'net2'", table.parent, {"table"})


def test_a_single_model(run: Run, table: Path) -> None:
    save_table(synthetic(4000).only(["net0"]), table)
    for verb in (["search", table, "--max-drop", "1"], ["difficulty", table]):
        refused(run(*verb), "'net0' alone", table.parent, {"table"})


def test_an_empty_split(run: Run, table: Path) -> None:
    save_table(synthetic(100, split={"tune": 0.5, "test": 0.5}), table)
    said = run("search", table, "--max-drop", "1")
    refused(said, "the split 'certify' is empty", table.parent, {"table"})
    assert run("search", table, "--max-drop", "1", "--in-sample").code == 0


@pytest.mark.parametrize("option", ["--out", "--frontier"])
def test_a_place_that_cannot_be_written(run: Run, table: Path, option: str) -> None:
    (table.parent / "file").write_text("")
    said = run("search", table, "--max-drop", "1", option, table.parent / "file" / "r.json")
    refused(said, "cannot be written", table.parent, {"table", "file"})


def test_a_folder_in_the_way_of_the_result(run: Run, table: Path) -> None:
    said = run("search", table, "--max-drop", "1", "--out", table)
    refused(said, "cannot be written", table.parent, {"table"})
    assert len(load_table(table)) == 4000


# -- difficulty -------------------------------------------------------------------------------


def test_deciles(run: Run, table: Path) -> None:
    data = json.loads(run("difficulty", table, "--json").out)
    assert (data["little"], data["reference"], len(data["by_confidence"])) == ("net0", "net2", 10)
    said = run("difficulty", table, "--little", "net1")
    assert said.code == 0
    assert "net1 surest of 1" in said.out
    refused(run("difficulty", table, "--little", "net7"), "no exit 'net7'", table.parent, {"table"})


# -- import -----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    source = synthetic(60)
    folder = tmp_path / "files"
    folder.mkdir()
    keys = [f"{k:03}" for k in range(60)]
    labels = pl.DataFrame({"id": keys, "label": source.label, "who": [k[1] for k in keys]})
    labels.write_csv(folder / "labels.csv")
    for row, name in enumerate(source.names):
        columns = {
            "id": keys,
            "prediction": source.prediction[row],
            "confidence": source.confidence["max_softmax"][row],
        }
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return {path.stem: path for path in folder.iterdir()}


def typed_import(files: dict[str, Path], **changes: Any) -> list[object]:
    words: dict[str, Any] = {
        "--labels": files["labels"],
        "--key": "id",
        "--label": "label",
        "--exit": [f"{name}={files[name]}" for name in ("net0", "net2")],
        "--cost": ["net0=1", "net2=100"],
    }
    words |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    into = files["labels"].parent.parent / "imported"
    return [
        "import",
        into,
        *(
            word
            for option, value in words.items()
            for one in (value if isinstance(value, list) else [value])
            for word in (option, one)
        ),
    ]


def test_import_makes_a_table(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    said = run(*typed_import(files, unit="USD"), "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert (data["samples"], data["exits"], data["units"]) == (60, ["net0", "net2"], ["USD"])
    table = load_table(tmp_path / "imported")
    assert data["hash"] == table.hash
    assert table.ids[7] == "007"
    assert table.hash == replace(table, provenance={}).hash
    assert "60 samples" in run(*typed_import(files)).out


def test_import_splits_as_told(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    assert run(*typed_import(files, split="tune=.5,test=.5", group="who")).code == 0
    table = load_table(tmp_path / "imported")
    assert set(table.split.tolist()) == {0, 2}
    assert len(set(table.split[[3, 103 - 100, 3]].tolist())) == 1


WRONG_IMPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"exit": ["net0=nowhere.csv"], "cost": ["net0=1"]}, "'nowhere.csv' is none"),
    "no sign": ({"exit": ["net0"]}, "--exit reads NAME=VALUE, found 'net0'"),
    "no cost": ({"cost": ["net0=1"]}, "'net2' has none: --cost net2=NUMBER"),
    "strange cost": ({"cost": ["net0=1", "net2=1", "net3=1"]}, "no exit 'net3'"),
    "cost of text": ({"cost": ["net0=1", "net2=dear"]}, "--cost takes a number, found 'dear'"),
    "negative cost": ({"cost": ["net0=1", "net2=-3"]}, "'net2' has -3.0 MACs"),
    "nan cost": ({"cost": ["net0=1", "net2=nan"]}, "'net2' has nan MACs"),
    "key": ({"key": "idd"}, "did you mean 'id'"),
    "label": ({"label": "lable"}, "did you mean 'label'"),
    "prediction": ({"prediction": "{exit}_top"}, "no column 'net0_top'"),
    "shares": ({"split": "tune=.5,certify=.6"}, "sum to 1"),
    "unknown split": ({"split": "train=1"}, "'train'"),
    "split column": ({"split_col": "who"}, "a split is one of tune, certify, test"),
    "two splits": ({"split_col": "who", "split": "tune=1"}, "found both"),
}


@pytest.mark.parametrize("case", WRONG_IMPORTS)
def test_a_wrong_import_is_one_sentence(
    run: Run, files: dict[str, Path], tmp_path: Path, case: str
) -> None:
    changes, words = WRONG_IMPORTS[case]
    refused(run(*typed_import(files, **changes)), words, tmp_path, {"files"})


WRONG_ROWS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "missing": (lambda f: f.head(57), "lacks 3 keys: 057, 058, 059"),
    "surplus": (
        lambda f: pl.concat([f, f.head(1).with_columns(id=pl.lit("x"))]),
        "besides 1 key: x",
    ),
    "repeated": (lambda f: pl.concat([f, f.head(2)]), "repeat: 000, 001"),
    "nan": (lambda f: f.with_columns(confidence=pl.lit(float("nan"))), "has 60 NaN among 60"),
    "text": (lambda f: f.with_columns(confidence=pl.lit("high")), "has 'high'"),
    "empty": (lambda f: f.with_columns(prediction=pl.lit(None, pl.Int64)), "60 of 60 are empty"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_wrong_rows_are_one_sentence(
    run: Run, files: dict[str, Path], tmp_path: Path, case: str
) -> None:
    change, words = WRONG_ROWS[case]
    change(pl.read_parquet(files["net2"])).write_parquet(files["net2"])
    refused(run(*typed_import(files)), words, tmp_path, {"files"})


def test_a_damaged_file(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    files["net0"].write_bytes(files["net0"].read_bytes()[:-20])
    refused(run(*typed_import(files)), "cannot be read", tmp_path, {"files"})


def test_labels_out_of_range(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    pl.read_csv(files["labels"]).with_columns(label=pl.lit(-1)).write_csv(files["labels"])
    files["labels"].write_text(files["labels"].read_text())
    said = run(*typed_import(files))
    assert said.code == 2
    assert not (tmp_path / "imported").exists()


def test_something_else_in_the_way(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "imported").write_text("precious")
    said = run(*typed_import(files))
    refused(said, "is neither", tmp_path, {"files", "imported"})
    assert (tmp_path / "imported").read_text() == "precious"


# -- as a process -----------------------------------------------------------------------------


def test_a_process_ends_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "from understudy.app.cli import main; main()",
            "search",
            "x",
            "--max-drop",
            "1",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "40"},
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: a score table is a folder with a table.json, 'x' is none")
    assert ran.stderr.count("\n") == 1


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out == f"understudy {understudy.__version__}\n"
