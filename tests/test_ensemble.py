from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, softmax

from fakes import scored
from tables import synthetic
from understudy.confidence_functions import CONFIDENCES
from understudy.ensemble import (
    Ensemble,
    ensemble_of,
    ensemble_pairs,
    fit_temperature,
    logits_of,
    with_ensemble,
)
from understudy.errors import PolicyError, TableError
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.store import load_table, save_table

Logits = dict[str, npt.NDArray[np.float64]]


@st.composite
def logits(draw: st.DrawFn, *, exits: tuple[str, ...] = ("tiny", "big")) -> Logits:
    samples, classes = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    values = st.integers(-6, 6).map(lambda number: number / 2)
    shape = (samples, classes)
    return {name: draw(hnp.arrays(np.float64, shape, elements=values)) for name in exits}


@given(logits(exits=("a", "b", "c")), st.tuples(*[st.floats(0.1, 10)] * 3))
def test_the_ensemble_is_the_log_mean(rows: Logits, temperatures: tuple[float, ...]) -> None:
    table = with_ensemble(scored(rows), ["a", "c", "b"], temperatures)
    mean = np.mean(
        [log_softmax(rows[n] / t, axis=1) for n, t in zip("acb", temperatures, strict=True)], axis=0
    )
    probability = softmax(mean, axis=1)
    row = table.index("a+c+b")
    np.testing.assert_allclose(table.confidence["max_softmax"][row], probability.max(1), rtol=1e-5)
    predicted = probability[np.arange(len(mean)), table.prediction[row]]
    np.testing.assert_allclose(predicted, probability.max(1), rtol=1e-5)
    top = table.details["a+c+b"]
    np.testing.assert_array_equal(top.top_classes[:, 0], table.prediction[row])
    np.testing.assert_allclose(top.top_probabilities[:, 0], probability.max(1), rtol=1e-5)


@given(logits())
def test_an_ensemble_of_equals_predicts_the_same(rows: Logits) -> None:
    table = scored({"a": rows["tiny"], "b": rows["tiny"]})
    wider = with_ensemble(table, ["a", "b"], [1.0, 1.0])
    assert set(wider.confidence) == set(CONFIDENCES)
    np.testing.assert_array_equal(wider.prediction[2], table.prediction[0])
    for name, values in wider.confidence.items():
        np.testing.assert_allclose(values[2], values[0], rtol=2e-5, atol=2e-6, err_msg=name)


def test_rows_parts_and_recipe() -> None:
    rng = np.random.default_rng(0)
    table = scored({"tiny": rng.normal(size=(9, 3)), "big": rng.normal(size=(9, 3))})
    wider = with_ensemble(table, ["tiny", "big"], [2.0, 0.5], name="both")
    assert wider.names == ("tiny", "big", "both")
    assert wider.exits[2].parts == ("tiny", "big")
    recipe = {"average": ["tiny", "big"], "temperatures": [2.0, 0.5]}
    assert dict(wider.exits[2].origin) == {"recipe": recipe}
    assert ensemble_of(wider.exits[2].origin) == Ensemble.from_dict(recipe)
    assert ensemble_of(wider.exits[0].origin) is None
    assert wider.cost_of(["tiny", "both"], "MACs") == 11.0
    outcome = evaluate(wider, Policy.pair("tiny", "both", 0.7), reference="big")
    assert outcome.cost["MACs"] == pytest.approx(1 + 10 * outcome.shares["both"])
    np.testing.assert_array_equal(wider.prediction[:2], table.prediction)
    assert wider.rows(np.array([3, 1])).details["both"].top_classes.shape == (2, 3)
    assert len(wider.details) == 3


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    table = scored({"tiny": rng.normal(size=(50, 4)), "big": rng.normal(size=(50, 4))})
    whole = with_ensemble(table, ["tiny", "big"], [1.5, 0.7])
    monkeypatch.setattr("understudy.ensemble._ROWS", 7)
    cut = with_ensemble(table, ["tiny", "big"], [1.5, 0.7])
    assert cut.hash == whole.hash


