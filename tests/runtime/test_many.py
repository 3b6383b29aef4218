"""Several samples in one call: each with its own answer or error, for any number of places."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_cascade import LookupCascade, LookupRunner, cascades, random_table
from online_requests import Block, run_async, run_callbacks, send, until
from sample_rows import Array, chain, expected_rows, images_of
from understudy import Executor, Policy
from understudy.errors import DataError
from understudy.runtime.places import Places
from understudy.runtime.protocol import Answer, BackgroundFull, ExecutorClosed, RequestFailed


@settings(max_examples=40)
@given(cascades(), st.data(), st.integers(1, 70))
def test_running_equals_the_table(
    cascade: LookupCascade, data: st.DataObject, max_waiting: int
) -> None:
    """Calls of any size beside single requests, some in the background, with fewer places."""
    count = len(cascade.table)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    parts = np.split(np.arange(count), cuts)
    behind = data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    size, asked = data.draw(st.integers(1, 20)), data.draw(st.booleans())

    async def work() -> Any:
        executor = Executor(cascade, max_batch=size, max_wait_ms=0.2, max_waiting=max_waiting)
        async with executor:
            calls = [
                executor.answer_many(images_of(rows), logits=asked, background=background)
                for rows, background in zip(parts, behind, strict=True)
            ]
            single = send(executor, images_of(range(count)))
            return await asyncio.gather(*calls), await asyncio.gather(*single), executor.stats

    found, single, stats = run_async(work())
    expected = expected_rows(cascade.table, cascade.policy)
    assert [answer for part in found for answer in part] == expected == single
    assert {answer.logits is not None for part in found for answer in part} == {asked}
    assert stats.waiting == 0
    assert stats.peak <= max_waiting


def test_one_bad_sample_fails_no_other() -> None:
    def hook(name: str, rows: Array) -> None:
        if 3 in rows:
            raise ZeroDivisionError("three")

    cascade = LookupCascade(random_table(8), Policy.single("tiny"), hook)
    images: list[Any] = [*images_of(range(8))]
    images[0], images[5] = "a.png", np.zeros(())

    async def work() -> Any:
        async with Executor(cascade, max_batch=4, max_wait_ms=0) as executor:
            return await executor.answer_many(images), await executor.answer_many([])

    found, none = run_async(work())
    assert none == []
    expected = expected_rows(cascade.table, cascade.policy)
    assert isinstance(found[0], DataError)
    assert isinstance(found[3], RequestFailed)
    assert isinstance(found[3].__cause__, ZeroDivisionError)
    assert isinstance(found[5], RequestFailed)
    assert [found[row] == expected[row] for row in (1, 2, 4, 6, 7)] == [True] * 5


def test_a_call_is_cancelled_as_a_whole_and_gives_its_places_back() -> None:
    block = Block(row=0)
    cascade = LookupCascade(random_table(30), Policy.single("tiny"), block)

    async def work() -> Any:
        async with Executor(cascade, max_batch=4, max_wait_ms=0, max_waiting=8) as executor:
            first = send(executor, images_of([0]))
            await until(block.reached.is_set)
            call = asyncio.ensure_future(executor.answer_many(images_of(range(1, 20))))
            await run_callbacks()
            assert executor.stats.waiting == 7
            others = send(executor, images_of(range(20, 30)))
            call.cancel()
            await run_callbacks()
            assert executor.stats.waiting == 7  # of the others
            block.release.set()
            return await asyncio.gather(*first, *others)

    rows = expected_rows(cascade.table, cascade.policy)
    assert run_async(work()) == [rows[0], *rows[20:]]
    assert not {row for _, batch in cascade.ran for row in batch} & set(range(1, 20))


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_answers_what_was_taken_of_a_call_or_cancels_it(cancel: bool) -> None:
    block = Block()
    cascade = LookupCascade(random_table(30), chain(), block)

    async def work() -> Any:
        executor = Executor(cascade, max_batch=4, max_wait_ms=1e5, max_waiting=20)
        call = asyncio.ensure_future(executor.answer_many(images_of(range(30))))
        await until(block.reached.is_set)
        closing = asyncio.ensure_future(asyncio.to_thread(executor.close, cancel=cancel))
        await until(lambda: executor.closed)
        block.release.set()
        await closing
        found = await call
        with pytest.raises(ExecutorClosed):
            await executor.answer_many(images_of(range(3)))
        return found

    found = run_async(work())
    assert [isinstance(one, ExecutorClosed) for one in found] == [cancel] * 20 + [True] * 10
    answers = [(row, one) for row, one in enumerate(found) if isinstance(one, Answer)]
    expected = expected_rows(cascade.table, chain())
    assert all(one == expected[row] for row, one in answers)


def test_a_call_in_the_background_is_taken_as_a_whole_or_refused() -> None:
    block = Block(row=0)
    cascade = LookupCascade(random_table(30), Policy.single("tiny"), block)

    async def work() -> Any:
        async with Executor(cascade, max_background=4, max_wait_ms=0) as executor:
            first = send(executor, images_of([0]))
            await until(block.reached.is_set)
            call = asyncio.ensure_future(
                executor.answer_many(images_of(range(1, 4)), background=True)
            )
            await run_callbacks()
            with pytest.raises(BackgroundFull):
                await executor.answer_many(images_of(range(4, 6)), background=True)
            block.release.set()
            return [*await asyncio.gather(*first), *await call]

    assert run_async(work()) == expected_rows(cascade.table, cascade.policy)[:4]


def test_logits_that_cannot_be_copied_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def host_logits(self: LookupRunner, logits: Array, rows: Array) -> Array:
        raise MemoryError

    monkeypatch.setattr(LookupRunner, "host_logits", host_logits)
    cascade = LookupCascade(random_table(4), Policy.single("tiny"))

    async def work() -> Any:
        async with Executor(cascade) as executor:
            return await executor.answer_many(images_of(range(4)), logits=True)

    assert {type(one) for one in run_async(work())} == {RequestFailed}


# Places.


def test_places_are_taken_in_the_order_of_asking() -> None:
    async def work() -> None:
        places, order = Places(2), list[tuple[str, int]]()

        async def ask(name: str, most: int) -> None:
            order.append((name, await places.take(most)))

        asked = [asyncio.ensure_future(ask(name, most)) for name, most in (("a", 1), ("b", 3))]
        await run_callbacks()
        assert order == [("a", 1), ("b", 1)]
        asked += [asyncio.ensure_future(ask(name, most)) for name, most in (("c", 2), ("d", 1))]
        await run_callbacks()
        places.give_back(3)
        assert places.take_now(1) == 0  # others have asked before
        await asyncio.gather(*asked)
        assert order[2:] == [("c", 2), ("d", 1)]

    run_async(work())


def test_who_no_longer_waits_takes_no_place() -> None:
    """Neither before its turn, nor when it is its turn already."""

    async def work() -> None:
        places = Places(1)
        assert await places.take(1) == 1
        first, second, third = (asyncio.ensure_future(places.take(1)) for _ in range(3))
        await run_callbacks()
        first.cancel()
        await run_callbacks()
        places.give_back(1)  # the turn of the second
        second.cancel()
        assert await third == 1
        assert places.take_now(1) == 0

    run_async(work())


def test_what_was_submitted_is_received_in_the_event_loop_or_cancelled() -> None:
    block = Block(row=0)
    cascade = LookupCascade(random_table(30), chain(), block)
    images: list[Any] = ["a.png", *images_of(range(1, 12))]

    async def work() -> Any:
        received: list[Any] = []
        async with Executor(cascade, max_wait_ms=0, max_waiting=8) as executor:
            first = send(executor, images_of([0]))
            await until(block.reached.is_set)
            executor.submit(images, received.append)
            cancel = executor.submit(images_of(range(12, 30)), received.append)
            executor.submit([], received.append)
            cancel()
            block.release.set()
            await asyncio.gather(*first)
            await until(lambda: len(received) == 2)
            cancel()  # twice, and after all
        return received

    none, found = run_async(work())
    assert none == []
    assert isinstance(found[0], DataError)
    assert found[1:] == expected_rows(cascade.table, chain())[1:12]


def test_a_receiver_that_raises_is_logged_and_others_receive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cascade = LookupCascade(random_table(4), Policy.single("tiny"))

    def broken(_: Any) -> None:
        raise ZeroDivisionError("mine")

    async def work() -> Any:
        async with Executor(cascade, max_wait_ms=0) as executor:
            executor.submit(images_of([0]), broken)
            return await executor.answer_many(images_of(range(1, 4)))

    assert run_async(work()) == expected_rows(cascade.table, cascade.policy)[1:]
    assert "what receives answers returns, it raised" in caplog.text
