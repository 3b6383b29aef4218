"""TinySaver's ranking of savers and its threshold sweep, against slow restatements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables import score_tables
from understudy.errors import PolicyError, TableError
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.published_rules import GRID
from understudy.searching.saver_ranking import best_of, rank_savers, swept_pair


@given(score_tables(most=12, least_exits=2))
@settings(max_examples=60)
def test_delta_c_is_that_of_the_loop(table: ScoreTable) -> None:
    big = table.names[int(np.argmax(table.exit_costs("MACs")))]
    full, answers = table.cost_of([big], "MACs"), table.right(big)
    if not (table.exit_costs("MACs") < full).any():
        with pytest.raises(TableError, match="found none"):
            rank_savers(table, big)
        return
    ranked = rank_savers(table, big)
    assert [one.delta_c for one in ranked] == sorted(one.delta_c for one in ranked)
    for one in ranked:
        row, sure = table.index(one.saver), table.scores("max_softmax")[table.index(one.saver)]
        right, other = answers[row], answers[table.index(big)]
        for t in np.arange(1, 0, -0.001):
            leaves = sure.astype(float) > t
            if right[leaves].sum() < other[leaves].sum():
                break
        assert one.threshold == pytest.approx(float(t))
        assert one.share == pytest.approx(float(leaves.mean()))
        assert one.relative_cost == table.cost_of([one.saver], "MACs") / full
    best = best_of(ranked)
    assert (best is None) == (ranked[0].delta_c >= 0)


@given(score_tables(most=10, least_exits=2), st.sampled_from([-10.0, 0.0, 10.0, 40.0]))
@settings(max_examples=30)
def test_a_sweep_takes_the_cheapest_threshold_of_the_grid(table: ScoreTable, drop: float) -> None:
    big = table.names[int(np.argmax(table.exit_costs("MACs")))]
    little = table.names[0]
    if little == big:
        return
    found = evaluate(table, swept_pair(table, little, big, drop), reference=big)
    pairs = [
        evaluate(table, Policy.pair(little, big, float(np.nextafter(t, 2))), reference=big)
        for t in GRID[::25]
    ]
    within = [one.cost["MACs"] for one in pairs if one.drop <= drop + 1e-9]
    full = table.cost_of([big], "MACs")
    assert found.cost["MACs"] <= min([*within, full]) + 1e-9
    assert found.drop <= drop + 1e-9 or found.cost["MACs"] == full


def test_confidences_beyond_the_grid_are_refused() -> None:
    table = ScoreTable.from_predictions(
        {"tiny": ([0, 1], [3.0, 2.0]), "big": ([0, 1], [9.0, 9.0])},
        [0, 1],
        costs={"tiny": 1, "big": 9},
    )
    for choose in (rank_savers, lambda one, big: swept_pair(one, "tiny", big, 0.0)):
        with pytest.raises(PolicyError, match="from 0 to 1"):
            choose(table, "big")
