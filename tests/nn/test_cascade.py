from __future__ import annotations

import asyncio
import copy
import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fakes import StatefulStage, TableModel, images_of, result_of, scored
from understudy.confidence import CONFIDENCES
from understudy.errors import DataError, ModelError, PolicyError
from understudy.nn.cascade import Cascade, build
from understudy.nn.stage import Stage
from understudy.outcome import decide
from understudy.policy import Policy, PolicyStage, midpoint
from understudy.runtime.executor import Executor


def oracle(table, policy):
    """Prediction, confidence and exit of every sample, one by one."""
    rows = []
    for sample in range(len(table)):
        for step in policy.stages:
            exit = table.index(step.exit)
            sure = table.confidence[step.confidence][exit, sample]
            if step.threshold is None or float(sure) >= step.threshold:
                rows.append((int(table.prediction[exit, sample]), float(sure), step.exit))
                break
    return rows


def said(answers):
    """The same of what a cascade answered."""
    prediction, confidence = answers.prediction.tolist(), answers.confidence.tolist()
    return list(zip(prediction, confidence, answers.exit_names(), strict=True))


def stages_of(table):
    return {name: TableModel(table, name) for name in table.names}


@st.composite
def tables(draw):
    """Tables with many ties: logits are small multiples of a half."""
    exits, classes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, levels = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    logits = random.integers(-levels, levels + 1, (exits, samples, classes)) / 2
    return scored({f"exit {number}": rows for number, rows in enumerate(logits)})


@st.composite
def policies(draw, table):
    """Thresholds on observed values, between them, and at infinity."""
    names = draw(st.permutations(table.names))[: draw(st.integers(1, len(table.names)))]
    stages = []
    for name in names[:-1]:
        confidence = draw(st.sampled_from(CONFIDENCES))
        seen = np.unique(table.confidence[confidence][table.index(name)].astype(float)).tolist()
        between = [midpoint(*two) for two in pairwise(seen)]
        threshold = draw(st.sampled_from([*seen, *between, np.inf, -np.inf]))
        stages.append(PolicyStage(name, threshold, confidence))
    last = PolicyStage(names[-1], None, draw(st.sampled_from(CONFIDENCES)))
    return Policy((*stages, last))


def cut(images, sizes):
    """The images in batches of these sizes, over and over."""
    start, turn = 0, 0
    while start < len(images):
        yield images[start : start + sizes[turn % len(sizes)]]
        start += sizes[turn % len(sizes)]
        turn += 1


@settings(deadline=None, max_examples=60)
@given(
    st.data(),
    st.lists(st.integers(1, 17), min_size=1, max_size=3),
    st.integers(1, 20),
    st.booleans(),
)
def test_running_equals_the_table(data, sizes, batch, listed):
    """The chief test: answers and exits are those of the table, however the rows are batched."""
    table = data.draw(tables())
    policy = data.draw(policies(table))
    truth = oracle(table, policy)
    cascade = Cascade(stages_of(table), policy)
    images = images_of(range(len(table)))
    assert said(cascade.answer(list(images) if listed else images)) == truth

    batches = [list(part) if listed else part for part in cut(images, sizes)]
    streamed = list(Executor(cascade, max_batch=batch).map(batches))
    assert [len(answers) for answers in streamed] == [len(part) for part in batches]
    assert [row for answers in streamed for row in said(answers)] == truth
    assert all(0 not in stage.model.batches for stage in cascade.stages.values())

    decided = decide(table, policy)
    assert [policy.exits[number] for number in decided.stage] == [row[2] for row in truth]
    assert decided.prediction.tolist() == [row[0] for row in truth]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_forward_gives_the_logits_of_the_exit_that_answered(data):
    table = data.draw(tables())
    cascade = Cascade(stages_of(table), data.draw(policies(table)))
    images = images_of(range(len(table)))
    logits = cascade(images)
    for row, name in enumerate(cascade.answer(images).exit_names()):
        assert torch.equal(logits[row], cascade.stages[name].model.logits[row])


def three_exits(samples=100):
    random = np.random.default_rng(7)
    names = ("tiny", "middle", "big")
    return scored({name: random.integers(-4, 5, (samples, 6)) / 2 for name in names})


def chain(first=0.4, second=0.5):
    return Policy((PolicyStage("tiny", first), PolicyStage("middle", second), PolicyStage("big")))


