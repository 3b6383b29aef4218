"""`search` and `search_in_sample`: the optimum, the proof, the verdict, and every bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import oracle
from tables import CONFIDENCES, pair_table, score_tables, synthetic
from understudy.display import cost_text
from understudy.errors import PolicyError, TableError, UnderstudyError
from understudy.operating_point import operating_points_of
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.exact_test import gap_p_value
from understudy.searching.saving_bound import saving_bounds
from understudy.searching.search import search, search_in_sample, search_within_cost
from understudy.searching.verify import verify


@given(st.data())
def test_in_sample_is_the_optimum_over_all_pairs_and_thresholds(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    assume(table.exit_costs("MACs").any())
    big = table.reference(data.draw(st.none() | st.sampled_from(table.names)), unit="MACs")
    confidence = data.draw(st.sampled_from(CONFIDENCES))
    drops = [0.0, 10.0, 34.0]
    result = search_in_sample(
        table, max_drop=drops, reference=big, confidence=confidence, at_most_stages=2
    )
    tried = list(oracle.pairs(table, reference=big, confidence=confidence, unit="MACs"))
    for drop, choice in zip(drops, result.choices, strict=True):
        fitting = [
            true.cost
            for _, true in tried
            if 100 * (true.losses - true.gains) <= (drop + 1e-9) * len(table)
        ]
        cost = choice.outcome.cost["MACs"]
        shared = [part for exit in table.exits for part in exit.parts]
        if len(set(shared)) < len(shared):  # further exits may stand between the two
            assert cost <= min(fitting) + 1e-12
        else:
            assert cost == pytest.approx(min(fitting), abs=1e-12)
        assert choice.outcome.drop <= drop + 1e-9
        assert choice.outcome == evaluate(table, choice.policy, reference=big)
        assert choice.certificate is None
    assert result.in_sample
    assert "IN-SAMPLE" in str(result)


@given(st.data())
def test_certified_results_are_sound_on_any_table(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2, most=40))
    assume(table.exit_costs(table.unit()).any())
    if not {0, 1} <= set(table.split.tolist()):
        with pytest.raises(TableError, match="is empty"):
            search(table, max_drop=1.0)
        return
    result = search(table, max_drop=[1.0, 40.0], delta=0.3)
    for choice in result.choices:
        certificate = choice.certificate
        assert certificate is not None
        assert choice.policy == certificate.policy
        assert tuple(choice.on) == table.splits
        for split in table.splits:
            part = result.with_fitted(table.on(split))
            if split != "tune":  # there the learned scores are cross-fitted
                assert choice.on[split] == evaluate(part, choice.policy, reference=result.reference)
        certified = choice.on["certify"]
        assert (certificate.losses, certificate.gains) == (certified.losses, certified.gains)
        if certificate.falls_back:
            assert choice.policy == Policy.single(result.reference)
        else:
            assert certificate.p_value is not None
            assert certificate.p_value <= 0.3
    assert Result.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result
    assert str(result)


def test_a_certificate_can_be_checked_again() -> None:
    table = synthetic(6000)
    result = search(table, max_drop=[0.5, 1.0, 3.0], looks=4)
    assert [len(c.policy.stages) >= 2 for c in result.choices].count(True) >= 2
    certify = result.with_fitted(table.on("certify"))
    for choice in result.choices:
        proof = choice.certificate
        assert proof is not None
        assert (proof.samples, proof.looks) == (len(certify), 4)
        for policy in proof.path:
            found = evaluate(certify, policy, reference="net2")
            p = gap_p_value(found.losses, found.gains, found.samples, proof.budget / 100)
            assert p <= proof.delta
    costs = [choice.on["tune"].cost["MACs"] for choice in result.choices]
    assert costs == sorted(costs, reverse=True)


def test_nothing_is_chosen_on_test() -> None:
    """Other answers on test change what is measured there, and nothing else."""
    table = synthetic(3000)
    wrong = table.prediction.copy()
    wrong[:, table.split == 2] = 0
    before, after = (search(one, max_drop=2.0) for one in (table, replace(table, prediction=wrong)))
    assert before.choices[0].policy == after.choices[0].policy
    assert before.choices[0].on["certify"] == after.choices[0].on["certify"]
    assert before.frontier == after.frontier
    assert before.choices[0].outcome != after.choices[0].outcome


def test_the_sequence_is_frozen_on_tune() -> None:
    """Other answers on certify may shorten what is proved, never change its order."""
    table = synthetic(3000)
    wrong = table.prediction.copy()
    wrong[:2, np.flatnonzero(table.split == 1)[::20]] = 0
    full = search(table, max_drop=2.0).choices[0].certificate
    less = search(replace(table, prediction=wrong), max_drop=2.0).choices[0].certificate
    assert full is not None
    assert less is not None
    assert 0 < len(less.path) < len(full.path)
    assert full.path[: len(less.path)] == less.path


def test_the_order_of_samples_decides_nothing() -> None:
    table = synthetic(2000)
    mixed = table.rows(np.random.default_rng(0).permutation(2000))
    first, second = (search(one, max_drop=2.0) for one in (table, mixed))
    assert first.frontier == second.frontier
    assert first.choices[0].policy == second.choices[0].policy
    assert first.choices[0].on == second.choices[0].on


def test_the_same_search_gives_the_same_json() -> None:
    table = synthetic(1000)
    texts = [json.dumps(search(table, max_drop=[1, 2.5]).to_dict()) for _ in range(2)]
    assert texts[0] == texts[1]


# -- what cannot be proved, and what does not pay ---------------------------------------------


def test_a_budget_that_cannot_be_certified_is_the_reference_and_a_number() -> None:
    result = search(synthetic(300), max_drop=0.5)
    (choice,) = result.choices
    assert choice.policy == Policy.single("net2")
    assert (choice.outcome.drop, choice.outcome.saving["MACs"]) == (0.0, 0.0)
    assert choice.verdict.startswith("Too few samples to certify a cascade: use net2.")
    assert "certify samples would do" in choice.verdict
    assert choice.certificate is not None
    assert choice.certificate.samples_needed is not None
    assert choice.certificate.samples_needed > choice.certificate.samples


def test_what_saves_nothing_on_certify_is_the_reference() -> None:
    """On tune the little exit answers a few samples, on certify none: the plan would cost both."""
    table = synthetic(2000)
    sure = np.where(table.split == 0, table.scores("max_softmax")[0], 0.0)
    confidence = {"max_softmax": np.stack([sure, *table.scores("max_softmax")[1:]])}
    pair = replace(table, confidence=confidence).only(["net0", "net2"])
    result = search(pair, max_drop=[1.0, 5.0], class_drops={"1": 50.0}, without=["learned"])
    for choice in result.choices:
        assert choice.certificate is not None
        assert choice.policy == choice.certificate.policy == Policy.single("net2")
        assert choice.certificate.falls_back
        assert "Nothing cheaper than net2" in choice.verdict
        assert choice.on["certify"].saving["MACs"] == 0.0
    assert all(check.holds for check in verify(result, pair))


def test_equal_costs_need_no_cascade() -> None:
    table = pair_table(np.ones(90), np.ones(90), np.linspace(0, 1, 90), costs=(5, 5))
    (choice,) = search(table, max_drop=5.0, reference="big").choices
    assert choice.policy == Policy.single("big")
    assert "use big" in choice.verdict


def test_a_little_model_that_is_as_good_alone() -> None:
    table = pair_table(np.ones(900), np.ones(900), np.linspace(0, 1, 900))
    (choice,) = search(table, reference="big", max_drop=2.0).choices
    assert choice.policy == Policy.single("tiny")
    assert choice.verdict.startswith("A cascade does not pay here: use tiny, which alone")


def test_all_confidences_tied_is_all_or_nothing() -> None:
    rng = np.random.default_rng(0)
    little = rng.random(2000) < 0.5
    table = pair_table(little, np.ones(2000), np.full(2000, 0.7))
    (strict, loose) = search(table, max_drop=[2.0, 70.0], confidence="max_softmax").choices
    assert strict.policy == Policy.single("big")
    assert loose.policy == Policy.single("tiny")


def test_one_class_is_always_right() -> None:
    same = np.zeros(600, int)
    table = ScoreTable.from_predictions(
        {"tiny": (same, np.linspace(0, 1, 600)), "big": (same, np.ones(600))},
        same,
        costs={"tiny": 1, "big": 9},
    )
    (choice,) = search(table, max_drop=2.0).choices
    assert choice.policy == Policy.single("tiny")
    assert choice.outcome.accuracy == 1.0


def test_a_reference_that_is_not_the_best_is_still_compared_with() -> None:
    table = synthetic(4000)
    (choice,) = search(table, max_drop=2.0, reference="net1").choices
    assert set(choice.policy.exits) <= {"net0", "net1"}
    (single,) = [
        one for one in search(table, max_drop=2.0, reference="net1").singles if one.name == "net2"
    ]
    assert single.on["test"].drop < 0


def test_the_cheapest_exit_as_reference_has_nothing_below_it() -> None:
    (choice,) = search(synthetic(600), max_drop=2.0, reference="net0").choices
    assert choice.policy == Policy.single("net0")
    (choice,) = search_in_sample(synthetic(600), max_drop=2.0, reference="net0").choices
    assert "use net0" in choice.verdict


def test_a_useless_confidence_is_reported() -> None:
    """The most confident answers are wrong: deferring at random would lose less."""
    sure = np.repeat([0.9, 0.1], 100)
    little = np.r_[np.arange(100) >= 20, np.arange(100) >= 10]
    (choice,) = search_in_sample(pair_table(little, np.ones(200), sure), max_drop=12.0).choices
    assert choice.outcome.drop == 10.0
    assert choice.baselines.random_drop == pytest.approx(7.5)
    assert choice.verdict.startswith("Deferring at random does as well")


def test_a_single_exit_that_does_better_is_named() -> None:
    rng = np.random.default_rng(0)
    count = 3000
    sure = rng.random(count)
    table = ScoreTable.from_predictions(
        {
            "tiny": ((rng.random(count) < 0.8).astype(int), sure),
            "mid": ((rng.random(count) < 0.97).astype(int), np.full(count, 0.5)),
            "big": (np.ones(count, int), np.ones(count)),
        },
        np.ones(count, int),
        costs={"tiny": 1, "mid": 8, "big": 10},
    )
    result = search_in_sample(table.only(["tiny", "mid", "big"]), max_drop=3.5)
    assert result.choices[0].policy == Policy.single("mid")


def test_a_cost_above_the_limit_is_reported() -> None:
    table = synthetic(4000)
    (dear,) = search(table, max_drop=2.0, max_cost=0.1).choices
    assert "% more than the 0.1 allowed: allow a larger drop" in dear.verdict
    (fine,) = search(table, max_drop=2.0, max_cost=1e9).choices
    assert "within the 1 G allowed" in fine.verdict
    assert "more than" not in fine.verdict


@pytest.mark.parametrize("seed", range(6))
def test_the_certified_cost_keeps_within_the_limit_or_the_verdict_says_by_how_much_not(
    seed: int,
) -> None:
    """Policies are chosen by the upper limit of their cost on tune."""
    table = synthetic(4000, seed=seed)
    choice = search_within_cost(table, max_cost=30.0, without=["learned"]).choice()
    assert choice.certificate is not None
    certified = 100.0 * (1 - choice.certificate.saving_bounds["MACs"])
    words = f"certified to be at most {cost_text(certified, 'MACs')} MACs"
    more = "within the 30 allowed" if certified <= 30 else "more than the 30 allowed"
    assert f"{words}, " in choice.verdict
    assert more in choice.verdict
    bound = saving_bounds(table.on("tune"), choice.policy, [choice.policy], reference="net2")
    assert 100 * (1 - bound["MACs"]) <= 30


def test_a_table_without_max_softmax_can_be_searched() -> None:
    table = synthetic(3000)
    margin = replace(table, confidence={"margin": table.confidence["max_softmax"]})
    plain = search(table, max_drop=2.0, confidence="max_softmax")
    renamed = search(margin, max_drop=2.0, confidence="margin")
    assert plain.choices[0].outcome == renamed.choices[0].outcome
    assert plain.difficulty == renamed.difficulty


def test_another_unit_gives_another_policy() -> None:
    table = synthetic(4000)
    timed = replace(table, times={"ms@1": {"net0": 3.0, "net1": 1.0, "net2": 4.0}})
    result = search(timed, max_drop=3.0, unit="ms@1")
    assert result.unit == "ms@1"
    assert "net0" not in result.choices[0].policy.exits
    assert [single.name for single in result.singles] == ["net1", "net0", "net2"]


def test_a_policy_that_saves_macs_and_loses_time_is_reported() -> None:
    table = synthetic(4000)
    slow = {
        "ms@1": {"net0": 3.0, "net1": 3.0, "net2": 4.0},
        "ms@64": dict.fromkeys(table.names, 1.0),
    }
    (choice,) = search(replace(table, times=slow), max_drop=3.0).choices
    lost = {unit: -saving for unit, saving in choice.outcome.saving.items() if unit != "MACs"}
    assert max(lost.values()) > 0
    worst = max(lost, key=lambda unit: lost[unit])
    assert f"It takes {100 * lost[worst]:.0f} % more {worst} than net2" in choice.verdict
    assert f"search with --unit {worst}, or use net2 alone" in choice.verdict
    fast = {"ms@1": table.costs["MACs"]}
    assert "more ms@" not in search(replace(table, times=fast), max_drop=3.0).choices[0].verdict


def test_without_labels_the_reference_is_the_truth() -> None:
    table = replace(synthetic(4000), label=None)
    result = search(table, max_drop=6.0)
    assert result.table["labelled"] is False
    certificate = result.choices[0].certificate
    assert certificate is not None
    assert certificate.kind == "disagreement"
    assert result.choices[0].outcome.reference_accuracy == 1.0


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"reference": "net22"}, "no exit 'net22' in this table; did you mean 'net2'"),
        ({"confidence": "margin"}, "no confidence 'margin'"),
        ({"unit": "joules"}, "no unit 'joules'"),
        ({"max_drop": []}, "at least one budget, found none"),
        ({"max_drop": float("nan")}, "found nan"),
        ({"max_drop": 101}, "found 101"),
        ({"delta": 0.0}, "found 0"),
        ({"delta": 1.0}, "found 1"),
        ({"delta": float("nan")}, "found nan"),
    ],
)
def test_wrong_arguments_are_one_sentence(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UnderstudyError, match=words) as raised:
        search(synthetic(60), **{"max_drop": 1.0, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_single_model_is_no_cascade() -> None:
    for find in (search, search_in_sample):
        with pytest.raises(TableError, match="at least two exits, this table has 'net1' alone"):
            find(synthetic(60).only(["net1"]), max_drop=1.0)


@pytest.mark.parametrize("split", ["tune", "certify"])
def test_an_empty_split_is_named(split: str) -> None:
    rest = [name for name in ("tune", "certify", "test") if name != split]
    table = synthetic(60, split={rest[0]: 0.5, rest[1]: 0.5})
    with pytest.raises(TableError, match=f"the split '{split}' is empty"):
        search(table, max_drop=1.0)


def test_without_a_test_split_plans_are_measured_on_certify() -> None:
    """The same search, and figures that are said to come from the samples that decided."""
    table = synthetic(3000, split={"tune": 0.2, "certify": 0.8})
    result = search(table, max_drop=[-40.0, 2.0])
    assert result.measured_on == result.to_dict()["measured_on"] == "certify"
    assert Result.from_dict(result.to_dict()) == result
    fallen, choice = result.choices
    certificate = choice.certificate
    assert certificate is not None
    assert tuple(choice.on) == ("tune", "certify")
    certify = result.with_fitted(table.on("certify"))
    assert choice.outcome == evaluate(certify, choice.policy, reference="net2")
    assert (choice.outcome.losses, choice.outcome.gains) == (certificate.losses, certificate.gains)
    assert all(one.samples == len(table.on("certify")) for one in [fallen.outcome, choice.outcome])
    assert "(measured on certify, the samples that decided: slightly optimistic)" in choice.verdict
    text = " ".join(str(result).split())
    assert "per budget, measured on certify (the samples that decided: slightly" in text
    assert all(check.holds for check in verify(result, table))
    assert [point.max_drop for point in operating_points_of(result)] == [2.0, 0.0]


def test_one_sample_can_be_searched_in_sample_only() -> None:
    table = pair_table([1], [1], [0.5])
    with pytest.raises(TableError, match="is empty"):
        search(table, max_drop=1.0)
    (choice,) = search_in_sample(table, max_drop=0.0).choices
    assert choice.policy == Policy.single("tiny")


def test_a_missing_cost_is_named() -> None:
    table = synthetic(60)
    poor = replace(table, costs={"MACs": {"net0": 1.0, "net2": 9.0}})
    for reference in (None, "net2"):
        with pytest.raises(TableError, match="'net1' has none"):
            search(poor, max_drop=1.0, reference=reference)
    with pytest.raises(TableError, match="no costs"):
        search(replace(table, costs={}), max_drop=1.0)


def test_wrong_levels_are_policy_errors() -> None:
    with pytest.raises(PolicyError):
        search(synthetic(60), max_drop=1.0, delta=2)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_no_more_stages_than_requested_and_more_never_cost_more(stages: int) -> None:
    table = synthetic(2000, exits=4)
    (choice,) = search(table, max_drop=4.0, at_most_stages=stages).choices
    assert len(choice.policy.exits) <= stages
    frontier = search_in_sample(table, max_drop=1.0, at_most_stages=stages).frontier
    pairs = search_in_sample(table, max_drop=1.0, at_most_stages=2).frontier
    assert frontier.points[0].cost <= pairs.points[0].cost
    for point in pairs:
        within = [one.cost for one in frontier if one.drop <= point.drop + 1e-9]
        assert min(within) <= point.cost + 1e-9
