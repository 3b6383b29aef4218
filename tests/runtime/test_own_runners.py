"""Requests that bring their own stages, and requests for logits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_cascade import LookupCascade, LookupRunner, cascades, random_table
from online_requests import answer_each, run_async, send
from sample_rows import Array, chain, expected_rows, images_of
from understudy import Executor, Policy
from understudy.errors import DataError, PolicyError
from understudy.runtime.protocol import Answer, RequestFailed

POLICIES = (chain(), Policy.single("big"), chain(0.75, 0.25), Policy.pair("big", "tiny", 0.5))


def logits_of(cascade: LookupCascade, row: int, answer: Answer) -> list[float]:
    return [row, cascade.exits.index(answer.exit)]


@settings(max_examples=30)
@given(cascades(), st.data(), st.integers(1, 70))
def test_running_equals_the_table(
    cascade: LookupCascade, data: st.DataObject, max_waiting: int
) -> None:
    """Whatever stages a request brings, and whether it asks for logits."""
    rows, policies = range(len(cascade.table)), [cascade.policy, Policy.single(cascade.exits[0])]
    runners = [None, *map(cascade.runners_of, policies)]
    chosen = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    asked = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    expected = [expected_rows(cascade.table, one) for one in (cascade.policy, *policies)]

    async def work() -> Any:
        size = data.draw(st.integers(1, 20))
        executor = Executor(cascade, max_batch=size, max_wait_ms=0.2, max_waiting=max_waiting)
        async with executor:
            requests = [
                executor.answer(image, runners=runners[own], logits=logits)
                for image, own, logits in zip(images_of(rows), chosen, asked, strict=True)
            ]
            return await asyncio.gather(*requests)

    for row, answer in enumerate(run_async(work())):
        assert answer == expected[chosen[row]][row]
        if asked[row]:
            assert answer.logits.dtype == np.float32
            assert answer.logits.tolist() == logits_of(cascade, row, answer)
        else:
            assert answer.logits is None
    transferred = [(name, row) for name, rows in cascade.transferred for row in rows]
    wanted = [(expected[chosen[row]][row][2], row) for row in rows if asked[row]]
    assert sorted(transferred) == sorted(wanted)


def test_requests_keep_their_stages_through_hundreds_of_switches() -> None:
    table, count = random_table(400), 4000
    cascade, stop = LookupCascade(table, POLICIES[0], record=False), threading.Event()
    runners = [cascade.runners_of(policy) for policy in POLICIES]
    expected = [expected_rows(table, policy) for policy in POLICIES]
    switches = 0

    def switch() -> None:
        nonlocal switches
        while not stop.is_set():
            cascade.policy = POLICIES[switches % len(POLICIES)]
            switches += 1
            stop.wait(1e-4)

    async def client(executor: Executor, numbers: Sequence[int]) -> None:
        for number in numbers:
            row, own = number % 400, number % 7 % len(POLICIES)
            answer = await executor.answer(images_of(row)[0], runners=runners[own])
            assert answer == expected[own][row]

    async def work() -> Any:
        async with Executor(cascade, max_batch=16, max_wait_ms=0.5, max_waiting=48) as executor:
            clients = (client(executor, range(k, count, 64)) for k in range(64))
            await asyncio.gather(*clients)
            return executor.stats

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        stats = run_async(work())
    finally:
        stop.set()
        thread.join()
    assert switches >= 200
    assert stats.waiting == 0


def test_requests_with_the_same_stages_are_run_together() -> None:
    cascade = LookupCascade(random_table(8), Policy.single("tiny"))
    executor = Executor(cascade, max_batch=8, max_wait_ms=1e5)
    answer_each(executor, images_of(range(8)), runners=cascade.runners_of(Policy.single("big")))
    assert cascade.ran == [("big", list(range(8)))]


@pytest.mark.parametrize("runners", [(), [], "big"])
def test_something_else_than_stages_is_refused(runners: Any) -> None:
    executor = Executor(LookupCascade(random_table(3), chain()))
    with pytest.raises(DataError, match=r"goes through one stage or more, found runners="):
        answer_each(executor, images_of([0]), runners=runners)


def test_stages_of_another_cascade_are_refused() -> None:
    executor = Executor(LookupCascade(random_table(3, exits=1), Policy.single("tiny")))
    other = LookupCascade(random_table(3), chain())
    with pytest.raises(PolicyError, match="no stage 'middle'; there are: 'tiny' in this cascade"):
        answer_each(executor, images_of([0]), runners=other.runners)


def test_rows_that_the_last_stage_defers_fail_and_nothing_else() -> None:
    table = random_table(8)
    cascade = LookupCascade(table, Policy.single("big"))
    unsure = [row for row in range(8) if not table.confidence["max_softmax"][0, row] >= 0.5]
    cut = cascade.runners_of(Policy.pair("tiny", "big", 0.5))[:1]

    async def work() -> Any:
        async with Executor(cascade, max_batch=8) as executor:
            cut_short = await asyncio.gather(
                *send(executor, images_of(range(8)), runners=cut), return_exceptions=True
            )
            return cut_short, await asyncio.gather(*send(executor, images_of(range(8))))

    found, after = run_async(work())
    failed = [row for row, answer in enumerate(found) if isinstance(answer, RequestFailed)]
    assert failed == unsure != []
    assert "found one that 'tiny' defers" in str(found[failed[0]])
    assert [answer.exit for answer in after] == ["big"] * 8


def test_logits_that_cannot_be_copied_fail_those_who_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def host_logits(self: LookupRunner, logits: Array, rows: Array) -> Array:
        raise MemoryError("no memory for logits")

    monkeypatch.setattr(LookupRunner, "host_logits", host_logits)
    cascade = LookupCascade(random_table(8), Policy.single("tiny"))

    async def work() -> Any:
        async with Executor(cascade, max_batch=8, max_wait_ms=1e5) as executor:
            asked = send(executor, images_of(range(3)), logits=True)
            others = send(executor, images_of(range(3, 8)))
            return await asyncio.gather(*asked, *others, return_exceptions=True)

    found = run_async(work())
    assert all(isinstance(one.__cause__, MemoryError) for one in found[:3])
    assert {type(one) for one in found[:3]} == {RequestFailed}
    assert found[3:] == expected_rows(cascade.table, cascade.policy)[3:]
