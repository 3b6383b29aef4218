"""Online: requests one by one, run together, and what becomes of those that leave or come late."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookups import Lookups, cascades, chain, images_of, table_of, truth_of

from understudy import Executor, Policy
from understudy.errors import DataError
from understudy.runtime.errors import ExecutionError, ExecutorClosed


def run(work):
    return asyncio.run(asyncio.wait_for(work, timeout=60))


def asked(executor, rows):
    """All rows at once, one request each."""
    return [asyncio.ensure_future(executor.answer(image)) for image in images_of(rows)]


async def turns(count=5):
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


class Held:
    """A hook that stops the batches of a stage, or those with a certain row, until let go."""

    def __init__(self, name="tiny", row=None):
        self.name, self.row = name, row
        self.inside, self.go = threading.Event(), threading.Event()

    def __call__(self, name, rows):
        if name == self.name and self.row in (None, *rows):
            self.inside.set()
            assert self.go.wait(30)

    async def after(self, executor, rows):
        """Ask for rows, the first of which are held until all are inside."""
        requests = asked(executor, rows)
        await until(self.inside.is_set)
        await turns()
        self.go.set()
        return requests


@settings(max_examples=40)
@given(cascades(), st.data(), st.sampled_from([0.0, 0.2, 2.0]), st.integers(1, 70))
def test_running_equals_the_table(cascade, data, wait, places):
    """The chief test: answers and exits are those of the table, however requests meet."""
    limits = {name: data.draw(st.integers(1, 20)) for name in cascade.exits}

    async def work():
        async with Executor(
            cascade, max_batch=limits, max_wait_ms=wait, max_waiting=places
        ) as executor:
            answers = await asyncio.gather(*asked(executor, range(len(cascade.table))))
        return answers, executor.stats

    answers, stats = run(work())
    assert [tuple(answer) for answer in answers] == truth_of(cascade.table, cascade.policy)
    assert stats.waiting == 0
    assert stats.peak <= places
    for name, limit in limits.items():
        assert all(1 <= size <= limit for size in cascade.sizes(name))
        assert stats.rows[name] == sum(cascade.sizes(name))


def test_requests_meet_again_at_later_stages():
    """Two batches of the first stage leave one batch to the second."""
    table, held = table_of(64, tiny=np.tile([0.0, 1.0], 32)), Held()
    cascade = Lookups(table, Policy.pair("tiny", "big", 0.5), held)

    async def work():
        async with Executor(cascade, max_batch=32, max_wait_ms=1e5) as executor:
            await asyncio.gather(*await held.after(executor, range(64)))

    run(work())
    assert cascade.sizes("tiny") == [32, 32]
    assert cascade.ran[-1] == ("big", list(range(0, 64, 2)))


def test_the_first_stage_waits_for_company_as_long_as_some_comes():
    cascade = Lookups(table_of(9), Policy.single("tiny"))

    async def work():
        async with Executor(cascade, max_batch=4, max_wait_ms=8000) as executor:
            start = time.perf_counter()
            await asyncio.gather(*asked(executor, range(8)))
            full = time.perf_counter() - start
            start = time.perf_counter()
            await executor.answer(images_of(8)[0])
            return full, time.perf_counter() - start

    full, alone = run(work())
    assert cascade.sizes("tiny") == [4, 4, 1]
    assert full < 8
    assert alone >= 8 / 8


def test_deferred_rows_do_not_wait_where_nothing_can_join_them():
    cascade = Lookups(table_of(4), Policy.pair("tiny", "big", np.inf))

    async def work():
        async with Executor(cascade, max_batch={"tiny": 4}, max_wait_ms=1e5) as executor:
            await asyncio.gather(*asked(executor, range(4)))

    run(work())
    assert cascade.sizes("big") == [4]


def test_nobody_waits_for_company_that_finds_no_place():
    cascade = Lookups(table_of(5), chain(first=-np.inf))

    async def work():
        async with Executor(cascade, max_wait_ms=1e5, max_waiting=5) as executor:
            await asyncio.gather(*asked(executor, range(5)))

    run(work())
    assert cascade.sizes("tiny") == [5]


def test_overdue_rows_of_later_stages_go_first():
    held = Held()
    cascade = Lookups(table_of(40), Policy.pair("tiny", "big", np.inf), held)

    async def work():
        async with Executor(cascade, max_batch={"tiny": 4}, max_wait_ms=0) as executor:
            await asyncio.gather(*await held.after(executor, range(40)))

    run(work())
    names = [name for name, _ in cascade.ran]
    assert names == ["tiny", "big"] * (len(names) // 2)


def test_later_stages_may_be_let_wait_longer():
    held = Held()
    cascade = Lookups(table_of(40), Policy.pair("tiny", "big", np.inf), held)
    wait = {"tiny": 0, "big": 1e5}

    async def work():
        async with Executor(cascade, max_batch={"tiny": 4}, max_wait_ms=wait) as executor:
            await asyncio.gather(*await held.after(executor, range(40)))

    run(work())
    assert len(cascade.sizes("big")) <= 2


def test_patience_of_later_stages_is_what_their_batches_take():
    """Rows of the third batch wait while the first stage goes on; those of the first two do not."""

    held = Held(row=2)

    def slow(name, rows):
        held(name, rows)
        if name == "big":
            time.sleep(0.5)

    cascade = Lookups(table_of(40), Policy.pair("tiny", "big", np.inf), slow)

    async def work():
        async with Executor(cascade, max_batch={"tiny": 2}) as executor:
            for image in images_of([0, 1]):
                await executor.answer(image)
            await asyncio.gather(*await held.after(executor, range(2, 40)))
            return executor.stats

    stats = run(work())
    first, second, *others = cascade.sizes("big")
    assert (first, second) == (1, 1)
    assert len(others) <= 4  # of the twenty batches that the first stage leaves
    assert stats.seconds["big"] >= 1.5


def test_images_of_mixed_sizes():
    table = table_of(30)
    images = [np.full((1, 1 + row % 3, 1), row) for row in range(30)]

    async def work():
        async with Executor(Lookups(table, chain())) as executor:
            return await asyncio.gather(*map(executor.answer, images))

    assert [tuple(answer) for answer in run(work())] == truth_of(table, chain())


def test_what_is_no_image():
    async def work():
        async with Executor(Lookups(table_of(3), chain())) as executor:
            await executor.answer("a.png")

    with pytest.raises(DataError, match=r"one image \(C, H, W\), found str"):
        run(work())


# Cancelled requests.


def test_cancelled_requests_leave_before_they_are_run():
    held = Held()
    cascade = Lookups(table_of(10), Policy.single("tiny"), held)

    async def work():
        async with Executor(cascade, max_wait_ms=0) as executor:
            first = asked(executor, [0])
            await until(held.inside.is_set)
            others = asked(executor, range(1, 10))
            await turns()
            for request in others[::2]:
                request.cancel()
            await turns()
            assert executor.stats.waiting == 4
            held.go.set()
            return await asyncio.gather(*first, *others, return_exceptions=True)

    answers = run(work())
    assert cascade.ran == [("tiny", [0]), ("tiny", [2, 4, 6, 8])]
    cancelled = [isinstance(answer, asyncio.CancelledError) for answer in answers]
    assert cancelled == [False, *[True, False] * 4, True]


def test_cancelled_requests_do_not_disturb_others():
    """Those that are being run when they are cancelled take nobody along."""
    blocker = Held("big")
    cascade = Lookups(table_of(20), Policy.pair("tiny", "big", np.inf), blocker)

    async def work():
        async with Executor(cascade, max_batch={"tiny": 10}, max_wait_ms=0) as executor:
            first = asked(executor, range(10))
            await until(blocker.inside.is_set)  # these are being run
            second = asked(executor, range(10, 20))
            await turns()
            for request in (*first, *second[:5]):
                request.cancel()
            await turns()
            blocker.go.set()
            return await asyncio.gather(*first, *second, return_exceptions=True)

    answers = run(work())
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 15
    assert cascade.ran[-2:] == [
        ("tiny", list(range(15, 20))),
        ("big", list(range(15, 20))),
    ]


def test_rows_of_cancelled_requests_are_dropped_from_rooms():
    """They were answered by nobody yet and wait for the second stage when they are cancelled."""
    first, second = Held(row=0), Held(row=10)

    def hook(name, rows):
        first(name, rows)
        second(name, rows)

    cascade = Lookups(table_of(20), Policy.pair("tiny", "big", np.inf), hook)

    async def work():
        async with Executor(cascade, max_batch={"tiny": 10}, max_wait_ms=1e5) as executor:
            requests = await first.after(executor, range(20))
            await until(second.inside.is_set)  # rows 0 to 9 wait for `big`
            for request in requests[:10:3]:
                request.cancel()
            await turns()
            second.go.set()
            await asyncio.gather(*requests, return_exceptions=True)
            return executor.stats

    stats = run(work())
    assert cascade.ran[-1] == ("big", [1, 2, 4, 5, 7, 8, *range(10, 20)])
    assert stats.waiting == 0


def test_cancelled_requests_where_there_is_no_memory_to_leave(monkeypatch):
    """The others are answered all the same, and so are those that come later."""
    held = Held("tiny")
    cascade = Lookups(table_of(20), Policy.pair("tiny", "big", np.inf), held)
    gather = type(cascade.runners[0]).gather

    tried = []

    def full(self, source, rows, target):
        if self.name == "big" and len(rows) == 9:
            tried.append(rows)
            raise MemoryError
        gather(self, source, rows, target)

    monkeypatch.setattr(type(cascade.runners[0]), "gather", full)

    async def work():
        async with Executor(cascade, max_batch=10, max_wait_ms={"tiny": 1000}) as executor:
            requests = asked(executor, range(10))
            await until(held.inside.is_set)
            requests[3].cancel()
            await turns()
            held.go.set()
            first = await asyncio.gather(*requests, return_exceptions=True)
            return first, await executor.answer(images_of([11])[0])

    first, later = run(work())
    assert len(tried) == 1
    truth = truth_of(cascade.table, cascade.policy)
    assert [tuple(one) for k, one in enumerate(first) if k != 3] == truth[:3] + truth[4:10]
    assert tuple(later) == truth[11]


def test_rows_whose_company_is_cancelled_do_not_wait_on():
    """Two wait at the second stage for what a third may leave, which is cancelled."""
    cascade = Lookups(table_of(4), Policy.pair("tiny", "big", np.inf))

    async def work():
        patience = {"tiny": np.inf, "big": np.inf}
        async with Executor(cascade, max_batch={"tiny": 2}, max_wait_ms=patience) as executor:
            *pair, third = asked(executor, range(3))
            await until(lambda: executor.stats.rows["tiny"] == 2)
            third.cancel()
            return await asyncio.gather(*pair)

    truth = truth_of(cascade.table, cascade.policy)
    assert [tuple(one) for one in run(work())] == truth[:2]


def test_endless_patience():
    cascade = Lookups(table_of(4), Policy.single("tiny"))

    async def work():
        executor = Executor(cascade, max_batch=4, max_wait_ms=np.inf)
        return await asyncio.gather(*asked(executor, range(4)))

    assert [tuple(one) for one in run(work())] == truth_of(cascade.table, cascade.policy)


def test_an_executor_that_nobody_holds_ends():
    cascade = Lookups(table_of(4), Policy.single("tiny"))

    async def work():
        executor = Executor(cascade, max_wait_ms=0)
        await executor.answer(images_of([0])[0])
        return executor._service._thread

    thread = run(work())
    gc.collect()
    assert not thread.is_alive()


# Back-pressure.


def test_further_requests_wait_at_the_door_in_order():
    held = Held()
    cascade = Lookups(table_of(50), Policy.single("tiny"), held)

    async def work():
        async with Executor(cascade, max_batch=4, max_wait_ms=0, max_waiting=8) as executor:
            requests = asked(executor, range(50))
            await until(held.inside.is_set)
            await turns()
            assert executor.stats.waiting <= 8
            requests[20].cancel()
            held.go.set()
            await asyncio.gather(*requests, return_exceptions=True)
            return executor.stats

    stats = run(work())
    assert stats.peak <= 8
    order = [row for _, rows in cascade.ran for row in rows]
    assert order == [row for row in range(50) if row != 20]


# Policies.


def test_a_policy_switched_under_load():
    """Every answer is that of one of the policies, whole, and none is lost."""
    table = table_of(400)
    plans = [chain(), Policy.single("middle"), chain(0.75, 0.25), Policy.pair("big", "tiny", 0.5)]
    truths = [truth_of(table, plan) for plan in plans]
    cascade, stop = Lookups(table, plans[0]), threading.Event()

    def switch():
        while not stop.is_set():
            for plan in plans:
                cascade.policy = plan
                time.sleep(1e-4)

    async def client(executor, rows):
        for row in rows:
            answer = await executor.answer(images_of(row)[0])
            assert any(tuple(answer) == truth[row] for truth in truths)

    async def work():
        async with Executor(cascade, max_batch=16, max_wait_ms=0.5, max_waiting=48) as executor:
            clients = (client(executor, range(k, 400, 64)) for k in range(64))
            await asyncio.gather(*(one for one in clients))
            return executor

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        executor = run(work())
    finally:
        stop.set()
        thread.join()
    assert executor.stats.waiting == 0
    assert {name for name, _ in cascade.ran} == {"tiny", "middle", "big"}


def test_a_request_keeps_the_policy_that_it_found():
    held = Held()
    table = table_of(40)
    before, after = chain(), Policy.single("big")
    cascade = Lookups(table, before, held)

    async def work():
        async with Executor(cascade, max_batch=8, max_wait_ms=0) as executor:
            early = asked(executor, range(20))
            await until(held.inside.is_set)
            await turns()
            cascade.policy = after
            late = asked(executor, range(20, 40))
            await turns()
            held.go.set()
            return await asyncio.gather(*early, *late)

    answers = [tuple(answer) for answer in run(work())]
    assert answers[:20] == truth_of(table, before)[:20]
    assert answers[20:] == truth_of(table, after)[20:]
    mixed = [rows for _, rows in cascade.ran if min(rows) < 20 <= max(rows)]
    assert not mixed


# The end.


def test_a_closed_executor_refuses():
    executor = Executor(Lookups(table_of(3), chain()))
    executor.close()

    async def work():
        await executor.answer(images_of(0)[0])

    with pytest.raises(ExecutorClosed, match="takes no requests, found it closed"):
        run(work())


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_answers_those_inside_or_cancels_them(cancel):
    held = Held()
    cascade = Lookups(table_of(30), chain(), held)

    async def work():
        executor = Executor(cascade, max_batch=4, max_wait_ms=1e5, max_waiting=20)
        requests = asked(executor, range(30))
        await until(held.inside.is_set)
        await turns()
        closing = asyncio.ensure_future(asyncio.to_thread(executor.close, cancel=cancel))
        await until(lambda: executor._service._closed)
        held.go.set()
        await closing
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = run(work())
    closed = [isinstance(answer, ExecutorClosed) for answer in answers]
    assert closed == [cancel] * 20 + [True] * 10  # ten never came in
    truth = truth_of(cascade.table, chain())
    assert all(
        tuple(answer) == right
        for answer, right in zip(answers, truth, strict=True)
        if not isinstance(answer, Exception)
    )


def test_closing_within_the_event_loop():
    async def work():
        executor = Executor(Lookups(table_of(30), chain()), max_wait_ms=1e5)
        requests = asked(executor, range(30))
        await turns()
        executor.close()
        return await asyncio.gather(*requests)

    assert [tuple(answer) for answer in run(work())] == truth_of(table_of(30), chain())


def test_leaving_by_an_error_cancels():
    found = []

    async def work():
        async with Executor(Lookups(table_of(30), chain()), max_wait_ms=1e5) as executor:
            found.extend(asked(executor, range(30)))
            await turns()
            raise ZeroDivisionError

    async def both():
        with pytest.raises(ZeroDivisionError):
            await work()
        return await asyncio.gather(*found, return_exceptions=True)

    assert {type(answer) for answer in run(both())} == {ExecutorClosed}


def test_one_event_loop_after_another_but_not_two_at_once():
    held = Held()
    cascade = Lookups(table_of(3), Policy.single("tiny"))
    executor = Executor(cascade, max_wait_ms=0)

    async def one():
        return await executor.answer(images_of(1)[0])

    assert run(one()) == run(one())
    cascade.hook = held
    thread = threading.Thread(target=run, args=(one(),))
    thread.start()
    assert held.inside.wait(30)
    with pytest.raises(ExecutionError, match="a second while 1 requests of the first"):
        run(one())
    held.go.set()
    thread.join()
    assert run(one()).exit == "tiny"
    executor.close()


def test_an_event_loop_that_ends_early_does_no_harm():
    held = Held()
    cascade = Lookups(table_of(3), Policy.single("tiny"), held)
    executor = Executor(cascade, max_wait_ms=0)

    async def gone():
        asked(executor, [0, 1])
        await until(held.inside.is_set)

    async def later():
        return await executor.answer(images_of(2)[0])

    run(gone())
    held.go.set()
    assert tuple(run(later())) == truth_of(cascade.table, cascade.policy)[2]
    executor.close()


def test_an_event_loop_that_ends_without_ending_its_requests():
    held = Held()
    cascade = Lookups(table_of(3), Policy.single("tiny"), held)
    executor = Executor(cascade, max_wait_ms=0)
    loop = asyncio.new_event_loop()
    requests = [loop.create_task(executor.answer(image)) for image in images_of([0, 1])]
    loop.run_until_complete(until(held.inside.is_set))
    loop.close()
    held.go.set()

    async def later():
        return await executor.answer(images_of(2)[0])

    for request in requests:
        request._log_destroy_pending = False
    del requests, request
    assert tuple(run(later())) == truth_of(cascade.table, cascade.policy)[2]
    gc.collect()
    assert tuple(run(later())) == truth_of(cascade.table, cascade.policy)[2]
    executor.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_leaves_nobody_waiting():
    def hook(name, rows):
        raise SystemExit("the model wants to quit")

    async def work():
        executor = Executor(Lookups(table_of(30), chain(), hook), max_wait_ms=0)
        answers = await asyncio.gather(*asked(executor, range(5)), return_exceptions=True)
        with pytest.raises(ExecutorClosed):
            await executor.answer(images_of(6)[0])
        executor.close()
        return answers

    answers = run(work())
    assert {type(answer) for answer in answers} == {ExecutorClosed}
    assert "SystemExit: the model wants to quit" in str(answers[0])


def test_offline_and_online_at_once():
    table = table_of(600)
    cascade = Lookups(table, chain())

    async def work():
        async with Executor(cascade, max_batch=16, max_wait_ms=0.2) as executor:

            def offline():
                parts = np.split(images_of(range(600)), 30)
                return [a for answers in executor.map(parts) for a in answers.prediction.tolist()]

            beside = asyncio.ensure_future(asyncio.to_thread(offline))
            online = await asyncio.gather(*asked(executor, range(600)))
            return online, await beside

    online, offline = run(work())
    truth = truth_of(table, chain())
    assert [tuple(answer) for answer in online] == truth
    assert offline == [prediction for prediction, _, _ in truth]


@pytest.mark.slow
def test_a_million_requests_in_flat_memory():
    import tracemalloc

    count, clients = 1_000_000, 256
    table = table_of(1000)
    truth = truth_of(table, chain())
    cascade = Lookups(table, chain(), keep=False)
    images = images_of(range(1000))

    async def client(executor, numbers):
        for number in numbers:
            row = number % 1000
            assert tuple(await executor.answer(images[row])) == truth[row]

    async def requests(executor, count):
        await asyncio.gather(*(client(executor, range(k, count, clients)) for k in range(clients)))

    async def work():
        async with Executor(cascade, max_batch=64, max_wait_ms=0.5) as executor:
            await requests(executor, count)
            tracemalloc.start()
            start = tracemalloc.get_traced_memory()[0]
            await requests(executor, count // 10)
            grown = tracemalloc.get_traced_memory()[0] - start
            tracemalloc.stop()
            return executor.stats, grown

    stats, grown = run(work())
    assert stats.rows["tiny"] == count + count // 10
    assert stats.waiting == 0
    assert stats.peak <= clients
    assert grown < 2**18
