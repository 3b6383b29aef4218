"""Online: single requests, run in micro-batches; cancelled, late and closed."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_cascade import LookupCascade, LookupRunner, cascades, random_table
from online_requests import Block, Requests, answer_each, run_async, run_callbacks, send, until
from sample_rows import Array, chain, expected_rows, images_of
from understudy import Executor, Policy
from understudy.errors import DataError
from understudy.runtime.protocol import ExecutionError, ExecutorClosed


@settings(max_examples=40)
@given(cascades(), st.data(), st.sampled_from([0.0, 0.2, 2.0]), st.integers(1, 70))
def test_running_equals_the_table(
    cascade: LookupCascade, data: st.DataObject, wait: float, max_waiting: int
) -> None:
    """The chief test: answers and exits are those of the table, however requests are batched."""
    limits = {name: data.draw(st.integers(1, 20)) for name in cascade.exits}
    executor = Executor(cascade, max_batch=limits, max_wait_ms=wait, max_waiting=max_waiting)
    answers = answer_each(executor, images_of(range(len(cascade.table))))
    stats = executor.stats
    assert [tuple(answer) for answer in answers] == expected_rows(cascade.table, cascade.policy)
    assert stats.waiting == 0
    assert stats.peak <= max_waiting
    for name, limit in limits.items():
        assert all(1 <= size <= limit for size in cascade.sizes(name))
        assert stats.rows[name] == sum(cascade.sizes(name))


def test_deferred_rows_of_two_batches_form_one_batch() -> None:
    """Two batches of the first stage defer one batch to the second."""
    table, block = random_table(64, tiny=np.tile([0.0, 1.0], 32)), Block()
    cascade = LookupCascade(table, Policy.pair("tiny", "big", 0.5), block)

    async def work() -> Any:
        async with Executor(cascade, max_batch=32, max_wait_ms=1e5) as executor:
            await asyncio.gather(*await block.send(executor, images_of(range(64))))

    run_async(work())
    assert cascade.sizes("tiny") == [32, 32]
    assert cascade.ran[-1] == ("big", list(range(0, 64, 2)))


def test_full_batches_of_the_first_stage_are_run_at_once() -> None:
    cascade = LookupCascade(random_table(8), Policy.single("tiny"))

    answer_each(Executor(cascade, max_batch=4, max_wait_ms=1e8), images_of(range(8)))
    assert cascade.sizes("tiny") == [4, 4]


def test_one_request_is_run_without_others() -> None:
    cascade = LookupCascade(random_table(1), Policy.single("tiny"))
    answer_each(Executor(cascade, max_batch=4, max_wait_ms=8), images_of(0))
    assert cascade.sizes("tiny") == [1]


def test_deferred_rows_do_not_wait_where_nothing_can_join_them() -> None:
    cascade = LookupCascade(random_table(4), Policy.pair("tiny", "big", np.inf))

    answer_each(Executor(cascade, max_batch={"tiny": 4}, max_wait_ms=1e5), images_of(range(4)))
    assert cascade.sizes("big") == [4]


def test_requests_run_at_once_when_no_further_request_is_admitted() -> None:
    cascade = LookupCascade(random_table(5), chain(first=-np.inf))

    answer_each(Executor(cascade, max_wait_ms=1e5, max_waiting=5), images_of(range(5)))
    assert cascade.sizes("tiny") == [5]


def test_due_rows_of_later_stages_are_run_first() -> None:
    block = Block()
    cascade = LookupCascade(random_table(40), Policy.pair("tiny", "big", np.inf), block)

    async def work() -> Any:
        async with Executor(cascade, max_batch={"tiny": 4}, max_wait_ms=0) as executor:
            await asyncio.gather(*await block.send(executor, images_of(range(40))))

    run_async(work())
    names = [name for name, _ in cascade.ran]
    assert names == ["tiny", "big"] * (len(names) // 2)


def test_a_longer_max_wait_of_a_later_stage_fills_its_batches() -> None:
    block = Block()
    cascade = LookupCascade(random_table(40), Policy.pair("tiny", "big", np.inf), block)
    wait = {"tiny": 0, "big": 1e5}

    async def work() -> Any:
        async with Executor(cascade, max_batch={"tiny": 4}, max_wait_ms=wait) as executor:
            await asyncio.gather(*await block.send(executor, images_of(range(40))))

    run_async(work())
    assert len(cascade.sizes("big")) <= 2


def test_images_of_mixed_sizes() -> None:
    table = random_table(30)
    images = [np.full((1, 1 + row % 3, 1), row) for row in range(30)]
    answers = answer_each(Executor(LookupCascade(table, chain())), images)
    assert [tuple(answer) for answer in answers] == expected_rows(table, chain())


def test_something_else_than_an_image_is_refused() -> None:
    executor = Executor(LookupCascade(random_table(3), chain()))
    with pytest.raises(DataError, match=r"one image \(C, H, W\), found str"):
        answer_each(executor, ["a.png"])


# Cancelled requests.


def test_cancelled_requests_are_dropped_before_they_are_run() -> None:
    block = Block()
    cascade = LookupCascade(random_table(10), Policy.single("tiny"), block)

    async def work() -> Any:
        async with Executor(cascade, max_wait_ms=0) as executor:
            first = send(executor, images_of([0]))
            await until(block.reached.is_set)
            others = send(executor, images_of(range(1, 10)))
            await run_callbacks()
            for request in others[::2]:
                request.cancel()
            await run_callbacks()
            assert executor.stats.waiting == 4
            block.release.set()
            return await asyncio.gather(*first, *others, return_exceptions=True)

    answers = run_async(work())
    assert cascade.ran == [("tiny", [0]), ("tiny", [2, 4, 6, 8])]
    cancelled = [isinstance(answer, asyncio.CancelledError) for answer in answers]
    assert cancelled == [False, *[True, False] * 4, True]


def test_cancelled_requests_do_not_disturb_others() -> None:
    """Requests that are cancelled while they run fail no others."""
    block = Block("big")
    cascade = LookupCascade(random_table(20), Policy.pair("tiny", "big", np.inf), block)

    async def work() -> Any:
        async with Executor(cascade, max_batch={"tiny": 10}, max_wait_ms=0) as executor:
            first = send(executor, images_of(range(10)))
            await until(block.reached.is_set)  # these are being run
            second = send(executor, images_of(range(10, 20)))
            await run_callbacks()
            for request in (*first, *second[:5]):
                request.cancel()
            await run_callbacks()
            block.release.set()
            return await asyncio.gather(*first, *second, return_exceptions=True)

    answers = run_async(work())
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 15
    assert cascade.ran[-2:] == [
        ("tiny", list(range(15, 20))),
        ("big", list(range(15, 20))),
    ]


def test_rows_of_cancelled_requests_are_dropped_from_buffers() -> None:
    """They wait for the second stage when they are cancelled."""
    first, second = Block(row=0), Block(row=10)

    def hook(name: str, rows: Array) -> None:
        first(name, rows)
        second(name, rows)

    cascade = LookupCascade(random_table(20), Policy.pair("tiny", "big", np.inf), hook)

    async def work() -> Any:
        async with Executor(cascade, max_batch={"tiny": 10}, max_wait_ms=1e5) as executor:
            requests = await first.send(executor, images_of(range(20)))
            await until(second.reached.is_set)  # rows 0 to 9 wait for `big`
            for request in requests[:10:3]:
                request.cancel()
            await run_callbacks()
            second.release.set()
            await asyncio.gather(*requests, return_exceptions=True)
            return executor.stats

    stats = run_async(work())
    assert cascade.ran[-1] == ("big", [1, 2, 4, 5, 7, 8, *range(10, 20)])
    assert stats.waiting == 0


def test_cancelled_requests_without_memory_to_drop_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are answered, and so are later ones."""
    block = Block("tiny")
    cascade = LookupCascade(random_table(20), Policy.pair("tiny", "big", np.inf), block)
    gather = LookupRunner.gather

    tried: list[Array] = []

    def full(self: LookupRunner, source: Array, rows: Array, target: Array) -> None:
        if self.name == "big" and len(rows) == 9:
            tried.append(rows)
            raise MemoryError
        gather(self, source, rows, target)

    monkeypatch.setattr(LookupRunner, "gather", full)

    async def work() -> Any:
        async with Executor(cascade, max_batch=10, max_wait_ms={"tiny": 1000}) as executor:
            requests = send(executor, images_of(range(10)))
            await until(block.reached.is_set)
            requests[3].cancel()
            await run_callbacks()
            block.release.set()
            first = await asyncio.gather(*requests, return_exceptions=True)
            return first, await executor.answer(images_of([11])[0])

    first, later = run_async(work())
    assert len(tried) == 1
    expected = expected_rows(cascade.table, cascade.policy)
    assert [tuple(one) for k, one in enumerate(first) if k != 3] == expected[:3] + expected[4:10]
    assert tuple(later) == expected[11]


