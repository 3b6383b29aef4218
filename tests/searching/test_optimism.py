"""The optimism report: claimed and true drops of each way of tuning."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tables import pair_table, record, synthetic
from understudy.app.cli.optimism import optimism_view
from understudy.display import plain
from understudy.errors import PolicyError, TableError
from understudy.intervals import exact_interval
from understudy.scores import ScoreTable
from understudy.searching.optimism import WAYS, Optimism, Spread, Tuning, optimism
from understudy.split import SPLITS


def small() -> ScoreTable:
    return synthetic(1500, seed=3)


def by_way(found: Optimism, drop: float) -> dict[str, Tuning]:
    return {one.way: one for one in found.tunings if one.max_drop == drop}


def test_tuning_at_the_edge_breaks_the_budget_and_a_certificate_does_not() -> None:
    found = optimism(synthetic(4000), max_drop=[1.0, 2.0], confidence="max_softmax", resamples=40)
    for drop in (1.0, 2.0):
        ways = by_way(found, drop)
        assert ways["in-sample"].claimed.mean <= drop
        assert ways["in-sample"].given.mean > ways["in-sample"].claimed.mean
        assert ways["in-sample"].broken > 0.2
        assert ways["held-out"].broken > 0.2
        assert ways["certified"].broken <= 0.1
        assert ways["certified"].given.mean < ways["held-out"].given.mean
        assert ways["certified"].saving.mean < ways["held-out"].saving.mean


@pytest.mark.parametrize("little", ["net0", "net1"])
def test_one_resample_can_be_drawn_by_hand(little: str) -> None:
    """The true drop of a choice is that on the whole table; the order of draws is fixed."""
    table = small().only([little, "net2"])
    found = optimism(table, max_drop=1.0, confidence="max_softmax", resamples=1, seed=7)
    rng = np.random.default_rng(7)
    _, _, index = (rng.integers(0, 1500, len(table.on(name))) for name in SPLITS)
    best = None
    first = table.costs["MACs"][little]
    sure = table.scores("max_softmax")[0, index]
    lost = (table.prediction[1] == 1).astype(int) - (table.prediction[0] == 1)
    for level in np.unique(sure):
        gap = lost[index][sure >= level].sum()
        share = (sure >= level).mean()
        cost = share * first + ((1 - share) * (first + 100) if share < 1 else 0)
        if gap <= 0.01 * len(index) + 1e-9 and (best is None or cost < best[0]):
            everywhere = table.scores("max_softmax")[0]
            below = sure[sure < level]
            least = (float(below.max()) + float(level)) / 2 if len(below) else -np.inf
            best = (cost, gap, lost[everywhere >= least].sum())
    assert best is not None
    one = by_way(found, 1.0)["in-sample"]
    assert one.claimed.mean == pytest.approx(100 * best[1] / len(index))
    assert one.given.mean == pytest.approx(100 * best[2] / 1500)


def test_same_seed_same_report_and_another_seed_another() -> None:
    table = small()
    first, again = (optimism(table, max_drop=1.0, resamples=5, seed=1) for _ in range(2))
    assert first == again
    assert optimism(table, max_drop=1.0, resamples=5, seed=2) != first


def test_a_budget_too_tight_to_prove_falls_back() -> None:
    found = optimism(small(), max_drop=0.01, confidence="max_softmax", resamples=5)
    one = by_way(found, 0.01)["certified"]
    assert one.fell_back == 1.0
    assert one.broken == 0.0
    assert one.given == one.saving == one.claimed == Spread(0.0, 0.0, 0.0)


def test_without_labels_it_is_disagreement() -> None:
    table = small()
    unlabelled = ScoreTable.from_predictions(
        {
            name: (table.prediction[row], table.scores("max_softmax")[row])
            for row, name in enumerate(table.names)
        },
        None,
        costs={"net0": 1, "net1": 10, "net2": 100},
    )
    found = optimism(unlabelled, max_drop=5.0, resamples=3)
    assert all(one.given.low >= 0 for one in found.tunings)


def test_equal_models_give_what_they_claim() -> None:
    table = pair_table(np.ones(300), np.ones(300), np.linspace(0, 1, 300))
    for one in optimism(table, reference="big", max_drop=1.0, resamples=3).tunings:
        assert one.given.mean == one.claimed.mean == one.broken == 0.0
    tuned = by_way(optimism(table, reference="big", max_drop=1.0, resamples=3), 1.0)["in-sample"]
    assert tuned.saving.mean == pytest.approx(0.9)


def test_progress_is_reported() -> None:
    seen: list[tuple[str, int, int]] = []
    optimism(small(), max_drop=1.0, resamples=3, on_progress=lambda *args: seen.append(args))
    assert seen == [("resamples", 1, 3), ("resamples", 2, 3), ("resamples", 3, 3)]


def test_it_goes_into_json_and_onto_a_page() -> None:
    found = optimism(small(), max_drop=[0.5, 1.0], resamples=3)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["way"] for one in data["tunings"]] == ["in-sample", "held-out", "certified"] * 2
    assert set(data["tunings"][0]["given"]) == {"mean", "low", "high"}
    assert data["samples"] == dict(found.samples)
    page = " ".join(plain(optimism_view(found), width=140).split())
    for word in ("held-out", "really given", "3 resamples", "a certificate allows 5.0 %"):
        assert word in page


def test_a_share_of_resamples_has_its_interval() -> None:
    """9 of 100 is no proof that 5 % are exceeded; 90 of 1,000 is."""
    found = optimism(small(), max_drop=1.0, resamples=2)
    for one in found.tunings:
        low, high = one.broken_interval
        assert low <= one.broken <= high
        assert (low, high) == exact_interval(round(2 * one.broken), 2)
    for broken, resamples, words in (
        (9, 100, "chance explains it: draw more"),
        (90, 1000, "lies above it, beyond chance"),
        (3, 100, "a certificate allows 5.0 %."),
    ):
        ends = exact_interval(broken, resamples)
        tuning = replace(found.tunings[2], broken=broken / resamples, broken_interval=ends)
        page = plain(optimism_view(replace(found, resamples=resamples, tunings=(tuning,))))
        assert f"{100 * broken / resamples:.1f} % ({100 * ends[0]:.1f} to" in page
        assert words in " ".join(page.split())


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no drop": ({"max_drop": []}, PolicyError, "at least one budget"),
    "nan": ({"max_drop": float("nan")}, PolicyError, "found nan"),
    "delta": ({"max_drop": 1.0, "delta": 0.0}, PolicyError, "found 0"),
    "resamples": ({"max_drop": 1.0, "resamples": 0}, PolicyError, "found 0"),
    "reference": ({"max_drop": 1.0, "reference": "net9"}, TableError, "no exit 'net9'"),
    "cheapest": ({"max_drop": 1.0, "reference": "net0"}, TableError, "cheaper than 'net0'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_one_sentence(case: str) -> None:
    options, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        optimism(small(), **options)


def test_an_empty_split_is_named() -> None:
    table = synthetic(50, split={"tune": 0.5, "test": 0.5})
    with pytest.raises(TableError, match="'certify' is empty"):
        optimism(table, max_drop=1.0)


def test_without_a_test_split_in_sample_means_certify() -> None:
    table = synthetic(400, split={"tune": 0.5, "certify": 0.5})
    found = optimism(table, max_drop=1.0, resamples=2)
    assert set(found.samples) == {"tune", "certify"}
    assert [one.way for one in found.tunings] == list(WAYS)


def test_the_learned_score_is_fitted_on_every_draw() -> None:
    """Given drops are those with the scores of the draw: on its own samples the fit claims less."""
    found = optimism(synthetic(1500), max_drop=2.0, resamples=2)
    ways = by_way(found, 2.0)
    assert found.confidence == "deferral"
    assert ways["certified"].broken == 0.0
    assert ways["in-sample"].claimed.high <= 2.0
    for one in ways.values():
        assert -1.0 < one.saving.low <= one.saving.high < 1.0
    again = optimism(synthetic(1500), max_drop=2.0, confidence="deferral", resamples=2)
    assert again == found


def test_exits_that_share_parts_are_searched_together() -> None:
    """As by default in `search`: a policy of several exits saves more than any pair."""
    table = record(2000)
    found = optimism(table, max_drop=4.0, confidence="max_softmax", resamples=2)
    pairs = [
        optimism(table.only([name, "full"]), max_drop=4.0, confidence="max_softmax", resamples=2)
        for name in table.names
        if name != "full"
    ]
    for way in ("in-sample", "held-out"):
        best = max(by_way(pair, 4.0)[way].saving.mean for pair in pairs)
        assert by_way(found, 4.0)[way].saving.mean > best
