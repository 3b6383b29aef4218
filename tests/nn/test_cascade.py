"""Cascades of PyTorch models: answers and logits, batches and state, policies that are switched."""

from __future__ import annotations

import copy
import threading
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fakes import (
    StatefulStage,
    TableModel,
    batch_sizes,
    result_of,
    scored,
    table_models,
    tensors_of,
)
from online_requests import answer_each
from oracle import fate
from sample_rows import Row, answered_rows, chain, expected_rows, in_batches
from understudy.confidence_functions import CONFIDENCES
from understudy.errors import DataError, ModelError, PolicyError
from understudy.nn.cascade import Cascade, build
from understudy.nn.stage import Stage
from understudy.policy import Policy, PolicyStage, midpoint
from understudy.runtime.executor import Executor
from understudy.scores import ScoreTable


def slow_rows(table: ScoreTable, policy: Policy) -> list[Row]:
    """Prediction, confidence and exit of every sample, one by one."""
    rows = []
    for sample in range(len(table)):
        stage, prediction, _ = fate(table, policy, sample)
        exit, confidence = policy.exits[stage], policy.stages[stage].confidence
        value = table.confidence[confidence][table.index(exit), sample]
        rows.append((prediction, float(value), exit))
    return rows


@st.composite
def tables(draw: st.DrawFn) -> ScoreTable:
    """Tables with many ties: logits are small multiples of a half."""
    exits, classes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, levels = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    logits = random.integers(-levels, levels + 1, (exits, samples, classes)) / 2
    return scored({f"exit {number}": rows for number, rows in enumerate(logits)})


@st.composite
def policies(draw: st.DrawFn, table: ScoreTable) -> Policy:
    """Thresholds on observed values, between them, and at infinity."""
    names = draw(st.permutations(table.names))[: draw(st.integers(1, len(table.names)))]
    stages = []
    for name in names[:-1]:
        confidence = draw(st.sampled_from(CONFIDENCES))
        observed = np.unique(table.confidence[confidence][table.index(name)].astype(float)).tolist()
        between = [midpoint(*two) for two in pairwise(observed)]
        threshold = float(draw(st.sampled_from([*observed, *between, np.inf, -np.inf])))
        stages.append(PolicyStage(name, threshold, confidence))
    last = PolicyStage(names[-1], None, draw(st.sampled_from(CONFIDENCES)))
    return Policy((*stages, last))


@settings(deadline=None, max_examples=60)
@given(
    st.data(),
    st.lists(st.integers(1, 17), min_size=1, max_size=3),
    st.integers(1, 20),
    st.booleans(),
)
def test_running_equals_the_table(
    data: st.DataObject, sizes: list[int], batch: int, listed: bool
) -> None:
    """The chief test: answers and exits are those of the table, however the rows are batched."""
    table = data.draw(tables())
    policy = data.draw(policies(table))
    expected = slow_rows(table, policy)
    assert expected_rows(table, policy) == expected
    models = table_models(table)
    cascade = Cascade(models, policy)
    images = tensors_of(range(len(table)))
    assert answered_rows(cascade.answer(list(images) if listed else images)) == expected

    batches = [list(part) if listed else part for part in in_batches(images, sizes)]
    streamed = list(Executor(cascade, max_batch=batch).map(batches))
    assert [len(answers) for answers in streamed] == [len(part) for part in batches]
    assert answered_rows(*streamed) == expected
    assert all(0 not in model.batches for model in models.values())


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_forward_gives_the_logits_of_the_exit_that_answered(data: st.DataObject) -> None:
    table = data.draw(tables())
    models = table_models(table)
    cascade = Cascade(models, data.draw(policies(table)))
    images = tensors_of(range(len(table)))
    logits = cascade(images)
    for row, name in enumerate(cascade.answer(images).exit_names()):
        assert torch.equal(logits[row], models[name].logits[row])


def three_exits(samples: int = 100) -> ScoreTable:
    random = np.random.default_rng(7)
    names = ("tiny", "middle", "big")
    return scored({name: random.integers(-4, 5, (samples, 6)) / 2 for name in names})


