"""The best saver of every large model, against every pair tried by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables import score_tables, synthetic
from understudy.app.cli.savers import savers_view
from understudy.display import plain
from understudy.errors import PolicyError, TableError
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import Exit, ScoreTable
from understudy.searching.best_savers import best_savers
from understudy.searching.pairs import pair_curves


@given(score_tables(least_exits=2), st.sampled_from([0.0, 20.0, 100.0]))
@settings(max_examples=80)
def test_no_pair_is_cheaper_within_the_budget(table: ScoreTable, drop: float) -> None:
    table = replace(table, split=np.arange(len(table)) % 2 * 2)
    costs = table.exit_costs("MACs")
    if len(table) < 2 or (costs == costs.min()).all():
        return
    found = best_savers(table, drop)
    assert [row.big for row in found] == [
        table.names[row] for row in np.argsort(-costs, kind="stable") if costs[row] > costs.min()
    ]
    tune = table.on("tune")
    for row in found:
        curves = pair_curves(tune, row.big, unit="MACs")
        least = min(curve.cost[curve.cheapest_within(drop)] for curve in curves)
        assert row.on["tune"].cost["MACs"] == pytest.approx(least)
        assert row.on["tune"].drop <= drop + 1e-9
        assert row.on["test"] == evaluate(table.on("test"), row.policy, reference=row.big)


def test_both_searches_agree() -> None:
    """Pairs all at once, and one by one: a part that costs nothing makes the exits share."""
    table = synthetic(1000, exits=4)
    shared = replace(
        table,
        exits=tuple(Exit(name, ("camera", name)) for name in table.names),
        costs={"MACs": {**table.costs["MACs"], "camera": 0.0}},
    )
    drops = [0.0, 0.5, 2.0]
    first, second = best_savers(table, drops), best_savers(shared, drops)
    assert first.rows == second.rows
    assert {row.max_drop for row in first} == set(drops)


def test_where_nothing_fits_the_model_is_alone() -> None:
    table = synthetic(600)
    for row in best_savers(table, -50.0):
        assert row.policy == Policy.single(row.big)
        assert (row.little, row.threshold, row.share("test")) == (None, float("inf"), 0.0)
        assert row.on["test"].saving["MACs"] == 0.0
    for row in best_savers(table, 100.0):
        assert row.little == "net0"
        assert (row.threshold, row.share("test")) == (float("-inf"), 1.0)


def test_without_labels_each_model_provides_the_truth() -> None:
    table = replace(synthetic(800), label=None)
    rows = {row.big: row for row in best_savers(table, 2.0)}
    assert rows["net2"].on["tune"].reference_accuracy == 1.0
    assert rows["net1"].on["tune"].drop <= 2.0


def test_it_goes_into_json_and_onto_a_page() -> None:
    found = best_savers(synthetic(600), [-50.0, 1.0])
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["certified"] is False
    assert len(data["savers"]) == len(found) == 4
    first = data["savers"][0]
    keys = {"big", "little", "threshold", "policy", "saving", "drop", "share", "max_drop"}
    assert keys <= set(first)
    assert first["threshold"] == "inf"
    assert set(first["drop"]) == {"tune", "test"}
    page = plain(savers_view(found))
    assert "nothing is certified" in page
    assert "none" in page


def test_wrong_arguments_are_one_sentence() -> None:
    table = synthetic(300)
    with pytest.raises(PolicyError, match="at least one budget"):
        best_savers(table, [])
    with pytest.raises(PolicyError, match="between -100 and 100"):
        best_savers(table, 101.0)
    with pytest.raises(TableError, match="all exits cost alike"):
        best_savers(replace(table, costs={"MACs": dict.fromkeys(table.names, 1.0)}), 1.0)
    with pytest.raises(TableError, match="no confidence"):
        best_savers(table, 1.0, confidence="margin")
