from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression

from fakes import scored
from tables import score_tables, synthetic
from understudy.confidence_functions import LEARNED
from understudy.deferral import (
    CLIP,
    DeferralScore,
    cross_fitted,
    fit_deferral,
    folds_of,
    scores_of,
    with_deferral,
    with_scores,
)
from understudy.errors import PolicyError, TableError
from understudy.scores import Detail, ScoreTable
from understudy.searching.pairs import pair_curve

FLOATS = st.floats(-10, 10)


def specialist(count: int = 1500, *, seed: int = 0) -> ScoreTable:
    """The little model is as confident of class 0, where it is mostly wrong, as of the others."""
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, 4, count)
    sure = rng.uniform(0.4, 1, count).astype(np.float32)
    right = rng.random(count) < np.where(predicted == 0, 0.3, 0.97)
    label = np.where(right, predicted, (predicted + 1) % 4)
    return ScoreTable.from_predictions(
        {
            "tiny": (predicted, {"max_softmax": sure, "margin": 2 * sure - 1}),
            "big": (label, {"max_softmax": np.ones(count), "margin": np.ones(count)}),
        },
        label,
        costs={"tiny": 1, "big": 9},
    )


def test_it_learns_which_class_to_defer() -> None:
    table = with_deferral(specialist(), "big")
    score = scores_of(table.provenance)["tiny"]
    assert score.first[0] < min(score.first[1:]) - 1
    for split in table.splits:
        part = table.on(split)
        shares = {}
        for confidence in ("max_softmax", LEARNED):
            curve = pair_curve(part, "tiny", "big", confidence=confidence)
            shares[confidence] = curve.accepted[curve.cheapest_within(1.0)] / len(part)
        assert shares[LEARNED] > shares["max_softmax"] + 0.1


def test_tune_is_cross_fitted_and_the_rest_is_not() -> None:
    table = specialist()
    wider = with_deferral(table, "big")
    tune = table.on("tune")
    score = fit_deferral(tune, "tiny", "big")
    rows = wider.scores(LEARNED)
    np.testing.assert_array_equal(
        wider.on("certify").scores(LEARNED)[0], score.apply(table.on("certify"))
    )
    np.testing.assert_array_equal(
        wider.on("tune").scores(LEARNED)[0], cross_fitted(tune, "tiny", "big", folds_of(tune))[1]
    )
    assert (wider.on("tune").scores(LEARNED)[0] != score.apply(tune)).all()
    np.testing.assert_array_equal(rows[1], table.scores("max_softmax")[1])
    assert rows.dtype == np.float32
    assert wider.provenance[LEARNED] == {"tiny": score.to_dict()}
    again = with_scores(
        table,
        scores_of(json.loads(json.dumps(wider.provenance[LEARNED] and dict(wider.provenance)))),
    )
    assert again.on("certify").hash == wider.on("certify").hash


def test_a_sample_is_not_scored_by_a_fit_to_itself() -> None:
    """On labels that are noise, cross-fitted scores are uninformative, unlike a whole fit's."""
    rng = np.random.default_rng(1)
    predicted = rng.integers(0, 40, 800)
    sure = np.full(800, 0.5)
    wrong = rng.random(800) < 0.5
    table = ScoreTable.from_predictions(
        {"tiny": (predicted, sure), "big": (predicted + wrong, np.ones(800))},
        predicted + wrong,
        costs={"tiny": 1, "big": 9},
        split={"tune": 1.0, "certify": 0.0, "test": 0.0},
    )

    def ranked(scores: npt.NDArray[np.float32]) -> float:
        return float(np.corrcoef(scores, ~wrong)[0, 1])

    assert ranked(fit_deferral(table, "tiny", "big").apply(table)) > 0.15
    assert ranked(cross_fitted(table, "tiny", "big", folds_of(table))[1]) < 0.1


@given(score_tables(least_exits=2))
def test_few_samples_order_like_max_softmax(table: ScoreTable) -> None:
    table = replace(table, split=np.zeros(len(table)))
    wider = with_deferral(table, "e0", littles=["e1"])
    learned, sure = wider.scores(LEARNED), table.scores("max_softmax")
    inside = np.clip(sure[1].astype(float), CLIP, 1 - CLIP)
    np.testing.assert_allclose(learned[1], np.log(inside / (1 - inside)), rtol=1e-6)
    np.testing.assert_array_equal(learned[0], sure[0].astype(np.float32))
    assert set(wider.provenance[LEARNED]) == {"e1"}


def test_the_second_class_counts_where_it_is_known() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(600, 4))
    logits[:, 0] += 1
    second = np.argsort(-logits, axis=1)[:, 1]
    label = np.where((second == 2) & (rng.random(600) < 0.8), second, logits.argmax(1))
    table = scored({"tiny": logits, "big": 9 * np.eye(4)[label]}, label)
    assert fit_deferral(table, "tiny", "big").second == ()
    tops = {
        n: Detail(np.argsort(-np.asarray(table.details[n].logits, float), axis=1), np.empty(0))
        for n in table.names
    }
    known = replace(table, details=tops)
    score = fit_deferral(known, "tiny", "big")
    assert score.second[2] < min(score.second[:2]) - 1
    with pytest.raises(TableError, match="needs the two top classes"):
        score.apply(table)


