"""The best saver of every large model: chosen and proved as by hand, all lines at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from understudy.searching.certify import certify
from understudy.searching.exact_test import drop_p_value
from understudy.searching.pairs import pair_curves
from understudy.searching.policy_sequences import PolicySequence, pair_sequence
from understudy.searching.search_spec import SearchSpec
from understudy.searching.strategies import cheapest_expected


def lines_by_hand(
    table: ScoreTable, drops: list[float], delta: float
) -> Mapping[tuple[str, float], tuple[float, Policy]]:
    """Level and policy of every large model and budget: Holm's procedure, one line at a time."""
    tune, proving = table.on("tune"), table.on("certify")
    costs = dict(zip(table.names, table.exit_costs("MACs"), strict=True))
    bigs = [name for name in table.names if costs[name] > min(costs.values())]
    sequences: dict[tuple[str, float], PolicySequence] = {}
    for big in bigs:
        level = delta / len(bigs) / len(drops)
        spec = SearchSpec(big, "MACs", "max_softmax", tuple(drops), level, len(proving))
        every = [pair_sequence(curve) for curve in pair_curves(tune, big, unit="MACs")]
        sequences |= {(big, drop): cheapest_expected(every, spec, drop) for drop in drops}
    found: dict[tuple[str, float], tuple[float, Policy]] = {}
    while True:
        level, ended = delta / (len(sequences) or 1), []
        for line, sequence in sequences.items():
            proof = certify(sequence, proving, reference=line[0], max_drop=line[1], delta=level)
            found[line] = level, proof.policy
            ended += [line] if len(proof.path) == len(sequence.policies) else []
        if not ended:
            worth = {line: saving_or_alone(*found[line], line, proving) for line in found}
            return {line: cheapest_by_hand(worth, line, proving) for line in found}
        sequences = {line: one for line, one in sequences.items() if line not in ended}


def saving_or_alone(
    level: float, policy: Policy, line: tuple[str, float], proving: ScoreTable
) -> tuple[float, Policy]:
    """The large model alone where the policy saves nothing on certify."""
    saves = evaluate(proving, policy, reference=line[0]).saving["MACs"] > 0
    return level, policy if saves or line[1] < 0 else Policy.single(line[0])


def cheapest_by_hand(
    found: Mapping[tuple[str, float], tuple[float, Policy]],
    line: tuple[str, float],
    proving: ScoreTable,
) -> tuple[float, Policy]:
    """The line, or that of a smaller budget whose plan is cheaper."""
    budgets = sorted((drop for big, drop in found if big == line[0]), reverse=True)
    lines = [(line[0], drop) for drop in budgets if drop <= line[1]]
    costs = [evaluate(proving, found[one][1], reference=line[0]).cost["MACs"] for one in lines]
    return found[lines[int(np.argmin(costs))]]


@given(score_tables(least_exits=2), st.sampled_from([-20.0, 20.0, 100.0]))
@settings(max_examples=25)
def test_lines_are_those_by_hand(table: ScoreTable, drop: float) -> None:
    table = replace(table, split=np.arange(len(table)) % 3)
    costs = table.exit_costs("MACs")
    if len(table) < 3 or (costs == costs.min()).all():
        return
    found = best_savers(table, [drop, 50.0], delta=0.5)
    assert [row.big for row in found][::2] == [
        table.names[row] for row in np.argsort(-costs, kind="stable") if costs[row] > costs.min()
    ]
    expected = lines_by_hand(table, [drop, 50.0], 0.5)
    for row in found:
        assert (row.certificate.delta, row.policy) == expected[row.big, row.max_drop]
        for split, outcome in row.on.items():
            assert outcome == evaluate(table.on(split), row.policy, reference=row.big)


def test_every_proof_holds_at_its_level() -> None:
    table = synthetic(6000, exits=4)
    found = best_savers(table, [1.0, 3.0], delta=0.1, looks=2)
    assert {row.max_drop for row in found} == {1.0, 3.0}
    for row in found:
        proof = row.certificate
        outcome = row.on["certify"]
        assert (proof.losses, proof.gains) == (outcome.losses, outcome.gains)
        assert (proof.samples, proof.looks) == (len(table.on("certify")), 2)
        assert 0.1 / 6 <= proof.delta <= 0.1
        counts = outcome.losses, outcome.gains, outcome.samples
        assert proof.p_value == drop_p_value(*counts, row.max_drop, proof.delta) <= proof.delta
        assert row.little is not None


