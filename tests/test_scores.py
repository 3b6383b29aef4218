"""The table: what it refuses, what it cuts, and that it is frozen."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import pair_table, score_tables, synthetic
from understudy.errors import MissingExtra, TableError
from understudy.scores import Exit, ScoreTable
from understudy.store import load_table, save_table

TINY = ([0, 1], [0.9, 0.6])


def two(**changes: Any) -> ScoreTable:
    arguments: dict[str, Any] = {
        "predictions": {"tiny": TINY, "big": ([0, 0], [0.8, 0.7])},
        "labels": [0, 0],
        "costs": {"tiny": 1, "big": 10},
    }
    arguments |= changes
    return ScoreTable.from_predictions(
        arguments.pop("predictions"), arguments.pop("labels"), **arguments
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predictions": {}}, "at least one exit, found none"),
        ({"predictions": {"a": TINY, "b": ([0], [1.0])}}, "found the lengths {'a': 2, 'b': 1}"),
        ({"predictions": {"a": TINY, "b": ([0, 1], [1.0])}}, "found the shapes"),
        ({"predictions": {"a": ([0, 1], [1.0])}}, r"= \(1, 2\), found \(1, 1\)"),
        ({"predictions": {"a": ([], [])}, "labels": []}, "found the type float64"),
        ({"predictions": {"a": (np.zeros(0, int), [])}, "labels": None}, "at least one sample"),
        ({"predictions": {"": TINY}}, "an exit has a name"),
        ({"predictions": {"a": ([0.5, 1], [1, 1])}}, "class numbers, found the type float64"),
        ({"predictions": {"a": (["cat", "dog"], [1, 1])}}, "all names, found 'cat' and 0"),
        ({"predictions": {"a": ([0, 2**40], [1, 1])}}, "predictions are class numbers below"),
        ({"predictions": {"a": ([0, 1], ["hi", "lo"])}}, "confidences are numbers"),
        ({"predictions": {"a": ([0, 1], [math.nan, 1])}}, "exit 'a' has 1 NaN among 2"),
        (
            {"predictions": {"a": ([0], {"x": [1]}), "b": ([0], {"y": [1]})}, "labels": [0]},
            "share no confidence",
        ),
        ({"labels": [0, -2]}, r"from 0, 1 lie outside \(found -2 to 0\)"),
        ({"labels": [0.5, math.nan]}, "labels are class numbers, found the type float64"),
        ({"labels": [0, 2**32]}, "labels are class numbers below"),
        ({"labels": [0.0, 1.0]}, "labels are class numbers, found the type float64"),
        ({"labels": [0]}, r"label has one entry per sample, \(2,\), found \(1,\)"),
        ({"labels": [[0, 1]]}, r"found \(1, 2\)"),
        ({"ids": ["a", "a"]}, "1 repeat: a"),
        ({"ids": ["a"]}, "found"),
        ({"costs": {"tinny": 1, "big": 2}}, "no exit 'tinny'; did you mean 'tiny'"),
        ({"costs": {"tiny": -1}}, "'tiny' has -1.0 MACs"),
        ({"costs": {"MACs": {"tiny": math.nan}}}, "'tiny' has nan MACs"),
        ({"costs": {"tiny": math.inf}}, "'tiny' has inf MACs"),
        ({"costs": {"tiny": "dear"}}, "found {'tiny': 'dear'}"),
        ({"costs": {"MACs": {"tiny": 1}, "big": 2}}, r"\{part: number\}"),
        ({"groups": ["a"]}, "found 1 for 2 samples"),
        ({"split": {"train": 1.0}}, "'train'"),
    ],
)
def test_what_breaks_a_rule_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TableError, match=words) as raised:
        two(**changes)
    assert "\n" not in str(raised.value)


def test_labels_beyond_the_classes_are_counted() -> None:
    rows = np.full((3, 2), 0.5)
    with pytest.raises(TableError, match=r"0 to 1, 2 lie outside \(found 1 to 7\)"):
        ScoreTable.from_probabilities({"tiny": rows}, [1, 2, 7], costs={"tiny": 1})
    with pytest.raises(TableError, match="0 to 0, 1 lie outside"):
        replace(two(labels=[0, 1]), classes=("cat",))


def test_probabilities_of_other_shapes_are_refused() -> None:
    with pytest.raises(TableError, match=r"'a': \(1, 2\), 'b': \(1, 3\)"):
        ScoreTable.from_probabilities(
            {"a": np.full((1, 2), 0.5), "b": np.full((1, 3), 1 / 3)}, None, costs={}
        )
    with pytest.raises(TableError, match="at least one exit"):
        ScoreTable.from_probabilities({}, None, costs={})


def test_exits_and_shapes_are_checked_in_the_constructor() -> None:
    table = pair_table([1], [1], [1.0])
    with pytest.raises(TableError, match="'tiny' repeat"):
        replace(table, exits=(Exit("tiny"), Exit("tiny")))
    with pytest.raises(TableError, match="at least one exit"):
        replace(table, exits=())
    with pytest.raises(TableError, match="at least one confidence"):
        replace(table, confidence={})
    with pytest.raises(TableError, match="split has one entry"):
        replace(table, split=np.array([0, 1]))


def test_probabilities_become_answers_confidences_and_details() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random((40, 7))
    probability = weights / weights.sum(1, keepdims=True)
    table = ScoreTable.from_probabilities({"tiny": probability}, None, costs={"tiny": 1})
    assert table.prediction[0].tolist() == probability.argmax(1).tolist()
    assert np.allclose(table.confidence["max_softmax"][0], probability.max(1))
    detail = table.details["tiny"]
    assert detail.top_classes.shape == (40, 5)
    assert (detail.top_classes[:, 0] == table.prediction[0]).all()
    assert (np.diff(detail.top_probabilities, axis=1) <= 0).all()
    assert detail.logits is not None
    assert np.allclose(np.exp(detail.logits.astype(float)), probability, atol=2e-3)
    part = table.rows(np.array([3, 1]))
    assert part.details["tiny"].top_classes.tolist() == detail.top_classes[[3, 1]].tolist()


def test_it_is_frozen() -> None:
    table = synthetic(20)
    arrays = [table.prediction, table.label, table.ids, table.split, *table.confidence.values()]
    for array in arrays:
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        table.costs["MACs"]["net0"] = 0.0  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        table.label = None  # type: ignore[misc]


def test_numbers_as_ids_become_text() -> None:
    assert two(ids=[7, 3]).ids.tolist() == ["7", "3"]


def test_only_common_confidences_are_kept() -> None:
    table = two(
        predictions={
            "a": ([0, 1], {"margin": [1, 2], "energy": [1, 2]}),
            "b": ([0, 1], {"energy": [3, 4]}),
        },
        costs={},
    )
    assert list(table.confidence) == ["energy"]


@given(st.data())
def test_parts_of_a_table_are_parts(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    names = data.draw(st.permutations(table.names))[: data.draw(st.integers(1, len(table.names)))]
    rows = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), unique=True, min_size=1)))
    part = table.only(names).rows(rows)
    index = [table.names.index(name) for name in names]
    assert part.names == tuple(names)
    assert part.prediction.tolist() == table.prediction[np.ix_(np.array(index), rows)].tolist()
    assert part.ids.tolist() == table.ids[rows].tolist()
    for name in names:
        assert part.cost_of([name], "MACs") == table.cost_of([name], "MACs")


def test_the_splits_of_a_search_may_lack_test() -> None:
    assert synthetic(50).splits == ("tune", "certify", "test")
    assert synthetic(50, split={"tune": 0.2, "certify": 0.8}).splits == ("tune", "certify")


def test_splits_are_cut_and_all_is_the_table() -> None:
    table = synthetic(100)
    parts = [table.on(name) for name in ("tune", "certify", "test")]
    assert sorted(key for part in parts for key in part.ids) == sorted(table.ids)
    assert table.on("all") is table
    with pytest.raises(TableError, match=r"no split 'certfy'; did you mean 'certify'"):
        table.on("certfy")


def test_the_reference_is_the_most_accurate_on_tune_or_the_one_named() -> None:
    """Beyond tune `big` is the better one."""
    tune, others = [[1, 1, 1, 0], [1, 1, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]
    answers = [[*a, *b] for a, b in zip(tune, others, strict=True)]
    table = pair_table(answers[0], answers[1], np.ones(8), split=["tune"] * 4 + ["certify"] * 4)
    assert table.reference() == "tiny"
    assert table.reference("big") == "big"
    assert table.on("certify").reference() == "big"
    with pytest.raises(TableError, match="no exit 'bigg' in this table; did you mean"):
        table.reference("bigg")


def test_of_equally_accurate_exits_the_cheapest_is_the_reference() -> None:
    same = pair_table([1, 0, 1], [1, 1, 0], np.ones(3), split=["tune"] * 3)
    assert same.reference() == "tiny"
    assert replace(same, costs={"MACs": {"tiny": 2, "big": 1}}).reference() == "big"
    assert replace(same, costs={"MACs": {"tiny": 0, "big": 1}}).reference() == "big"


def test_a_network_is_the_reference_rather_than_an_exit_inside_it() -> None:
    better = pair_table([1, 1, 1], [1, 1, 0], np.ones(3), split=["tune"] * 3)
    head = Exit("tiny", ("trunk", "head"), {"root": "big"})
    inside = replace(
        better,
        exits=(head, Exit("big", ("trunk", "rest"), {"root": "big"})),
        costs={"MACs": {"trunk": 5, "head": 9, "rest": 2}},
    )
    assert inside.reference() == "big"
    assert replace(inside, label=None).reference() == "big"
    assert inside.only(["tiny"]).reference() == "tiny"


def test_where_labels_do_not_tell_the_costliest_is_the_reference() -> None:
    split = ["tune"] * 3 + ["certify"]
    table = pair_table([1, 1, 1, 1], [1, 1, 0, 0], np.ones(4), split=split)
    assert replace(table, label=None).reference() == "big"
    assert replace(table, label=np.array([1, 1, -1, 1])).reference() == "big"
    assert replace(table, label=np.array([-1, -1, 1, -1])).reference() == "tiny"


def test_costs_are_named_when_missing() -> None:
    table = pair_table([1], [1], [1.0])
    with pytest.raises(TableError, match="no unit 'ms'"):
        table.cost_of(["tiny"], "ms")
    with pytest.raises(TableError, match="'tiny' has none"):
        replace(table, costs={"MACs": {"big": 1}}).cost_of(["tiny", "big"], "MACs")
    with pytest.raises(TableError, match="has no costs"):
        replace(table, costs={}).unit()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"prediction": 1 - t.prediction},
        lambda t: {"label": 1 - t.label},
        lambda t: {"label": None},
        lambda t: {"split": 2 - t.split},
        lambda t: {"ids": t.ids[::-1]},
        lambda t: {"costs": {"MACs": {"net0": 5.0}}},
        lambda t: {"exits": (Exit("other"), *t.exits[1:])},
        lambda t: {"confidence": {"max_softmax": t.confidence["max_softmax"] / 2}},
    ],
)
def test_the_hash_is_of_what_was_scored(change: Any) -> None:
    table = synthetic(50)
    assert replace(table, **change(table)).hash != table.hash


def test_the_hash_leaves_times_and_provenance_out() -> None:
    table = synthetic(50)
    other = replace(table, times={"ms@1": {"net0": 1.0}}, provenance={"machine": "another"})
    assert other.hash == table.hash == synthetic(50).hash


def test_labels_may_be_missing() -> None:
    """None, -1 and NaN are missing labels; a table without any label is unlabelled."""
    exits: dict[str, Any] = {"tiny": ([0, 1, 1], [0.5, 0.6, 0.7]), "big": ([0, 0, 1], [1, 1, 1])}

    def table(labels: Any) -> ScoreTable:
        return ScoreTable.from_predictions(exits, labels, costs={"tiny": 1, "big": 2})

    for labels in ([None, 2, None], [-1, 2, -1], [math.nan, 2, math.nan]):
        part = table(labels)
        assert part.label is not None
        assert part.label.tolist() == [-1, 2, -1]
        assert part.labelled.tolist() == [False, True, False]
        assert part.right_answers("big").tolist() == [[0], [2], [1]]
        assert part.right("big").tolist() == [[True, False, True], [True, False, True]]
        assert part.needs_label("big", part.prediction).tolist() == [[False] * 3] * 2
        assert part.rows(np.array([0, 2])).label is None
        assert part.hash == table([-1, 2, -1]).hash != table([0, 2, 1]).hash
    for none in (None, [None] * 3, [-1] * 3):
        assert table(none).label is None
        assert table(none).hash == table(None).hash


def test_labels_are_added_by_id() -> None:
    table = ScoreTable.from_predictions(
        {"tiny": ([0, 1, 1], [0.5, 0.6, 0.7])}, [None, 2, None], costs={"tiny": 1}, ids=list("abc")
    )
    added = table.with_labels({"c": 1, "b": 2})
    assert added.label is not None
    assert added.label.tolist() == [-1, 2, 1]
    assert sum(added.label_counts().values()) == 2
    assert table.with_labels({}).hash == table.hash
    with pytest.raises(TableError, match="1 of 2 ids are unknown: 'x'"):
        table.with_labels({"x": 1, "a": 1})
    with pytest.raises(TableError, match="1 of 2 differ: 'b'"):
        table.with_labels({"a": 1, "b": 1})
    with pytest.raises(TableError, match="from 0, found -1"):
        table.with_labels({"a": -1})


def test_nobody_changes_a_table_through_arrays_of_their_own() -> None:
    prediction, confidence = np.zeros((1, 3), np.int32), np.ones((1, 3), np.float32)
    label, split = np.zeros(3, np.int32), np.zeros(3, np.uint8)
    ids = np.array(["a", "b", "c"], object)
    view = confidence.view()
    view.flags.writeable = False  # its owner can still be written to
    table = ScoreTable(
        exits=(Exit("tiny"),),
        prediction=prediction,
        confidence={"max_softmax": view},
        label=label,
        ids=ids,
        split=split,
        costs={"MACs": {"tiny": 1.0}},
    )
    before = ScoreTable(**{one.name: getattr(table, one.name) for one in fields(table)}).hash
    prediction[:], confidence[:], label[:], split[:], ids[:] = 1, 0.5, 1, 2, ["x", "y", "z"]
    assert table.hash == before
    assert table.prediction.tolist() == [[0, 0, 0]]
    assert table.ids.tolist() == ["a", "b", "c"]


def test_tables_share_what_nobody_can_change() -> None:
    table = synthetic(50)
    again = replace(table, provenance={})
    assert np.shares_memory(again.prediction, table.prediction)
    assert np.shares_memory(again.confidence["max_softmax"], table.confidence["max_softmax"])
    part = table.rows(slice(10, None))
    assert np.shares_memory(part.prediction, table.prediction)


def test_a_table_can_be_pickled_and_copied(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    table = ScoreTable.from_probabilities({"a": probabilities}, [0] * 20, costs={"a": 1})
    save_table(table, tmp_path / "table")
    loaded = load_table(tmp_path / "table").with_classes(["x", "y", "z"])
    for twin in (pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded)):  # noqa: S301
        assert twin.hash == loaded.hash
        assert twin.classes == ("x", "y", "z")
        assert dict(twin.provenance) == dict(loaded.provenance)
        top, expected = twin.details["a"].top_probabilities, loaded.details["a"].top_probabilities
        assert np.array_equal(top, expected)
        with pytest.raises(ValueError, match="read-only"):
            twin.prediction[0, 0] = 1


def test_reversed_rows_are_saved_and_loaded(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    table = ScoreTable.from_probabilities(
        {"a": probabilities[:, ::-1]}, np.zeros(20, int)[::-1], costs={"a": 1}
    )
    turned = table.rows(slice(None, None, -1))
    assert turned.ids.tolist() == table.ids.tolist()[::-1]
    save_table(turned, tmp_path / "table")
    assert load_table(tmp_path / "table").hash == turned.hash


def test_negative_predictions_are_refused() -> None:
    with pytest.raises(TableError, match="from 0, exit 'tiny' has -2"):
        two(predictions={"tiny": ([0, -2], [0.9, 0.6]), "big": ([0, 0], [0.8, 0.7])})


def test_logits_beyond_float16_are_kept_within_it() -> None:
    rows = np.array([[1e6, 0.0], [0.0, -1e6]])
    table = ScoreTable.from_logits({"a": rows, "b": rows / 2}, [0, 0], costs={"a": 1, "b": 2})
    kept = table.details["a"].logits
    assert kept is not None
    assert np.isfinite(kept).all()


def test_arrow_tables_need_the_search_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"cat": [0.9], "dog": [0.1]})

    class ArrowStream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return frame.__arrow_c_stream__(requested_schema)

    outputs = {"a": ArrowStream(), "b": ArrowStream()}
    costs = {"a": 1, "b": 2}
    table = ScoreTable.from_probabilities(outputs, ["cat"], costs=costs)
    assert table.classes == ("cat", "dog")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtra, match=r"reading Arrow tables needs the `search` extra"):
        ScoreTable.from_probabilities(outputs, ["cat"], costs=costs)