def test_deferred_rows_do_not_wait_for_a_cancelled_request() -> None:
    """Two wait at the second stage for a third, which is cancelled."""
    cascade = LookupCascade(random_table(4), Policy.pair("tiny", "big", np.inf))

    async def work() -> Any:
        max_wait = {"tiny": np.inf, "big": np.inf}
        async with Executor(cascade, max_batch={"tiny": 2}, max_wait_ms=max_wait) as executor:
            *pair, third = send(executor, images_of(range(3)))
            await until(lambda: executor.stats.rows["tiny"] == 2)
            third.cancel()
            return await asyncio.gather(*pair)

    expected = expected_rows(cascade.table, cascade.policy)
    assert [tuple(one) for one in run_async(work())] == expected[:2]


def test_an_infinite_max_wait() -> None:
    cascade = LookupCascade(random_table(4), Policy.single("tiny"))

    async def work() -> Any:
        executor = Executor(cascade, max_batch=4, max_wait_ms=np.inf)
        return await asyncio.gather(*send(executor, images_of(range(4))))

    assert [tuple(one) for one in run_async(work())] == expected_rows(cascade.table, cascade.policy)


def test_the_thread_of_an_unreferenced_executor_ends() -> None:
    cascade = LookupCascade(random_table(4), Policy.single("tiny"))

    async def work() -> Any:
        executor = Executor(cascade, max_wait_ms=0)
        await executor.answer(images_of([0])[0])

    before = set(threading.enumerate())
    run_async(work())
    gc.collect()
    assert set(threading.enumerate()) <= before


