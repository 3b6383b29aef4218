"""Predictions in memory: names of classes, data frames, logits, and tables without costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import polars as pl
import pyarrow as pa
import pytest

from understudy.errors import PolicyError, TableError
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.search import search

CLASSES = ["cat", "dog", "owl"]
COUNT = 900


def outputs(*skills: float) -> tuple[dict[str, Any], np.ndarray]:
    """Logits of `net0` and so on, and the class numbers."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, COUNT)
    rows = {f"net{k}": rng.normal(size=(COUNT, 3)) for k in range(len(skills))}
    for skill, logits in zip(skills, rows.values(), strict=True):
        logits[np.arange(COUNT), truth] += skill
    return rows, truth


def softmax(logits: Mapping[str, Any]) -> dict[str, Any]:
    powers = {name: np.exp(rows) for name, rows in logits.items()}
    return {name: rows / rows.sum(1, keepdims=True) for name, rows in powers.items()}


LOGITS, TRUTH = outputs(1.0, 3.0)
SHARES = softmax(LOGITS)
COSTS = {"net0": 1, "net1": 9}


class ArrowOnly:
    """A table of Arrow as pyarrow has them: columns by the PyCapsule interface alone."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


def test_logits_and_probabilities_make_one_table() -> None:
    by_logits = ScoreTable.from_logits(LOGITS, TRUTH, costs=COSTS)
    by_shares = ScoreTable.from_probabilities(SHARES, TRUTH, costs=COSTS)
    assert np.array_equal(by_logits.prediction, by_shares.prediction)
    assert set(by_logits.confidence) == {*by_shares.confidence, "energy"}
    for name, rows in by_shares.confidence.items():
        assert np.allclose(by_logits.scores(name), rows, atol=1e-5)
    energies = np.log(np.exp(LOGITS["net1"]).sum(1))
    assert np.allclose(by_logits.scores("energy")[1], energies, atol=1e-5)
    tops = by_logits.details["net0"].top_probabilities
    assert np.allclose(tops[:, 0], by_shares.scores("max_softmax")[0], atol=1e-5)


@pytest.mark.parametrize("wrap", [lambda frame: frame, ArrowOnly], ids=["Polars", "Arrow"])
def test_data_frames_bring_their_classes(wrap: Callable[[pl.DataFrame], Any]) -> None:
    """Columns in another order are put into that of the first frame."""
    frames = {name: pl.DataFrame(rows, schema=CLASSES) for name, rows in SHARES.items()}
    frames["net1"] = frames["net1"].select("owl", "cat", "dog")
    names = [None if k % 3 == 0 else CLASSES[code] for k, code in enumerate(TRUTH)]
    found = ScoreTable.from_probabilities(
        {name: wrap(frame) for name, frame in frames.items()}, names, costs=COSTS
    )
    known = ScoreTable.from_probabilities(SHARES, TRUTH, costs=COSTS)
    assert found.classes == tuple(CLASSES)
    assert np.array_equal(found.prediction, known.prediction)
    assert found.label is not None
    assert found.label.tolist() == [
        -1 if k % 3 == 0 else code for k, code in enumerate(TRUTH.tolist())
    ]
    other = ScoreTable.from_probabilities(frames, names, classes=["owl", "dog", "cat"], costs=COSTS)
    assert other.classes == ("owl", "dog", "cat")
    assert np.array_equal(other.prediction, 2 - known.prediction)


@pytest.mark.parametrize("kind", [list, np.array, pl.Series])
def test_labels_are_names_of_classes(kind: Callable[[list[str]], Any]) -> None:
    names = kind([CLASSES[code] for code in TRUTH])
    table = ScoreTable.from_probabilities(SHARES, names, classes=CLASSES, costs=COSTS)
    assert table.label is not None
    assert table.label.tolist() == TRUTH.tolist()


def test_names_of_predictions_are_numbered() -> None:
    found = ScoreTable.from_predictions(
        {"a": (["dog", "cat"], [0.5, 1]), "b": (["cat", "cat"], [1, 1])},
        [None, "eel"],
        costs={"a": 1},
    )
    assert found.classes == ("cat", "dog", "eel")
    assert found.prediction.tolist() == [[1, 0], [0, 0]]
    assert found.label is not None
    assert found.label.tolist() == [-1, 2]


def test_without_costs_calls_of_the_best_exit_are_counted() -> None:
    table = ScoreTable.from_probabilities(SHARES, TRUTH)
    assert dict(table.costs) == {"calls of net1": {"net0": 0.0, "net1": 1.0}}
    outcome = evaluate(table, Policy.pair("net0", "net1", 0.8))
    assert outcome.reference == "net1"
    assert outcome.saving["calls of net1"] == pytest.approx(outcome.shares["net0"])
    (choice,) = search(table, max_drop=5.0, without=["ensembles"]).choices
    assert choice.outcome.saving["calls of net1"] == pytest.approx(
        1 - choice.outcome.shares["net1"]
    )


def test_of_equally_good_exits_the_calls_of_the_last_are_counted() -> None:
    same = {"a": SHARES["net0"], "b": SHARES["net0"]}
    table = ScoreTable.from_probabilities(same, TRUTH)
    assert table.units == ("calls of b",)
    assert table.reference() == "b"


Make = Callable[[], Any]
TABLE = ScoreTable.from_probabilities(SHARES, TRUTH, costs=COSTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreTable.from_logits(SHARES, TRUTH), "'net0' are probabilities .*from_prob"),
        (lambda: ScoreTable.from_probabilities(LOGITS, TRUTH), "sum to 1, .*from_logits"),
        (lambda: ScoreTable.from_logits({"a": [[np.nan, 1.0]]}, [0]), "'a' has NaN"),
        (lambda: ScoreTable.from_probabilities({"a": ["x"]}, [0]), "numbers, found the type <U1"),
        (lambda: ScoreTable.from_probabilities([[0.5, 0.5]], [0]), "found a list"),  # type: ignore[arg-type]
        (lambda: ScoreTable.from_probabilities({}, [0]), "at least one exit"),
        (lambda: ScoreTable.from_probabilities({"a": [0.5]}, [0]), r"\(samples, classes\), found"),
        (
            lambda: ScoreTable.from_probabilities(SHARES, ["cat"] * COUNT),
            "found 'cat' without classes",
        ),
        (
            lambda: ScoreTable.from_probabilities(SHARES, ["rat"] * COUNT, classes=CLASSES),
            "900 are none: no class 'rat'; did you mean 'cat'",
        ),
        (
            lambda: ScoreTable.from_probabilities(SHARES, TRUTH, classes=["cat"]),
            "a name for each of 3 classes, found 1",
        ),
        (
            lambda: ScoreTable.from_probabilities(
                {"a": pl.DataFrame({"x": [1.0], "y": [0.0]})}, [0], classes=["x", "z"]
            ),
            "those of 'a' differ in 'y', 'z'",
        ),
        (lambda: ScoreTable.from_probabilities(SHARES, None), "labels do not tell which"),
        (
            lambda: ScoreTable.from_probabilities(SHARES, TRUTH, parts={"net1": ["net0", "net1"]}),
            "exits share parts: give costs=",
        ),
        (
            lambda: ScoreTable.from_probabilities(SHARES, TRUTH, costs={"net0": "1", "net1": 9}),
            "'net0' has the text '1'",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(make: Make, message: str) -> None:
    with pytest.raises(TableError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": "1"}, "a budget in points is a number, found the str '1'"),
        ({"max_drop": [1.0, "2"]}, "a number, found the str '2'"),
        ({"max_drop": True}, "found the bool True"),
        ({"max_drop": None}, "found the NoneType None"),
        ({"delta": "0.05"}, "delta is a number, found the str '0.05'"),
        ({"max_cost": "3"}, "a cost to stay within is a number"),
        ({"at_most_stages": "3"}, "the most exits that a sample visits is a number"),
        ({"without": "learned"}, r"are a list, found 'learned': write \['learned'\]"),
    ],
)
def test_texts_are_no_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        search(TABLE, **{"max_drop": 1.0, **options})


def test_budgets_may_be_arrays() -> None:
    drops = search(TABLE, max_drop=np.array([1.0, 2.0]), without=["learned"])  # type: ignore[arg-type]
    assert [choice.max_drop for choice in drops.choices] == [1.0, 2.0]


def test_a_threshold_is_a_number() -> None:
    with pytest.raises(PolicyError, match="the threshold of exit 'a' is a number"):
        PolicyStage("a", "0.5")  # type: ignore[arg-type]


def test_a_search_refuses_costs_that_are_all_zero() -> None:
    free = ScoreTable.from_probabilities(SHARES, TRUTH, costs={"net0": 0, "net1": 0})
    with pytest.raises(TableError, match="only zeros in MACs"):
        search(free, max_drop=1.0)


class ArrayOnly:
    """An array by `__array__` alone."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._values if dtype is None else self._values.astype(dtype)


COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "pandas": lambda values: pd.Series(values, index=range(5, 5 + len(values))),
    "pandas category": lambda values: pd.Series(values).astype("category"),
    "pandas nullable": lambda values: pd.Series(values).convert_dtypes(),
    "pandas frame": lambda values: pd.DataFrame({"column": values}),
    "Polars": pl.Series,
    "Polars frame": lambda values: pl.DataFrame({"column": values}),
    "Arrow array": pa.array,
    "Arrow chunks": lambda values: pa.chunked_array([values[:1], values[1:]]),
    "Arrow table": lambda values: pa.table({"column": values}),
    "Arrow capsule": lambda values: ArrowOnly(pl.DataFrame({"column": values})),
    "array": ArrayOnly,
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_any_library(kind: str) -> None:
    column = COLUMNS[kind]
    names = ["cat", "dog", "dog", "cat"]
    found = ScoreTable.from_predictions(
        {
            "a": (column(names), column([0.9, 0.6, 0.7, 0.8])),
            "b": (column(names[::-1]), {"max_softmax": column([0.5, 0.5, 0.5, 0.5])}),
        },
        column(names),
        ids=column(["p", "q", "r", "s"]),
        groups=column(["g", "g", "h", "h"]),
        costs={"a": 1, "b": 2},
    )
    assert found.classes == ("cat", "dog")
    assert found.prediction.tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]
    assert found.label is not None
    assert found.label.tolist() == [0, 1, 1, 0]
    assert found.ids.tolist() == ["p", "q", "r", "s"]
    assert np.allclose(found.scores("max_softmax")[0], [0.9, 0.6, 0.7, 0.8])
    shares = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]]
    other = ScoreTable.from_probabilities(
        {"a": shares, "b": shares}, column(names), classes=["cat", "dog"], costs={"a": 1, "b": 2}
    )
    assert other.label is not None
    assert other.label.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_column_for_each_confidence(frame: Callable[[Any], Any]) -> None:
    confidences = frame({"max_softmax": [0.9, 0.6], "margin": [0.8, 0.2]})
    exits = {"a": ([0, 1], confidences), "b": ([0, 0], confidences)}
    found = ScoreTable.from_predictions(exits, [0, 0], costs={"a": 1, "b": 2})
    assert np.allclose(found.scores("margin")[0], [0.8, 0.2])


def test_nullable_numbers_of_pandas_are_numbers() -> None:
    frame = pd.DataFrame({"cat": [0.9, 0.2], "dog": [0.1, 0.8]}).convert_dtypes()
    found = ScoreTable.from_probabilities({"a": frame}, ["cat", "dog"], costs={"a": 1})
    assert found.prediction.tolist() == [[0, 1]]


def test_labels_are_one_column() -> None:
    labels = pl.DataFrame({"label": [0, 1], "id": [7, 8]})
    with pytest.raises(TableError, match=r"labels are one column, found .* \(2, 2\)"):
        ScoreTable.from_probabilities({"a": [[1.0, 0.0]] * 2}, labels, costs={"a": 1})