def test_confidences_that_are_no_function_of_logits() -> None:
    table = scored({"tiny": np.eye(3), "big": np.eye(3)})
    own = {"max_softmax": table.scores("max_softmax"), "mine": np.full((2, 3), 0.25)}
    wider = with_ensemble(replace(table, confidence=own), ["tiny", "big"], [1.0, 1.0])
    np.testing.assert_array_equal(wider.scores("mine")[2], wider.scores("max_softmax")[2])


def test_an_ensemble_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    table = scored({"tiny": rng.normal(size=(20, 3)), "big": rng.normal(size=(20, 3))}, [0] * 20)
    table = ScoreTable.from_probabilities(
        {n: softmax(logits_of(table, n).astype(float), axis=1) for n in table.names},
        table.label,
        costs={"tiny": 1, "big": 10},
    )
    save_table(table, tmp_path / "t")
    wider = with_ensemble(load_table(tmp_path / "t"), ["tiny", "big"], [1.0, 2.0])
    save_table(wider, tmp_path / "w")
    again = load_table(tmp_path / "w")
    assert again.hash == wider.hash
    assert ensemble_of(again.exits[2].origin) == Ensemble(("tiny", "big"), (1.0, 2.0))


@given(hnp.arrays(np.float64, (30, 3), elements=st.floats(-5, 5)), st.integers(0, 2**31))
def test_the_temperature_is_the_best(rows: npt.NDArray[np.float64], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, 30)

    def loss(log_t: float) -> float:
        return float(-log_softmax(rows / np.exp(log_t), axis=1)[np.arange(30), labels].mean())

    found = float(np.log(fit_temperature(rows, labels)))
    grid = np.linspace(-3, 3, 61)
    assert loss(found) <= min(map(loss, grid)) + 1e-4


def test_the_temperature_of_logits_that_were_scaled() -> None:
    rng = np.random.default_rng(3)
    rows = 2 * rng.normal(size=(20_000, 5))
    labels = (rows + rng.gumbel(size=rows.shape)).argmax(1)
    assert fit_temperature(rows, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * rows, labels) == pytest.approx(3, abs=0.15)


def test_ensemble_pairs_are_fitted_on_tune_alone() -> None:
    rng = np.random.default_rng(4)
    label = rng.integers(0, 3, 400)
    rows = {
        n: rng.normal(size=(400, 3)) + s * np.eye(3)[label]
        for n, s in zip("abc", (1, 2, 3), strict=True)
    }
    table = scored(rows, label)
    wider = ensemble_pairs(table, "c")
    assert wider.names == ("a", "b", "c", "a+c", "b+c")
    part = table.on("tune")
    found = ensemble_of(wider.exits[3].origin)
    assert found is not None
    assert part.label is not None
    assert found.temperatures == (
        fit_temperature(logits_of(part, "a"), part.label),
        fit_temperature(logits_of(part, "c"), part.label),
    )
    assert ensemble_pairs(table, "c", littles=["b"]).names == ("a", "b", "c", "b+c")
    assert ensemble_pairs(table, "a").names == table.names


def test_what_is_no_ensemble() -> None:
    table = scored({"tiny": np.eye(3), "big": np.eye(3)})
    with pytest.raises(PolicyError, match="two exits or more, found \\['tiny'\\]"):
        with_ensemble(table, ["tiny"], [1.0])
    with pytest.raises(PolicyError, match="one temperature above 0 for each"):
        with_ensemble(table, ["tiny", "big"], [1.0, 0.0])
    with pytest.raises(TableError, match="did you mean 'tiny'"):
        with_ensemble(table, ["tinny", "big"], [1.0, 1.0])
    wider = with_ensemble(table, ["tiny", "big"], [1.0, 1.0])
    with pytest.raises(TableError, match="'tiny\\+big' is an ensemble itself"):
        with_ensemble(wider, ["tiny", "tiny+big"], [1.0, 1.0])
    with pytest.raises(TableError, match="unique"):
        with_ensemble(wider, ["tiny", "big"], [1.0, 1.0])
    with pytest.raises(TableError, match="none of 'net0': score again with --keep-logits"):
        with_ensemble(synthetic(10), ["net0", "net1"], [1.0, 1.0])
    with pytest.raises(TableError, match="fitted to labels"):
        ensemble_pairs(table, "big")
    with pytest.raises(PolicyError, match="an ensemble has the field 'temperatures'"):
        Ensemble.from_dict({"average": ["a", "b"]})