# Back-pressure.


def test_further_requests_are_admitted_in_order() -> None:
    block = Block()
    cascade = LookupCascade(random_table(50), Policy.single("tiny"), block)

    async def work() -> Any:
        async with Executor(cascade, max_batch=4, max_wait_ms=0, max_waiting=8) as executor:
            requests = send(executor, images_of(range(50)))
            await until(block.reached.is_set)
            await run_callbacks()
            assert executor.stats.waiting <= 8
            requests[20].cancel()
            block.release.set()
            await asyncio.gather(*requests, return_exceptions=True)
            return executor.stats

    stats = run_async(work())
    assert stats.peak <= 8
    order = [row for _, rows in cascade.ran for row in rows]
    assert order == [row for row in range(50) if row != 20]


# Policies.


def test_a_policy_switched_under_load() -> None:
    """Every answer is that of one of the policies, and none is lost."""
    table = random_table(400)
    switched = [
        chain(),
        Policy.single("middle"),
        chain(0.75, 0.25),
        Policy.pair("big", "tiny", 0.5),
    ]
    expected = [expected_rows(table, policy) for policy in switched]
    cascade, stop = LookupCascade(table, switched[0]), threading.Event()

    def switch() -> None:
        while not stop.is_set():
            for policy in switched:
                cascade.policy = policy
                stop.wait(1e-4)

    async def client(executor: Executor, numbers: Iterable[int]) -> None:
        for row in numbers:
            answer = await executor.answer(images_of(row)[0])
            assert any(tuple(answer) == rows[row] for rows in expected)

    async def work() -> Any:
        async with Executor(cascade, max_batch=16, max_wait_ms=0.5, max_waiting=48) as executor:
            clients = (client(executor, range(k, 400, 64)) for k in range(64))
            await asyncio.gather(*(one for one in clients))
            return executor

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        executor = run_async(work())
    finally:
        stop.set()
        thread.join()
    assert executor.stats.waiting == 0
    assert {name for name, _ in cascade.ran} == {"tiny", "middle", "big"}


