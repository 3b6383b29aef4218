"""Scoring functions and estimators: labels, classes, costs, times, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.naive_bayes import GaussianNB

from understudy import Policy, ScoreTable, build, score
from understudy.callables import CallableStage
from understudy.confidence_functions import confidence_functions
from understudy.errors import DataError, ModelError, TableError
from understudy.runtime.protocol import StageFailed

ROWS, LABELS = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
TINY = GaussianNB().fit(ROWS, LABELS)
BIG = LogisticRegression(C=9.0, max_iter=300).fit(ROWS, LABELS)
COSTS = {"tiny": 1, "big": 9}


def test_the_table_has_what_the_estimators_say() -> None:
    table = score({"tiny": TINY, "big": BIG.predict_proba}, ROWS, LABELS, costs=COSTS)
    assert table.prediction.tolist() == [TINY.predict(ROWS).tolist(), BIG.predict(ROWS).tolist()]
    assert np.allclose(table.scores("max_softmax")[1], BIG.predict_proba(ROWS).max(1))
    assert table.label is not None
    assert table.label.tolist() == LABELS.tolist()
    assert table.classes is None, "classes that are numbers from 0 have no names"
    assert set(table.confidence) == set(confidence_functions) - {"energy"}
    assert table.exits[0].origin["callable"] == "GaussianNB.predict_proba"
    shares = {"tiny": TINY.predict_proba(ROWS), "big": BIG.predict_proba(ROWS)}
    known = ScoreTable.from_probabilities(shares, LABELS, costs=COSTS)
    for name, values in known.confidence.items():
        assert np.allclose(table.scores(name), values, atol=1e-4), name


def test_energy_where_all_give_logits() -> None:
    models = {"tiny": Perceptron().fit(ROWS, LABELS), "big": BIG.decision_function}
    table = score(models, ROWS, LABELS, costs=COSTS)
    assert "energy" in table.confidence


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (NAMES, NAMES[LABELS]),
        (np.array([1, 2, 3]), LABELS + 1),
        (np.array([-1, 1, 7]), np.array([-1, 1, 7])[LABELS]),
    ],
    ids=["names", "from 1", "any numbers"],
)
def test_labels_are_those_of_the_estimators(values: Any, labels: Any) -> None:
    """Labels from 1 are not taken for the columns from 0."""
    tiny, big = GaussianNB().fit(ROWS, labels), LogisticRegression(max_iter=300).fit(ROWS, labels)
    table = score({"tiny": tiny, "big": big}, ROWS, labels, costs=COSTS)
    assert table.classes == tuple(map(str, values))
    assert table.label is not None
    assert table.label.tolist() == LABELS.tolist()
    accuracy = [tiny.score(ROWS, labels), big.score(ROWS, labels)]
    assert np.allclose((table.prediction == table.label).mean(1), accuracy)


def test_given_names_stand_for_numbers_and_order() -> None:
    table = score({"tiny": TINY, "big": BIG}, ROWS, NAMES[LABELS], classes=NAMES, costs=COSTS)
    assert table.classes == tuple(NAMES)
    named = LogisticRegression(max_iter=300).fit(ROWS, NAMES[LABELS])
    other = score({"named": named}, ROWS, NAMES[LABELS], classes=NAMES[::-1], costs={"named": 1})
    assert other.classes == tuple(NAMES[::-1])
    assert other.prediction[0].tolist() == (2 - named.predict_proba(ROWS).argmax(1)).tolist()


def test_missing_labels() -> None:
    some = [None if row % 2 else int(label) for row, label in enumerate(LABELS)]
    table = score({"tiny": TINY, "big": BIG}, ROWS, some, costs=COSTS)
    assert table.label is not None
    assert (table.label == -1).sum() == 75
    assert score({"tiny": TINY, "big": BIG}, ROWS, costs=COSTS).label is None


def test_batches_of_a_loader() -> None:
    whole = score({"tiny": TINY, "big": BIG}, ROWS, LABELS, costs=COSTS)
    halves = [(ROWS[:70], LABELS[:70]), (ROWS[70:], LABELS[70:])]
    for loader in (halves, iter(halves), [list(one) for one in halves], map(tuple, halves)):
        table = score({"tiny": TINY, "big": BIG}, loader, costs=COSTS)
        assert np.array_equal(table.prediction, whole.prediction)
        assert table.label is not None
        assert table.label.tolist() == LABELS.tolist()


def test_a_stage_has_its_cost() -> None:
    def stages(tiny: Any, big: Any) -> dict[str, CallableStage]:
        return {"tiny": CallableStage(TINY, cost=tiny), "big": CallableStage(BIG, cost=big)}

    table = score(stages(1, 40), ROWS, LABELS)
    assert table.costs == {"cost": {"tiny": 1.0, "big": 40.0}}
    both = {"USD": 0.01, "ms": 300}, {"USD": 0.5, "ms": 20}
    assert score(stages(*both), ROWS, LABELS).units == ("USD", "ms")
    assert score(stages(1, 40), ROWS, LABELS, costs=COSTS).units == ("MACs",)
    with pytest.raises(ModelError, match=r"in the same units, found .*'USD'.*'big'"):
        score(stages({"USD": 1}, None), ROWS, LABELS)
    assert score({"tiny": TINY, "big": BIG}, ROWS, LABELS).units[0].startswith("calls of")


def test_times_are_measured() -> None:
    models = {
        "tiny": TINY,
        "big": lambda rows: np.mean([TINY.predict_proba(rows) for _ in range(9)], 0),
    }
    table = score(models, pl.DataFrame(ROWS).to_numpy(), LABELS, measure=(1, 200))
    assert table.units == ("ms@1", "ms@200")
    assert table.sittings[0].rounds >= 3
    assert table.times["ms@200"]["tiny"] < table.times["ms@200"]["big"]


def refused(match: str, error: type[Exception], *data: Any, **options: Any) -> None:
    models = options.pop("models", {"tiny": TINY, "big": BIG})
    with pytest.raises(error, match=match) as caught:
        score(models, *data, **options)
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_in_a_sentence() -> None:
    refused("at least one model", ModelError, ROWS, LABELS, models={})
    refused("found a list", ModelError, ROWS, LABELS, models=[TINY])
    refused(r"\(150,\), found \(149,\)", DataError, ROWS, LABELS[:-1])
    refused(
        "labels are classes of the models, 50 are none: no class '3'", DataError, ROWS, LABELS + 1
    )
    refused("no class 'setosa'", DataError, ROWS, NAMES[LABELS])
    refused("at least one sample", DataError, ROWS[:0], [])
    refused("at least one sample", DataError, [])
    refused("found batch_size=0", DataError, ROWS, LABELS, batch_size=0)
    refused("batches of 1 sample and more", DataError, ROWS, LABELS, measure=0)
    refused("found one int", DataError, 7)
    refused("ids", TableError, ROWS, LABELS, ids=["a"] * 150)
    refused("some|either", DataError, [(ROWS[:9], LABELS[:9]), (ROWS[9:], None)])
    two = LogisticRegression().fit(ROWS[:100], LABELS[:100])
    refused(
        "'tiny' has 3 and 'two' has 2", ModelError, ROWS, LABELS, models={"tiny": TINY, "two": two}
    )
    named = GaussianNB().fit(ROWS, NAMES[LABELS])
    odd = GaussianNB().fit(ROWS, np.char.upper(NAMES)[LABELS])
    refused(
        "the same classes, those of 'odd'", ModelError, ROWS, models={"named": named, "odd": odd}
    )


def test_answers_that_are_missing_or_mistaken_are_refused() -> None:
    def gaps(rows: Any) -> Any:
        return [None if row == 3 else share for row, share in enumerate(TINY.predict_proba(rows))]

    refused(r"'gaps' gives none for 1 of 150 samples of a batch \(rows 3\)", ModelError, ROWS,
            models={"gaps": gaps})  # fmt: skip
    shares = CallableStage(TINY.predict_proba, outputs="logits")
    refused("say outputs='probabilities'", ModelError, ROWS, models={"net": shares})
    refused("outputs='logits'", ModelError, ROWS, models={"net": lambda rows: rows})

    def mock_api(rows: Any) -> Any:
        raise TimeoutError("30 s")

    refused("'api' raised on a batch of 150 samples: TimeoutError: 30 s", StageFailed, ROWS,
            models={"api": mock_api})  # fmt: skip
    with pytest.raises(ModelError, match="outputs are 'probabilities', 'logits', 'classes'"):
        CallableStage(TINY, outputs="softmax")  # type: ignore[arg-type]


def test_answers_that_depend_on_chance_or_on_the_batch_are_named() -> None:
    rng = np.random.default_rng(0)

    def chance(rows: Any) -> Any:
        return rng.dirichlet(np.ones(3), len(rows))

    def relative(rows: Any) -> Any:
        return TINY.predict_proba(rows - rows.mean(0))

    for name, model in {"chance": chance, "relative": relative}.items():
        with pytest.warns(UserWarning, match=f"the probabilities of '{name}' for the same samples"):
            score({name: model}, ROWS, LABELS, costs={name: 1})


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "PIL", "safetensors"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked())
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from understudy import Executor, Policy, build, score

rows, labels = load_digits(return_X_y=True)
models = {
    "tiny": GaussianNB().fit(rows[:500], labels[:500]),
    "big": LogisticRegression(C=0.01).fit(rows[:500], labels[:500]).predict_proba,
}
table = score(models, rows[500:], labels[500:], costs={"tiny": 1, "big": 9}, measure=32)
cascade = build(Policy.pair("tiny", "big", 0.99), models)
with Executor(cascade) as executor:
    found = next(executor.map([rows[500:600]]))
assert found.prediction.tolist() == cascade.predict(rows[500:600]).tolist()
assert not {"torch", "torchvision", "PIL"} & set(sys.modules)
"""