def test_answered_rows_leave_the_batch() -> None:
    cascade = Cascade(table_models(three_exits()), chain(0.4))
    exits = np.bincount(cascade.answer(tensors_of(range(100))).exit, minlength=3).tolist()
    sizes = {"tiny": [100], "middle": [100 - exits[0]], "big": [exits[2]]}
    assert batch_sizes(cascade) == sizes
    assert all(exits)


def test_a_stage_is_not_run_on_nothing() -> None:
    cascade = Cascade(table_models(three_exits()), chain(first=-np.inf))
    cascade.answer(tensors_of(range(100)))
    list(Executor(cascade, max_batch=8).map([tensors_of(range(100))]))
    sizes = batch_sizes(cascade)
    assert sizes["middle"] == []
    assert sizes["big"] == []


def test_the_stream_fills_batches() -> None:
    cascade = Cascade(table_models(three_exits(1000)), chain(0.4))
    list(Executor(cascade, max_batch=32).map(in_batches(tensors_of(range(1000)), [48, 3])))
    for sizes in batch_sizes(cascade).values():
        assert set(sizes[:-1]) == {32}
        assert 1 <= sizes[-1] <= 32


def test_the_stream_does_not_copy_whole_batches() -> None:
    addresses = []

    class Recorder(nn.Identity):
        def forward(self, images: Tensor) -> Tensor:
            addresses.append(images.data_ptr())
            return super().forward(images)

    batches = [torch.randn(8, 3) for _ in range(3)]
    cascade = Cascade({"big": Recorder()}, Policy.single("big"))
    list(Executor(cascade, max_batch=8).map(batches))
    assert addresses[1:] == [images.data_ptr() for images in batches[1:]]  # see `InputGuard`


def test_the_stream_takes_images_of_changing_shape() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            means = images.flatten(1).mean(1)
            return torch.stack([means, -means], 1)

    cascade = Cascade({"tiny": Mean(), "big": Mean()}, Policy.pair("tiny", "big", np.inf))
    shapes = [(5, 1, 2, 2), (3, 1, 3, 3), (0, 1, 3, 3), (4, 1, 3, 3)]
    batches = [torch.randn(shape) for shape in shapes]
    streamed = list(Executor(cascade, max_batch=4).map([*batches, list(batches[0])]))
    assert [len(answers) for answers in streamed] == [5, 3, 0, 4, 5]
    for images, answers in zip(batches, streamed, strict=False):
        if len(images):
            assert np.array_equal(cascade.answer(images).prediction, answers.prediction)
    assert answered_rows(streamed[4]) == answered_rows(streamed[0])


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_state_stays_with_its_rows(batch: int) -> None:
    table = three_exits()
    stages = {name: StatefulStage(model) for name, model in table_models(table).items()}
    cascade = Cascade(stages, chain(0.4))
    expected = expected_rows(table, chain(0.4))
    assert answered_rows(cascade.answer(tensors_of(range(100)))) == expected
    streamed = Executor(cascade, max_batch=batch).map(in_batches(tensors_of(range(100)), [9]))
    assert answered_rows(*streamed) == expected


def test_nan_is_deferred_and_fails_at_the_end() -> None:
    rows = torch.tensor([[5.0, 0.0], [torch.nan, 0.0], [5.0, 0.0]])
    cascade = Cascade({"tiny": nn.Identity(), "big": NanToSecond()}, Policy.single("tiny"))
    for threshold in (0.5, -np.inf):
        cascade.policy = Policy.pair("tiny", "big", threshold)
        assert cascade.answer(rows).exit_names() == ["tiny", "big", "tiny"]
    for policy in (Policy.pair("big", "tiny", np.inf), Policy.single("tiny")):
        cascade.policy = policy
        for answers in (cascade.answer(rows), next(Executor(cascade).map([rows]))):
            assert answers.exit_names() == ["tiny", "", "tiny"]
            assert answers.prediction.tolist() == [0, -1, 0]
            assert answers.confidence.tolist()[0] > 0.9
            assert np.isnan(answers.confidence).tolist() == [False, True, False]
            assert list(answers.failed) == [1]
            assert "found NaN in the logits of 'tiny'" in answers.failed[1]
        assert cascade(rows).isnan().any(1).tolist() == [False, True, False]


