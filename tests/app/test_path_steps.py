"""The steps of the report's slider: each equals the specification, and what is proved is proved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from understudy import Result, ScoreTable, evaluate, search
from understudy.app.report import path_steps
from understudy.app.report.path_steps import MOST_STEPS, BudgetPath, budget_paths
from understudy.app.report.record import Report
from understudy.app.report.slider import Slider
from understudy.outcome import class_gaps
from understudy.policy import Policy
from understudy.searching.search import search_in_sample, search_within_cost
from understudy.split import SHARES_OF_FEW, SHARES_OF_MANY


def table_with_ties(seed: int, **options: Any) -> ScoreTable:
    """Five exits whose confidences have few values, with times, classes, and the split shares."""
    rng = np.random.default_rng(seed)
    samples, names = 1500, ["tiny", "small", "middle", "large", "huge"]
    truth, hard = rng.integers(0, 6, samples), rng.random(samples)
    rows = {}
    for number, name in enumerate(names):
        sure = np.clip(1.2 - hard * (1.0 - 0.17 * number), 0.05, 1.0)
        answer = np.where(rng.random(samples) < sure, truth, (truth + 1) % 6)
        rows[name] = (
            answer,
            np.round(np.clip(sure + rng.normal(0, 0.1, samples), 0, 1), 1 + seed % 2),
        )
    return ScoreTable.from_predictions(
        rows,
        options.pop("labels", truth),
        costs={name: 3.0**number for number, name in enumerate(names)},
        classes=[f"class {letter}" for letter in "abcdef"],
        split=options.pop("split", SHARES_OF_MANY),
    )


def paths_of(result: Result, table: ScoreTable) -> tuple[BudgetPath, ...]:
    return budget_paths(result, result.searched(table))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shares", [SHARES_OF_MANY, SHARES_OF_FEW], ids=["test", "no test"])
def test_every_step_is_what_evaluate_says(seed: int, shares: dict[str, float]) -> None:
    table = table_with_ties(seed, split=shares)
    result = search(table, max_drop=[2.0, 6.0], confidence="max_softmax")
    paths = paths_of(result, table)
    assert len(paths) == 2
    tune = table.on("tune")
    for path, choice in zip(paths, result.choices, strict=True):
        assert path.frozen
        for step in path.steps:
            part = table.on(step.measured_on)
            assert step.outcome == evaluate(part, step.policy, reference=result.reference)
            gaps = class_gaps(tune, part, step.policy, reference=result.reference, most=3)
            assert step.classes == gaps
            on_test = "test" in table.splits
            expected = "test" if on_test else "certify" if step.proved else "tune"
            assert step.measured_on == expected
        assert path.plan is not None
        assert path.steps[path.plan].outcome == choice.outcome


@pytest.mark.parametrize("seed", range(2))
def test_the_path_is_the_one_that_was_tested(seed: int) -> None:
    table = table_with_ties(seed)
    result = search(table, max_drop=[2.0, 6.0])
    for path, choice in zip(paths_of(result, table), result.choices, strict=True):
        proof = choice.certificate
        assert proof is not None
        assert path.length == proof.steps
        assert path.plan is not None
        assert path.steps[path.plan].number == len(proof.path) - 1
        assert path.steps[path.plan].outcome == choice.outcome
        numbers = [step.number for step in path.steps]
        assert {0, len(proof.path) - 1, len(proof.path), path.length - 1} <= {*numbers}
        assert min(path.length, MOST_STEPS - 4) <= len(numbers) <= MOST_STEPS
        for step in path.steps:
            assert step.proved == (step.number < len(proof.path))
            assert not step.proved or step.policy == proof.path[step.number]
        cost = [step.outcome.cost[result.unit] for step in path.steps]
        assert cost[0] > cost[-1]


@pytest.mark.parametrize("seed", range(3))
def test_a_path_is_found_among_its_own_exits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole search is not repeated, and its steps would be the same."""
    table = table_with_ties(seed)
    result = search(table, max_drop=[4.0, 8.0], at_most_stages=3)
    searched: list[list[str] | None] = []
    search_data = path_steps._search_data

    def noted(result: Result, table: ScoreTable, exits: list[str] | None = None) -> Any:
        searched.append(exits)
        return search_data(result, table, exits)

    monkeypatch.setattr(path_steps, "_search_data", noted)
    found = paths_of(result, table)
    [few] = searched
    assert few is not None
    assert set(few) == {"huge"}.union(*(choice.exits for choice in result.choices))
    assert len(few) < len(table.names)
    monkeypatch.setattr(path_steps, "_exits_of_paths", lambda *_: None)
    assert paths_of(result, table) == found


