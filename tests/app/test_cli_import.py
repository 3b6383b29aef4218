"""The verbs `import` and `import-exits`: a table, JSON for machines, and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from command_line import Run, refused
from tables import synthetic
from test_import_exits import MACS, record_of, written
from understudy.import_exits import import_record
from understudy.store import load_table

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


def import_of(files: dict[str, Path], **changes: Any) -> list[object]:
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
    data = run(*import_of(files, unit="USD"), "--json").json
    assert (data["samples"], data["exits"], data["units"]) == (60, ["net0", "net2"], ["USD"])
    table = load_table(tmp_path / "imported")
    assert data["hash"] == table.hash
    assert table.ids[7] == "007"
    assert table.hash == replace(table, provenance={}).hash
    assert "60 samples" in run(*import_of(files)).stdout


def test_import_splits_by_shares_and_groups(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    assert run(*import_of(files, split="tune=.5,test=.5", group="who")).exit_code == 0
    table = load_table(tmp_path / "imported")
    assert set(table.split.tolist()) == {0, 2}
    assert len(set(table.split[[3, 103 - 100, 3]].tolist())) == 1


def test_a_table_that_is_imported_over_keeps_its_shares(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    """No sample changes its split unless other shares are named."""

    def shares(**options: Any) -> object:
        assert run(*import_of(files, **options)).exit_code == 0
        return load_table(tmp_path / "imported").provenance["split"]["shares"]

    assert shares() == {"tune": 0.2, "certify": 0.8, "test": 0.0}
    older = shares(split="tune=.3,certify=.6,test=.1")
    assert shares() == older == {"tune": 0.3, "certify": 0.6, "test": 0.1}


WRONG_IMPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"exit": ["net0=nowhere.csv"], "cost": ["net0=1"]}, "'nowhere.csv' is none"),
    "no sign": ({"exit": ["net0"]}, "--exit reads NAME=VALUE, found 'net0'"),
    "no cost": ({"cost": ["net0=1"]}, "'net2' has none: --cost net2=NUMBER"),
    "strange cost": ({"cost": ["net0=1", "net2=1", "net3=1"]}, "no exit 'net3'"),
    "cost of text": ({"cost": ["net0=1", "net2=dear"]}, "--cost takes a number, found 'dear'"),
    "negative cost": ({"cost": ["net0=1", "net2=-3"]}, "'net2' has -3.0 MACs"),
    "nan cost": ({"cost": ["net0=1", "net2=nan"]}, "--cost takes a number, found 'nan'"),
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
    refused(run(*import_of(files, **changes)), words, tmp_path, {"files"})


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
    refused(run(*import_of(files)), words, tmp_path, {"files"})


def test_a_damaged_file(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    files["net0"].write_bytes(files["net0"].read_bytes()[:-20])
    refused(run(*import_of(files)), "cannot be read", tmp_path, {"files"})


def test_labels_out_of_range(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    pl.read_csv(files["labels"]).with_columns(label=pl.lit(-2)).write_csv(files["labels"])
    files["labels"].write_text(files["labels"].read_text())
    command = run(*import_of(files))
    assert command.exit_code == 2
    assert not (tmp_path / "imported").exists()


def test_something_else_in_the_way(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "imported").write_text("precious")
    command = run(*import_of(files))
    refused(command, "is neither", tmp_path, {"files", "imported"})
    assert (tmp_path / "imported").read_text() == "precious"


def test_missing_options(run: Run, tmp_path: Path) -> None:
    command = run("import", tmp_path / "t", "--labels", "a.csv")
    assert command.exit_code == 2
    assert "--key" in command.stderr
    command = run("import", tmp_path / "t", "--dyce-record", "record.npz")
    refused(command, "understudy import-exits RECORD --macs FILE --into TABLE", tmp_path)


# -- import-exits -----------------------------------------------------------------------------


def test_a_record_becomes_a_table(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(400), MACS)
    into = tmp_path / "t"
    data = run("import-exits", record, "--macs", macs, "--into", into, "--json").json
    assert data["exits"][-1] == "base"
    assert data["hash"] == import_record(record, macs).hash == load_table(into).hash
    assert run("search", into, "--max-drop", "5", "--json").json["reference"] == "base"


def test_a_record_takes_shares(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(400), MACS)
    words = ("--macs", macs, "--into", tmp_path / "t", "--split", "tune=.5,certify=.5")
    assert run("import-exits", record, *words).exit_code == 0
    assert not (load_table(tmp_path / "t").split == 2).any()


def test_a_record_needs_its_macs(run: Run, tmp_path: Path) -> None:
    record, _ = written(tmp_path, record_of(), MACS)
    command = run("import-exits", record, "--into", tmp_path / "t")
    assert command.exit_code == 2
    assert "--macs" in command.stderr
    assert not (tmp_path / "t").exists()


def test_a_pickled_record_is_one_sentence(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(), MACS)
    record.write_bytes(b"\x80\x04N.")
    command = run("import-exits", record, "--macs", macs, "--into", tmp_path / "t")
    refused(command, "unpickled")
