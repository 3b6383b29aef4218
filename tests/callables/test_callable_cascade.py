"""Cascades of functions and estimators answer as their table says, without PyTorch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import polars as pl
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from online_requests import answer_each
from understudy import Executor, Policy, ScoreTable, build, save_cascade, score, search
from understudy.callables import CallableCascade, CallableStage
from understudy.confidence_functions import softmax
from understudy.ensemble import Ensemble, with_ensemble
from understudy.errors import DataError, ModelError
from understudy.outcome import decide, evaluate
from understudy.policy import PolicyStage
from understudy.runtime.protocol import NotANumber, RequestFailed, StageFailed

WORDS = {
    "bad": ["awful", "poor", "hate", "worst", "sad"],
    "good": ["fine", "great", "nice", "love", "super"],
    "meh": ["okay", "so", "average", "plain", "mid"],
}


class Case(NamedTuple):
    """Held-out samples with labels, and models that were fitted to others."""

    samples: Any
    labels: Any
    models: dict[str, Any]


@cache
def digits() -> Case:
    rows, labels = load_digits(return_X_y=True)
    small = LogisticRegression(C=0.001, max_iter=500).fit(rows[:400], labels[:400])
    large = ExtraTreesClassifier(30, random_state=0).fit(rows[:400], labels[:400])
    return Case(rows[400:], labels[400:], {"tiny": small, "big": large.predict_proba})


@cache
def texts() -> Case:
    """Texts of a few words; the large model is a mock of an API that returns labels with scores."""
    rng = np.random.default_rng(0)
    labels = rng.choice(list(WORDS), 900).tolist()
    drawn = [
        [
            label if rng.random() < 0.6 else rng.choice(list(WORDS))
            for _ in range(rng.integers(1, 9))
        ]
        for label in labels
    ]
    lines = [" ".join(rng.choice(WORDS[kind]) for kind in kinds) for kinds in drawn]
    training, held_out = lines[:400], lines[400:]
    words = TfidfVectorizer(max_features=6)
    small = make_pipeline(words, LogisticRegression()).fit(training, labels[:400])
    large = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(training, labels[:400])

    def mock_api(lines: list[str]) -> list[list[dict[str, Any]]]:
        assert isinstance(lines, list)
        shares = large.predict_proba(lines)
        named = [zip(large.classes_, row, strict=True) for row in shares]
        return [[{"label": label, "score": share} for label, share in row] for row in named]

    return Case(held_out, labels[400:], {"tiny": small, "big": mock_api})


@cache
def frames() -> Case:
    """Data frames of numbers and texts, which the pipelines know by the names of their columns."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 900)
    frame = pd.DataFrame({
        "age": 30 + 20 * labels + rng.normal(0, 15, 900),
        "city": np.where(rng.random(900) < 0.75, labels, 1 - labels),
    }).astype({"city": str})  # fmt: skip
    encoded = make_column_transformer((OneHotEncoder(), ["city"]), remainder="drop")
    both = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    named = np.where(labels == 1, "yes", "no")
    small = make_pipeline(encoded, LogisticRegression()).fit(frame[:400], named[:400])
    large = make_pipeline(both, LogisticRegression()).fit(frame[:400], named[:400])
    return Case(frame[400:], named[400:], {"tiny": small, "big": large})


@cache
def matrices() -> Case:
    """Sparse rows; the small model has decision values and no probabilities."""
    rows, labels = load_digits(return_X_y=True)
    wide = sparse.csr_matrix(rows)
    small = RidgeClassifier(alpha=1e4).fit(wide[:400], labels[:400])
    large = ExtraTreesClassifier(30, random_state=0).fit(wide[:400], labels[:400])
    return Case(wide[400:], labels[400:], {"tiny": small, "big": large})


CASES = [digits, texts, frames, matrices]
COSTS = {"USD": {"tiny": 1.0, "big": 30.0}}


def scored(case: Case) -> ScoreTable:
    return score(case.models, case.samples, case.labels, costs=COSTS)