@pytest.mark.parametrize("labelled", [True, False])
def test_of_many_little_models_the_best_is_found(labelled: bool) -> None:
    """A zoo of 15 models, of which only the promising are led through a sequence."""
    table = synthetic(1500, exits=15)
    table = table if labelled else replace(table, label=None)
    expected = lines_by_hand(table, [-1.0, 0.0, 2.0], 0.05)
    found = best_savers(table, [-1.0, 0.0, 2.0])
    assert len(found) == len(expected) == 42
    for row in found:
        level, policy = expected[row.big, row.max_drop]
        assert row.certificate.delta == level
        assert row.on["certify"].cost == evaluate(table.on("certify"), policy).cost


def test_a_shared_part_that_costs_nothing_changes_nothing() -> None:
    table = synthetic(3000, exits=4)
    shared = replace(
        table,
        exits=tuple(Exit(name, ("camera", name)) for name in table.names),
        costs={"MACs": {**table.costs["MACs"], "camera": 0.0}},
    )
    first, second = best_savers(table, [0.5, 2.0]), best_savers(shared, [0.5, 2.0])
    for row, other in zip(first, second, strict=True):
        assert (row.policy, row.on) == (other.policy, other.on)


def test_where_nothing_is_proved_the_model_is_alone() -> None:
    table = synthetic(600)
    for row in best_savers(table, -50.0):
        assert row.policy == Policy.single(row.big)
        assert (row.little, row.threshold, row.share) == (None, float("inf"), 0.0)
        assert row.outcome.saving["MACs"] == 0.0
    for row in best_savers(table, 100.0):
        assert row.little == "net0"
        assert (row.threshold, row.share) == (float("-inf"), 1.0)


def test_without_labels_each_model_provides_the_truth() -> None:
    found = best_savers(replace(synthetic(4000), label=None), 5.0)
    assert "the disagreement of each" in found.words()
    for row in found:
        assert row.certificate.kind == "disagreement"
        assert row.on["tune"].reference_accuracy == 1.0
        assert row.on["certify"].drop <= 5.0
    text = plain(savers_view(found))
    assert "disagreements in % of the samples" in text
    assert not any(sign in text for sign in "+−")


def test_without_a_test_split_figures_are_those_on_certify() -> None:
    table = synthetic(3000)
    table = replace(table, split=np.minimum(table.split, 1))
    found = best_savers(table, 2.0)
    assert found.measured_on == "certify"
    assert "certify samples, which decided" in found.words()
    for row in found:
        assert row.outcome == evaluate(table.on("certify"), row.policy, reference=row.big)
        assert set(row.on) == {"tune", "certify"}


def test_it_goes_into_json_and_onto_a_page() -> None:
    found = best_savers(synthetic(3000), [-50.0, 2.0], looks=3)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["certified"], data["jointly"], data["delta"]) == (True, True, 0.05)
    assert len(data["savers"]) == len(found) == 4
    first = data["savers"][0]
    keys = {"big", "little", "threshold", "policy", "share", "saving", "drop", "drop_interval"}
    assert {*keys, "on", "max_drop"} <= set(first)
    assert (first["threshold"], first["certificate"]["p_value"]) == ("inf", None)
    assert {"p_value", "delta", "samples", "path", "looks"} <= set(first["certificate"])
    assert "words" not in first["certificate"]
    page, proof = " ".join(plain(savers_view(found), width=140).split()), found.rows[1].certificate
    for words in (
        "net2 −50 alone – – – – – nothing proved",
        "With probability 0.95 all 2 proved plans hold at once",
        "look 3 at the certify samples: the best of several",
        f"{proof.p_value or 1:.2g} ≤ {proof.delta:.2g}",
    ):
        assert words in page
    pair = synthetic(3000).only(["net0", "net2"])
    assert "0.95 the proved plan holds: on new samples" in best_savers(pair, 50.0).words()
    nothing = best_savers(synthetic(300), -50.0).words()
    assert nothing.startswith("Nothing could be proved with")


def test_wrong_arguments_are_one_sentence() -> None:
    table = synthetic(300)
    with pytest.raises(PolicyError, match="at least one budget"):
        best_savers(table, [])
    with pytest.raises(PolicyError, match="between -100 and 100"):
        best_savers(table, 101.0)
    with pytest.raises(PolicyError, match="delta is a probability between 1e-12 and 1, found 2"):
        best_savers(table, 1.0, delta=2)
    with pytest.raises(TableError, match="all exits cost alike"):
        best_savers(replace(table, costs={"MACs": dict.fromkeys(table.names, 1.0)}), 1.0)
    with pytest.raises(TableError, match="no confidence"):
        best_savers(table, 1.0, confidence="margin")