def test_rows_that_are_answered_leave_the_batch():
    table = three_exits()
    cascade = Cascade(stages_of(table), chain())
    exits = np.bincount(cascade.answer(images_of(range(100))).exit, minlength=3).tolist()
    ran = [stage.model.batches for stage in cascade.stages.values()]
    assert ran == [[100], [100 - exits[0]], [exits[2]]]
    assert all(exits)


def test_a_stage_is_not_run_on_nothing():
    cascade = Cascade(stages_of(three_exits()), chain(first=-np.inf))
    cascade.answer(images_of(range(100)))
    list(Executor(cascade, max_batch=8).map([images_of(range(100))]))
    assert cascade.stages["middle"].model.batches == []
    assert cascade.stages["big"].model.batches == []


def test_the_stream_fills_batches():
    table = three_exits(1000)
    cascade = Cascade(stages_of(table), chain())
    list(Executor(cascade, max_batch=32).map(cut(images_of(range(1000)), [48, 3])))
    for stage in cascade.stages.values():
        sizes = stage.model.batches
        assert set(sizes[:-1]) == {32}
        assert 1 <= sizes[-1] <= 32


def test_the_stream_does_not_copy_whole_batches():
    seen = []

    class Noting(nn.Identity):
        def forward(self, images):
            seen.append(images.data_ptr())
            return super().forward(images)

    batches = [torch.randn(8, 3) for _ in range(3)]
    cascade = Cascade({"big": Noting()}, Policy.single("big"))
    list(Executor(cascade, max_batch=8).map(batches))
    assert seen == [images.data_ptr() for images in batches]


def test_the_stream_takes_images_of_changing_shape():
    class Mean(nn.Module):
        def forward(self, images):
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
    assert said(streamed[4]) == said(streamed[0])


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_state_goes_along_with_its_rows(batch):
    table = three_exits()
    stages = {name: StatefulStage(TableModel(table, name)) for name in table.names}
    cascade = Cascade(stages, chain())
    truth = oracle(table, chain())
    assert said(cascade.answer(images_of(range(100)))) == truth
    parts = Executor(cascade, max_batch=batch).map(cut(images_of(range(100)), [9]))
    assert [row for answers in parts for row in said(answers)] == truth


def test_nan_is_deferred_and_fails_at_the_end():
    rows = torch.tensor([[5.0, 0.0], [torch.nan, 0.0], [5.0, 0.0]])
    cascade = Cascade({"tiny": nn.Identity(), "big": Second()}, Policy.single("tiny"))
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


class Second(nn.Module):
    """Answers what it cannot read with its second class."""

    def forward(self, rows):
        return rows.nan_to_num(-1.0)


def test_stages_of_another_dtype_and_order_of_names():
    table = three_exits()
    half = Stage(TableModel(table, "tiny").to(torch.bfloat16))
    stages = {"resnet.2/x:y": TableModel(table, "big"), "items": half}
    cascade = Cascade(stages, Policy.single("items"))
    cascade.policy = Policy.pair("items", "resnet.2/x:y", 0.5)
    assert cascade.exits == ("resnet.2/x:y", "items")
    assert cascade(images_of(range(100))).dtype == torch.float32
    assert set(cascade.answer(images_of(range(100))).exit_names()) == {"items", "resnet.2/x:y"}
    assert len(list(cascade.buffers())) == 2


def test_works_in_and_out_of_inference_mode():
    cascade = Cascade({"big": nn.Linear(2, 3)}, Policy.single("big"))
    with torch.inference_mode():
        inside = cascade(torch.ones(4, 2))
    assert torch.equal(inside, cascade(torch.ones(4, 2)))
    assert not torch.is_inference_mode_enabled()
    for _ in Executor(cascade).map([torch.ones(4, 2)]):
        assert not torch.is_inference_mode_enabled()


def test_a_copy_stands_on_its_own():
    cascade = Cascade(stages_of(three_exits()), chain())
    copied = copy.deepcopy(cascade)
    assert said(copied.answer(images_of(range(100)))) == said(cascade.answer(images_of(range(100))))
    assert copied.runners[0].stage is copied.stages["tiny"]
    assert copied.runners[0].stage is not cascade.runners[0].stage


def test_a_batch_sees_one_policy():
    """The policy is switched by the first stage, in the middle of a batch."""
    table = three_exits()
    before, after = chain(), Policy.single("big")

    class Switching(TableModel):
        def forward(self, images):
            cascade.policy = after
            return super().forward(images)

    cascade = Cascade({**stages_of(table), "tiny": Switching(table, "tiny")}, before)
    assert said(cascade.answer(images_of(range(100)))) == oracle(table, before)
    assert cascade.policy == after
    assert said(cascade.answer(images_of(range(100)))) == oracle(table, after)


