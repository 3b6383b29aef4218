"""Samples with several right answers: an answer is right if it is one of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from tables import score_tables
from understudy.ensemble import fit_temperature
from understudy.errors import DataError, TableError
from understudy.import_predictions import LabelFile, import_predictions, read_labels
from understudy.outcome import class_gaps
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.store import load_table, save_table

TWO: dict[str, Any] = {"tiny": ([0, 1, 1], [0.9, 0.6, 0.7]), "big": ([0, 0, 2], [0.8, 0.7, 0.9])}


def three(labels: Any, **more: Any) -> ScoreTable:
    return ScoreTable.from_predictions(TWO, labels, costs={"tiny": 1, "big": 9}, **more)


@given(st.data())
def test_right_is_membership_sample_by_sample(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    reference = data.draw(st.sampled_from(table.names))
    answers = [oracle.right_answers(table, reference, k) for k in range(len(table))]
    right = table.right(reference)
    for row in range(len(table.exits)):
        expected = [int(table.prediction[row, k]) in one for k, one in enumerate(answers)]
        assert right[row].tolist() == table.right(reference, row).tolist() == expected
    filled = [{one for one in row if one >= 0} for row in table.right_answers(reference).tolist()]
    assert filled == answers


@pytest.mark.parametrize(
    "labels", [[[0], None, [1, 2]], [0, [], (1, 2)], np.array([[0, -1], [-1, -1], [1, 2]])]
)
def test_labels_may_be_lists(labels: Any) -> None:
    table = three(labels)
    assert table.label_sets is not None
    assert table.label is not None
    assert table.label_sets.tolist() == [[0, -1], [-1, -1], [1, 2]]
    assert table.label.tolist() == [0, -1, 1]
    assert "2 with a label, several right answers" in repr(table)
    assert table.rows(np.array([0, 1])).label_sets is None
    assert table.hash != three([0, None, 1]).hash


def test_lists_of_one_label_are_labels() -> None:
    assert three([[0], [1], []]).label_sets is None
    assert three([[0], [1], []]).hash == three([0, 1, None]).hash


def test_lists_of_names() -> None:
    named: dict[str, Any] = {"tiny": (["cat", "dog", "dog"], [1, 1, 1])}
    table = ScoreTable.from_predictions(
        named, [["cat"], ["owl", "cat"], ["dog", "cat"]], costs={"tiny": 1}
    )
    assert table.classes == ("cat", "dog", "owl")
    assert table.right("tiny").tolist() == [[True, False, True]]
    logits = ScoreTable.from_logits(
        {"tiny": [[2.0, -1.0], [0.0, 1.0]]},
        [["a", "b"], ["a"]],
        classes=["a", "b"],
        costs={"tiny": 1},
    )
    assert logits.columns()["accuracy"] == [0.5]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([[0, 1]], r"a row per sample, \(3, K\), found \(1, 2\)"),
        ([[0, 1], [-1, 2], [0, 1]], "padded with -1 at the end"),
        ([[1, 0], [1, 2], [0, 1]], "the first of its label set"),
        ([[0, -2], [1, 2], [0, 1]], "1 lie outside"),
    ],
)
def test_wrong_sets_are_refused(sets: Any, message: str) -> None:
    with pytest.raises(TableError, match=message):
        replace(three([0, 1, 0]), label_sets=sets)


def test_classes_do_not_depend_on_the_order_within_a_set() -> None:
    one, other = three([[0, 1], [2, 0], [1, 2]]), three([[1, 0], [0, 2], [2, 1]])
    tiny = Policy.single("tiny")
    gaps = class_gaps(one, one, tiny, reference="big")
    assert gaps == class_gaps(other, other, tiny, reference="big")
    assert {gap.name: gap.samples for gap in gaps} == {"0": 2, "1": 2, "2": 2}
    assert {gap.name: gap.losses for gap in gaps} == {"0": 1, "1": 0, "2": 1}
    assert one.of_class("1").ids.tolist() == other.of_class("1").ids.tolist() == ["0", "2"]


def test_sets_come_back_from_disk(tmp_path: Path) -> None:
    table = three([[0], None, [1, 2]])
    save_table(table, tmp_path / "table")
    found = load_table(tmp_path / "table")
    assert found.hash == table.hash
    assert np.array_equal(found.right("big"), table.right("big"))


def test_labels_are_added_and_replaced_by_id() -> None:
    table = three([0, None, None], ids=list("abc"))
    assert table.with_labels({"b": np.int32(1)}).hash == table.with_labels({"b": [1]}).hash
    wider = table.with_labels({"c": np.array([1, 2]), "b": []})
    assert wider.label_sets is not None
    assert wider.label_sets.tolist() == [[0, -1], [-1, -1], [1, 2]]
    with pytest.raises(TableError, match="1 of 1 differ: 'a'"):
        table.with_labels({"a": [0, 1]})
    judged = table.relabelled({"a": [1, 2], "b": []})
    assert judged.ids.tolist() == ["a"]
    assert not judged.right("big").any()
    with pytest.raises(TableError, match="found none for the 3"):
        table.relabelled({"a": []})


def test_the_temperature_is_that_of_any_right_class() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    logits = 4 * (rng.normal(size=(200, 3)) + np.eye(3)[labels])
    sets = np.where(labels[:, None] == 2, [2, -1], [0, 1])

    def loss(temperature: float) -> float:
        weights = np.exp(logits / temperature)
        shares = weights / weights.sum(1, keepdims=True)
        chosen = zip(shares, sets, strict=True)
        return -float(np.mean([np.log(row[one[one >= 0]].sum()) for row, one in chosen]))

    found = fit_temperature(logits, sets)
    assert loss(found) <= min(map(loss, (0.97 * found, 1.03 * found, 0.05, 1.0, 20.0)))
    assert fit_temperature(logits, labels[:, None]) == fit_temperature(logits, labels)


PREDICTED = {"id": ["a", "b", "c"], "prediction": [0, 1, 2], "confidence": [0.9, 0.8, 0.7]}


def label_file(folder: Path, kind: str) -> Path:
    rows = {"id": ["a", "b", "c"], "real": [[0, 3], [], [1]]}
    path = folder / f"labels.{kind}"
    if kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps([{"id": "a", "real": [0, 3]}, {"id": "b", "real": []}]))
    else:
        path.write_text('id,real\na,"[0, 3]"\nb,[]\nc,[1]\n')
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_lists_are_imported_and_empty_ones_left_out(tmp_path: Path, kind: str) -> None:
    pl.DataFrame(PREDICTED).write_parquet(tmp_path / "net.parquet")
    labels = LabelFile(label_file(tmp_path, kind), "id", "real")
    table = import_predictions(labels, {"net": tmp_path / "net.parquet"}, costs={"net": 1})
    assert table.ids.tolist() == ["a", "c"]
    assert table.right("net").tolist() == [[True, False]]
    assert table.provenance["left_out"] == 1
    assert read_labels(labels) == {"a": [0, 3], "c": [1]}


def test_json_records_are_read(tmp_path: Path) -> None:
    assert read_labels(LabelFile(label_file(tmp_path, "json"), "id", "real")) == {"a": [0, 3]}


def test_wrong_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,real\na,[0 3]\n")
    with pytest.raises(DataError, match="JSON lists"):
        read_labels(LabelFile(tmp_path / "a.csv", "id", "real"))
    (tmp_path / "b.csv").write_text("id,real\na,[]\n")
    with pytest.raises(DataError, match="are empty"):
        read_labels(LabelFile(tmp_path / "b.csv", "id", "real"))
    (tmp_path / "c.csv").write_text('id,real\na,"[0, ""cat""]"\n')
    with pytest.raises(DataError, match="JSON lists"):
        read_labels(LabelFile(tmp_path / "c.csv", "id", "real"))
