"""Failures: only the rows at fault fail, with their cause; all others are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_cascade import (
    Array,
    Hook,
    LookupCascade,
    LookupRunner,
    Row,
    answered_rows,
    cascades,
    chain,
    expected_rows,
    images_of,
    random_table,
)
from understudy import Executor, Policy
from understudy.errors import ModelError
from understudy.runtime.answers import RequestFailed, cause_of
from understudy.runtime.buffer import RowBatch, StageBuffer
from understudy.runtime.metrics import Metrics
from understudy.runtime.protocol import is_out_of_memory


def offline(executor: Executor, rows: int, size: int) -> tuple[list[Row], dict[int, str]]:
    """The answers as tuples, and the causes of missing ones by row."""
    found, failed = list[Row](), dict[int, str]()
    for start, answers in zip(
        range(0, rows, size),
        executor.map(images_of(range(k, min(k + size, rows))) for k in range(0, rows, size)),
        strict=True,
    ):
        found += answered_rows(answers)
        failed |= {start + row: cause for row, cause in answers.failed.items()}
    return found, failed


def online(executor: Executor, rows: int) -> tuple[list[Any], dict[int, Exception]]:
    """The same for single requests; errors instead of causes."""

    async def work() -> list[Any]:
        async with executor:
            requests = (executor.answer(image) for image in images_of(range(rows)))
            return await asyncio.gather(*requests, return_exceptions=True)

    answers = asyncio.run(asyncio.wait_for(work(), timeout=60))
    failed = {row: one for row, one in enumerate(answers) if isinstance(one, Exception)}
    return answers, failed


def poison(bad: Mapping[str, set[int]]) -> Hook:
    """A hook that raises on some rows at some stages: {name: rows}."""

    def hook(name: str, rows: Array) -> None:
        if found := set(rows.tolist()) & bad.get(name, set()):
            raise RuntimeError(f"{name} chokes on {min(found)}")

    return hook


@given(cascades(), st.data())
def test_only_rows_at_fault_fail(cascade: LookupCascade, data: st.DataObject) -> None:
    table, policy = cascade.table, cascade.policy
    rows = st.sets(st.integers(0, len(table) - 1), max_size=8)
    bad = {name: data.draw(rows) for name in cascade.exits}
    cascade.hook = poison(bad)
    limit = data.draw(st.integers(1, 30))
    truth, at_fault = expected_rows(table, policy), {}
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


def test_a_failing_batch_is_halved_no_more_than_needed() -> None:
    calls: list[Any] = []

    def hook(name: str, rows: Array) -> None:
        calls.append(len(rows))
        poison({"tiny": {100}})(name, rows)

    cascade = LookupCascade(random_table(256), Policy.single("tiny"), hook)
    offline(Executor(cascade, max_batch=256), 256, 256)
    assert len(calls) == 17  # 256, and then two halves for each of eight levels
    assert sum(calls) == 256 + 2 * 255


def memory_for(most: Mapping[str, int]) -> Hook:
    """A hook for which a batch of a stage may have so many rows: {name: rows}."""

    def hook(name: str, rows: Array) -> None:
        if len(rows) > most.get(name, 10**9):
            raise MemoryError(f"no room for {len(rows)}")

    return hook


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_out_of_memory_halves_the_batches_for_good(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = random_table(500)
    cascade = LookupCascade(table, chain(), memory_for({"tiny": 20, "big": 5}))
    executor = Executor(cascade, max_batch=64, max_wait_ms=5000)  # for rows to come together
    with caplog.at_level(logging.WARNING, logger="understudy"):
        if mode == "offline":
            found, failed = offline(executor, 500, 100)
        else:
            found, failed = online(executor, 500)
    assert [tuple(answer) for answer in found] == expected_rows(table, chain())
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


def test_a_limit_that_falls_while_rows_are_added() -> None:
    """Another stream runs out of memory between the check for room and the copying."""
    runner, metrics = LookupCascade(random_table(20), chain()).runners[0], Metrics({"tiny": 8})
    buffer = StageBuffer(runner, metrics)
    rows = np.arange(buffer.free)
    metrics.halve_limit("tiny", 8)
    buffer.add(RowBatch(images_of(range(20)), {}, np.arange(20)), rows)
    assert buffer.take().ids.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("Failed to allocate memory for requested buffer"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_errors_that_mean_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_one_row_that_is_too_large_fails() -> None:
    cascade = LookupCascade(random_table(20), Policy.single("tiny"), memory_for({"tiny": 0}))
    executor = Executor(cascade, max_batch=8)
    _, failed = offline(executor, 20, 20)
    assert set(failed) == set(range(20))
    assert failed[3] == "MemoryError: no room for 1"
    assert executor.stats.max_batch["tiny"] == 1
    assert executor.stats.out_of_memory["tiny"] == 3


def test_no_memory_for_rows_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer of the second stage is made smaller, and no row is lost."""
    table = random_table(200)
    cascade = LookupCascade(table, chain())
    whole = LookupRunner.buffer

    def buffer(self: LookupRunner, size: int, like: Array) -> Array:
        if self.name == "middle" and size > 10:
            raise MemoryError
        return whole(self, size, like)

    monkeypatch.setattr(LookupRunner, "buffer", buffer)
    executor = Executor(cascade, max_batch=32)
    found, failed = offline(executor, 200, 50)
    assert found == expected_rows(table, chain())
    assert not failed
    assert executor.stats.max_batch == {"tiny": 32, "middle": 8, "big": 32}