def test_switching_from_another_thread():
    table = three_exits(20)
    plans = [chain(), chain(0.9, 0.2), Policy.single("tiny"), Policy.pair("middle", "big", 0.6)]
    truths = [oracle(table, plan) for plan in plans]
    cascade, stop = Cascade(stages_of(table), plans[0]), threading.Event()

    def switch():
        while not stop.is_set():
            for plan in plans:
                cascade.policy = plan

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        for _ in range(40):
            assert said(cascade.answer(images_of(range(20)))) in truths
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
def test_a_policy_that_does_not_fit(policy, message):
    stages = stages_of(three_exits())
    with pytest.raises(PolicyError, match=message):
        Cascade(stages, policy)
    cascade = Cascade(stages, chain())
    with pytest.raises(PolicyError, match=message):
        cascade.policy = policy
    assert cascade.policy == chain()


def test_stages_that_differ_in_their_classes():
    cascade = Cascade({"tiny": nn.Linear(2, 3), "big": nn.Linear(2, 5)}, Policy.single("tiny"))
    cascade.policy = Policy.pair("tiny", "big", np.inf)
    message = "'tiny' has 3 and 'big' has 5"
    with pytest.raises(ModelError, match=message):
        cascade(torch.zeros(2, 2))
    with pytest.raises(ModelError, match=message):
        list(Executor(cascade).map([torch.zeros(2, 2)]))


def test_what_is_no_cascade():
    with pytest.raises(ModelError, match="at least one stage"):
        Cascade({}, Policy.single("tiny"))
    with pytest.raises(ModelError, match="found str"):
        Cascade({"tiny": "resnet18"}, Policy.single("tiny"))  # type: ignore[dict-item]
    with pytest.raises(DataError, match="at least one image"):
        Cascade({"tiny": nn.Linear(2, 3)}, Policy.single("tiny"))(torch.zeros(0, 2))


def test_build_from_a_policy_or_a_result():
    models = stages_of(three_exits())
    cheap, dear = Policy.pair("tiny", "big", 0.5), Policy.single("big")
    result = result_of(three_exits(), cheap, dear)
    assert build(dear, models).policy == dear
    assert build(result, models).policy == cheap
    assert build(result, models, max_drop=1.0).policy == cheap
    assert build(cheap, models).exits == ("tiny", "middle", "big")
    with pytest.raises(ModelError, match="'big' has none; given were 'tiny', 'large'"):
        build(cheap, {"tiny": models["tiny"], "large": models["big"]})
    with pytest.raises(ModelError, match="given were none"):
        build(cheap, {})


def test_requests_one_by_one():
    table = three_exits()
    cascade = Cascade(stages_of(table), chain())

    async def work():
        async with Executor(cascade, max_batch=16) as executor:
            return await asyncio.gather(*map(executor.answer, images_of(range(100))))

    assert [tuple(answer) for answer in asyncio.run(work())] == oracle(table, chain())


def test_out_of_memory_frees_what_the_batch_took_before_the_halves_are_run():
    """Nothing keeps the tensors of the attempt that failed alive while the next one is made."""
    kept = []

    class Greedy(nn.Module):
        def forward(self, images):
            assert all(tensor() is None for tensor in kept)
            large = torch.zeros(len(images), 1000)
            kept.append(weakref.ref(large))
            if len(images) > 4:
                raise torch.OutOfMemoryError(f"no room for {len(large)} rows")
            return large[:, :3]

    cascade = Cascade({"tiny": Greedy()}, Policy.single("tiny"))
    (answers,) = Executor(cascade, max_batch=16).map([torch.zeros(16, 1)])
    assert not answers.failed
    assert len(kept) == 1 + 1 + 4  # the second half is known to be too large


def test_arrays_are_taken_like_tensors():
    net = nn.Linear(4, 3)
    cascade = Cascade({"tiny": net, "big": nn.Linear(4, 3)}, Policy.pair("tiny", "big", 0.5))
    rows = torch.randn(30, 4)
    truth = cascade.answer(rows)
    executor = Executor(cascade, max_batch=8)
    found = list(executor.map(np.split(rows.numpy(), [7, 9])))
    assert np.concatenate([one.exit for one in found]).tolist() == truth.exit.tolist()

    async def online():
        return await asyncio.gather(*(executor.answer(row) for row in rows.numpy()))

    assert [one.prediction for one in asyncio.run(online())] == truth.prediction.tolist()
