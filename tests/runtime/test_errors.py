"""What goes wrong: only those at fault fail, with their cause, and the rest is answered."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lookups import Lookups, cascades, chain, images_of, said, table_of, truth_of

from understudy import Executor, Policy
from understudy.errors import ModelError
from understudy.runtime.buffer import RowBatch, StageBuffer
from understudy.runtime.errors import RequestFailed, cause_of
from understudy.runtime.metrics import Metrics


def offline(executor, rows, size):
    """What became of rows: the answers as tuples, and the causes by row."""
    found, failed = [], {}
    for start, answers in zip(
        range(0, rows, size),
        executor.map(images_of(range(k, min(k + size, rows))) for k in range(0, rows, size)),
        strict=True,
    ):
        found += said(answers)
        failed |= {start + row: cause for row, cause in answers.failed.items()}
    return found, failed


def online(executor, rows):
    """The same, asked one by one; errors instead of causes."""

    async def work():
        async with executor:
            asked = (executor.answer(image) for image in images_of(range(rows)))
            return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(asyncio.wait_for(work(), timeout=60))
    failed = {row: one for row, one in enumerate(answers) if isinstance(one, Exception)}
    return answers, failed


def poison(bad):
    """A hook that raises on some rows at some stages: {name: rows}."""

    def hook(name, rows):
        if found := set(rows.tolist()) & bad.get(name, set()):
            raise RuntimeError(f"{name} chokes on {min(found)}")

    return hook


@given(cascades(), st.data())
def test_poison_harms_nobody_else(cascade, data):
    table, policy = cascade.table, cascade.policy
    rows = st.sets(st.integers(0, len(table) - 1), max_size=8)
    bad = {name: data.draw(rows) for name in cascade.exits}
    cascade.hook = poison(bad)
    limit = data.draw(st.integers(1, 30))
    truth, at_fault = truth_of(table, policy), {}
    for row, (_, _, exit) in enumerate(truth):
        visited = policy.exits[: policy.exits.index(exit) + 1]
        culprit = next((name for name in visited if row in bad[name]), None)
        if culprit is not None:
            at_fault[row] = culprit

    executor = Executor(cascade, max_batch=limit)
    found, failed = offline(executor, len(table), 7)
    expected = {row: f"RuntimeError: {name} chokes on {row}" for row, name in at_fault.items()}
    assert failed == expected
    for row, answer in enumerate(found):
        if row in at_fault:
            assert (answer[0], answer[2]) == (-1, "")
            assert np.isnan(answer[1])
        else:
            assert answer == truth[row]
    stats = executor.stats
    assert sum(stats.failed.values()) == len(at_fault)

    answers, errors = online(Executor(cascade, max_batch=limit, max_wait_ms=0), len(table))
    assert errors.keys() == at_fault.keys()
    for row, error in errors.items():
        assert isinstance(error, RequestFailed)
        assert isinstance(error.__cause__, RuntimeError)
        assert f"the stage {at_fault[row]!r} raised on this one" in str(error)
        assert expected[row] in str(error)
    for row, answer in enumerate(answers):
        assert row in at_fault or tuple(answer) == truth[row]


def test_a_poisoned_batch_is_halved_no_more_than_needed():
    calls = []

    def hook(name, rows):
        calls.append(len(rows))
        poison({"tiny": {100}})(name, rows)

    cascade = Lookups(table_of(256), Policy.single("tiny"), hook)
    offline(Executor(cascade, max_batch=256), 256, 256)
    assert len(calls) == 17  # 256, and then two halves for each of eight levels
    assert sum(calls) == 256 + 2 * 255


def memory_for(most):
    """A hook for which a batch of a stage may have so many rows: {name: rows}."""

    def hook(name, rows):
        if len(rows) > most.get(name, 10**9):
            raise MemoryError(f"no room for {len(rows)}")

    return hook


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_out_of_memory_halves_the_batches_for_good(mode, caplog):
    table = table_of(500)
    cascade = Lookups(table, chain(), memory_for({"tiny": 20, "big": 5}))
    executor = Executor(cascade, max_batch=64, max_wait_ms=5000)  # for rows to come together
    with caplog.at_level(logging.WARNING, logger="understudy"):
        if mode == "offline":
            found, failed = offline(executor, 500, 100)
        else:
            found, failed = online(executor, 500)
    assert [tuple(answer) for answer in found] == truth_of(table, chain())
    assert not failed
    stats = executor.stats
    assert stats.max_batch["tiny"] in range(10, 21)
    assert stats.max_batch["middle"] == 64
    assert stats.max_batch["big"] in range(3, 6)
    assert stats.out_of_memory["middle"] == 0
    halvings = sum(stats.out_of_memory.values())
    assert len(caplog.records) == halvings <= 8
    assert "out of memory at the stage 'tiny' with" in caplog.text
    assert max(cascade.sizes("tiny")) <= 20


def test_a_limit_that_falls_while_rows_come_in():
    """Another stream runs out of memory between the look at the room and the copying."""
    runner, tally = Lookups(table_of(20), chain()).runners[0], Metrics({"tiny": 8})
    room = StageBuffer(runner, tally)
    rows = np.arange(room.free)
    tally.ran_out("tiny", 8)
    room.add(RowBatch(images_of(range(20)), {}, np.arange(20)), rows)
    assert room.take().ids.tolist() == list(range(8))


def test_one_row_that_is_too_large_fails():
    cascade = Lookups(table_of(20), Policy.single("tiny"), memory_for({"tiny": 0}))
    executor = Executor(cascade, max_batch=8)
    _, failed = offline(executor, 20, 20)
    assert set(failed) == set(range(20))
    assert failed[3] == "MemoryError: no room for 1"
    assert executor.stats.max_batch["tiny"] == 1
    assert executor.stats.out_of_memory["tiny"] == 3


def test_no_memory_for_rows_that_wait(monkeypatch):
    """The room of the second stage is made smaller, and nobody is lost."""
    table = table_of(200)
    cascade = Lookups(table, chain())
    whole = type(cascade.runners[0]).buffer

    def buffer(self, size, like):
        if self.name == "middle" and size > 10:
            raise MemoryError
        return whole(self, size, like)

    monkeypatch.setattr(type(cascade.runners[0]), "buffer", buffer)
    executor = Executor(cascade, max_batch=32)
    found, failed = offline(executor, 200, 50)
    assert found == truth_of(table, chain())
    assert not failed
    assert executor.stats.max_batch == {"tiny": 32, "middle": 8, "big": 32}


def test_rows_that_cannot_be_handed_on_fail_alone(monkeypatch):
    table = table_of(200)
    cascade = Lookups(table, chain())

    def gather(self, source, rows, target):
        raise RuntimeError("the bus is full")

    monkeypatch.setattr(type(cascade.runners[0]), "gather", gather)
    found, failed = offline(Executor(cascade, max_batch=20), 200, 20)
    truth = truth_of(table, chain())
    assert set(failed.values()) == {"RuntimeError: the bus is full"}
    assert set(failed) == {row for row, (_, _, exit) in enumerate(truth) if exit != "tiny"}
    assert all(found[row] == truth[row] for row in range(200) if row not in failed)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_nan_goes_on_and_fails_at_the_end(mode):
    table = table_of(60)
    nan = {"tiny": {1, 2, 3}, "middle": {2, 3}, "big": {3, 4}}
    cascade = Lookups(table, chain(first=-np.inf, second=-np.inf), nan=nan)
    executor = Executor(cascade, max_batch=16, max_wait_ms=0)
    found, failed = offline(executor, 60, 60) if mode == "offline" else online(executor, 60)
    assert set(failed) == {3}
    assert "found NaN in the logits of 'big'" in str(failed[3])
    assert found[1][2] == "middle"
    assert found[2][2] == "big"
    assert all(found[row][2] == "tiny" for row in (0, *range(4, 60)))
    stats = executor.stats
    assert stats.nan == {"tiny": 3, "middle": 2, "big": 1}
    assert stats.failed == {"tiny": 0, "middle": 0, "big": 1}


def test_a_model_that_breaks_its_contract_ends_the_run():
    calls = []

    def hook(name, rows):
        calls.append(name)
        raise ModelError("a model returns logits (N, C), found tuple: wrap it")

    cascade = Lookups(table_of(20), chain(), hook)
    with pytest.raises(ModelError, match="found tuple"):
        offline(Executor(cascade), 20, 20)
    assert calls == ["tiny"]
    _, failed = online(Executor(cascade, max_batch=20, max_wait_ms=1e5), 20)
    assert len(failed) == 20
    assert {type(error.__cause__) for error in failed.values()} == {ModelError}
    assert calls == ["tiny", "tiny"]


def test_stages_that_differ_in_their_classes():
    cascade = Lookups(table_of(20), chain(first=np.inf), classes={"middle": 3})
    with pytest.raises(ModelError, match="'tiny' has 10 and 'middle' has 3"):
        offline(Executor(cascade), 20, 20)
    _, failed = online(Executor(cascade), 20)
    assert all("'middle' has 3" in str(error) for error in failed.values())


def test_images_that_cannot_be_put_together():
    """One of another kind, which fails alone."""
    cascade = Lookups(table_of(4), Policy.single("tiny"))

    async def work():
        images = [*images_of(range(3)), np.zeros(3)]
        async with Executor(cascade, max_wait_ms=20) as executor:
            asked = (executor.answer(image) for image in images)
            return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(work())
    assert [tuple(one) for one in answers[:3]] == truth_of(cascade.table, cascade.policy)[:3]
    assert isinstance(answers[3].__cause__, IndexError)


def test_a_cause_is_one_line():
    assert cause_of(RuntimeError("mat1 and mat2\ncannot be multiplied")) == (
        "RuntimeError: mat1 and mat2"
    )
    assert cause_of(MemoryError()) == "MemoryError"
    assert cause_of(ModelError("a sentence")) == "a sentence"
