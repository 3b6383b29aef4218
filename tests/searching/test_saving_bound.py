"""The certified saving: a bound of known truths, whichever policy was selected on the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import policies, record, score_tables, synthetic
from understudy.certificate import Certificate
from understudy.outcome import evaluate, units_of
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.certify import certify, certify_one
from understudy.searching.equal_loss import equal_loss_path, loss_curves
from understudy.searching.exact_test import discordance_limit
from understudy.searching.pairs import pair_curve
from understudy.searching.policy_sequences import pair_sequence
from understudy.searching.saving_bound import saving_bounds

PRICES = {"MACs": {"a": 1.0, "b": 2.0, "c": 10.0}, "joules": {"a": 5.0, "b": 1.0, "c": 6.0}}
STEPS = [Policy.pair("a", "c", level / 50) for level in range(49, 0, -1)]


def chain(levels: Sequence[float]) -> Policy:
    stages = [PolicyStage(exit, level) for exit, level in zip("ab", levels, strict=True)]
    return Policy((*stages, PolicyStage("c")))


CHAINS = [chain((1 - step / 40, 1 - step / 80)) for step in range(1, 40)]
CROSSING = [*CHAINS[::4], *(chain((0.9, level / 10)) for level in range(10))]


def uniform_table(rng: np.random.Generator, count: int) -> ScoreTable:
    """Three exits whose confidences are uniform and independent, so that shares are known."""
    zeros = np.zeros(count, int)
    return ScoreTable.from_predictions(
        {name: (zeros, rng.random(count)) for name in "abc"},
        zeros,
        costs=PRICES,
        split={"certify": 1.0},
    )


def savings(table: ScoreTable, policy: Policy, unit: str) -> tuple[float, float]:
    """The true saving of a policy, and the one on the table."""
    prices, sure = PRICES[unit], table.scores("max_softmax")
    paid, share, left = np.zeros(2), 1.0, np.ones(len(table), bool)
    for stage in policy.stages:
        paid += prices[stage.exit] * np.array([share, left.mean()])
        if stage.threshold is not None:
            share *= stage.threshold
            left &= sure[table.index(stage.exit)] < stage.threshold
    true, measured = (1 - paid / prices["c"]).tolist()
    return true, measured


def worst(table: ScoreTable, sequence: Sequence[Policy], unit: str) -> tuple[Policy, float, float]:
    """The policy whose saving is overestimated most, the hardest selection there is; its true and
    its measured saving."""
    found = [(policy, *savings(table, policy, unit)) for policy in sequence]
    return max(found, key=lambda one: one[2] - one[1])


@pytest.mark.parametrize("sequence", [STEPS, CHAINS, CROSSING, CHAINS[20:21]])
@pytest.mark.parametrize("unit", ["MACs", "joules"])
def test_the_worst_selection_keeps_the_level(sequence: list[Policy], unit: str) -> None:
    rng = np.random.default_rng(3)
    draws, broken = 100, 0
    for _ in range(draws):
        table = uniform_table(rng, 150)
        policy, true, _ = worst(table, sequence, unit)
        least = saving_bounds(table, policy, sequence, reference="c", delta=0.2)[unit]
        broken += true < least - 1e-12
    assert broken / draws <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / draws)


def test_the_level_is_nearly_used() -> None:
    """Without the width of the band the worst selection breaks the bound nearly always, and a
    third of its squared width would break the level: the test above could fail."""
    rng = np.random.default_rng(3)
    broken = np.zeros(2)
    for _ in range(100):
        table = uniform_table(rng, 150)
        policy, true, measured = worst(table, STEPS, "MACs")
        width = measured - saving_bounds(table, policy, STEPS, reference="c", delta=0.2)["MACs"]
        broken += [true < measured - share * width for share in (0, 0.58)]
    assert broken[0] > 90
    assert broken[1] > 35


def test_a_pair_has_the_width_of_one_band() -> None:
    table = uniform_table(np.random.default_rng(0), 400)
    measured = evaluate(table, STEPS[20], reference="c").saving
    least = saving_bounds(table, STEPS[20], STEPS, reference="c")
    width = math.sqrt(math.log(20) / 800)
    assert least == pytest.approx({unit: saving - width for unit, saving in measured.items()})


def test_a_policy_fixed_beforehand_has_the_exact_limit() -> None:
    table = uniform_table(np.random.default_rng(0), 400)
    policy = Policy.pair("a", "c", 0.2)
    reached = round(400 * evaluate(table, policy, reference="c").shares["c"])
    least = saving_bounds(table, policy, [policy], reference="c")
    limit = discordance_limit(reached, 400, beta=0.05)
    assert least["MACs"] == pytest.approx(1 - (1 + 10 * limit) / 10)
    assert certify_one(policy, table, reference="c").saving_bounds == least


def test_what_is_no_matter_of_samples_is_known() -> None:
    """One exit alone costs what it costs, whatever the samples."""
    table = uniform_table(np.random.default_rng(0), 20)
    alone = Policy.single("a")
    found = saving_bounds(table, alone, [*STEPS, alone], reference="c")
    assert found == evaluate(table, alone, reference="c").saving


@given(st.data())
def test_a_bound_is_below_what_was_measured(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2))
    reference = data.draw(st.sampled_from(table.names))
    sequence = data.draw(st.lists(policies(table), min_size=1, max_size=6))
    policy = data.draw(st.sampled_from(sequence))
    known = units_of(table, {reference, *(name for one in sequence for name in one.exits)})
    found = saving_bounds(table, policy, sequence, reference=reference)
    assert list(found) == known
    measured = evaluate(table, policy, reference=reference).saving
    for unit in known:
        assert found[unit] <= measured[unit] + 1e-9


@pytest.mark.parametrize(
    ("table", "through"),
    [
        (record(300), ["place0/type0", "place1/type1", "place2/type0"]),
        (record(300), ["place0/type0", "place1/type1"]),
        (synthetic(300), ["net0", "net1"]),
    ],
)
def test_the_sequences_of_the_search_are_nested(table: ScoreTable, through: list[str]) -> None:
    """The premise of the bound: at every stage thresholds fall from policy to policy."""
    reference = table.names[-1]
    names = {"reference": reference, "confidence": "max_softmax"}
    curves = loss_curves(table, through, reference, **names)
    path = equal_loss_path(table, through, reference, curves, **names, unit="MACs", steps=20)
    assert len(path.cost) > 5
    sequences = [path.sequence()]
    sequences.append(pair_sequence(pair_curve(table, table.names[0], reference)))
    for sequence in sequences:
        by_stages: dict[tuple[str, ...], list[list[float]]] = {}
        for policy in sequence.policies:
            levels = [float("-inf" if s.threshold is None else s.threshold) for s in policy.stages]
            for stage in range(1, len(levels)):
                by_stages.setdefault(policy.exits[:stage], []).append(levels[:stage])
        for rows in by_stages.values():
            assert (np.diff(np.array(rows), axis=0) <= 0).all()


def test_a_certificate_has_it_beside_the_drop() -> None:
    table = synthetic(4000, split={"certify": 1.0})
    sequence = pair_sequence(pair_curve(table, "net0", "net2"))
    found = certify(sequence, table, reference="net2", max_drop=2.0)
    least = saving_bounds(table, found.policy, sequence.policies, reference="net2")
    assert found.saving_bounds == least
    assert 0 < least["MACs"] < evaluate(table, found.policy).saving["MACs"]
    percent = math.floor(1000 * least["MACs"]) / 10
    assert f"It saves at least {percent:.1f} % of MACs: this bound holds with " in found.words()
    assert "with probability 0.95 by itself. The promise ends" in found.words()
    assert Certificate.from_dict(found.to_dict()) == found
    fallen = certify(sequence, table, reference="net2", max_drop=-50.0)
    assert fallen.falls_back
    assert fallen.saving_bounds == {}


def test_a_policy_of_another_sequence_is_an_error() -> None:
    table = uniform_table(np.random.default_rng(0), 20)
    with pytest.raises(ValueError, match="one of the sequence"):
        saving_bounds(table, Policy.pair("b", "c", 0.5), STEPS, reference="c")