def test_a_request_keeps_the_policy_at_its_arrival() -> None:
    block = Block()
    table = random_table(40)
    before, after = chain(), Policy.single("big")
    cascade = LookupCascade(table, before, block)

    async def work() -> Any:
        async with Executor(cascade, max_batch=8, max_wait_ms=0) as executor:
            early = send(executor, images_of(range(20)))
            await until(block.reached.is_set)
            await run_callbacks()
            cascade.policy = after
            late = send(executor, images_of(range(20, 40)))
            await run_callbacks()
            block.release.set()
            return await asyncio.gather(*early, *late)

    answers = [tuple(answer) for answer in run_async(work())]
    assert answers[:20] == expected_rows(table, before)[:20]
    assert answers[20:] == expected_rows(table, after)[20:]
    mixed = [rows for _, rows in cascade.ran if min(rows) < 20 <= max(rows)]
    assert not mixed


# The end.


def test_a_closed_executor_refuses() -> None:
    executor = Executor(LookupCascade(random_table(3), chain()))
    executor.close()

    async def work() -> Any:
        await executor.answer(images_of(0)[0])

    with pytest.raises(ExecutorClosed, match="takes no requests, found it closed"):
        run_async(work())


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_answers_requests_in_flight_or_cancels_them(cancel: bool) -> None:
    block = Block()
    cascade = LookupCascade(random_table(30), chain(), block)

    async def work() -> Any:
        executor = Executor(cascade, max_batch=4, max_wait_ms=1e5, max_waiting=20)
        requests = send(executor, images_of(range(30)))
        await until(block.reached.is_set)
        await run_callbacks()
        closing = asyncio.ensure_future(asyncio.to_thread(executor.close, cancel=cancel))
        await until(lambda: executor.closed)
        block.release.set()
        await closing
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = run_async(work())
    closed = [isinstance(answer, ExecutorClosed) for answer in answers]
    assert closed == [cancel] * 20 + [True] * 10  # ten were never admitted
    expected = expected_rows(cascade.table, chain())
    assert all(
        tuple(answer) == right
        for answer, right in zip(answers, expected, strict=True)
        if not isinstance(answer, Exception)
    )


def test_closing_within_the_event_loop() -> None:
    async def work() -> Any:
        executor = Executor(LookupCascade(random_table(30), chain()), max_wait_ms=1e5)
        requests = send(executor, images_of(range(30)))
        await run_callbacks()
        executor.close()
        return await asyncio.gather(*requests)

    assert [tuple(answer) for answer in run_async(work())] == expected_rows(
        random_table(30), chain()
    )


def test_leaving_the_context_by_an_error_cancels() -> None:
    found: Requests = []

    async def work() -> Any:
        async with Executor(LookupCascade(random_table(30), chain()), max_wait_ms=1e5) as executor:
            found.extend(send(executor, images_of(range(30))))
            await run_callbacks()
            raise ZeroDivisionError

    async def both() -> Any:
        with pytest.raises(ZeroDivisionError):
            await work()
        return await asyncio.gather(*found, return_exceptions=True)

    assert {type(answer) for answer in run_async(both())} == {ExecutorClosed}


def test_one_event_loop_after_another_but_not_two_at_once() -> None:
    block = Block()
    cascade = LookupCascade(random_table(3), Policy.single("tiny"))
    executor = Executor(cascade, max_wait_ms=0)

    async def one() -> Any:
        return await executor.answer(images_of(1)[0])

    assert run_async(one()) == run_async(one())
    cascade.hook = block
    thread = threading.Thread(target=run_async, args=(one(),))
    thread.start()
    assert block.reached.wait(30)
    with pytest.raises(ExecutionError, match="a second while 1 calls of the first"):
        run_async(one())
    block.release.set()
    thread.join()
    assert run_async(one()).exit == "tiny"
    executor.close()