def test_rows_that_cannot_be_copied_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(200)
    cascade = LookupCascade(table, chain())

    def gather(self: LookupRunner, source: Array, rows: Array, target: Array) -> None:
        raise RuntimeError("the bus is full")

    monkeypatch.setattr(LookupRunner, "gather", gather)
    found, failed = offline(Executor(cascade, max_batch=20), 200, 20)
    truth = expected_rows(table, chain())
    assert set(failed.values()) == {"RuntimeError: the bus is full"}
    assert set(failed) == {row for row, (_, _, exit) in enumerate(truth) if exit != "tiny"}
    assert all(found[row] == truth[row] for row in range(200) if row not in failed)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_nan_is_deferred_and_fails_at_the_last_stage(mode: str) -> None:
    table = random_table(60)
    nan = {"tiny": {1, 2, 3}, "middle": {2, 3}, "big": {3, 4}}
    cascade = LookupCascade(table, chain(first=-np.inf, second=-np.inf), nan=nan)
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


def test_a_model_that_violates_its_contract_ends_the_run() -> None:
    calls: list[Any] = []

    def hook(name: str, rows: Array) -> None:
        calls.append(name)
        raise ModelError("a model returns logits (N, C), found tuple: wrap it")

    cascade = LookupCascade(random_table(20), chain(), hook)
    with pytest.raises(ModelError, match="found tuple"):
        offline(Executor(cascade), 20, 20)
    assert calls == ["tiny"]
    _, failed = online(Executor(cascade, max_batch=20, max_wait_ms=1e5), 20)
    assert len(failed) == 20
    assert {type(error.__cause__) for error in failed.values()} == {ModelError}
    assert calls == ["tiny", "tiny"]


def test_stages_that_differ_in_their_classes() -> None:
    cascade = LookupCascade(random_table(20), chain(first=np.inf), classes={"middle": 3})
    with pytest.raises(ModelError, match="'tiny' has 10 and 'middle' has 3"):
        offline(Executor(cascade), 20, 20)
    _, failed = online(Executor(cascade), 20)
    assert all("'middle' has 3" in str(error) for error in failed.values())


def test_images_that_cannot_be_stacked() -> None:
    """One of another kind, which fails alone."""
    cascade = LookupCascade(random_table(4), Policy.single("tiny"))

    async def work() -> list[Any]:
        images = [*images_of(range(3)), np.zeros(3)]
        async with Executor(cascade, max_wait_ms=20) as executor:
            requests = (executor.answer(image) for image in images)
            return await asyncio.gather(*requests, return_exceptions=True)

    answers = asyncio.run(work())
    assert [tuple(one) for one in answers[:3]] == expected_rows(cascade.table, cascade.policy)[:3]
    assert isinstance(answers[3].__cause__, IndexError)


def test_a_cause_is_one_line() -> None:
    assert cause_of(RuntimeError("mat1 and mat2\ncannot be multiplied")) == (
        "RuntimeError: mat1 and mat2"
    )
    assert cause_of(MemoryError()) == "MemoryError"
    assert cause_of(ModelError("a sentence")) == "a sentence"
