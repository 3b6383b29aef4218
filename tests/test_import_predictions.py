"""Predictions made elsewhere: joined by key, or refused with names and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from understudy.errors import DataError, UnderstudyError
from understudy.import_predictions import LabelFile, import_predictions, read_labels
from understudy.scores import ScoreTable

Columns = Mapping[str, Any]
LABELS = {"id": ["a", "b", "c"], "label": [0, 1, 2]}
TINY: dict[str, list[Any]] = {
    "id": ["c", "a", "b"],
    "prediction": [2, 0, 0],
    "confidence": [0.5, 0.9, 0.7],
}

WIDE = pytest.mark.skipif(
    int(pl.__version__.partition(".")[0]) < 2, reason="Polars 1 reads no integers beyond 64 bits"
)


class Files:
    """Writes small files and imports them."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix

    def write(self, name: str, content: Columns | str | bytes) -> Path:
        path = self.folder / f"{name}{self.suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        elif self.suffix == ".parquet":
            pl.DataFrame(content).write_parquet(path)
        else:
            separator = "\t" if self.suffix == ".tsv" else ","
            pl.DataFrame(content).write_csv(path, separator=separator)
        return path

    def load(
        self,
        labels: Columns | str | bytes = LABELS,
        tiny: Columns | str | bytes = TINY,
        *,
        label: str | None = "label",
        group: str | None = None,
        own_split: str | None = None,
        costs: Mapping[str, float] | None = None,
        **rest: Any,
    ) -> ScoreTable:
        return import_predictions(
            LabelFile(self.write("labels", labels), "id", label, group, own_split),
            {"tiny": self.write("tiny", tiny), "big": self.write("big", TINY)},
            costs={"tiny": 1.0, "big": 9.0} if costs is None else costs,
            **rest,
        )


