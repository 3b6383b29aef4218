"""Policies on other tables: figures sample by sample, what is refused, what is said of promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from tables import policies, score_tables, synthetic
from understudy.display import plain
from understudy.errors import PolicyError, TableError
from understudy.intervals import drop_interval
from understudy.policy import Policy
from understudy.policy_set import PolicySet
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.search import search, search_in_sample
from understudy.shift import AppliedPlan, ShiftCard, change_of, within_budget

TABLE = synthetic(4000)
OTHER = synthetic(1500, seed=1)


@pytest.fixture(scope="module")
def result() -> Result:
    return search(TABLE, max_drop=[1.0, 5.0])


def words_of(card: ShiftCard) -> str:
    return " ".join(str(card).split())


def applied(policy: Policy, table: ScoreTable, reference: str, **more: Any) -> ShiftCard:
    plan = AppliedPlan(max_drop=1.0, policy=policy, proof=None, seen=None, seen_on="all")
    return PolicySet(reference, "MACs", (plan,), {}, **more).apply({"other": table})


@settings(max_examples=60)
@given(st.data())
def test_figures_are_those_of_every_sample(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    policy = data.draw(policies(table))
    reference = data.draw(st.sampled_from(table.names))
    (plan,) = applied(policy, table, reference).plans
    found = plan.on["other"]
    true = oracle.totals(table, policy, reference=reference, unit="MACs")
    assert (found.outcome.losses, found.outcome.gains) == (true.losses, true.gains)
    assert found.outcome.cost["MACs"] == pytest.approx(true.cost)
    row = table.names.index(reference)
    differ = bare = 0
    for sample in range(len(table)):
        answer = oracle.fate(table, policy, sample).prediction
        differs = answer != table.prediction[row, sample]
        differ, bare = differ + differs, bare + (differs and not table.labelled[sample])
    assert (found.disagreements, found.labelled) == (differ, not bare)
    low, high = found.outcome.drop_interval
    if found.within == "yes":
        assert high <= 1.0
    if found.within == "no":
        assert low > 1.0
        assert not bare


def test_its_own_table_gives_its_own_figures(result: Result) -> None:
    card = result.apply(TABLE)
    (table,) = card.tables
    assert table.split == result.measured_on
    assert table.remarks == ("This is the table that was searched: measured on test.",)
    (again,) = result.apply(TABLE, split="certify").tables
    assert "by which the plans were certified" in again.remarks[0]
    for choice, plan in zip(result.choices, card.plans, strict=True):
        assert plan.on["table"].outcome == choice.outcome == plan.seen
        assert plan.on["table"].promise == "holds"
        assert plan.on["table"].drop_change is None


def test_another_table_voids_the_certificate(result: Result) -> None:
    card = result.apply({"next month": OTHER})
    assert card.tables[0].split == "all"
    for choice, plan in zip(result.choices, card.plans, strict=True):
        one = plan.on["next month"]
        assert (one.promise, one.outcome.samples) == ("void", 1500)
        change = one.outcome.drop - choice.outcome.drop
        assert one.drop_change == pytest.approx(change)
    text = words_of(card)
    assert "within 1 point" in text
    assert "promises nothing" in text
    assert "nothing shows that the models are those" in text
    assert result.apply(OTHER, split="test").tables[0].samples == int((OTHER.split == 2).sum())


def test_other_labels_are_judged_on_samples_that_chose_nothing() -> None:
    found = search(synthetic(6000), max_drop=2.0)
    table = synthetic(6000)
    judged = table.relabelled({key: [0, 1] for key in table.ids[:5000]})
    card = found.apply({"lenient": judged})
    assert card.tables[0].split == "test"
    assert "judged by other labels: measured on test." in card.tables[0].remarks[0]
    assert card.plans[0].on["lenient"].outcome.drop == 0
    assert card.plans[0].on["lenient"].promise == "void"


@pytest.mark.parametrize("rows", [6000, 5000])
def test_samples_of_the_search_are_found_in_a_table_made_apart(rows: int) -> None:
    source = synthetic(6000)
    found = search(source, max_drop=2.0)
    same = source.rows(np.arange(6000 - rows, 6000))
    lenient = replace(same, label=None).with_labels({key: [0, 1] for key in same.ids.tolist()})
    (table,) = found.apply({"apart": lenient}).tables
    assert (table.split, "are among these" in table.remarks[0]) == ("test", True)
    cut = replace(lenient, split=np.roll(lenient.split, 1))
    (table,) = found.apply({"cut": cut}).tables
    assert (table.split, "some of which chose the plans" in table.remarks[0]) == ("all", True)
    only = lenient.on("tune")
    assert found.apply({"tune": only}).tables[0].split == "all"


def test_counted_samples_are_others_where_answers_differ() -> None:
    found = search(synthetic(6000), max_drop=2.0)
    assert found.apply({"other": synthetic(6000, seed=3)}).tables[0].split == "all"
    assert "are among these" not in words_of(found.apply({"other": synthetic(6000, seed=3)}))


def test_without_labels_the_drop_is_a_bound(result: Result) -> None:
    card = result.apply({"bare": replace(OTHER, label=None)})
    whole = result.apply({"full": OTHER})
    for plan, known in zip(card.plans, whole.plans, strict=True):
        one = plan.on["bare"]
        assert one.outcome.drop == pytest.approx(100 * (1 - one.agreement))
        assert one.outcome.drop >= known.on["full"].outcome.drop
        assert one.agreement == known.on["full"].agreement
        assert one.within in ("yes", "undecided")
        assert (one.drop_change, one.labelled) == (None, False)
    assert "≤ +" in words_of(card)
    assert "No sample has a label" in words_of(card)


def test_accuracies_need_all_labels(result: Result) -> None:
    assert OTHER.label is not None
    assert TABLE.label is not None
    half = replace(OTHER, label=np.where(np.arange(len(OTHER)) % 2, OTHER.label, -1))
    card = result.apply({"half": half})
    assert [row["accuracy"] for row in card.to_polars().rows(named=True)].count(None) == len(
        card.plans
    )
    one = card.plans[0].on["half"]
    assert f"≤ {one.outcome.drop_interval[1]:+.2f}" in words_of(card)
    assert f"{100 * one.outcome.accuracy:.1f} %" not in words_of(card)
    partly = search(
        replace(TABLE, label=np.where(np.arange(4000) % 2, TABLE.label, -1)), max_drop=9
    )
    seen = partly.apply({"other": OTHER}).to_polars()["accuracy"].to_list()
    assert [value is None for value in seen] == [True, False]


def test_a_disagreement_is_a_disagreement_anywhere() -> None:
    found = search(replace(TABLE, label=None), max_drop=[2.0, 60.0])
    card = found.apply({"labelled": OTHER})
    for plan in card.plans:
        one = plan.on["labelled"]
        interval = drop_interval(one.disagreements, 0, 1500)
        assert plan.max_drop is not None
        assert one.within == within_budget(plan.max_drop, interval, exact=True)
        assert one.drop_change is None


def test_what_was_fitted_is_applied_as_it_was_stored() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 6000)

    def logits(skill: float) -> np.ndarray:
        return rng.normal(size=(6000, 3)) + skill * np.eye(3)[labels]

    whole = ScoreTable.from_logits(
        {"tiny": logits(2.0), "big": logits(3.0)}, labels, costs={"tiny": 1, "big": 9}
    )
    first = whole.rows(slice(0, 4000))
    found = search(first, max_drop=[-0.5, 1.0])
    assert {"tiny+big", "deferral"} & {
        word for c in found.choices for s in c.policy.stages for word in (s.exit, s.confidence)
    }
    card = found.apply({"rest": whole.rows(slice(4000, 6000)), "own": first})
    for choice, plan in zip(found.choices, card.plans, strict=True):
        assert plan.on["own"].outcome == choice.outcome
        assert plan.on["rest"].outcome.samples == 2000
    kept = replace(OTHER, exits=whole.exits[:1] + OTHER.exits[1:2] + whole.exits[1:])
    with pytest.raises(TableError, match="'bare' cannot be measured by these policies"):
        found.apply({"bare": kept})


def test_another_model_is_refused(result: Result) -> None:
    def of(weights: str, **more: Any) -> ScoreTable:
        exits = [replace(one, origin={"weights_hash": weights, **more}) for one in OTHER.exits]
        return replace(OTHER, exits=tuple(exits))

    single = Policy.single("net0")
    same = {one.name: one.origin for one in of("a", preprocess={"size": [8, 8], "crop": 1}).exits}

    def check(table: ScoreTable) -> None:
        plan = AppliedPlan(None, single, None, None, "all")
        PolicySet("net2", "MACs", (plan,), same).apply({"other": table})

    check(of("a"))
    check(of("a", preprocess={"size": (8, 8)}))
    with pytest.raises(TableError, match=r"'net0' in 'other' is another one .other weights"):
        check(of("b"))
    with pytest.raises(TableError, match=r"size .9, 9. here, .8, 8. searched"):
        check(of("a", preprocess={"size": [9, 9]}))
    with pytest.raises(TableError, match="other dtype: bfloat16 here"):
        check(of("a", dtype="bfloat16"))


def test_other_exits_and_classes_are_refused(result: Result) -> None:
    with pytest.raises(TableError, match="no exit 'net0' in 'other'"):
        result.apply({"other": OTHER.only(["net1", "net2"])})
    named = search(TABLE.with_classes(["cat", "dog"]), max_drop=5.0)
    with pytest.raises(TableError, match="differ in 'cat', 'owl'"):
        named.apply({"other": OTHER.with_classes(["owl", "dog"])})
    with pytest.raises(TableError, match="differ in 'their order'"):
        named.apply({"other": OTHER.with_classes(["dog", "cat"])})
    with pytest.raises(TableError, match="at least one table"):
        named.apply({})
    with pytest.raises(TableError, match="no split 'tset'"):
        named.apply(OTHER, split="tset")


def test_other_costs_are_told(result: Result) -> None:
    prices = dict(OTHER.costs["MACs"]) | {"net0": 2.0}
    card = result.apply({"dear": replace(OTHER, costs={"MACs": prices})})
    assert "net0 costs 2 MACs here and cost 1 where searched" in words_of(card)
    euros = replace(OTHER, costs={"EUR": prices})
    found = result.apply({"euros": euros})
    assert "no costs in MACs" in words_of(found)
    assert "of EUR saved" in words_of(found)


def test_nothing_is_promised_in_sample() -> None:
    card = search_in_sample(TABLE, max_drop=1.0).apply({"other": OTHER})
    assert card.plans[0].on["other"].promise == "none"
    assert "nothing was certified" in words_of(card)
    assert "promises nothing" not in words_of(card)


def test_a_card_survives_a_file(result: Result, tmp_path: Path) -> None:
    card = result.apply({"a": OTHER, "b": TABLE})
    card.save(tmp_path / "card.json")
    assert ShiftCard.load(tmp_path / "card.json") == card
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(PolicyError, match=r"no understudy\.shift file"):
        ShiftCard.load(tmp_path / "card.json")
    frame = card.to_polars()
    assert frame["table"].to_list() == ["as searched", "a", "b"] * 2
    assert "2 budgets" in repr(card)
    for width in (60, 100, 160):
        assert max(map(len, plain(card.view(), width=width).splitlines())) <= width


def test_the_change_of_a_drop_covers_its_truth() -> None:
    """The 95 % interval of the change holds the true one about that often."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        (l1, g1), (l0, g0) = rng.binomial(1500, (0.05, 0.03)), rng.binomial(2500, (0.04, 0.03))
        ends = [drop_interval(int(l1), int(g1), 1500), drop_interval(int(l0), int(g0), 2500)]
        drops = [100 * (l1 - g1) / 1500, 100 * (l0 - g0) / 2500]
        _, (low, high) = change_of(drops[0], ends[0], drops[1], ends[1])
        held += low <= 1.0 <= high
    assert held >= 0.91 * 200
