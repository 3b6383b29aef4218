"""Chains: against trying every chain at every threshold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from tables import synthetic
from understudy.errors import PolicyError, TableError
from understudy.frontier import Frontier
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.scores import Exit, ScoreTable
from understudy.searching.chains import search_chains
from understudy.searching.pairs import search_pairs

BUDGETS = (-25.0, 0.0, 13.0, 25.0, 50.0)


@st.composite
def zoos(draw: st.DrawFn, *, most_exits: int = 4, most: int = 8) -> ScoreTable:
    """Independent models, few levels of confidence, costs that often agree, maybe no labels."""
    count, exits = draw(st.integers(1, most)), draw(st.integers(1, most_exits))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([(0.5,), (0.0, 0.25, 0.5), tuple(np.arange(20) / 20)]))
    names = [f"e{number}" for number in range(exits)]
    predictions = {
        name: (rng.integers(0, 2, count), rng.choice(levels, count).astype(np.float32))
        for name in names
    }
    costs = {name: float(rng.choice((0.0, 1.0, 1.0, 2.0, 3.7, 10.0))) for name in names}
    labels = rng.integers(0, 2, count) if draw(st.booleans()) else None
    return ScoreTable.from_predictions(predictions, labels, costs=costs)


def chains(
    table: ScoreTable, *, reference: str, stages: int
) -> Iterator[tuple[Policy, oracle.Totals]]:
    """Every chain of exits cheaper than the reference, by rising cost, maybe the reference last."""
    unit = table.unit()
    prices = {name: oracle.price(table, [name], unit) for name in table.names}
    cheaper = [name for name in table.names if prices[name] < prices[reference]]
    for size in range(1, stages + 1):
        for names in itertools.permutations([*cheaper, reference], size):
            cost = [prices[name] for name in names]
            if cost != sorted(cost):
                continue
            limits = [oracle.thresholds(table, name, "max_softmax") for name in names[:-1]]
            for chosen in itertools.product(*limits):
                steps = [PolicyStage(*step) for step in zip(names[:-1], chosen, strict=True)]
                policy = Policy((*steps, PolicyStage(names[-1])))
                yield policy, oracle.totals(table, policy, reference=reference, unit=unit)


def cheapest(frontier: Frontier, drop: float) -> float:
    return min((p.cost for p in frontier if p.drop <= drop + 1e-9), default=math.inf)


def optimum(tried: list[oracle.Totals], drop: float, samples: int) -> float:
    return min(
        (t.cost for t in tried if 100 * (t.losses - t.gains) <= (drop + 1e-9) * samples),
        default=math.inf,
    )


@given(st.data())
def test_up_to_three_stages_the_cheapest_of_all_chains_is_found(data: st.DataObject) -> None:
    table = data.draw(zoos())
    stages = data.draw(st.integers(2, 3))
    big = data.draw(st.sampled_from(table.names))
    found = search_chains(table, reference=big, max_drops=BUDGETS, stages=stages, threads=1)
    tried = [totals for _, totals in chains(table, reference=big, stages=stages)]
    for drop in BUDGETS:
        assert cheapest(found, drop) == pytest.approx(optimum(tried, drop, len(table)), abs=1e-9)


@given(zoos(most=6))
def test_longer_chains_are_never_worse_than_shorter_ones(table: ScoreTable) -> None:
    three, four = (
        search_chains(table, max_drops=BUDGETS, stages=stages, threads=1) for stages in (3, 4)
    )
    for drop in BUDGETS:
        assert cheapest(four, drop) <= cheapest(three, drop)


@given(zoos(most_exits=5, most=12), st.integers(2, 5), st.integers(1, 3))
def test_every_point_is_what_its_policy_does(table: ScoreTable, stages: int, keep: int) -> None:
    found = search_chains(table, max_drops=BUDGETS, stages=stages, keep=keep, threads=1)
    for point in found:
        outcome = evaluate(table, point.policy)
        assert (point.cost, point.drop) == (outcome.cost[found.unit], outcome.drop)
        true = oracle.totals(table, point.policy, reference=found.reference, unit=found.unit)
        assert point.cost == pytest.approx(true.cost, abs=1e-12)
        assert len(point.policy.stages) <= stages


@given(zoos(most_exits=5, most=12), st.integers(2, 4), st.integers(1, 3))
def test_no_chain_costs_more_than_the_best_pair(table: ScoreTable, stages: int, keep: int) -> None:
    found = search_chains(table, max_drops=BUDGETS, stages=stages, keep=keep, threads=1)
    pairs = search_pairs(table)
    for drop in BUDGETS:
        assert cheapest(found, drop) <= cheapest(pairs, drop) * (1 + 1e-12)


def test_the_number_of_threads_changes_nothing() -> None:
    table = synthetic(3_000, exits=9)
    one, many = (
        search_chains(table, stages=4, keep=3, threads=threads).to_dict() for threads in (1, 3)
    )
    assert one == many


def test_on_many_samples_the_grid_finds_the_pairs_that_matter() -> None:
    table = synthetic(3_000, exits=9)
    few, all_of_them = (search_chains(table, keep=keep).to_dict() for keep in (4, 100))
    assert few == all_of_them


def test_a_chain_of_three_beats_the_best_pair_here() -> None:
    table = synthetic(3_000, exits=5)
    pairs, three = (search_chains(table, max_drops=[0.5], stages=stages) for stages in (2, 3))
    assert cheapest(three, 0.5) < cheapest(pairs, 0.5)


def test_a_model_with_infinite_confidences_is_searched() -> None:
    table = ScoreTable.from_predictions(
        {
            "tiny": ([0, 0, 1, 1], [math.inf, math.inf, 0.5, -math.inf]),
            "mid": ([1, 1, 0, 1], [0.1, 0.1, math.inf, -math.inf]),
            "big": ([0, 0, 0, 0], [1, 1, 1, 1]),
        },
        [0, 0, 0, 0],
        costs={"tiny": 1, "mid": 2, "big": 9},
    )
    found = search_chains(table, max_drops=[0.0])
    assert cheapest(found, 0.0) == pytest.approx((4 * 1 + 2 * 2 + 1 * 9) / 4)


def test_the_reference_alone_is_a_frontier() -> None:
    table = synthetic(50, exits=3)
    alone = search_chains(table, reference="net0")
    assert [point.policy for point in alone] == [Policy.single("net0")]
    assert len(search_chains(table, max_drops=[])) == 1


def test_exits_that_share_a_part_are_refused() -> None:
    plain = synthetic(20, exits=3)
    shared = ScoreTable(
        exits=(Exit("net0", ("net0",)), Exit("net1", ("net0", "net1")), Exit("net2")),
        prediction=plain.prediction,
        confidence=plain.confidence,
        label=plain.label,
        ids=plain.ids,
        split=plain.split,
        costs=plain.costs,
    )
    with pytest.raises(TableError, match="'net0' and 'net1' share the part 'net0': use search_exi"):
        search_chains(shared)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": 1}, "two stages or more, found 1"),
        ({"keep": 0}, "keep=0"),
        ({"threads": 0}, "at least one thread, found 0"),
        ({"max_drops": [math.nan]}, "between -100 and 100 points, found nan"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        search_chains(synthetic(20), **options)  # type: ignore[arg-type]