@pytest.fixture(params=[".csv", ".parquet", ".tsv"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(tmp_path, request.param)


@pytest.fixture
def csv(tmp_path: Path) -> Files:
    return Files(tmp_path, ".csv")


def refused(words: str, load: Any) -> None:
    with pytest.raises(UnderstudyError, match=words) as raised:
        load()
    assert "\n" not in str(raised.value)


def test_rows_are_joined_by_key(files: Files) -> None:
    table = files.load(unit="USD")
    assert table.ids.tolist() == ["a", "b", "c"]
    assert table.label is not None
    assert table.label.tolist() == [0, 1, 2]
    assert table.prediction.tolist() == [[0, 0, 2], [0, 0, 2]]
    assert table.confidence["max_softmax"][0].tolist() == [0.9, 0.7, 0.5]
    assert table.costs == {"USD": {"tiny": 1.0, "big": 9.0}}
    assert table.classes is None


def test_keys_stay_as_they_are_written(csv: Files) -> None:
    rows = {**TINY, "id": ["7", "007", "07"]}
    csv.write("big", rows)
    table = import_predictions(
        LabelFile(
            csv.write("labels", {"id": ["007", "07", "7"], "label": [0, 1, 2]}), "id", "label"
        ),
        {"tiny": csv.write("tiny", rows)},
        costs={"tiny": 1.0},
    )
    assert table.ids.tolist() == ["007", "07", "7"]
    assert table.prediction.tolist() == [[0, 0, 2]]


def test_texts_are_numbered_in_sorted_order(files: Files) -> None:
    labels = {"id": ["a", "b", "c"], "label": ["dog", "cat", "dog"]}
    rows = {"id": ["a", "b", "c"], "prediction": ["dog", "ape", "cat"], "confidence": [1, 1, 1]}
    table = import_predictions(
        LabelFile(files.write("labels", labels), "id", "label"),
        {"tiny": files.write("tiny", rows)},
        costs={"tiny": 1},
    )
    assert table.classes == ("ape", "cat", "dog")
    assert table.label is not None
    assert table.label.tolist() == [2, 1, 2]
    assert table.prediction.tolist() == [[2, 0, 1]]


def test_whole_numbers_may_be_written_as_floats(csv: Files) -> None:
    table = csv.load(tiny={**TINY, "prediction": [2.0, 0.0, 0.0]})
    assert table.prediction[0].tolist() == [0, 0, 2]


def test_labels_may_be_missing(csv: Files) -> None:
    assert csv.load(label=None).label is None


@pytest.mark.parametrize("labels", [[2, None, 0], [2, -1, 0], [2.0, math.nan, 0.0]])
def test_single_labels_may_be_empty(csv: Files, labels: list[float | None]) -> None:
    table = csv.load({**LABELS, "label": labels})
    assert table.label is not None
    assert table.label.tolist() == [2, -1, 0]


def test_single_labels_of_named_classes_may_be_empty(files: Files) -> None:
    labels = {"id": ["a", "b", "c"], "label": ["dog", None, "  "]}
    rows = {"id": ["a", "b", "c"], "prediction": ["dog", "ape", "cat"], "confidence": [1, 1, 1]}
    exits = {"tiny": files.write("tiny", rows)}
    file = LabelFile(files.write("labels", labels), "id", "label")
    table = import_predictions(file, exits, costs={"tiny": 1})
    assert table.classes == ("ape", "cat", "dog")
    assert table.label is not None
    assert table.label.tolist() == [2, -1, -1]
    assert read_labels(file, table.classes) == {"a": 2}


def test_a_column_of_empty_labels_is_none(csv: Files) -> None:
    assert csv.load({**LABELS, "label": [None, None, None]}).label is None


def test_one_file_may_hold_all_exits(csv: Files) -> None:
    rows = {"id": ["a"], "label": [1], "x_p": [1], "x_c": [0.5], "y_p": [0], "y_c": [0.25]}
    file = csv.write("all", rows)
    table = import_predictions(
        LabelFile(file, "id", "label"),
        {"x": file, "y": file},
        costs={"x": 1, "y": 2},
        prediction="{exit}_p",
        confidence="{exit}_c",
    )
    assert table.prediction.tolist() == [[1], [0]]
    assert table.confidence["max_softmax"].tolist() == [[0.5], [0.25]]


def test_groups_and_splits_come_from_columns(csv: Files) -> None:
    labels = {**LABELS, "patient": [1, 1, 2], "part": ["test", "tune", "certify"]}
    grouped = csv.load(labels, group="patient")
    assert grouped.split[0] == grouped.split[1]
    assert grouped.provenance["split"]["by"] == "group"
    named = csv.load(labels, own_split="part")
    assert named.split.tolist() == [2, 0, 1]
    refused("'train'", lambda: csv.load({**LABELS, "part": "train"}, own_split="part"))


# -- keys -------------------------------------------------------------------------------------


def test_missing_keys_are_counted_and_named(files: Files) -> None:
    rows = {name: values[:1] for name, values in TINY.items()}
    refused("lacks 2 keys: a, b", lambda: files.load(tiny=rows))


def test_surplus_keys_are_counted_and_named(files: Files) -> None:
    rows = {"id": ["a", "b", "c", "zz"], "prediction": [0] * 4, "confidence": [0.5] * 4}
    refused("has besides 1 key: zz", lambda: files.load(tiny=rows))


def test_repeated_keys_are_counted_and_named(files: Files) -> None:
    rows = {**TINY, "id": ["a", "a", "b"]}
    refused("keys are unique, 1 in column 'id' of .* repeat: a", lambda: files.load(tiny=rows))
    refused("keys are unique", lambda: files.load({"id": ["a", "a"], "label": [0, 0]}))


def test_many_wrong_keys_are_not_all_listed(csv: Files) -> None:
    many = {"id": [f"k{i}" for i in range(100)], "label": [0] * 100}
    refused("lacks 100 keys: k0, k1, k2, k3, k4 and 95 more", lambda: csv.load(many))


# -- files and columns ------------------------------------------------------------------------


def test_a_column_that_is_missing_has_near_names(files: Files) -> None:
    refused("no column 'labl' in .*; did you mean 'label'", lambda: files.load(label="labl"))
    refused("no column 'confidenc'", lambda: files.load(confidence="confidenc"))
    refused("no column 'id'", lambda: files.load(tiny={"key": ["a"], "prediction": [0]}))


def test_empty_values_are_counted(files: Files) -> None:
    refused("1 of 3 are empty", lambda: files.load(tiny={**TINY, "confidence": [0.1, None, 0.3]}))
    refused("1 of 3 are empty", lambda: files.load({**LABELS, "id": ["a", None, "c"]}))


@pytest.mark.parametrize("spelling", ["nan", "NaN", "NAN"])
def test_nan_confidences_are_counted(csv: Files, spelling: str) -> None:
    text = f"id,prediction,confidence\na,0,0.5\nb,0,{spelling}\nc,0,0.5\n"
    refused("exit 'tiny' has 1 NaN among 3", lambda: csv.load(tiny=text))


def test_confidences_are_numbers(files: Files) -> None:
    refused("has 'high'", lambda: files.load(tiny={**TINY, "confidence": ["0.5", "high", "0.1"]}))
    refused("has True", lambda: files.load(tiny={**TINY, "confidence": [True, False, True]}))


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), 1e300])
def test_predictions_are_whole_numbers(tmp_path: Path, value: float) -> None:
    files = Files(tmp_path, ".parquet")
    refused(
        "whole numbers|class numbers|from 0",
        lambda: files.load(tiny={**TINY, "prediction": [0.0, value, 1.0]}),
    )


