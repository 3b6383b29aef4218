"""Failures: only the rows at fault fail, with their cause; all others are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_cascade import Hook, LookupCascade, LookupRunner, cascades, random_table
from online_requests import run_async, send
from sample_rows import Array, Row, answered_rows, chain, expected_rows, images_of, in_batches
from understudy import Executor, Policy
from understudy.errors import ModelError
from understudy.runtime.buffer import RowBatch, StageBuffer
from understudy.runtime.metrics import Metrics
from understudy.runtime.protocol import Answer, RequestFailed, cause_of, is_out_of_memory

Causes = dict[int, str]
"""Row -> the reason why it has no answer."""


def offline(executor: Executor, rows: int, size: int) -> tuple[list[Row], Causes]:
    """The answers in batches of a size, and the causes of missing ones."""
    found, failed = list[Row](), Causes()
    for answers in executor.map(in_batches(images_of(range(rows)), [size])):
        failed |= {len(found) + row: cause for row, cause in answers.failed.items()}
        found += answered_rows(answers)
    assert len(found) == rows
    return found, failed


def online(
    executor: Executor, images: Iterable[Any]
) -> tuple[list[Answer | None], dict[int, Exception]]:
    """The answers to single requests, and the errors of missing ones."""

    async def work() -> list[Answer | BaseException]:
        async with executor:
            return await asyncio.gather(*send(executor, images), return_exceptions=True)

    results = run_async(work())
    failed = {row: one for row, one in enumerate(results) if isinstance(one, Exception)}
    return [one if isinstance(one, Answer) else None for one in results], failed


def answers_in(mode: str, executor: Executor, rows: int) -> tuple[list[Row | None], Causes]:
    """The answers offline or online, and the causes of missing ones."""
    if mode == "offline":
        found, failed = offline(executor, rows, 100)
        return [None if row in failed else one for row, one in enumerate(found)], failed
    answers, errors = online(executor, images_of(range(rows)))
    tuples = [
        None if one is None else (one.prediction, one.confidence, one.exit) for one in answers
    ]
    return tuples, {row: str(error) for row, error in errors.items()}


def poison(bad: Mapping[str, set[int]]) -> Hook:
    """A hook that raises on some rows at some stages: {name: rows}."""

    def hook(name: str, rows: Array) -> None:
        if found := set(rows.tolist()) & bad.get(name, set()):
            raise RuntimeError(f"{name} fails on {min(found)}")

    return hook


@given(cascades(), st.data())
def test_only_rows_at_fault_fail(cascade: LookupCascade, data: st.DataObject) -> None:
    table, policy = cascade.table, cascade.policy
    rows = st.sets(st.integers(0, len(table) - 1), max_size=8)
    bad = {name: data.draw(rows) for name in cascade.exits}
    cascade.hook = poison(bad)
    limit = data.draw(st.integers(1, 30))
    expected, at_fault = expected_rows(table, policy), {}
    for row, (_, _, exit) in enumerate(expected):
        visited = policy.exits[: policy.exits.index(exit) + 1]
        failing = next((name for name in visited if row in bad[name]), None)
        if failing is not None:
            at_fault[row] = failing

    executor = Executor(cascade, max_batch=limit)
    found, failed = offline(executor, len(table), 7)
    causes = {row: f"RuntimeError: {name} fails on {row}" for row, name in at_fault.items()}
    assert failed == causes
    for row, answer in enumerate(found):
        if row in at_fault:
            assert (answer[0], answer[2]) == (-1, "")
            assert np.isnan(answer[1])
        else:
            assert answer == expected[row]
    stats = executor.stats
    assert sum(stats.failed.values()) == len(at_fault)

    executor = Executor(cascade, max_batch=limit, max_wait_ms=0)
    answers, errors = online(executor, images_of(range(len(table))))
    assert errors.keys() == at_fault.keys()
    for row, error in errors.items():
        assert isinstance(error, RequestFailed)
        assert isinstance(error.__cause__, RuntimeError)
        assert f"the stage {at_fault[row]!r} raised on this one" in str(error)
        assert causes[row] in str(error)
    assert all(answers[row] == right for row, right in enumerate(expected) if row not in at_fault)


def test_a_failing_batch_is_halved_no_more_than_needed() -> None:
    calls: list[int] = []

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
            raise MemoryError(f"cannot allocate {len(rows)} rows")

    return hook


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_out_of_memory_halves_the_batches_for_good(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = random_table(500)
    cascade = LookupCascade(table, chain(), memory_for({"tiny": 20, "big": 5}))
    executor = Executor(cascade, max_batch=64, max_wait_ms=5000)  # for rows to come together
    with caplog.at_level(logging.WARNING, logger="understudy"):
        found, failed = answers_in(mode, executor, 500)
    assert found == expected_rows(table, chain())
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
    """Another stream runs out of memory between the check of the limit and the copying."""
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
    assert failed[3] == "MemoryError: cannot allocate 1 rows"
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
        raise RuntimeError("cannot copy")

    monkeypatch.setattr(LookupRunner, "gather", gather)
    found, failed = offline(Executor(cascade, max_batch=20), 200, 20)
    expected = expected_rows(table, chain())
    assert set(failed.values()) == {"RuntimeError: cannot copy"}
    assert set(failed) == {row for row, (_, _, exit) in enumerate(expected) if exit != "tiny"}
    assert all(found[row] == expected[row] for row in range(200) if row not in failed)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_nan_is_deferred_and_fails_at_the_last_stage(mode: str) -> None:
    table = random_table(60)
    nan = {"tiny": {1, 2, 3}, "middle": {2, 3}, "big": {3, 4}}
    cascade = LookupCascade(table, chain(first=-np.inf, second=-np.inf), nan=nan)
    executor = Executor(cascade, max_batch=16, max_wait_ms=0)
    found, failed = answers_in(mode, executor, 60)
    assert set(failed) == {3}
    assert "found NaN in the logits of 'big'" in failed[3]
    exits = [None if one is None else one[2] for one in found]
    assert exits == ["tiny", "middle", "big", None, *["tiny"] * 56]
    stats = executor.stats
    assert stats.nan == {"tiny": 3, "middle": 2, "big": 1}
    assert stats.failed == {"tiny": 0, "middle": 0, "big": 1}


def test_a_model_that_violates_its_contract_ends_the_run() -> None:
    calls: list[str] = []

    def hook(name: str, rows: Array) -> None:
        calls.append(name)
        raise ModelError("a model returns logits (N, C), found tuple: wrap it")

    cascade = LookupCascade(random_table(20), chain(), hook)
    with pytest.raises(ModelError, match="found tuple"):
        offline(Executor(cascade), 20, 20)
    assert calls == ["tiny"]
    executor = Executor(cascade, max_batch=20, max_wait_ms=1e5)
    _, errors = online(executor, images_of(range(20)))
    assert len(errors) == 20
    assert {type(error.__cause__) for error in errors.values()} == {ModelError}
    assert calls == ["tiny", "tiny"]


def test_stages_that_differ_in_their_classes() -> None:
    cascade = LookupCascade(random_table(20), chain(first=np.inf), class_counts={"middle": 3})
    with pytest.raises(ModelError, match="'tiny' has 10 and 'middle' has 3"):
        offline(Executor(cascade), 20, 20)
    _, errors = online(Executor(cascade), images_of(range(20)))
    assert len(errors) == 20
    assert all("'middle' has 3" in str(error) for error in errors.values())


def test_an_image_of_other_dimensions_fails_alone() -> None:
    cascade = LookupCascade(random_table(4), Policy.single("tiny"))
    images = [*images_of(range(3)), np.zeros(3)]
    answers, errors = online(Executor(cascade, max_batch=4, max_wait_ms=1e5), images)
    assert answers == [*expected_rows(cascade.table, cascade.policy)[:3], None]
    assert isinstance(errors[3].__cause__, IndexError)


def test_a_cause_is_one_line() -> None:
    assert cause_of(RuntimeError("mat1 and mat2\ncannot be multiplied")) == (
        "RuntimeError: mat1 and mat2"
    )
    assert cause_of(MemoryError()) == "MemoryError"
    assert cause_of(ModelError("a sentence")) == "a sentence"
