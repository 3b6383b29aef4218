"""Offline: the answers to many batches, in order, with full batches and bounded memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import zip_longest
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_cascade import LookupCascade, cascades, random_table
from sample_rows import Array, Row, answered_rows, chain, expected_rows, images_of, in_batches
from understudy import Executor, Policy, UnderstudyError
from understudy.errors import DataError, PolicyError
from understudy.runtime.protocol import Answers, ExecutorClosed


@given(cascades(), st.lists(st.integers(0, 17), min_size=1, max_size=3), st.data(), st.booleans())
def test_running_equals_the_table(
    cascade: LookupCascade, sizes: list[int], data: st.DataObject, listed: bool
) -> None:
    """The chief test: answers and exits are those of the table, however the rows are batched."""
    sizes = [*sizes, 5]
    limits = {name: data.draw(st.integers(1, 20)) for name in cascade.exits}
    images = images_of(range(len(cascade.table)))
    batches = [list(part) if listed else part for part in in_batches(images, sizes)]
    executor = Executor(cascade, max_batch=limits)
    streamed = list(executor.map(batches))
    assert [len(answers) for answers in streamed] == [len(part) for part in batches]
    assert answered_rows(*streamed) == expected_rows(cascade.table, cascade.policy)
    assert not any(answers.failed for answers in streamed)
    stats = executor.stats
    for name, limit in limits.items():
        assert all(1 <= size <= limit for size in cascade.sizes(name))
        assert stats.rows[name] == sum(cascade.sizes(name))
        assert stats.batches[name] == len(cascade.sizes(name))
    assert stats.waiting == 0
    assert stats.peak <= sum(limits.values())


def test_every_stage_works_on_full_batches() -> None:
    cascade = LookupCascade(random_table(2000), chain())
    limits = {"tiny": 32, "middle": 50, "big": 7}
    list(Executor(cascade, max_batch=limits).map(in_batches(images_of(range(2000)), [48, 3])))
    for name, limit in limits.items():
        *full, last = cascade.sizes(name)
        assert set(full) == {limit}
        assert 1 <= last <= limit


def test_stages_without_a_size_get_the_default() -> None:
    executor = Executor(LookupCascade(random_table(10), chain()), max_batch={"big": 7})
    assert executor.stats.max_batch == {"tiny": 256, "middle": 256, "big": 7}


def test_a_stage_is_not_run_on_nothing() -> None:
    cascade = LookupCascade(random_table(100), chain(first=-np.inf))
    list(Executor(cascade, max_batch=8).map([images_of(range(100))]))
    assert {name for name, _ in cascade.ran} == {"tiny"}


def test_an_empty_loader_and_empty_batches() -> None:
    executor = Executor(LookupCascade(random_table(10), chain()))
    assert list(executor.map([])) == []
    assert [len(answers) for answers in executor.map([images_of([]), images_of([1])])] == [0, 1]


def test_images_of_mixed_sizes() -> None:
    table = random_table(40)
    shapes = [(1, 1, 1), (1, 2, 3), (1, 4, 4)]
    images = [np.full(shapes[row % 3], row) for row in range(40)]
    cascade = LookupCascade(table, chain())
    answers = list(Executor(cascade, max_batch=16).map([images[:25], images[25:]]))
    assert answered_rows(*answers) == expected_rows(table, chain())


def test_lists_and_arrays_of_changing_shape() -> None:
    table = random_table(40)
    cascade = LookupCascade(table, chain())
    batches = [
        images_of(range(9)),
        list(images_of(range(9, 14))),
        np.repeat(images_of(range(14, 30)), 3, axis=2),
        images_of(range(30, 40)).astype(np.int32),
    ]
    answers = list(Executor(cascade, max_batch=6).map(batches))
    assert answered_rows(*answers) == expected_rows(table, chain())


def test_rows_that_wait_are_bounded() -> None:
    """One row in two hundred goes on: the rows and answers that wait for others stay few."""
    confidence = np.ones(60_000)
    confidence[::200] = 0
    table = random_table(60_000, tiny=confidence)
    cascade = LookupCascade(table, Policy.pair("tiny", "middle", 0.5))
    executor = Executor(cascade, max_batch=16)
    taken, answered, most = 0, 0, 0

    def batches() -> Iterator[Any]:
        nonlocal taken
        for images in in_batches(images_of(range(60_000)), [16]):
            taken += len(images)
            yield images

    for answers in executor.map(batches()):
        answered += len(answers)
        most = max(most, taken - answered)
    assert answered == 60_000
    assert most <= 257 * 16
    assert executor.stats.peak <= 2 * 16
    assert set(cascade.sizes("middle")[:-1]) == {16}


def test_a_loader_that_raises_loses_nothing_that_was_complete() -> None:
    table = random_table(100)

    def batches() -> Iterator[Any]:
        yield from in_batches(images_of(range(90)), [9])
        raise OSError("the disk failed")

    stream = Executor(LookupCascade(table, chain()), max_batch=64).map(batches())
    found: list[Row] = []
    with pytest.raises(OSError, match="the disk failed"):
        found.extend(row for answers in stream for row in answered_rows(answers))
    assert found == expected_rows(table, chain())[:90]


def test_an_interrupt_is_raised() -> None:
    def hook(name: str, rows: Array) -> None:
        raise KeyboardInterrupt

    def loader() -> Iterator[Any]:
        yield images_of(range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Executor(LookupCascade(random_table(5), chain(), hook)).map([images_of(range(5))]))
    with pytest.raises(KeyboardInterrupt):
        list(Executor(LookupCascade(random_table(5), chain())).map(loader()))


def test_a_switched_policy_holds_from_the_next_batch() -> None:
    table = random_table(300)
    switched = [chain(), Policy.single("middle"), Policy.pair("tiny", "big", 0.75)]
    cascade = LookupCascade(table, switched[0])

    def batches() -> Iterator[Any]:
        for number, images in enumerate(in_batches(images_of(range(300)), [20])):
            cascade.policy = switched[number % 3]
            yield images

    found = [answered_rows(answers) for answers in Executor(cascade, max_batch=64).map(batches())]
    expected = [expected_rows(table, policy) for policy in switched]
    for number, rows in enumerate(found):
        assert rows == expected[number % 3][20 * number : 20 * number + 20]


def test_two_streams_at_once() -> None:
    table = random_table(200)
    executor = Executor(LookupCascade(table, chain()), max_batch=16)
    one, two = (executor.map(in_batches(images_of(range(200)), [size])) for size in (7, 11))
    found: tuple[list[Row], list[Row]] = [], []
    for pair in zip_longest(one, two):
        for rows, answers in zip(found, pair, strict=True):
            rows.extend([] if answers is None else answered_rows(answers))
    assert found[0] == found[1] == expected_rows(table, chain())


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"max_batch": 0}, DataError, "whole number of rows, found max_batch=0"),
        ({"max_batch": {"big": -1}}, DataError, "found max_batch=-1"),
        ({"max_batch": {"bgi": 1}}, PolicyError, "no stage 'bgi'; did you mean 'big'"),
        ({"max_wait_ms": -1}, DataError, "found max_wait_ms=-1: give 0 or more"),
        ({"max_wait_ms": np.nan}, DataError, "found max_wait_ms=nan"),
        ({"max_waiting": 0}, DataError, "found max_waiting=0"),
        ({"max_batch": 2.5}, DataError, "found max_batch=2.5"),
        ({"max_waiting": 1e3}, DataError, "found max_waiting=1000.0"),
    ],
)
def test_invalid_settings(setting: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Executor(LookupCascade(random_table(3), chain()), **setting)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (["cat.png"], r"the images of a batch are one array, or a list .*, found a list of str:"),
        ([np.zeros((3, 4, 4)), np.zeros((4, 4))], r"found ndarray \(3, 4, 4\), ndarray \(4, 4\):"),
        ([np.zeros((3, 4, 4))] * 2 + [np.zeros(2)], r"ndarray \(3, 4, 4\), ndarray \(2,\): give"),
        (
            (images_of(range(5)), np.arange(4)),
            r"a label for each, found ndarray \(5, 1, 1, 1\), nd",
        ),
        ({"ids": images_of(range(5)), "mask": 1, "label": 0}, "found 'ids', 'mask', 'label': mod"),
        ({}, "a dictionary of a loader has the images under 'pixel_values' or .*, found none"),
        (7, "a batch is .images, labels., .* found int"),
    ],
)
def test_a_batch_is_images_or_images_and_labels(batch: Any, message: str) -> None:
    executor = Executor(LookupCascade(random_table(5), chain()))
    with pytest.raises(DataError, match=message):
        list(executor.map([batch]))


@pytest.mark.parametrize("seen", [1, 2, 3, 5])
def test_the_loader_that_was_scored_is_run(seen: int) -> None:
    """Pairs, lists and dictionaries of images and labels, and images alone in whatever form."""
    table = random_table(seen)
    images, labels = images_of(range(seen)), np.arange(seen)
    forms: list[Any] = [
        (images, labels),
        [images, labels],
        (images, labels.tolist()),
        [list(images), labels],
        {"pixel_values": images, "labels": labels, "path": ["x"] * seen},
        {"img": images, "label": labels},
        images,
        [images],
        list(images),
        (images, None),
    ]
    for form in forms:
        found = list(Executor(LookupCascade(table, chain())).map([form, form]))
        rows = [row for answers in found for row in answered_rows(answers)]
        assert rows == expected_rows(table, chain()) * 2


def test_answers_before_a_bad_batch_come_first() -> None:
    table = random_table(60)
    executor = Executor(LookupCascade(table, chain()), max_batch=16)
    stream = executor.map([*in_batches(images_of(range(60)), [20]), [None]])
    found: list[Row] = []
    with pytest.raises(DataError, match="the images of a batch"):
        found.extend(row for answers in stream for row in answered_rows(answers))
    assert found == expected_rows(table, chain())


def test_rows_of_an_abandoned_stream_are_dropped() -> None:
    executor = Executor(LookupCascade(random_table(500), chain()), max_batch=16)
    stream = cast("Generator[Answers]", executor.map(in_batches(images_of(range(500)), [20])))
    next(stream)
    assert executor.stats.waiting
    stream.close()
    assert executor.stats.waiting == 0


def test_a_closed_executor_refuses() -> None:
    executor = Executor(LookupCascade(random_table(5), chain()))
    with executor:
        stream = executor.map([images_of(range(5))])
    assert len(next(stream)) == 5
    with pytest.raises(ExecutorClosed, match="found it closed") as caught:
        executor.map([])
    assert isinstance(caught.value, UnderstudyError)
    executor.close()


@pytest.mark.slow
def test_a_million_samples_in_flat_memory() -> None:
    import tracemalloc

    count, size = 1_000_000, 256
    cascade = LookupCascade(random_table(count), chain(), record=False)
    peaks: list[int] = []

    def batches() -> Iterator[Any]:
        for start in range(0, count, size):
            if start % (1000 * size) == 0:
                tracemalloc.reset_peak()
            yield images_of(np.arange(start, min(start + size, count)))
            peaks.append(tracemalloc.get_traced_memory()[1])

    executor = Executor(cascade, max_batch=size)
    expected, done = expected_rows(cascade.table, chain()), 0
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        for answers in executor.map(batches()):
            assert answered_rows(answers) == expected[done : done + len(answers)]
            done += len(answers)
    finally:
        tracemalloc.stop()
    assert done == count
    assert executor.stats.peak <= 3 * size
    rows = 8 + 3 * 16  # an image and what three stages hand on
    assert max(peaks) - start < 3 * 4 * size * rows + 2**20