def test_numbers_and_texts_do_not_mix(files: Files) -> None:
    rows = {**TINY, "prediction": ["cat", "dog", "cat"]}
    refused("all whole numbers or all texts, found Int64, String", lambda: files.load(tiny=rows))


def test_labels_are_from_zero(files: Files) -> None:
    refused("from 0, 1 lie outside", lambda: files.load({**LABELS, "label": [0, -2, 2]}))
    refused("below 2", lambda: files.load({**LABELS, "label": [0, 2**40, 2]}))


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"\xff\xfe\x00"])
def test_a_damaged_file_is_a_sentence(files: Files, content: bytes) -> None:
    refused("cannot be read|no column|a row per sample", lambda: files.load(tiny=content))
    refused("cannot be read|no column|a row per sample", lambda: files.load(content))


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    files = Files(tmp_path, ".parquet")
    whole = files.write("whole", TINY).read_bytes()
    refused("cannot be read", lambda: files.load(tiny=whole[: len(whole) // 2]))


def test_no_rows(csv: Files) -> None:
    refused("a row per sample", lambda: csv.load("id,label\n"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is none: check the path"):
        import_predictions(LabelFile(tmp_path / "x.csv", "id"), {"a": tmp_path}, costs={"a": 1})


# -- costs ------------------------------------------------------------------------------------


def test_every_exit_has_a_cost_and_nobody_else(csv: Files) -> None:
    refused("'big' has none: --cost big=NUMBER", lambda: csv.load(costs={"tiny": 1}))
    refused("no exit 'huge'", lambda: csv.load(costs={"tiny": 1, "big": 2, "huge": 3}))
    refused("'big' has nan", lambda: csv.load(costs={"tiny": 1, "big": float("nan")}))
    refused("'big' has -1", lambda: csv.load(costs={"tiny": 1, "big": -1}))


def test_at_least_one_exit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one exit"):
        import_predictions(LabelFile(tmp_path / "x.csv", "id"), {}, costs={})


def test_provenance_says_where_it_came_from(csv: Files) -> None:
    about = csv.load().provenance
    assert Path(about["labels"]["file"]).name == "labels.csv"
    assert Path(about["exits"]["tiny"]).name == "tiny.csv"
    assert np.isclose(sum(about["split"]["shares"].values()), 1)


@WIDE
def test_numbers_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id,label\n0,99999999999999999999\n")
    with pytest.raises(UnderstudyError, match="'label' has 99999999999999999999"):
        read_labels(LabelFile(file, "id", "label"))


def test_missing_labels_are_called_labels(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="labels are read from a file"):
        read_labels(LabelFile(tmp_path / "none.csv", "id", "label"))


@WIDE
def test_confidences_may_be_numbers_beyond_64_bits(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n0,0\n")
    (tmp_path / "a.csv").write_text("id,prediction,confidence\n0,0,99999999999999999999\n")
    labels = LabelFile(tmp_path / "labels.csv", "id", "label")
    table = import_predictions(labels, {"a": tmp_path / "a.csv"}, costs={"a": 1})
    assert table.confidence["max_softmax"].tolist() == [[1e20]]


def test_without_costs_the_calls_of_the_best_model_are_counted(csv: Files) -> None:
    table = csv.load(costs={})
    (unit,) = table.units
    assert unit.removeprefix("calls of ") in table.names
    assert sorted(table.exit_costs(unit).tolist()) == [0.0, 1.0]