def test_where_other_exits_take_over_the_whole_search_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = table_with_ties(0)
    result = search(table, max_drop=[4.0, 8.0])
    found = paths_of(result, table)
    assert all(path.frozen for path in found)
    monkeypatch.setattr(path_steps, "_exits_of_paths", lambda *_: ["tiny", "huge"])
    assert paths_of(result, table) == found


def test_learned_scores_on_tune_are_those_of_other_folds() -> None:
    table = table_with_ties(1, split=SHARES_OF_FEW)
    result = search(table, max_drop=2.0)
    [path] = paths_of(result, table)
    assert path.plan is not None
    plan, behind = path.steps[path.plan : path.plan + 2]
    assert "deferral" in plan.policy.describe()
    assert plan.outcome == result.choices[0].on["certify"]
    assert behind.measured_on == "tune"
    assert [one.outcome for one in budget_paths(result, table)[0].steps] == [
        one.outcome for one in path.steps
    ]


def test_long_paths_are_thinned_around_the_plan() -> None:
    table = table_with_ties(0)
    result = search(table, max_drop=4.0, confidence="max_softmax")
    [choice] = result.choices
    assert choice.certificate is not None
    many = [Policy.pair("tiny", "huge", 0.9 - row / 2000) for row in range(700)]
    proof = replace(choice.certificate, path=tuple(many), policy=many[-1], steps=800)
    [path] = paths_of(
        replace(result, choices=(replace(choice, certificate=proof, policy=many[-1]),)), table
    )
    numbers = [step.number for step in path.steps]
    assert len(numbers) <= MOST_STEPS
    assert {0, 699} <= set(numbers)
    assert max(np.diff(numbers)) <= 4
    assert path.length == 700, "what is chosen now is another sequence: the proved ones alone"
    assert all(step.proved for step in path.steps)


def test_in_sample_the_frontier_takes_the_place() -> None:
    table = table_with_ties(2)
    result = search_in_sample(table, max_drop=[0.5, 2.0], at_most_stages=2)
    for path, choice in zip(paths_of(result, table), result.choices, strict=True):
        assert not path.frozen
        assert not path.proved
        assert path.plan is not None
        assert path.steps[path.plan].policy == choice.policy
        costs = [step.outcome.cost[result.unit] for step in path.steps]
        assert costs == sorted(costs, reverse=True)
        assert {step.measured_on for step in path.steps} == {"all"}


def test_of_a_budget_of_cost_the_plan_alone_is_proved() -> None:
    table = table_with_ties(3)
    result = search_within_cost(table, max_cost=40.0)
    [path] = paths_of(result, table)
    assert not path.frozen
    assert [step.policy for step in path.steps if step.proved] == [result.choices[0].policy]
    for step in path.steps:
        part = result.with_fitted(table).on("test")
        if step.policy.exits == result.choices[0].policy.exits:
            assert step.outcome == evaluate(part, step.policy, reference=result.reference)


def test_where_nothing_was_proved_all_steps_are_shown_as_such() -> None:
    table = table_with_ties(0)
    result = search(table, max_drop=-30.0)
    [path] = paths_of(result, table)
    assert path.plan is None
    assert not path.proved
    assert len(path.steps) > 1
    slider = Slider(Report(result), (path,))
    words = [slider.proof(path, step) for step in path.steps]
    assert words[0] == "not certified: could not be proved"
    assert set(words[1:]) == {"not certified: not tested, as one before it could not be proved"}


def test_a_step_that_was_proved_and_saves_nothing_is_not_said_to_have_failed() -> None:
    """On certify the little exit is sure of nothing: its plan was proved and costs both."""
    table = table_with_ties(0)
    scores = table.scores("max_softmax").copy()
    scores[0, table.split != 0] = 0.0
    table = replace(table, confidence={"max_softmax": scores}).only(["tiny", "huge"])
    result = search(table, max_drop=5.0, without=["learned"])
    proof = result.choices[0].certificate
    assert proof is not None
    assert proof.falls_back
    assert not proof.failed
    [path] = paths_of(result, table)
    assert path.frozen
    assert not path.proved
    words = {Slider(Report(result), (path,)).proof(path, step) for step in path.steps}
    assert words == {"not certified: nothing cheaper than huge was proved"}


def test_without_labels_there_are_no_classes() -> None:
    table = table_with_ties(1, labels=None)
    result = search(table, reference="huge", max_drop=8.0)
    [path] = paths_of(result, table)
    assert not any(step.classes for step in path.steps)
    slider = Slider(Report(result), (path,))
    assert "disagreement ≤ 8 points" in slider.proof(path, path.steps[0])
    assert slider.few(path)[0] == path.steps[0]
