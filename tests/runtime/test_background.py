"""Requests in the background: others go first, and none of them is lost or starved."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_cascade import LookupCascade, cascades, random_table
from online_requests import Block, run_async, run_callbacks, send, until
from sample_rows import Array, Row, chain, expected_rows, images_of
from understudy import Executor, Policy
from understudy.errors import DataError
from understudy.runtime import online, scheduler
from understudy.runtime.protocol import BackgroundFull, ExecutorClosed, StageRunner


def visits(policy: Policy, answered: Row) -> tuple[str, ...]:
    """The stages that a row goes through."""
    return policy.exits[: policy.exits.index(answered[2]) + 1]


@settings(max_examples=40)
@given(cascades(), st.data(), st.integers(1, 70))
def test_running_equals_the_table(
    cascade: LookupCascade, data: st.DataObject, max_waiting: int
) -> None:
    """Whatever requests are in the background, with stages of their own, or asked for logits."""
    rows, policies = range(len(cascade.table)), [cascade.policy, Policy.single(cascade.exits[0])]
    runners = [None, *map(cascade.runners_of, policies)]
    policies.insert(0, cascade.policy)
    drawn = st.tuples(st.integers(0, 2), st.booleans(), st.booleans())
    chosen = data.draw(st.lists(drawn, min_size=len(rows), max_size=len(rows)))
    size, wait = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([0.0, 0.2]))

    async def work() -> Any:
        executor = Executor(cascade, max_batch=size, max_wait_ms=wait, max_waiting=max_waiting)
        async with executor:
            requests = [
                executor.answer(image, runners=runners[own], logits=logits, background=background)
                for image, (own, logits, background) in zip(images_of(rows), chosen, strict=True)
            ]
            answers = await asyncio.gather(*requests)
        return answers, executor

    answers, executor = run_async(work())
    expected = [expected_rows(cascade.table, policy) for policy in policies]
    ran: dict[bool, list[str]] = {False: [], True: []}
    for row, (answer, (own, logits, background)) in enumerate(zip(answers, chosen, strict=True)):
        assert answer == expected[own][row]
        assert (answer.logits is not None) is logits
        ran[background] += visits(policies[own], expected[own][row])
    for stats, background in ((executor.stats, False), (executor.background_stats, True)):
        assert stats.rows == {name: ran[background].count(name) for name in cascade.exits}
        assert stats.waiting == 0
    behind = {row for row, (_, _, background) in enumerate(chosen) if background}
    for _, batch in cascade.ran:
        assert len(behind & set(batch)) in {0, len(batch)}, "a batch of both"
        assert len(batch) <= (max(1, size // 8) if behind & set(batch) else size)


def test_others_go_first() -> None:
    block = Block(row=0)
    cascade = LookupCascade(random_table(30), Policy.single("tiny"), block)

    async def work() -> Any:
        async with Executor(cascade, max_batch=16, max_wait_ms=0) as executor:
            requests = send(executor, images_of([0]))
            await until(block.reached.is_set)
            requests += send(executor, images_of(range(10, 20)), background=True)
            await run_callbacks()
            requests += send(executor, images_of(range(1, 10)))
            await run_callbacks()
            block.release.set()
            await asyncio.gather(*requests)

    run_async(work())
    batches = [rows for _, rows in cascade.ran]
    assert batches[:2] == [[0], list(range(1, 10))]
    assert batches[2:] == [[10, 11], [12, 13], [14, 15], [16, 17], [18, 19]]


def test_the_background_is_answered_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "BACKGROUND_MAX_WAIT", 0.05)
    monkeypatch.setattr(online, "QUIET_TIME", np.inf)  # the machine is never idle
    table = random_table(100)
    cascade = LookupCascade(table, chain(), record=False)
    big = cascade.runners_of(Policy.single("big"))

    async def client(executor: Executor, image: Array, done: asyncio.Event) -> None:
        while not done.is_set():
            await executor.answer(image)

    async def work() -> Any:
        done = asyncio.Event()
        async with Executor(cascade, max_batch=64) as executor:
            clients = [
                asyncio.ensure_future(client(executor, image, done))
                for image in images_of(range(40))
            ]
            await until(lambda: executor.stats.rows["tiny"] > 100)
            images = images_of(range(5))  # fewer than fill a batch
            found = await asyncio.gather(*send(executor, images, runners=big, background=True))
            done.set()
            await asyncio.gather(*clients)
            return found

    assert run_async(work()) == expected_rows(table, Policy.single("big"))[:5]


def test_requests_in_the_background_have_places_of_their_own() -> None:
    block = Block(row=0)
    cascade = LookupCascade(random_table(30), Policy.single("tiny"), block)

    async def work() -> Any:
        executor = Executor(cascade, max_waiting=2, max_background=3, max_wait_ms=0)
        async with executor:
            first = send(executor, images_of([0]))
            await until(block.reached.is_set)
            behind = send(executor, images_of(range(10, 14)), background=True)
            await run_callbacks()
            with pytest.raises(BackgroundFull, match="at most 3 requests are in the background"):
                await behind[3]
            assert executor.background_stats.waiting == 3
            second = send(executor, images_of([1]))
            await run_callbacks()
            assert executor.stats.waiting == 1
            behind[0].cancel()
            await run_callbacks()
            again = send(executor, images_of([14]), background=True)
            block.release.set()
            return await asyncio.gather(*first, *second, *behind[1:3], *again)

    rows = expected_rows(cascade.table, cascade.policy)
    assert run_async(work()) == [rows[row] for row in (0, 1, 11, 12, 14)]
    assert 10 not in {row for _, batch in cascade.ran for row in batch}


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_answers_the_background_or_cancels_it(cancel: bool) -> None:
    block = Block(row=0)
    cascade = LookupCascade(random_table(30), chain(), block)

    async def work() -> Any:
        executor = Executor(cascade, max_batch=16, max_wait_ms=0)
        requests = send(executor, images_of([0]))
        await until(block.reached.is_set)
        requests += send(executor, images_of(range(1, 30)), background=True)
        await run_callbacks()
        closing = asyncio.ensure_future(asyncio.to_thread(executor.close, cancel=cancel))
        await until(lambda: executor.closed)
        block.release.set()
        await closing
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = run_async(work())
    if cancel:
        assert {type(answer) for answer in answers} == {ExecutorClosed}
    else:
        assert answers == expected_rows(cascade.table, chain())


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_number_of_places_in_the_background(count: Any) -> None:
    with pytest.raises(DataError, match=f"found max_background={count}: give 1 or more"):
        Executor(LookupCascade(random_table(3), chain()), max_background=count)


# Observers.


def test_an_observer_sees_the_confidences_of_every_batch_in_order() -> None:
    table, seen = random_table(60), list[tuple[str, list[float]]]()
    cascade = LookupCascade(table, chain())
    own = cascade.runners_of(Policy.pair("middle", "big", 0.5))
    stages = {id(cascade.runners): "set", id(own): "own"}

    def observer(runners: tuple[StageRunner, ...], runner: StageRunner, confidence: Array) -> None:
        assert runner in runners
        assert confidence.dtype == np.float32
        seen.append((f"{stages[id(runners)]} {runner.name}", confidence.tolist()))

    async def work() -> None:
        executor = Executor(cascade, max_batch=8, max_wait_ms=0.2, observer=observer)
        async with executor:
            await asyncio.gather(
                *send(executor, images_of(range(30))),
                *send(executor, images_of(range(30, 50)), runners=own),
                *send(executor, images_of(range(50, 60)), background=True),
            )

    run_async(work())
    found: dict[str, list[float]] = {}
    for stage, confidence in seen:
        found.setdefault(stage, []).extend(confidence)
    sure = dict(zip(table.names, table.confidence["max_softmax"].astype(np.float32), strict=True))
    expected: dict[str, list[float]] = {}
    for key, names, reach in (
        ("set", table.names, np.arange(30)),
        ("own", table.names[1:], np.arange(30, 50)),
    ):
        rows = reach
        for name in names:
            expected[f"{key} {name}"] = sure[name][rows].tolist()
            rows = rows[sure[name][rows] < 0.5]
    assert found == expected


def test_an_observer_that_raises_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    cascade = LookupCascade(random_table(8), Policy.single("tiny"))

    def observer(*given: object) -> None:
        raise ZeroDivisionError

    async def work() -> Any:
        async with Executor(cascade, max_wait_ms=0, observer=observer) as executor:
            await asyncio.gather(*send(executor, images_of(range(8))))
            return await asyncio.gather(*send(executor, images_of(range(8))))

    with caplog.at_level(logging.ERROR, logger="understudy"):
        assert run_async(work()) == expected_rows(cascade.table, cascade.policy)
    assert "an observer returns, it raised after the stage 'tiny'" in caplog.text
    assert "ZeroDivisionError" in caplog.text