def test_everything_runs_without_pytorch() -> None:
    """That a search needs none is tested with the contracts."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


class CapsuleOnly:
    """A table by the capsule of Arrow alone."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", [pl.DataFrame.to_arrow, CapsuleOnly], ids=["Arrow", "capsule"])
def test_tables_of_arrow(kind: Callable[[pl.DataFrame], Any]) -> None:
    frame = pl.DataFrame(ROWS, schema=["a", "b", "c", "d"])
    models = {"tiny": lambda rows: TINY.predict_proba(np.asarray(rows)), "big": big_of_frames}
    samples = kind(frame)
    table = score(models, samples, pl.DataFrame({"species": LABELS}), costs=COSTS, batch_size=60)
    assert table.prediction.tolist() == [TINY.predict(ROWS).tolist(), BIG.predict(ROWS).tolist()]
    cascade: Any = build(Policy.pair("tiny", "big", 0.9), models)
    known: Any = build(Policy.pair("tiny", "big", 0.9), {"tiny": TINY, "big": BIG})
    assert (cascade.predict(samples) == known.predict(ROWS)).all()


def big_of_frames(rows: Any) -> Any:
    """Takes a part of a table, whose columns have their names."""
    assert list(getattr(rows, "column_names", None) or rows.columns) == ["a", "b", "c", "d"]
    return BIG.predict_proba(np.asarray(rows))
