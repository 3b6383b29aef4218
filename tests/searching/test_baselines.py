"""What a cascade must beat, against trying every assignment."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import oracle
from tables import policies, score_tables, synthetic
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.baselines import baselines, best_single, stage_counts


def right_of(table: ScoreTable, reference: str) -> np.ndarray:
    return np.array(
        [
            [
                table.prediction[row, k] in oracle.right_answers(table, reference, k)
                for k in range(len(table))
            ]
            for row in range(len(table.exits))
        ]
    )


@settings(max_examples=60)
@given(st.data())
def test_oracle_and_random_deferral(data: st.DataObject) -> None:
    table = data.draw(score_tables(most=7))
    policy = data.draw(policies(table).filter(lambda p: len(p.stages) <= 3))
    reference = data.draw(st.sampled_from(table.names))
    outcome = evaluate(table, policy, reference=reference)
    found = baselines(
        policy,
        tune=table,
        measured=table,
        reference=reference,
        unit="MACs",
        cost=outcome.cost["MACs"],
    )
    right = right_of(table, reference)
    rows = [table.names.index(name) for name in policy.exits]
    counts = oracle.totals(table, policy, reference=reference, unit="MACs").answered
    assert stage_counts(table, policy).tolist() == list(counts)
    full = int(right[table.names.index(reference)].sum())
    best = oracle.most_right(right[rows], counts)
    assert found.oracle_drop == pytest.approx(100 * (full - best) / len(table))
    expected = sum(k * right[row].mean() for k, row in zip(counts, rows, strict=True))
    assert found.random_drop == pytest.approx(100 * (full - expected) / len(table))
    assert found.oracle_drop <= outcome.drop + 1e-9
    assert found.oracle_drop <= found.random_drop + 1e-9


@given(st.data())
def test_the_best_single_exit(data: st.DataObject) -> None:
    table = data.draw(score_tables())
    reference = data.draw(st.sampled_from(table.names))
    cost = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 100.0]))
    right = right_of(table, reference).sum(1)
    fitting = [
        (-int(right[row]), oracle.price(table, [name], "MACs"), row)
        for row, name in enumerate(table.names)
        if oracle.price(table, [name], "MACs") <= cost * (1 + 1e-9)
    ]
    found = best_single(table, reference=reference, unit="MACs", cost=cost)
    assert found == (table.names[min(fitting)[2]] if fitting else None)


def test_the_single_exit_is_chosen_on_tune_and_measured_elsewhere() -> None:
    tune, test = synthetic(500, seed=1), synthetic(500, seed=2)
    policy = Policy.pair("net1", "net2", 0.5)
    found = baselines(policy, tune=tune, measured=test, reference="net2", unit="MACs", cost=10.0)
    assert found.single == "net1"
    assert found.single_drop == pytest.approx(evaluate(test, Policy.single("net1")).drop)


def test_nothing_is_as_cheap() -> None:
    table = synthetic(100)
    policy = Policy.pair("net0", "net2", 0.5)
    found = baselines(policy, tune=table, measured=table, reference="net2", unit="MACs", cost=0.5)
    assert (found.single, found.single_drop) == (None, None)


def most_right_by_linear_program(right: np.ndarray, counts: np.ndarray) -> int:
    """A transport problem between the stages and the patterns of which stages are right."""
    patterns, sizes = np.unique(right, axis=1, return_counts=True)
    by_pattern = np.kron(np.ones(len(counts)), np.eye(len(sizes)))
    by_stage = np.kron(np.eye(len(counts)), np.ones(len(sizes)))
    answer = linprog(
        -patterns.astype(float).ravel(),
        A_eq=np.concatenate([by_pattern, by_stage]),
        b_eq=np.concatenate([sizes, counts]),
        method="highs",
    )
    return round(float(-answer.fun))


@pytest.mark.parametrize("seed", range(8))
def test_the_oracle_of_many_stages_solves_the_transport_problem(seed: int) -> None:
    draw = np.random.default_rng(seed)
    table = synthetic(300, seed=seed, exits=3 + seed % 4)
    *before, last = draw.permutation(table.names).tolist()
    steps = [PolicyStage(name, float(draw.choice([0.3, 0.5, 0.7, 0.9]))) for name in before]
    policy = Policy((*steps, PolicyStage(last)))
    found = baselines(policy, tune=table, measured=table, reference=last, unit="MACs", cost=1e9)
    right = right_of(table, last)
    rows = [table.index(name) for name in policy.exits]
    best = most_right_by_linear_program(right[rows], stage_counts(table, policy))
    assert found.oracle_drop == 100 * (int(right[rows[-1]].sum()) - best) / len(table)


def test_the_oracle_of_many_samples_beats_the_policy() -> None:
    table = synthetic(3000, exits=4)
    steps = [
        PolicyStage(name, level) for name, level in zip(table.names, (0.7, 0.5, 0.3), strict=False)
    ]
    policy = Policy((*islice(steps, 3), PolicyStage("net3")))
    found = baselines(policy, tune=table, measured=table, reference="net3", unit="MACs", cost=50.0)
    outcome = evaluate(table, policy)
    assert found.oracle_drop < outcome.drop < found.random_drop