def batches(samples: Any, size: int) -> list[Any]:
    count = samples.shape[0] if hasattr(samples, "shape") else len(samples)
    return [samples[at : at + size] for at in range(0, count, size)]


def assert_decided(answers: Any, table: ScoreTable, policy: Policy) -> None:
    found = decide(table, policy)
    exits = [policy.exits[stage] for stage in found.stage]
    assert answers.prediction.tolist() == found.prediction.tolist()
    assert answers.exit_names() == exits
    assert np.array_equal(answers.confidence, found.confidence.astype(np.float32))


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_what_runs_is_what_was_evaluated(make: Callable[[], Case]) -> None:
    """The circle: score, search, build, run; every sample has the predicted answer and exit."""
    case = make()
    table = scored(case)
    result = search(table, reference="big", max_drop=5.0)
    cascade = build(result, case.models)
    assert isinstance(cascade, CallableCascade)
    sure = np.sort(table.scores("max_softmax")[0])
    for threshold in (sure[len(sure) // 3], sure[-1], np.inf):
        policy = Policy.pair("tiny", "big", float(threshold))
        cascade.policy = policy
        answers = cascade.answer(case.samples)
        assert_decided(answers, table, policy)
    assert set(answers.exit_names()) == {"big"}
    cascade.policy = result.choice().policy
    answers = cascade.answer(case.samples)
    assert cascade.predict(case.samples).shape == (len(table),)
    assert np.array_equal(cascade.predict_proba(case.samples).argmax(1), answers.prediction)
    with Executor(cascade, max_batch=50) as executor:
        found = list(executor.map(batches(case.samples, 37)))
    assert np.concatenate([one.prediction for one in found]).tolist() == answers.prediction.tolist()
    assert [name for one in found for name in one.exit_names()] == answers.exit_names()


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_single_requests_of_every_kind(make: Callable[[], Case]) -> None:
    case = make()
    cascade = build(Policy.pair("tiny", "big", 0.7), case.models)
    alone = case.samples[:12] if make is not frames else case.samples.iloc[:12]
    rows = batches(alone, 1) if make in {frames, matrices} else list(alone)

    async def requests() -> list[Any]:
        with Executor(cascade, max_batch=8) as executor:
            return await asyncio.gather(*(executor.answer(row) for row in rows))

    found = asyncio.run(requests())
    whole = cascade.answer(alone)
    assert [one.prediction for one in found] == whole.prediction.tolist()
    assert [one.exit for one in found] == whole.exit_names()


def test_only_deferred_rows_go_on() -> None:
    case, seen = frames(), list[Any]()

    def large(frame: Any) -> Any:
        seen.append(frame)
        return case.models["big"].predict_proba(frame)

    large_stage = CallableStage(large, classes=case.models["big"].classes_)
    threshold = case.models["tiny"].predict_proba(case.samples).max()
    policy = Policy.pair("tiny", "big", float(np.float32(threshold)))
    cascade = build(policy, {"tiny": case.models["tiny"], "big": large_stage})
    answers = cascade.answer(case.samples)
    deferred = case.samples[[name == "big" for name in answers.exit_names()]]
    assert len(seen) == 1
    pd.testing.assert_frame_equal(seen[0], deferred)
    assert cascade.predict(case.samples[:3]).dtype.kind == "U", (
        "classes as the estimators name them"
    )


@pytest.mark.parametrize("kind", [pl.DataFrame, pd.DataFrame])
def test_rows_of_several_batches_are_put_together(kind: Any) -> None:
    seen: list[Any] = []

    def last(frame: Any) -> Any:
        seen.append(frame)
        return np.eye(2)[np.asarray(frame["x"]) % 2]

    unsure = {"tiny": lambda frame: np.full((len(frame), 2), 0.5), "big": last}
    cascade = build(Policy.pair("tiny", "big", 0.9), unsure)
    frame = kind({"x": np.arange(20), "y": list("abcdefghijklmnopqrst")})
    with Executor(cascade, max_batch=20) as executor:
        found = list(executor.map(batches(frame, 3)))
    assert np.concatenate([one.prediction for one in found]).tolist() == [0, 1] * 10
    assert len(seen) == 1
    assert isinstance(seen[0], kind)
    assert list(seen[0]["y"]) == list("abcdefghijklmnopqrst")


def test_ensembles_and_learned_scores_run() -> None:
    case = digits()
    table = with_ensemble(scored(case), ["tiny", "big"], [1.0, 1.0])
    members = {**case.models, "tiny+big": Ensemble(("tiny", "big"), (1.0, 1.0))}
    policy = Policy((PolicyStage("tiny", 0.6), PolicyStage("tiny+big")))
    calls: list[int] = []

    def large(rows: Any) -> Any:
        calls.append(len(rows))
        return case.models["big"](rows)

    cascade = build(policy, {**members, "big": large})
    answers, found = cascade.answer(case.samples), decide(table, policy)
    assert (answers.prediction == found.prediction).mean() > 0.995, "logits are kept as float16"
    assert answers.exit_names() == [policy.exits[stage] for stage in found.stage]
    assert calls == [answers.exit_names().count("tiny+big")]
    assert cascade.logits("tiny+big", case.samples[:5]).shape == (5, 10)


def test_operating_points_are_switched() -> None:
    case = digits()
    result = search(scored(case), reference="big", max_drop=5.0)
    cascade = build(result, case.models)
    cascade.set_operating_point(max_drop=0)
    assert set(cascade.answer(case.samples).exit_names()) == {"big"}
    point = cascade.set_operating_point(max_drop=5)
    outcome = evaluate(scored(case), point.policy)
    assert outcome.accuracy > 0.8


def test_logits_of_requests() -> None:
    """Those behind the probabilities that the cascade returns."""
    case = digits()
    cascade = build(Policy.pair("tiny", "big", 0.7), case.models)
    rows = case.samples[:30]
    answers = answer_each(Executor(cascade, max_batch=30, max_wait_ms=1e5), rows, logits=True)
    found = np.stack([answer.logits for answer in answers if answer.logits is not None])
    np.testing.assert_allclose(softmax(found), cascade.predict_proba(rows), atol=1e-6)


# -- failures ----------------------------------------------------------------------------------


def unsure(rows: Any) -> Any:
    return np.full((len(rows), 2), 0.5)


def test_a_function_that_raises_is_named_and_not_called_again() -> None:
    calls: list[int] = []

    def mock_api(rows: Any) -> Any:
        calls.append(len(rows))
        raise ConnectionError("no route to host")

    cascade = build(Policy.pair("tiny", "api", 0.9), {"tiny": unsure, "api": mock_api})
    with pytest.raises(StageFailed, match="'api' raised on a batch of 4 samples: ConnectionError"):
        cascade.answer(np.zeros((4, 1)))
    with Executor(cascade, max_batch=4) as executor:
        found = list(executor.map([np.zeros((2, 1))] * 4))
        assert calls == [4, 4, 4]
        assert all("no route to host" in reason for one in found for reason in one.failed.values())
        assert sum(len(one.failed) for one in found) == executor.stats.failed["api"] == 8

        async def request() -> None:
            await executor.answer(np.zeros(1))

        with pytest.raises(
            RequestFailed, match="'api' raised on one sample: ConnectionError"
        ) as one:
            asyncio.run(request())
    assert isinstance(one.value.__cause__, StageFailed)
    assert isinstance(one.value.__cause__.__cause__, ConnectionError)


def test_a_sample_without_an_answer_goes_on() -> None:
    """None at a first stage is deferred; at the last one the sample fails alone."""
    gaps = {
        "tiny": lambda texts: [None if "?" in one else [0.9, 0.1] for one in texts],
        "big": lambda texts: [None if "??" in one else [0.2, 0.8] for one in texts],
    }
    cascade = build(Policy.pair("tiny", "big", 0.5), gaps)
    samples = ["a", "b?", "c??"]
    answers = cascade.answer(samples)
    assert answers.prediction.tolist() == [0, 1, -1]
    assert list(answers.failed) == [2]
    assert np.isnan(cascade.predict_proba(samples)[2]).all()
    with pytest.raises(NotANumber, match="'big'"):
        cascade.predict(samples)


def test_memory_that_runs_out_halves_batches() -> None:
    sizes: list[int] = []

    def hungry(rows: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 4:
            raise MemoryError
        return unsure(rows)

    with Executor(build(Policy.single("net"), {"net": hungry}), max_batch=8) as executor:
        found = list(executor.map([np.zeros((16, 1))]))
    assert not found[0].failed
    assert sizes == [8, 4, 4, 4, 4]


async def coroutine(rows: Any) -> Any:
    return unsure(rows)


@pytest.mark.parametrize(
    ("models", "samples", "error", "message"),
    [
        ({"net": unsure}, np.zeros((0, 1)), DataError, "at least one sample"),
        ({"net": unsure}, "a text", DataError, "found one str: give a list"),
        ({"net": unsure}, [], DataError, "at least one sample"),
        ({"net": lambda rows: rows}, np.ones((2, 2)), ModelError, "sum to 1, 2 of 2 rows of 'net'"),
        ({"net": coroutine}, ["a"], ModelError, "'net' is a coroutine"),
        ({"net": lambda rows: np.eye(3)[[0] * len(rows)], "other": unsure}, ["a"], ModelError,
         "'net' has 3 and 'other' has 2"),
        ({"net": LogisticRegression()}, np.zeros((2, 2)), StageFailed, "not fitted yet"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:coroutine")
def test_bad_answers_are_refused(
    models: dict[str, Any], samples: Any, error: type[Exception], message: str
) -> None:
    names = tuple(models)
    stages = [PolicyStage(name, 2.0) for name in names[:-1]]
    with pytest.raises(error, match=message):
        build(Policy((*stages, PolicyStage(names[-1]))), models).answer(samples)


@pytest.mark.parametrize("model", [7, LogisticRegression, "timm:resnet18", object()])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="a model is a function, a fitted classifier"):
        build(Policy.single("net"), {"net": model})


def test_models_are_compared_as_far_as_they_are_known() -> None:
    case = digits()
    result = search(scored(case), reference="big", max_drop=5.0)
    large = ExtraTreesClassifier(2).fit(case.samples[:300], case.labels[:300] % 5)

    def small(rows: Any, labels: Any) -> LogisticRegression:
        return LogisticRegression(C=0.001, max_iter=500).fit(rows, labels)

    narrow = GaussianNB().fit(case.samples[:300, :9], case.labels[:300])
    for model, message in (
        (small(case.samples[:, :9], case.labels), "number of features is 9 and was 64"),
        (large, "number of classes is 5 and was 10"),
        (narrow, "type is 'GaussianNB' and was 'LogisticRegression'"),
        (case.models["tiny"].decision_function, "output is 'logits' and was 'probabilities'"),
    ):
        with pytest.raises(ModelError, match=message):
            build(result, {**case.models, "tiny": model})
    with pytest.raises(ModelError, match="'big' has none"):
        build(Policy.pair("tiny", "big", 0.5), {"tiny": case.models["tiny"]})


def test_modules_and_functions_are_not_mixed() -> None:
    from torch import nn

    with pytest.raises(ModelError, match="the module 'net' beside 'tiny'"):
        build(Policy.single("net"), {"net": nn.Linear(4, 2), "tiny": unsure})
    with pytest.raises(ModelError, match="found a list: name them"):
        build(Policy.single("net"), [unsure])  # type: ignore[call-overload]


def test_functions_are_not_saved(tmp_path: Path) -> None:
    cascade: Any = build(Policy.single("net"), {"net": unsure})
    with pytest.raises(ModelError, match="found a CallableCascade: save its result"):
        save_cascade(cascade, tmp_path / "cascade")
    assert not list(tmp_path.iterdir())