def test_an_event_loop_that_ends_early() -> None:
    block = Block()
    cascade = LookupCascade(random_table(3), Policy.single("tiny"), block)
    executor = Executor(cascade, max_wait_ms=0)

    async def abandoned() -> None:
        send(executor, images_of([0, 1]))
        await until(block.reached.is_set)

    async def later() -> Any:
        return await executor.answer(images_of(2)[0])

    run_async(abandoned())
    block.release.set()
    assert tuple(run_async(later())) == expected_rows(cascade.table, cascade.policy)[2]
    executor.close()


def test_an_event_loop_that_ends_without_ending_its_requests() -> None:
    block = Block()
    cascade = LookupCascade(random_table(3), Policy.single("tiny"), block)
    executor = Executor(cascade, max_wait_ms=0)
    loop = asyncio.new_event_loop()
    requests = [loop.create_task(executor.answer(image)) for image in images_of([0, 1])]
    loop.run_until_complete(until(block.reached.is_set))
    loop.close()
    block.release.set()

    async def later() -> Any:
        return await executor.answer(images_of(2)[0])

    loop.set_exception_handler(lambda *_: None)  # asyncio reports tasks that are never finished
    del requests
    assert tuple(run_async(later())) == expected_rows(cascade.table, cascade.policy)[2]
    gc.collect()
    assert tuple(run_async(later())) == expected_rows(cascade.table, cascade.policy)[2]
    executor.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_fails_all_requests() -> None:
    def hook(name: str, rows: Array) -> None:
        raise SystemExit("the model wants to quit")

    async def work() -> Any:
        executor = Executor(LookupCascade(random_table(30), chain(), hook), max_wait_ms=0)
        answers = await asyncio.gather(*send(executor, images_of(range(5))), return_exceptions=True)
        with pytest.raises(ExecutorClosed):
            await executor.answer(images_of(6)[0])
        executor.close()
        return answers

    answers = run_async(work())
    assert {type(answer) for answer in answers} == {ExecutorClosed}
    assert "SystemExit: the model wants to quit" in str(answers[0])


def test_offline_and_online_at_once() -> None:
    table = random_table(600)
    cascade = LookupCascade(table, chain())

    async def work() -> Any:
        async with Executor(cascade, max_batch=16, max_wait_ms=0.2) as executor:

            def offline() -> list[int]:
                parts = np.split(images_of(range(600)), 30)
                return [a for answers in executor.map(parts) for a in answers.prediction.tolist()]

            other = asyncio.ensure_future(asyncio.to_thread(offline))
            online = await asyncio.gather(*send(executor, images_of(range(600))))
            return online, await other

    online, offline = run_async(work())
    expected = expected_rows(table, chain())
    assert [tuple(answer) for answer in online] == expected
    assert offline == [prediction for prediction, _, _ in expected]


@pytest.mark.slow
def test_a_million_requests_in_flat_memory() -> None:
    import tracemalloc

    count, clients = 1_000_000, 256
    table = random_table(1000)
    expected = expected_rows(table, chain())
    cascade = LookupCascade(table, chain(), record=False)
    images = images_of(range(1000))

    async def client(executor: Executor, numbers: Iterable[int]) -> None:
        for number in numbers:
            row = number % 1000
            assert tuple(await executor.answer(images[row])) == expected[row]

    async def requests(executor: Executor, count: int) -> None:
        await asyncio.gather(*(client(executor, range(k, count, clients)) for k in range(clients)))

    async def work() -> Any:
        async with Executor(cascade, max_batch=64, max_wait_ms=0.5) as executor:
            await requests(executor, count)
            tracemalloc.start()
            await requests(executor, count // 10)  # tracked from here on: what the loop keeps
            start = tracemalloc.get_traced_memory()[0]
            await requests(executor, count // 10)
            grown = tracemalloc.get_traced_memory()[0] - start
            tracemalloc.stop()
            return executor.stats, grown

    stats, grown = run_async(work(), seconds=600)
    assert stats.rows["tiny"] == count + count // 5
    assert stats.waiting == 0
    assert stats.peak <= clients
    assert grown < 2**18
