"""`decide` and `evaluate` against a walk of every sample through the stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from tables import pair_table, policies, score_tables, synthetic
from understudy.errors import TableError
from understudy.outcome import Outcome, class_gaps, decide, evaluate
from understudy.policy import Policy, PolicyStage
from understudy.scores import Exit, ScoreTable


@given(st.data())
def test_decide_is_the_walk_of_every_sample(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    policy = data.draw(policies(table))
    found = decide(table, policy)
    for sample in range(len(table)):
        fate = oracle.fate(table, policy, sample)
        assert (found.stage[sample], found.prediction[sample]) == (fate.stage, fate.prediction)
        step = policy.stages[fate.stage]
        sure = table.confidence[step.confidence][table.names.index(step.exit), sample]
        assert found.confidence[sample] == sure


@given(st.data())
def test_evaluate_is_the_sum_over_samples(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    policy = data.draw(policies(table))
    reference = data.draw(st.sampled_from(table.names))
    found = evaluate(table, policy, reference=reference)
    count = len(table)
    alone = Policy.single(reference)
    assert set(found.cost) == set(found.saving) == set(table.units)
    for unit in table.units:
        true = oracle.totals(table, policy, reference=reference, unit=unit)
        full = oracle.totals(table, alone, reference=reference, unit=unit)
        assert found.cost[unit] == pytest.approx(true.cost, abs=1e-12)
        if full.cost:
            assert found.saving[unit] == pytest.approx(1 - true.cost / full.cost, abs=1e-9)
        assert (found.losses, found.gains) == (true.losses, true.gains)
        assert found.accuracy == true.right / count
        assert found.reference_accuracy == full.right / count
        assert list(found.shares.values()) == [k / count for k in true.answered]
    assert found.drop == pytest.approx(100 * (found.reference_accuracy - found.accuracy))
    assert Outcome.from_dict(found.to_dict()) == found


@given(score_tables())
def test_one_exit_costs_exactly_its_price(table: ScoreTable) -> None:
    for name in table.names:
        outcome = evaluate(table, Policy.single(name), reference=name)
        assert outcome.cost == {unit: table.cost_of([name], unit) for unit in table.units}
        assert set(outcome.saving.values()) == {0.0}
        assert (outcome.drop, outcome.shares) == (0.0, {name: 1.0})


def test_shared_parts_are_paid_once_and_passed_exits_are_paid() -> None:
    table = ScoreTable(
        exits=(Exit("early", ("trunk1", "head1")), Exit("late", ("trunk1", "trunk2", "head2"))),
        prediction=np.zeros((2, 2), int),
        confidence={"max_softmax": np.array([[0.9, 0.1], [1.0, 1.0]])},
        label=np.zeros(2, int),
        ids=np.array(["a", "b"], object),
        split=np.zeros(2, int),
        costs={"MACs": {"trunk1": 10, "head1": 1, "trunk2": 20, "head2": 2}},
    )
    found = evaluate(table, Policy.pair("early", "late", 0.5), reference="late")
    assert found.cost["MACs"] == (11 + 33) / 2
    assert found.saving["MACs"] == 1 - 22 / 32


def test_ties_are_accepted() -> None:
    table = pair_table([1, 0, 1], [1, 1, 1], [0.5, 0.5, 0.4])
    assert decide(table, Policy.pair("tiny", "big", 0.5)).stage.tolist() == [0, 0, 1]
    assert decide(table, Policy.pair("tiny", "big", math.nextafter(0.5, 1))).stage.sum() == 3


def test_without_labels_the_reference_is_the_truth() -> None:
    table = ScoreTable.from_predictions(
        {"tiny": ([0, 1], [0.9, 0.8]), "big": ([0, 0], [1, 1])}, None, costs={"tiny": 1, "big": 2}
    )
    found = evaluate(table, Policy.single("tiny"))
    assert (found.reference_accuracy, found.drop, found.gains) == (1.0, 50.0, 0)


def test_a_better_little_model_gains() -> None:
    table = pair_table([1, 1, 1, 0], [0, 0, 1, 1], [0.9, 0.9, 0.9, 0.1])
    found = evaluate(table, Policy.pair("tiny", "big", 0.5), reference="big")
    assert (found.drop, found.losses, found.gains) == (-50.0, 0, 2)


def test_units_that_lack_a_part_are_left_out() -> None:
    table = pair_table([1], [1], [1.0])
    more = ScoreTable(
        exits=table.exits,
        prediction=table.prediction,
        confidence=table.confidence,
        label=table.label,
        ids=table.ids,
        split=table.split,
        costs=table.costs,
        times={"ms@1": {"big": 3.0}},
    )
    assert list(evaluate(more, Policy.single("tiny"), reference="big").cost) == ["MACs"]
    assert list(evaluate(more, Policy.single("big"), reference="big").cost) == ["MACs", "ms@1"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy.single("tinny"), r"no exit 'tinny' in this table; did you mean 'tiny'\?"),
        (Policy.pair("tiny", "big", 0.5, confidence="margn"), "no confidence 'margn'"),
        (
            Policy.pair("tiny", "big", 0.5, confidence="deferral"),
            "is learned by a search",
        ),
    ],
)
def test_a_policy_that_does_not_fit_is_a_sentence(policy: Policy, words: str) -> None:
    with pytest.raises(TableError, match=words):
        evaluate(pair_table([1], [1], [1.0]), policy)


def test_the_last_stage_needs_no_confidence() -> None:
    table = ScoreTable.from_predictions(
        {"tiny": ([0, 1], {"margin": [0.9, 0.1]}), "big": ([0, 0], {"margin": [1, 1]})},
        [0, 0],
        costs={"tiny": 1, "big": 2},
    )
    found = decide(table, Policy((PolicyStage("tiny", 0.5, "margin"), PolicyStage("big"))))
    assert found.stage.tolist() == [0, 1]
    assert found.confidence[0] == 0.9
    assert np.isnan(found.confidence[1])


def test_one_sample_is_enough() -> None:
    found = evaluate(pair_table([0], [1], [0.3]), Policy.pair("tiny", "big", 0.3))
    assert (found.drop, found.accuracy) == (100.0, 0.0)
    assert -100 <= found.drop_interval[0] <= found.drop_interval[1] <= 100


def test_a_thousand_samples_equal_the_walk() -> None:
    table = synthetic(1000)
    policy = Policy((PolicyStage("net0", 0.7), PolicyStage("net1", 0.5), PolicyStage("net2")))
    true = oracle.totals(table, policy, reference="net2", unit="MACs")
    found = evaluate(table, policy)
    assert (found.losses, found.gains) == (true.losses, true.gains)
    assert found.cost["MACs"] == pytest.approx(true.cost)


@given(st.data())
def test_class_gaps_add_up_to_the_outcome(data: st.DataObject) -> None:
    table = data.draw(score_tables(labelled=True))
    policy = data.draw(policies(table))
    big = table.reference(unit="MACs")
    gaps = class_gaps(table, table, policy, reference=big)
    outcome = evaluate(table, policy, reference=big)
    if policy == Policy.single(big):
        assert gaps == ()
        return
    if table.label_sets is None:
        assert sum(gap.losses for gap in gaps) == outcome.losses
        assert sum(gap.gains for gap in gaps) == outcome.gains
        assert sum(gap.samples for gap in gaps) == outcome.samples
    assert [gap.drop for gap in gaps] == sorted((gap.drop for gap in gaps), reverse=True)
    for gap in gaps:
        alone = evaluate(table.of_class(gap.name), policy, reference=big)
        assert (gap.losses, gap.gains) == (alone.losses, alone.gains)
        assert gap.interval[0] <= gap.drop <= gap.interval[1]
        assert gap.tune_drop == gap.drop


@given(st.data())
def test_classes_are_picked_on_tune_and_measured_elsewhere(data: st.DataObject) -> None:
    tune, other = (data.draw(score_tables(labelled=True, least_exits=2)) for _ in range(2))
    policy = Policy.pair("e0", "e1", 0.5)
    gaps = class_gaps(tune, other.only(["e0", "e1"]), policy, reference="e1")
    classes = set.intersection(*(set(one.label_rows.ravel().tolist()) for one in (tune, other)))
    assert {gap.name for gap in gaps} == set(map(str, classes - {-1}))
    drops = []
    for gap in gaps:
        there, here = (
            evaluate(one.of_class(gap.name), policy, reference="e1") for one in (tune, other)
        )
        assert (gap.losses, gap.gains) == (here.losses, here.gains)
        assert gap.tune_drop == pytest.approx(there.drop)
        drops.append(there.drop)
    assert drops == sorted(drops, reverse=True)


def test_the_worst_class_by_chance_is_not_shown_as_the_worst() -> None:
    """Forty classes that lose alike: the worst of tune loses no more than the others on test."""
    rng = np.random.default_rng(0)
    right = rng.random(16_000) < 0.9
    label = rng.integers(0, 40, 16_000)
    table = ScoreTable.from_predictions(
        {
            "tiny": (np.where(right, label, (label + 1) % 40), rng.random(16_000)),
            "big": (label, label),
        },
        label,
        costs={"tiny": 1, "big": 9},
        split={"tune": 0.5, "test": 0.5},
    )
    first = class_gaps(table.on("tune"), table.on("test"), Policy.single("tiny"), reference="big")[
        0
    ]
    assert first.tune_drop is not None
    assert first.tune_drop > 13
    assert first.interval[0] < 10 < first.interval[1]
