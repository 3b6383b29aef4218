"""The labels that a certificate needs: never too few, and a decision as with all labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from fakes import scored
from tables import Split, policies, record, score_tables, synthetic
from understudy.errors import PolicyError, TableError
from understudy.import_predictions import LabelFile, import_predictions
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.certify import certify, certify_one, largest_p_value
from understudy.searching.exact_test import critical_totals, drop_p_value
from understudy.searching.labels_needed import labels_needed, smallest_p_value
from understudy.searching.policy_sequences import (
    PolicySequence,
    labels_missing,
    losses_and_gains,
)
from understudy.searching.search import search
from understudy.searching.verify import verify
from understudy.split import SHARES_OF_MANY, SPLITS


def guesses(count: int, *, seed: int = 0, exits: int = 3, split: Split = None) -> ScoreTable:
    """Three classes, so that models may differ and both be wrong."""
    rng = np.random.default_rng(seed)
    label, hard = rng.integers(0, 3, count), rng.random(count)
    predictions = {}
    for number in range(exits):
        right = hard + 0.15 * rng.standard_normal(count) < 0.75 + 0.06 * number
        sure = np.round(np.clip(1 - 0.6 * hard + 0.1 * rng.standard_normal(count), 0.1, 1), 2)
        other = (label + rng.integers(1, 3, count)) % 3
        predictions[f"net{number}"] = (np.where(right, label, other), sure)
    costs = {f"net{number}": 10.0**number for number in range(exits)}
    return ScoreTable.from_predictions(predictions, label, costs=costs, split=split)


def labelled_by_need(full: ScoreTable, **arguments: Any) -> tuple[ScoreTable, dict[str, int]]:
    """The table with the labels that were needed, and in how many rounds, by split."""
    assert full.label is not None
    label = dict(zip(full.ids.tolist(), full.label.tolist(), strict=True))
    table, rounds = replace(full, label=None), dict.fromkeys(("tune", "certify", "test"), 0)
    while (needed := labels_needed(table, **arguments)).split:
        assert needed.ids
        assert not set(needed.ids) & set(table.ids[table.labelled])
        assert set(needed.ids) <= set(full.on(needed.split).ids)
        table = table.with_labels({key: label[key] for key in needed.ids})
        rounds[needed.split] += 1
    assert "No label is needed" in needed.words()
    return table, rounds


def decision(result: Result) -> list[Any]:
    """What was certified, how it was counted, and what was measured and said about it."""
    found: list[Any] = []
    for choice in result.choices:
        one = choice.certificate
        assert one is not None
        found += [choice.policy, one.path, one.losses, one.gains, one.p_value, one.samples_needed]
        found += [choice.outcome.drop, choice.on["certify"].drop, choice.on["tune"].drop]
        found += [choice.baselines, choice.verdict]
    return found


@pytest.mark.parametrize(
    ("table", "arguments"),
    [
        (guesses(3000), {"max_drop": [0.5, 2.0], "without": ["learned"]}),
        (guesses(3000, split=SHARES_OF_MANY), {"max_drop": [0.5, 2.0], "without": ["learned"]}),
        (guesses(3000), {"max_drop": [0.5, 2.0]}),
        (guesses(3000, seed=1), {"max_drop": [0.0, -0.5], "reference": "net1"}),
        (guesses(1500, seed=2, exits=4), {"max_drop": 4.0, "at_most_stages": 3}),
        (guesses(1500, seed=2, exits=4), {"max_drop": 4.0, "confidence": "max_softmax"}),
        (guesses(1500, seed=3), {"max_drop": 3.0, "confidence": "deferral"}),
        (record(800, types=1), {"max_drop": 4.0, "delta": 0.1}),
        (record(800, types=1), {"max_drop": 4.0, "delta": 0.1, "without": ["learned"]}),
        (synthetic(500), {"max_drop": 0.5}),
    ],
)
def test_the_decision_is_that_of_all_labels(table: ScoreTable, arguments: dict[str, Any]) -> None:
    part, rounds = labelled_by_need(table, **arguments)
    result = search(part, **arguments)
    assert decision(result) == decision(search(table, **arguments))
    assert all(check.holds for check in verify(result, part))
    assert rounds["tune"] <= 1
    assert rounds["test"] <= 1
    assert part.labelled.sum() < 0.7 * len(table)


@settings(max_examples=10)
@given(
    st.integers(0, 10**6),
    st.sampled_from([-1.0, 0.3, 1.0, 3.0]),
    st.sampled_from([(), ("learned",), ("chains",)]),
)
def test_the_decision_is_that_of_all_labels_in_every_draw(
    seed: int, drop: float, without: tuple[str, ...]
) -> None:
    table = guesses(1500, seed=seed)
    part, rounds = labelled_by_need(table, max_drop=drop, without=without)
    few, complete = (search(one, max_drop=drop, without=without) for one in (part, table))
    assert decision(few) == decision(complete)
    assert rounds["certify"] <= 6


def test_with_ensembles_all_labels_of_tune_are_needed() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 3000)
    rows = {n: rng.normal(size=(3000, 5)) + 1.5 * np.eye(5)[label] for n in ("tiny", "big")}
    table = scored(rows, label)
    arguments: dict[str, Any] = {
        "reference": "big",
        "max_drop": -1.0,
        "confidence": "max_softmax",
    }
    part, rounds = labelled_by_need(table, **arguments)
    assert part.label_counts()["tune"] == len(table.on("tune"))
    few, complete = search(part, **arguments), search(table, **arguments)
    assert "tiny+big" in complete.choice().policy.exits
    assert decision(few) == decision(complete)
    assert rounds["tune"] <= 2


def test_resnet50_before_vit_needs_few_labels(shared: Path) -> None:
    folder = shared / "imagenet"
    table = import_predictions(
        LabelFile(folder / "labels.parquet", "file_name", "label"),
        {name: folder / f"{name}.parquet" for name in ("ResNet50", "ViT")},
        costs={"ResNet50": 4.11e9, "ViT": 17.58e9},
    )
    table = table.rows(np.arange(0, len(table), 5))
    most = {("learned",): 0.2, (): 0.33}  # a learned score is fitted to all labels of tune
    for without, share in most.items():
        arguments: dict[str, Any] = {"max_drop": 0.5, "without": without}
        part, _ = labelled_by_need(table, **arguments)
        assert decision(search(part, **arguments)) == decision(search(table, **arguments))
        counts = part.label_counts()
        assert counts["tune"] + counts["certify"] < share * len(table)


def test_a_learned_score_needs_all_labels_of_tune() -> None:
    table = replace(guesses(1000), label=None)
    needed = labels_needed(table, max_drop=2.0)
    assert needed == labels_needed(table, max_drop=2.0, confidence="deferral")
    assert needed.ids == tuple(table.on("tune").ids)
    assert needed.samples == {name: len(table.on(name)) for name in ("tune", "certify")}
    assert needed.labels == dict.fromkeys(SPLITS, 0)
    assert "of tune need a label" in needed.words()


def test_models_that_agree_need_no_labels() -> None:
    same = np.arange(900) % 7
    table = ScoreTable.from_predictions(
        {"tiny": (same, np.linspace(0, 1, 900)), "big": (same, np.ones(900))},
        None,
        costs={"tiny": 1, "big": 9},
    )
    assert labels_needed(table, max_drop=1.0, without=["learned"]).split == ""
    for without in ([], ["learned"]):
        plan = search(table, max_drop=1.0, without=without).choice()
        assert plan.policy == Policy.single("tiny")


def test_budgets_that_make_no_sense() -> None:
    with pytest.raises(PolicyError, match="between -100 and 100"):
        labels_needed(guesses(100), max_drop=200.0)


# -- missing labels in the test -------------------------------------------------------------------

counted = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 9))


@settings(max_examples=60)
@given(counted, st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.sampled_from([100, 700]))
def test_the_largest_p_value_is_that_of_the_worst_labels(
    counts: tuple[int, int, int], drop: float, samples: int
) -> None:
    """All labels are tried: so many losses, gains and samples on which both are wrong."""
    losses, gains, missing = counts

    def p_value(lost: int, gained: int) -> float:
        return drop_p_value(lost, gained, samples, drop, 0.05)

    every = [
        p_value(losses + lost, gains + gained)
        for lost in range(missing + 1)
        for gained in range(missing + 1 - lost)
    ]
    worst = largest_p_value(p_value, losses + missing, gains, missing, delta=2.0)
    best = smallest_p_value(p_value, losses + missing, gains, missing, delta=-1.0)
    assert (worst, best) == (max(every), min(every))


@pytest.mark.parametrize("samples", [60, 400, 1500])
@pytest.mark.parametrize("budget", [-0.01, 0.0, 0.0025, 0.005, 0.02])
def test_a_missing_label_is_worst_as_a_loss(samples: int, budget: float) -> None:
    """Wherever a loss is proved, so is neither in its place, and a gain in the place of that."""
    most = max(40, samples // 8)
    discordant = np.arange(most + 1)
    critical = critical_totals(samples, budget, 0.05, discordant)
    critical = np.minimum(critical - (critical - discordant) % 2, discordant)
    proved, neither = critical[1:], critical[:-1]
    can_lose, can_happen = proved > -discordant[1:], proved >= -discordant[1:]
    assert (proved - 1 <= neither)[can_lose].all()
    assert (critical[:-1] - 1 <= critical[1:])[critical[:-1] >= -discordant[:-1]].all()
    assert can_happen.any() == can_lose.any()


@given(st.data())
def test_missing_labels_count_as_losses(data: st.DataObject) -> None:
    """The gap with any labels in their place is at most the gap without."""
    table = data.draw(score_tables(least_exits=2))
    reference = data.draw(st.sampled_from(table.names))
    drawn = data.draw(st.lists(policies(table), max_size=4))
    losses, gains = losses_and_gains(table, drawn, reference=reference)
    missing = labels_missing(table, drawn, reference=reference)
    row = table.index(reference)
    for number, policy in enumerate(drawn):
        differing = 0
        for sample in range(len(table)):
            answer = oracle.fate(table, policy, sample).prediction
            differing += not table.labelled[sample] and answer != table.prediction[row, sample]
        assert missing[number] == differing
        some = np.random.default_rng(0).integers(0, 3, len(table)).tolist()
        missing_ones = np.flatnonzero(~table.labelled).tolist()
        labelled = table.with_labels({table.ids[one]: some[one] for one in missing_ones})
        full = evaluate(labelled, policy, reference=reference)
        assert full.losses <= losses[number]
        assert full.gains >= gains[number]
        assert full.losses >= losses[number] - differing
        if not differing:
            assert (full.losses, full.gains) == (losses[number], gains[number])


def test_what_is_proved_without_labels_is_proved_with_them() -> None:
    full = guesses(4000, exits=2)
    assert full.label is not None
    cut = [1.01, *np.arange(1, 0, -0.05)]
    sequence = PolicySequence(
        tuple(Policy.pair("net0", "net1", threshold) for threshold in cut),
        np.zeros(len(cut), np.int64),
        np.zeros(len(cut), np.int64),
        np.arange(len(cut), 0, -1.0),
        100,
        len(cut) + 1.0,
    )
    rng = np.random.default_rng(0)
    steps = []
    for share in (0.0, 0.3, 0.6, 0.9, 1.0):
        label = np.where(rng.random(len(full)) < share, full.label, -1)
        found = certify(sequence, replace(full, label=label), reference="net1", max_drop=4.0)
        steps.append(len(found.path))
        single = certify_one(sequence.policies[8], replace(full, label=label), reference="net1")
        assert single.budget >= certify_one(sequence.policies[8], full, reference="net1").budget
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1]


def test_a_class_budget_needs_all_labels() -> None:
    table = guesses(1000)
    assert table.label is not None
    part = replace(table, label=np.where(np.arange(1000) % 5, table.label, -1))
    with pytest.raises(TableError, match=r"the label of every sample, \d+ of \d+ have none: add"):
        search(part, max_drop=2.0, class_drops={"1": 3.0})
    assert search(part, max_drop=2.0).choice().classes == ()
