"""Reliability and ranking of confidences, counted again by hand and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from tables import pair_table, score_tables, synthetic
from understudy.errors import TableError
from understudy.searching.deferral_curves import deferral_curves
from understudy.searching.reliability import reliability, right_ranking


@settings(max_examples=50)
@given(st.data())
def test_bins_are_those_of_scikit_learn(data: st.DataObject) -> None:
    table = data.draw(score_tables(most=40))
    exit, bins = data.draw(st.sampled_from(table.names)), data.draw(st.integers(1, 20))
    assume(math.gcd(len(table) - 1, bins) == 1)  # else its edges round to either side of a sample
    reference = data.draw(st.sampled_from(table.names))
    found = reliability(table, exit, reference=reference, bins=bins)
    row = table.index(exit)
    right = table.right(reference, row)
    claimed = table.scores("max_softmax")[row].astype(np.float64)
    accuracy, means = calibration_curve(
        right, claimed, n_bins=bins, strategy="quantile", pos_label=True
    )
    assert found.accuracy == pytest.approx(accuracy)
    assert found.claimed == pytest.approx(means)
    assert found.samples.sum() == len(table)
    assert found.excess == pytest.approx(claimed.mean() - right.mean())
    assert 0 <= abs(found.excess) <= found.calibration_error + 1e-12 <= 1 + 1e-9


def test_bins_have_equally_many_samples_and_keep_ties_together() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(1500)
    right = rng.random(1500) < sure
    found = reliability(pair_table(right, right | True, sure), "tiny")
    assert found.samples.tolist() == [100] * 15
    assert found.calibration_error == pytest.approx(
        np.mean([abs(a - b) for a, b in zip(found.accuracy, found.claimed, strict=True)])
    )
    assert found.calibration_error < 0.05
    tied = reliability(pair_table(right, right | True, np.where(sure < 0.5, 0.5, sure)), "tiny")
    assert tied.samples[0] == (sure < 0.5).sum()
    assert len(tied.samples) < 15


@given(st.data())
def test_ranking_is_that_of_all_pairs_and_of_all_orders_of_equals(data: st.DataObject) -> None:
    table = data.draw(score_tables(most=12))
    exit = data.draw(st.sampled_from(table.names))
    found = right_ranking(table, exit, confidence="margin", reference=table.names[0])
    row = table.index(exit)
    right, values = table.right(table.names[0], row), table.scores("margin")[row]
    better = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, is_right in zip(values, right, strict=True)
        for b, other in zip(values, right, strict=True)
        if is_right and not other
    ]
    assert found.auroc == (pytest.approx(np.mean(better)) if better else None)
    if better:
        assert found.auroc == pytest.approx(roc_auc_score(right, values))
    risks = []
    for size in range(1, len(values) + 1):  # equals at the edge count by their share
        least = np.sort(values)[-size]
        above, equal = values > least, values == least
        taken = (size - above.sum()) / equal.sum()
        risks.append(((~right)[above].sum() + taken * (~right)[equal].sum()) / size)
    assert found.risk_area == pytest.approx(np.mean(risks))


def test_infinite_confidences_rank() -> None:
    table = pair_table([1, 0, 1, 0], [1] * 4, [np.inf, 3.0, 2.0, -np.inf])
    assert right_ranking(table, "tiny").auroc == 0.75


def test_what_is_no_probability_is_refused() -> None:
    table = pair_table([1, 0], [1, 1], [0.5, 1.5])
    with pytest.raises(TableError, match=r"max_softmax of 'tiny' lies between 0\.5 and 1\.5"):
        reliability(table, "tiny")
    with pytest.raises(TableError, match="at least one bin, found 0: try 15"):
        reliability(table, "tiny", bins=0)
    with pytest.raises(TableError, match="nonsense"):
        right_ranking(table, "tiny", confidence="nonsense")


@settings(max_examples=30)
@given(st.data())
def test_areas_are_means_over_all_shares(data: st.DataObject) -> None:
    table = data.draw(score_tables(most=12, least_exits=2))
    little, big = table.names[:2]
    curves = deferral_curves(table, little=little, big=big)
    shares = (np.arange(20_000) + 0.5) / 20_000
    for one in (curves.oracle, curves.random, *curves.by_confidence.values()):
        assert one.area == pytest.approx(
            np.interp(shares, one.deferred, one.accuracy).mean(), abs=1e-4
        )
    gains = curves.gains
    assert list(gains.values()) == sorted(gains.values(), reverse=True)
    assert all(gain <= curves.oracle_gain + 1e-9 for gain in gains.values())
    assume(curves.oracle_gain > 0)
    assert set(gains) == set(table.confidence)


def test_a_confidence_that_knows_nothing_gains_nothing() -> None:
    table = synthetic(2000)
    found = deferral_curves(table, little="net0", big="net2")
    assert found.gains["max_softmax"] > 1
    blind = pair_table([1, 0] * 50, [1] * 100, [0.5] * 100)
    assert deferral_curves(blind, little="tiny", big="big").gains == {"max_softmax": 0.0}
