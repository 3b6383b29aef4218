"""What is normal of a policy: counted as a slow oracle counts, and as the running cascade does."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression

from fakes import scored, table_models, tensors_of
from online_requests import answer_each
from sample_rows import Array
from tables import policies, score_tables, synthetic
from understudy import Executor, Result, ScoreTable, build, score, search
from understudy.baseline import Baseline, StageBaseline, baseline_of
from understudy.errors import PolicyError
from understudy.operating_point import OperatingPoint, operating_points_of
from understudy.outcome import evaluate, units_of
from understudy.policy import Policy
from understudy.runtime.base_cascade import BaseCascade
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.protocol import RunnerOutput, StageRunner
from understudy.searching.search import search_in_sample, search_within_cost
from understudy.searching.verify import verify
from understudy.split import SPLITS

EDGES = (0.1, 0.5, 0.99999994)


def reaching(table: ScoreTable, policy: Policy, number: int) -> list[float]:
    """The confidences of a stage as float32, by walking through the policy with each sample."""
    found = []
    for sample in range(len(table)):
        for position, stage in enumerate(policy.stages):
            rows = table.confidence.get(stage.confidence)
            value = np.nan if rows is None else float(rows[table.index(stage.exit), sample])
            if position == number:
                found.append(float(np.float32(value)))
            if position == number or stage.threshold is None or value >= stage.threshold:
                break
    return found


def counted(edges: Sequence[float], values: Sequence[float]) -> list[int]:
    """How many values are in each cell, one value at a time."""
    limits = [float(np.float32(edge)) for edge in edges]
    cells = [0 if np.isnan(one) else bisect_right(limits, one) for one in values]
    return [cells.count(cell) for cell in range(len(limits) + 1)]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_baseline_is_what_a_slow_count_gives(data: st.DataObject) -> None:
    table = data.draw(score_tables(most=80))
    cut = data.draw(st.integers(1, len(table)))
    tune, certify = table.rows(np.arange(cut)), table.rows(np.arange(cut // 2, len(table)))
    policy, reference = data.draw(policies(table)), data.draw(st.sampled_from(table.names))
    found = baseline_of(tune, certify, policy, reference=reference)
    assert [stage.exit for stage in found.stages] == list(policy.exits)
    for number, stage in enumerate(found.stages):
        assert list(stage.counts) == counted(stage.edges, reaching(certify, policy, number))
        assert len(stage.edges) <= len(certify) // 20
    assert found.samples == len(certify)
    outcome = evaluate(replace(certify, label=None, label_sets=None), policy, reference=reference)
    assert found.disagreements == outcome.losses
    assert list(found.costs) == units_of(certify, {reference, *policy.exits})
    for unit, costs in found.costs.items():
        mean = sum(costs[name] * share for name, share in outcome.shares.items())
        assert mean == pytest.approx(outcome.cost[unit])
        assert found.reference_costs[unit] == certify.cost_of([reference], unit)
    assert Baseline.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_edges_do_not_depend_on_the_certify_samples() -> None:
    """Only then are ranks among certify samples and new ones uniform."""
    table, other = synthetic(4000), synthetic(4000, seed=1)
    policy = Policy.pair("net0", "net2", 0.7)
    tune = table.on("tune")
    first, second = (
        baseline_of(tune, one.rows(np.arange(1500)), policy, reference="net2")
        for one in (table, other)
    )
    assert [one.edges for one in first.stages] == [one.edges for one in second.stages]
    assert first.stages != second.stages


def confident(values: Array) -> ScoreTable:
    """Confidences of `tiny`; those of `big` are 1."""
    right = np.zeros(len(values), int)
    exits = {"tiny": (right, values), "big": (right, np.ones_like(values))}
    return ScoreTable.from_predictions(exits, None, costs={"tiny": 1, "big": 9})


def test_cells_are_equally_full_and_few_where_samples_are() -> None:
    values = np.random.default_rng(0).random(60_000)
    table = confident(values)
    policy = Policy.pair("tiny", "big", 0.5)
    tune, certify = table.on("tune"), table.on("certify")
    stage, last = baseline_of(tune, certify, policy, reference="big").stages
    assert len(stage.edges) == 255
    assert min(stage.counts) > 50
    assert last.edges == ()  # all are as certain there
    assert np.mean([len(str(edge)) for edge in stage.edges]) < 8
    few, _ = baseline_of(tune, certify.rows(np.arange(1000)), policy, reference="big").stages
    assert len(few.counts) == 50
    alone = Policy.single("tiny")
    (none,) = baseline_of(tune, certify.rows(slice(1)), alone, reference="big").stages
    assert none.counts == (1,)


def test_edges_lie_between_confidences_that_are_tied() -> None:
    """Rounding that differs between devices then moves no sample to another cell."""
    values = np.random.default_rng(0).integers(0, 11, 10_000) / 10
    table = confident(values)
    tune, certify = table.on("tune"), table.on("certify")
    (stage,) = baseline_of(tune, certify, Policy.single("tiny"), reference="big").stages
    assert stage.edges == (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)


def test_edges_are_kept_as_float32_whatever_decides() -> None:
    """A confidence in float32 and the same in float64 are in one cell, at every edge."""
    random = np.random.default_rng(0)
    values = (1 - random.random(40_000) ** 4 * 1e-5).astype(np.float32)
    table = confident(values)
    tune, certify = table.on("tune"), table.on("certify")
    found = baseline_of(tune, certify, Policy.single("tiny"), reference="big")
    (stage,) = Baseline.from_dict(json.loads(json.dumps(found.to_dict()))).stages
    assert stage == found.stages[0]
    assert len(set(stage.edges)) == len(stage.edges) > 50
    at_edges = np.array(stage.edges, np.float32)
    for same in (at_edges, at_edges.astype(np.float64), np.array(stage.edges)):
        assert stage.cells(same).tolist() == list(range(1, len(stage.counts)))
    assert stage.cells(np.nextafter(at_edges, np.float32(0))).tolist() == list(range(len(at_edges)))


def test_nan_and_infinity_have_cells() -> None:
    """NaN is deferred like the least confident sample."""
    stage = StageBaseline("tiny", EDGES, (1, 2, 3, 4))
    values = np.array([np.nan, -np.inf, np.inf, 1e300, 1.0])
    assert stage.cells(values).tolist() == [0, 0, 3, 3, 3]
    assert stage.samples == 10
    assert stage.cells(np.zeros(0, np.float32)).tolist() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": (0.1, 0.1, 0.5)}, "the edges of a stage ascend as float32, those of 'tiny'"),
        ({"edges": (0.1, 0.10000000001, 0.5)}, "the edges of a stage ascend as float32"),
        ({"edges": (0.1, 0.2, float("inf"))}, "the edges of a stage ascend as float32"),
        ({"edges": (0.1, 0.2, 1e300)}, "the edges of a stage ascend as float32"),
        ({"counts": (1, 2, 3)}, "'tiny' has 3 counts and 3 edges"),
        ({"counts": (1, -2, 3, 4)}, "counts of a stage are 0 or more, 'tiny' has -2"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    stage = StageBaseline("tiny", EDGES, (1, 2, 3, 4))
    with pytest.raises(PolicyError, match=message):
        replace(stage, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 9}, "all samples reach the first stage and no more each next one"),
        ({"stages": ()}, "all samples reach the first stage"),
        ({"disagreements": 11}, "disagreements are some of 10 samples, found 11"),
        ({"disagreements": -1}, "disagreements are some of 10 samples, found -1"),
    ],
)
def test_baselines_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    stage = StageBaseline("tiny", EDGES, (1, 2, 3, 4))
    baseline = Baseline("tiny", 10, 0, (stage,), {"MACs": {"tiny": 1.0}}, {"MACs": 1.0})
    with pytest.raises(PolicyError, match=message):
        replace(baseline, **change)
    with pytest.raises(PolicyError, match="a baseline has the stages of its policy"):
        OperatingPoint(Policy.single("big"), 0, 0, 1, "MACs", baseline=baseline)


class _CountingSink:
    """Counts in which cells the confidences of each stage are."""

    def __init__(self, baseline: Baseline) -> None:
        self.stages = {stage.exit: stage for stage in baseline.stages}
        self.counts = {name: [0] * len(one.counts) for name, one in self.stages.items()}

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        for cell in self.stages[runner.name].cells(output.confidence).tolist():
            self.counts[runner.name][cell] += 1

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        raise AssertionError(ids, error)


def assert_running_equals_the_baseline(
    cascade: BaseCascade[Any], images: Any, table: ScoreTable
) -> None:
    """Every operating point counts on the images of the certify split what its baseline holds."""
    rows = np.flatnonzero(table.split == SPLITS.index("certify"))
    for point in cascade.operating_points:
        baseline = point.baseline
        assert baseline is not None
        assert cascade.set_operating_point(name=point.name) == point
        sink = _CountingSink(baseline)
        Pipeline(cascade.runners, sink).run_batch(images[rows])
        assert sink.counts == {one.exit: list(one.counts) for one in baseline.stages}
        alone = Policy.single(baseline.reference)
        answers = [cascade.answer(images[rows]).prediction]  # type: ignore[attr-defined]
        cascade.policy = alone
        answers.append(cascade.answer(images[rows]).prediction)  # type: ignore[attr-defined]
        assert baseline.disagreements == (answers[0] != answers[1]).sum()
        assert baseline.samples == len(rows)


def counted_online(
    cascade: BaseCascade[Any], images: Any, baseline: Baseline
) -> dict[str, list[int]]:
    """What an observer of single requests counts, whatever the batches."""
    cells = {stage.exit: stage for stage in baseline.stages}
    counts = {name: np.zeros(len(stage.counts), int) for name, stage in cells.items()}

    def observe(runners: Any, runner: StageRunner, confidence: Array) -> None:
        np.add.at(counts[runner.name], cells[runner.name].cells(confidence), 1)

    executor = Executor(cascade, max_batch=100, observer=observe)
    answer_each(executor, images)
    return {name: found.tolist() for name, found in counts.items()}


def plausible() -> ScoreTable:
    """Three models, each better and dearer than the one before, with all logits."""
    random = np.random.default_rng(2)
    label = random.integers(0, 5, 2500)
    logits = {
        name: 3 * skill * np.eye(5)[label] + random.normal(size=(2500, 5))
        for name, skill in {"tiny": 0.7, "middle": 1.0, "big": 2.0}.items()
    }
    return scored(logits, label)


def test_running_modules_equals_the_baseline() -> None:
    """The chief test, with a learned score, an ensemble and all samples in batches of another size
    than those that were scored."""
    table = plausible()
    result = search(table, max_drop=[2.0, 10.0])
    cascade = build(result, table_models(table))
    assert any(len(point.policy.stages) > 1 for point in cascade.operating_points)
    assert any(stage.confidence == "deferral" for stage in cascade.policy.stages)
    assert_running_equals_the_baseline(cascade, tensors_of(range(len(table))), table)


def test_running_estimators_equals_the_baseline() -> None:
    rows, labels = load_digits(return_X_y=True)
    small = LogisticRegression(C=0.001, max_iter=500).fit(rows[:400], labels[:400])
    large = ExtraTreesClassifier(30, random_state=0).fit(rows[:400], labels[:400])
    models = {"tiny": small, "big": large}
    table = score(models, rows[400:], labels[400:], costs={"tiny": 1, "big": 9})
    result = search(table, max_drop=[2.0, 5.0])
    cascade = build(result, models)
    assert len(cascade.operating_points) > 1
    assert_running_equals_the_baseline(cascade, rows[400:], table)
    point = cascade.set_operating_point(max_drop=5.0)
    assert point.baseline is not None
    images = rows[400:][table.split == SPLITS.index("certify")]
    counts = [list(stage.counts) for stage in point.baseline.stages]
    assert list(counted_online(cascade, images, point.baseline).values()) == counts


def test_results_keep_baselines_and_verify_counts_them_again(tmp_path: Path) -> None:
    table = plausible()
    result = search(table, max_drop=[4.0, 0.0])
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    kept = baselines_in(result)
    assert baselines_in(loaded) == kept
    assert [one.name for one in result.singles if one.monitoring] == ["big"]
    points = operating_points_of(loaded)
    assert [one.baseline for one in points] == [result.choices[0].monitoring, kept[-1]]
    whole = points[-1].baseline
    assert whole is not None
    assert (whole.disagreements, whole.samples) == (0, result.table["samples"]["certify"])
    assert whole.costs["MACs"] == {"big": whole.reference_costs["MACs"]}

    first = result.choices[0].monitoring
    assert first is not None
    wrong = replace(result.choices[0], monitoring=replace(first, disagreements=0))
    changed = replace(result, choices=(wrong, *result.choices[1:]))
    (found,) = [check for check in verify(changed, table) if not check.holds]
    assert found.claim == "results[0].monitoring.disagreements"


def test_results_of_before_baselines_are_verified_without() -> None:
    table = synthetic(1500)
    result = search(table, max_drop=2.0)
    older = Result.from_dict(without_monitoring(result.to_dict()))
    assert "monitoring" not in json.dumps(older.to_dict())
    assert all(check.holds for check in verify(older, table))
    assert [one.baseline for one in operating_points_of(older)] == [None, None]


def baselines_in(result: Result) -> list[Baseline | None]:
    normal = [choice.monitoring for choice in result.choices]
    return [*normal, *(single.monitoring for single in result.singles)]


def without_monitoring(data: dict[str, Any]) -> dict[str, Any]:
    for one in (*data["results"], *data["singles"]):
        one.pop("monitoring", None)
    return data


def test_baselines_need_certify_samples_but_no_labels() -> None:
    table = synthetic(1500)
    assert search_within_cost(table, max_cost=60.0).choices[0].monitoring is not None
    assert not any(baselines_in(search_in_sample(table, max_drop=2.0)))
    few = np.where(np.arange(1500) % 3, 1, -1)
    pair = Policy.pair("net0", "net2", 0.7)
    partly, full = (
        baseline_of(one.on("tune"), one.on("certify"), pair, reference="net2")
        for one in (replace(table, label=few), table)
    )
    assert partly == full
