"""An executor in a fork of its process: refused with a sentence, never waited for."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable, Iterator

import pytest

from lookup_cascade import LookupCascade, random_table
from online_requests import answer_each
from sample_rows import images_of
from understudy import Executor, Policy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def executor_of(samples: int = 8) -> Executor:
    table = random_table(samples)
    return Executor(LookupCascade(table, Policy.pair("tiny", "big", 0.5)), max_batch=4)


def in_fork(work: Callable[[], object]) -> str:
    """What work returns or raises in a fork of this process, as text; fails if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            result = str(work())
        except BaseException as error:  # noqa: BLE001
            result = f"{type(error).__name__}: {error}"
        os.write(writing, result.encode())
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 30)
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read() if ready else "hangs"


@pytest.fixture
def used() -> Iterator[Executor]:
    """An executor whose thread runs."""
    with executor_of() as executor:
        asyncio.run(executor.answer(images_of(range(8))[0]))
        yield executor


def test_a_fork_is_refused_with_a_sentence(used: Executor) -> None:
    image = images_of(range(8))[0]
    uses: dict[str, Callable[[], object]] = {
        "answer": lambda: asyncio.run(used.answer(image)),
        "map": lambda: list(used.map([images_of(range(8))])),
        "stats": lambda: used.stats,
    }
    for name, use in uses.items():
        found = in_fork(use)
        assert found.startswith("ExecutionError: an executor runs in the process that made it"), (
            name
        )
        assert found.endswith(f"a fork of {os.getpid()}: make an executor in each process")
    assert not used.closed


def test_a_stream_that_was_begun_is_refused_in_a_fork(used: Executor) -> None:
    stream = used.map(images_of([row % 8]) for row in range(100))
    next(stream)
    assert "make an executor in each process" in in_fork(lambda: list(stream))
    assert len(list(stream)) == 99


def test_a_fork_closes_without_waiting(used: Executor) -> None:
    def close() -> bool:
        used.close()
        return used.closed

    assert in_fork(close) == "True"


def test_a_fork_answers_with_an_executor_of_its_own(used: Executor) -> None:
    images = images_of(range(8))
    mine = [one.prediction for one in answer_each(executor_of(), images)]
    assert in_fork(lambda: [o.prediction for o in answer_each(executor_of(), images)]) == str(mine)


def test_an_executor_that_was_made_before_a_fork_serves_its_own_process() -> None:
    executor = executor_of()
    assert "make an executor in each process" in in_fork(lambda: executor.stats)
    assert len(answer_each(executor, images_of(range(8)))) == 8