@given(
    st.builds(
        DeferralScore,
        exit=st.text(min_size=1),
        reference=st.text(),
        bias=FLOATS,
        log_odds=FLOATS,
        margin=FLOATS,
        first=st.lists(FLOATS, max_size=4).map(tuple),
        second=st.lists(FLOATS, max_size=4).map(tuple),
    ),
    hnp.arrays(np.float32, 9, elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.int32, 9, elements=st.integers(0, 6)),
)
def test_round_trip_and_formula(
    score: DeferralScore, top: npt.NDArray[np.float32], classes: npt.NDArray[np.int32]
) -> None:
    again = DeferralScore.from_dict(json.loads(json.dumps(score.to_dict())))
    assert again == score
    second = classes[::-1]
    for row, value in enumerate(again.of(top, top / 2, classes, second)):
        p = min(max(float(top[row]), CLIP), 1 - CLIP)
        expected = score.bias + score.log_odds * np.log(p / (1 - p)) + score.margin * top[row] / 2
        for weights, one in ((score.first, classes[row]), (score.second, second[row])):
            expected += weights[one] if one < len(weights) else 0
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_many_classes_of_few_samples() -> None:
    rng = np.random.default_rng(3)
    table = synthetic(400)
    many = replace(table, prediction=rng.integers(0, 1000, table.prediction.shape))
    score = fit_deferral(many, "net0", "net2")
    assert not any(score.first)
    assert score.apply(many).shape == (400,)


def test_what_cannot_be_learned_from() -> None:
    table = synthetic(50)
    percent = replace(table, confidence={"max_softmax": 100 * table.scores("max_softmax")})
    with pytest.raises(TableError, match="max_softmax of 'net0' lies between"):
        fit_deferral(percent, "net0", "net2")
    with pytest.raises(TableError, match="no exit 'net9'"):
        fit_deferral(table, "net9", "net2")
    with pytest.raises(TableError, match="no confidence 'margin'"):
        DeferralScore("net0", "net2", 0.0, 1.0, 0.5).apply(table)
    with pytest.raises(PolicyError, match="a learned score has the field 'reference'"):
        DeferralScore.from_dict({"exit": "tiny"})


def by_scikit_learn(table: ScoreTable, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The score of every sample (N,) by scikit-learn's fit to some of them: targets of 1/2 are half
    a sample of either kind, inputs are scaled by their spread, classes by 0.6."""
    top = np.clip(table.scores("max_softmax")[0].astype(float), CLIP, 1 - CLIP)
    numbers = [np.log(top / (1 - top)), table.scores("margin")[0].astype(float)]
    columns = [values / max(values[rows].std(), 0.05) for values in numbers]
    detail = table.details["tiny"]
    for classes in (table.prediction[0], detail.top_classes[:, 1]):
        frequent = [c for c in np.unique(classes[rows]) if (classes[rows] == c).sum() >= 10]
        columns += [(classes == kind) / 0.6 for kind in frequent]
    inputs = np.column_stack(columns)
    assert table.label is not None
    little, big = table.prediction[:, rows] == table.label[rows]
    targets = np.where(little, 1.0, np.where(big, 0.0, 0.5))
    fit = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000)
    twice = np.concatenate([inputs[rows], inputs[rows]])
    marks = np.repeat([1, 0], len(rows))
    fit.fit(twice, marks, sample_weight=np.concatenate([targets, 1 - targets]))
    return np.asarray(fit.decision_function(inputs), np.float64)


@pytest.mark.parametrize("seed", range(2))
def test_the_fit_is_that_of_scikit_learn(seed: int) -> None:
    """Also where it starts from the weights of another fit, as those to folds do."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, 900)
    logits = {
        name: np.round(rng.normal(size=(900, 5)) + skill * np.eye(5)[label], 1)
        for name, skill in (("tiny", 1.0), ("big", 2.0))
    }
    logits["tiny"][:, 0] += 0.7
    table = scored(logits, label)
    order = np.argsort(-logits["tiny"], axis=1, kind="stable")
    values = np.take_along_axis(logits["tiny"], order, axis=1)
    details = {"tiny": Detail(order, values), "big": Detail(order, values)}
    table = replace(table, details=details)
    whole, crossed = cross_fitted(table, "tiny", "big", folds_of(table))
    every = np.arange(900)
    np.testing.assert_allclose(whole.apply(table), by_scikit_learn(table, every), atol=1e-3)
    assert whole == fit_deferral(table, "tiny", "big")
    for fold in (0, 3):
        inside = np.flatnonzero(folds_of(table) == fold)
        others = np.setdiff1d(every, inside)
        expected = by_scikit_learn(table, others)[inside]
        np.testing.assert_allclose(crossed[inside], expected, atol=1e-3)
        cold = fit_deferral(table.rows(others), "tiny", "big").apply(table.rows(inside))
        np.testing.assert_allclose(crossed[inside], cold, atol=1e-3)