class NanToSecond(nn.Module):
    """Predicts the second class where the first logit is NaN."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.nan_to_num(-1.0)


def test_stages_of_another_dtype_and_order_of_names() -> None:
    models = table_models(three_exits())
    half = Stage(models["tiny"].to(torch.bfloat16))
    stages = {"resnet.2/x:y": models["big"], "items": half}
    cascade = Cascade(stages, Policy.single("items"))
    cascade.policy = Policy.pair("items", "resnet.2/x:y", 0.5)
    assert cascade.exits == ("resnet.2/x:y", "items")
    assert cascade(tensors_of(range(100))).dtype == torch.float32
    assert set(cascade.answer(tensors_of(range(100))).exit_names()) == {"items", "resnet.2/x:y"}
    assert len(list(cascade.buffers())) == 2


def test_works_in_and_out_of_inference_mode() -> None:
    cascade = Cascade({"big": nn.Linear(2, 3)}, Policy.single("big"))
    with torch.inference_mode():
        inside = cascade(torch.ones(4, 2))
    assert torch.equal(inside, cascade(torch.ones(4, 2)))
    assert not torch.is_inference_mode_enabled()
    for _ in Executor(cascade).map([torch.ones(4, 2)]):
        assert not torch.is_inference_mode_enabled()


def test_a_copy_has_its_own_stages() -> None:
    cascade, images = Cascade(table_models(three_exits()), chain(0.4)), tensors_of(range(100))
    copied = copy.deepcopy(cascade)
    assert answered_rows(copied.answer(images)) == answered_rows(cascade.answer(images))
    assert copied.runners[0].stage is copied.stages["tiny"]
    assert copied.runners[0].stage is not cascade.runners[0].stage


def test_a_batch_is_answered_by_one_policy() -> None:
    """The policy is switched by the first stage, in the middle of a batch."""
    table, images = three_exits(), tensors_of(range(100))
    before, after = chain(0.4), Policy.single("big")

    class Switching(TableModel):
        def forward(self, images: Tensor) -> Tensor:
            cascade.policy = after
            return super().forward(images)

    cascade = Cascade({**table_models(table), "tiny": Switching(table, "tiny")}, before)
    assert answered_rows(cascade.answer(images)) == expected_rows(table, before)
    assert cascade.policy == after
    assert answered_rows(cascade.answer(images)) == expected_rows(table, after)


def test_switching_from_another_thread() -> None:
    table, images = three_exits(20), tensors_of(range(20))
    switched = [
        chain(0.4),
        chain(0.9, 0.2),
        Policy.single("tiny"),
        Policy.pair("middle", "big", 0.6),
    ]
    expected = [expected_rows(table, policy) for policy in switched]
    cascade, stop = Cascade(table_models(table), switched[0]), threading.Event()

    def switch() -> None:
        while not stop.is_set():
            for policy in switched:
                cascade.policy = policy

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        for _ in range(40):
            assert answered_rows(cascade.answer(images)) in expected
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy.single("tniy"), "no stage 'tniy'; did you mean 'tiny'"),
        (Policy.pair("tiny", "big", 0.5, confidence="entropy"), "'energy' or 'negative_entropy'"),
    ],
)
def test_a_policy_that_does_not_fit(policy: Policy, message: str) -> None:
    stages = table_models(three_exits())
    with pytest.raises(PolicyError, match=message):
        Cascade(stages, policy)
    cascade = Cascade(stages, chain())
    with pytest.raises(PolicyError, match=message):
        cascade.policy = policy
    assert cascade.policy == chain()


def test_stages_that_differ_in_their_classes() -> None:
    cascade = Cascade({"tiny": nn.Linear(2, 3), "big": nn.Linear(2, 5)}, Policy.single("tiny"))
    cascade.policy = Policy.pair("tiny", "big", np.inf)
    message = "'tiny' has 3 and 'big' has 5"
    with pytest.raises(ModelError, match=message):
        cascade(torch.zeros(2, 2))
    with pytest.raises(ModelError, match=message):
        list(Executor(cascade).map([torch.zeros(2, 2)]))


def test_invalid_stages_and_images() -> None:
    with pytest.raises(ModelError, match="at least one stage"):
        Cascade({}, Policy.single("tiny"))
    with pytest.raises(ModelError, match="found str"):
        Cascade({"tiny": "resnet18"}, Policy.single("tiny"))  # type: ignore[dict-item]
    with pytest.raises(DataError, match="at least one image"):
        Cascade({"tiny": nn.Linear(2, 3)}, Policy.single("tiny"))(torch.zeros(0, 2))


def test_build_from_a_policy_or_a_result() -> None:
    models = table_models(three_exits())
    first, second = Policy.pair("tiny", "big", 0.5), Policy.single("big")
    result = result_of(three_exits(), first, second)
    assert build(second, models).policy == second
    assert build(result, models).policy == first
    assert build(result, models, max_drop=1.0).policy == first
    assert build(first, models).exits == ("tiny", "middle", "big")
    with pytest.raises(ModelError, match="'big' has none; given were 'tiny', 'large'"):
        build(first, {"tiny": models["tiny"], "large": models["big"]})
    with pytest.raises(ModelError, match="given were none"):
        build(first, {})


def test_requests_one_by_one() -> None:
    table = three_exits()
    cascade = Cascade(table_models(table), chain(0.4))
    answers = answer_each(Executor(cascade, max_batch=16), tensors_of(range(100)))
    assert [tuple(answer) for answer in answers] == expected_rows(table, chain(0.4))


def test_logits_of_requests() -> None:
    """Of one batch, they are those of the exit that answered, bit by bit."""

    class Rounded(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            return super().forward(rows).to(torch.bfloat16)

    torch.manual_seed(0)
    stages = {"tiny": nn.Linear(6, 5), "big": Rounded(6, 5)}
    cascade = Cascade(stages, Policy.pair("tiny", "big", 0.4))
    rows = torch.randn(40, 6)
    answers = answer_each(Executor(cascade, max_batch=40, max_wait_ms=1e5), rows, logits=True)
    assert {answer.exit for answer in answers} == {"tiny", "big"}
    found = np.stack([answer.logits for answer in answers if answer.logits is not None])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, cascade(rows).numpy())


def test_out_of_memory_frees_what_the_batch_took_before_the_halves_are_run() -> None:
    """No reference keeps the tensors of the failed attempt alive while the next one is made."""
    kept: list[weakref.ref[Tensor]] = []

    class Greedy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert all(tensor() is None for tensor in kept)
            large = torch.zeros(len(images), 1000)
            kept.append(weakref.ref(large))
            if len(images) > 4:
                raise torch.OutOfMemoryError(f"cannot allocate {len(large)} rows")
            return large[:, :3]

    cascade = Cascade({"tiny": Greedy()}, Policy.single("tiny"))
    (answers,) = Executor(cascade, max_batch=16).map([torch.zeros(16, 1)])
    assert not answers.failed
    assert len(kept) == 1 + 1 + 4  # the second half is known to be too large


def test_arrays_are_taken_like_tensors() -> None:
    stages = {"tiny": nn.Linear(4, 3), "big": nn.Linear(4, 3)}
    cascade = Cascade(stages, Policy.pair("tiny", "big", 0.5))
    rows = torch.randn(30, 4)
    expected = cascade.answer(rows)
    executor = Executor(cascade, max_batch=8)
    streamed = list(executor.map(np.split(rows.numpy(), [7, 9])))
    assert np.concatenate([answers.exit for answers in streamed]).tolist() == expected.exit.tolist()
    answers = answer_each(executor, rows.numpy())
    assert [answer.prediction for answer in answers] == expected.prediction.tolist()


def test_arrays_that_torch_cannot_hold_are_answered() -> None:
    models = {"tiny": nn.Linear(4, 3), "big": nn.Linear(4, 3)}
    cascade: Any = Cascade(models, Policy.pair("tiny", "big", 0.5))
    images = np.random.default_rng(0).random((8, 4), np.float32)
    expected = cascade.answer(images).prediction.tolist()
    assert cascade.answer(images[::-1]).prediction.tolist() == expected[::-1]
    assert cascade.answer(images.astype(">f4")).prediction.tolist() == expected
    turned = np.ascontiguousarray(images[:, ::-1])[:, ::-1]
    answers = answer_each(Executor(cascade), turned)
    assert [one.prediction for one in answers] == expected
