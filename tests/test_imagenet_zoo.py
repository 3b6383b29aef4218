"""What the papers claim, on the predictions of 21 ImageNet networks: relations that must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import imagenet_zoo as zoo
from understudy.scores import ScoreTable
from understudy.searching.best_savers import best_savers
from understudy.searching.pairs import pair_curve
from understudy.searching.search import search, search_in_sample

POOL = ["squeezenet1_1", "resnet18", "densenet169", "resnet152"]


@pytest.fixture(scope="module")
def table(shared: Path) -> ScoreTable:
    assert shared.is_dir()
    return zoo.zoo().only(POOL)


@pytest.fixture(scope="module")
def real(shared: Path) -> ScoreTable:
    assert shared.is_dir()
    return zoo.zoo(zoo.REAL).only(POOL)


def test_accuracies_by_both_kinds_of_labels(table: ScoreTable, real: ScoreTable) -> None:
    big = table.index("resnet152")
    assert 100 * table.right("resnet152", big).mean() == pytest.approx(77.606, abs=1e-3)
    assert (len(table), len(real)) == (50_000, 50_000 - 3_163)
    assert 100 * real.right("resnet152", big).mean() == pytest.approx(84.05, abs=0.5)
    assert set(real.on("test").ids) < set(table.on("test").ids)


def test_the_best_saver_in_sample_is_exact(table: ScoreTable) -> None:
    found = search_in_sample(table, reference="resnet152", max_drop=0.5, without=["chains"])
    choice = found.choices[0]
    curve = pair_curve(table, "densenet169", "resnet152")
    assert choice.policy.exits == ("densenet169", "resnet152")
    assert choice.outcome.cost["MACs"] == pytest.approx(curve.cost[curve.cheapest_within(0.5)])
    assert choice.outcome.saving["MACs"] == pytest.approx(0.573, abs=1e-3)
    pairs = zoo.heat(table)
    row, column = (pairs["models"].index(name) for name in choice.policy.exits)
    assert pairs["saving"][row][column] == round(choice.outcome.saving["MACs"], 4)


def test_tinysaver_chooses_the_least_delta_c(table: ScoreTable) -> None:
    found = zoo.tinysaver(table, "resnet152", POOL[:-1])
    assert found["delta_c"] == min(found["top_5"].values()) < 0
    assert found["saver"] == min(found["top_5"], key=found["top_5"].__getitem__)
    assert found["saving"] == pytest.approx(-found["delta_c"], abs=0.02)


def test_a_certified_plan_is_certified_and_judged_by_other_labels(table: ScoreTable) -> None:
    result = search(table, reference="resnet152", max_drop=0.5, without=["chains"])
    choice = result.choices[0]
    assert choice.certificate is not None
    assert choice.certificate.p_value is not None
    assert choice.certificate.p_value <= 0.05
    assert choice.outcome.saving["MACs"] > max(zoo.DYCE.values())
    (both,) = zoo.on_real(result)
    assert both["by_label"]["saving"] == both["by_real"]["saving"]
    assert abs(both["by_real"]["drop"]) < 1.5


def test_savers_never_cost_more_at_a_larger_budget(shared: Path) -> None:
    """densenet121 alone, proved at 0.25 points, is cheaper than what is proved at 0.5."""
    assert shared.is_dir()
    some = zoo.zoo().only(["squeezenet1_1", "densenet121", "resnet34"])
    smaller, larger, *_ = (row for row in best_savers(some, [0.25, 0.5]) if row.big == "resnet34")
    assert larger.on["certify"].cost["MACs"] <= smaller.on["certify"].cost["MACs"]
    assert larger.certificate.budget == 0.5
    assert smaller.certificate.p_value is not None
    assert larger.certificate.p_value is not None
    assert larger.certificate.p_value <= smaller.certificate.p_value <= 0.05


def test_little_models_are_as_good_on_easy_images(shared: Path) -> None:
    """Little-Big's finding: what further MACs buy, they buy on the hard images."""
    assert shared.is_dir()
    rows = zoo.tenths()["label"]
    easy, hard = rows[0]["accuracy"], rows[-1]["accuracy"]
    assert abs(easy["resnet152"] - easy["squeezenet1_1"]) < 0.002
    assert hard["resnet152"] - hard["squeezenet1_1"] > 0.4
    gaps = [row["accuracy"]["resnet152"] - row["accuracy"]["squeezenet1_1"] for row in rows]
    assert (np.diff(gaps) > 0).all()
