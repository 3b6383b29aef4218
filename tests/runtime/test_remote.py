"""Stages whose models run elsewhere answer as they would here, where these are slow or fail too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_cascade import LookupCascade, LookupRunner, cascades, random_table
from online_requests import answer_each, run_async, send, until
from sample_rows import Array, chain, expected_rows, images_of, rows_of
from understudy import Executor, Policy
from understudy.errors import DataError
from understudy.runtime.protocol import RequestFailed, StageRunner
from understudy.runtime.remote import Done, RemoteOutcome, RemoteRunner

POLICIES = (chain(), Policy.single("big"), chain(0.75, 0.25), Policy.pair("tiny", "big", 0.5))


@dataclass
class FakeModel:
    """A model that answers in other threads, which may hold calls back.

    Attributes:
        number: the position of the exit.
        threads: that answer.
        fault: what is raised on some rows.
    """

    number: int
    threads: ThreadPoolExecutor
    gate: threading.Event = field(default_factory=threading.Event)
    fault: Callable[[int], Exception | None] = lambda row: None
    calls: list[tuple[list[int], bool]] = field(default_factory=list)

    def send(self, images: Any, done: Done, *, background: bool) -> None:
        self.calls.append((rows_of(images).tolist(), background))
        self.threads.submit(self._answer, images, done)

    def _answer(self, images: Any, done: Done) -> None:
        assert self.gate.wait(30)
        outcomes: list[RemoteOutcome] = []
        for row in rows_of(images).tolist():
            outcomes.append(self.fault(row) or np.array([row, self.number], np.float32))
        done(outcomes)


class PartlyElsewhere(LookupCascade):
    """A table whose exits are elsewhere, but for the first."""

    models: Mapping[str, FakeModel] = {}

    def runners_of(self, policy: Policy) -> tuple[Any, ...]:
        found: list[StageRunner] = []
        for runner in super().runners_of(policy):
            model = self.models.get(runner.name)
            found.append(runner if model is None else RemoteRunner(runner, {runner.name: model}))
        return tuple(found)


def elsewhere(
    whole: LookupCascade, threads: ThreadPoolExecutor, *, held: bool = False
) -> PartlyElsewhere:
    """The same cascade with all exits but `tiny` elsewhere."""
    cascade = PartlyElsewhere(whole.table, whole.first)
    cascade.models = {
        name: FakeModel(number, threads)
        for number, name in enumerate(whole.exits)
        if name != "tiny"
    }
    for model in cascade.models.values():
        if not held:
            model.gate.set()
    cascade.policy = whole.first
    return cascade


@settings(max_examples=30)
@given(cascades(), st.data(), st.integers(1, 70))
def test_running_equals_the_table(
    whole: LookupCascade, data: st.DataObject, max_waiting: int
) -> None:
    """Whatever runs elsewhere, in the background or not."""
    rows = range(len(whole.table))
    background = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    with ThreadPoolExecutor(3) as threads:
        cascade = elsewhere(whole, threads)

        async def work() -> Any:
            size = data.draw(st.integers(1, 20))
            executor = Executor(cascade, max_batch=size, max_wait_ms=0.2, max_waiting=max_waiting)
            async with executor:
                requests = [
                    executor.answer(image, background=later, logits=True)
                    for image, later in zip(images_of(rows), background, strict=True)
                ]
                return await asyncio.gather(*requests), executor.stats

        answers, stats = run_async(work())
    assert answers == expected_rows(whole.table, whole.policy)
    for row, answer in enumerate(answers):
        assert answer.logits.tolist() == [row, whole.exits.index(answer.exit)]
    assert stats.waiting == 0
    for name, model in cascade.models.items():
        for sent, later in model.calls:
            assert {background[row] for row in sent} <= {later}
        if name not in whole.policy.exits:
            assert not model.calls


def test_requests_keep_their_policy_through_switches() -> None:
    table = random_table(200)
    expected = [expected_rows(table, policy) for policy in POLICIES]
    with ThreadPoolExecutor(3) as threads:
        cascade = elsewhere(LookupCascade(table, POLICIES[0], record=False), threads)
        runners = [cascade.runners_of(policy) for policy in POLICIES]

        async def client(executor: Executor, numbers: Sequence[int]) -> None:
            for number in numbers:
                own, row = number // 40 % len(POLICIES), number % 200
                answer = await executor.answer(images_of(row)[0], runners=runners[own])
                assert answer == expected[own][row]

        async def work() -> Any:
            async with Executor(cascade, max_batch=16, max_wait_ms=0.5, max_waiting=48) as executor:
                await asyncio.gather(*(client(executor, range(k, 1200, 32)) for k in range(32)))
                return executor.stats

        stats = run_async(work())
    assert stats.waiting == 0


def test_the_executor_goes_on_while_rows_are_away() -> None:
    """Rows that are answered here are not held up, and a lane that is not used is not forgotten."""
    table = random_table(60)
    first, second = Policy.pair("tiny", "big", 0.5), Policy.pair("tiny", "big", 0.25)
    rows = [expected_rows(table, one) for one in (first, second)]
    with ThreadPoolExecutor(2) as threads:
        cascade = elsewhere(LookupCascade(table, first), threads, held=True)

        async def work() -> None:
            async with Executor(cascade, max_batch=8, max_wait_ms=0.1) as executor:
                asked = []
                for policy in (first, second):
                    cascade.policy = policy
                    asked.append(send(executor, images_of(range(60))))
                    here = [
                        one
                        for one, row in zip(asked[-1], rows[len(asked) - 1], strict=True)
                        if row[2] == "tiny"
                    ]
                    await asyncio.gather(*here)
                away = [one for some in asked for one in some if not one.done()]
                assert len(away) == sum(row[2] == "big" for some in rows for row in some) > 0
                cascade.models["big"].gate.set()
                for some, expected in zip(asked, rows, strict=True):
                    assert await asyncio.gather(*some) == expected

        run_async(work())


def test_what_is_cancelled_while_it_is_away_is_dropped() -> None:
    with ThreadPoolExecutor(2) as threads:
        cascade = elsewhere(
            LookupCascade(random_table(8), Policy.single("middle")), threads, held=True
        )
        model = cascade.models["middle"]

        async def work() -> None:
            async with Executor(cascade, max_batch=8, max_wait_ms=0.1) as executor:
                tasks = send(executor, images_of(range(8)))
                await until(lambda: sum(len(rows) for rows, _ in model.calls) == 8)
                for one in tasks[:5]:
                    one.cancel()
                await asyncio.wait(tasks[:5])
                model.gate.set()
                expected = expected_rows(cascade.table, cascade.policy)
                assert await asyncio.gather(*tasks[5:]) == expected[5:]
                assert executor.stats.rows["middle"] == 3

        run_async(work())


def test_an_executor_closes_without_those_that_are_away() -> None:
    with ThreadPoolExecutor(2) as threads:
        cascade = elsewhere(
            LookupCascade(random_table(8), Policy.single("big")), threads, held=True
        )
        model = cascade.models["big"]

        async def work() -> list[Any]:
            executor = Executor(cascade)
            tasks = send(executor, images_of(range(4)))
            await until(lambda: bool(model.calls))
            await asyncio.to_thread(executor.close, cancel=True)
            return await asyncio.gather(*tasks, return_exceptions=True)

        found = run_async(work())
        model.gate.set()
    assert {type(one).__name__ for one in found} == {"ExecutorClosed"}


@pytest.mark.parametrize("error", [DataError("too small"), ValueError("too small")])
def test_rows_that_fail_elsewhere_fail_alone(error: Exception) -> None:
    with ThreadPoolExecutor(2) as threads:
        cascade = elsewhere(LookupCascade(random_table(9), Policy.single("big")), threads)
        cascade.models["big"].fault = lambda row: error if row % 3 == 0 else None

        async def work() -> Any:
            async with Executor(cascade, max_batch=9) as executor:
                tasks = send(executor, images_of(range(9)))
                return await asyncio.gather(*tasks, return_exceptions=True), executor.stats

        found, stats = run_async(work())
    expected = expected_rows(cascade.table, cascade.policy)
    for row, one in enumerate(found):
        if row % 3:
            assert one == expected[row]
        else:
            assert isinstance(one, RequestFailed)
            assert one.__cause__ is error
            assert "the stage 'big' raised on this one" in str(one)
    assert stats.failed["big"] == 3


def test_a_model_that_cannot_be_asked_fails_its_rows() -> None:
    class Broken(FakeModel):
        def send(self, images: Any, done: Done, *, background: bool) -> None:
            raise RuntimeError("the event loop has ended")

    with ThreadPoolExecutor(1) as threads:
        cascade = elsewhere(
            LookupCascade(random_table(8), Policy.pair("tiny", "big", 0.5)), threads
        )
        cascade.models = {"big": Broken(2, threads)}
        cascade.policy = cascade.first

        async def work() -> Any:
            async with Executor(cascade) as executor:
                tasks = send(executor, images_of(range(8)))
                return await asyncio.gather(*tasks, return_exceptions=True)

        found = run_async(work())
    for one, row in zip(found, expected_rows(cascade.table, cascade.policy), strict=True):
        assert one == row if row[2] == "tiny" else isinstance(one.__cause__, RuntimeError)


def test_nan_from_elsewhere_is_deferred() -> None:
    table = random_table(40)
    whole = LookupCascade(table, chain(np.inf, 0.0), nan={"middle": {1, 5}})
    with ThreadPoolExecutor(1) as threads:
        cascade = elsewhere(whole, threads)
        cascade.nan = whole.nan
        found = answer_each(Executor(cascade), images_of(range(40)))
    assert [row for row, one in enumerate(found) if one.exit == "big"] == [1, 5]


def test_offline_is_refused() -> None:
    with ThreadPoolExecutor(1) as threads:
        cascade = elsewhere(LookupCascade(random_table(4), Policy.single("big")), threads)
        with Executor(cascade) as executor:
            [answers] = executor.map([images_of(range(4))])
    assert "asked by `Executor.answer` alone" in answers.failed[0]


def test_images_of_several_sizes_are_sent() -> None:
    images: list[Array] = [np.full((1 + row % 2, 1, 1), row, np.int64) for row in range(12)]
    with ThreadPoolExecutor(1) as threads:
        cascade = elsewhere(LookupCascade(random_table(12), chain()), threads)
        found = answer_each(Executor(cascade), images)
    assert found == expected_rows(cascade.table, cascade.policy)


def test_the_runner_behind_is_used() -> None:
    cascade = LookupCascade(random_table(2), Policy.single("big"))
    runner = RemoteRunner(cascade.runners[0], {})
    assert isinstance(runner.runner, LookupRunner)
    assert (runner.number, runner.name, runner.missing({})) == (2, "big", None)
