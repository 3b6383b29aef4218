"""Which worker scores which shard, whatever happens to workers: without Ray."""

from __future__ import annotations

from random import Random

import pytest

from understudy.cluster.shard_queue import AHEAD, GroupTask, ShardQueue
from understudy.scoring.shard_scorer import ShardTask

SHARDS, BATCH = 6, 32
GROUPS = [["tiny", "small"], ["big"]]


def queue_of(shards: int = SHARDS) -> ShardQueue:
    missing = [
        [ShardTask(shard, dict.fromkeys(names, BATCH)) for shard in range(shards)]
        for names in GROUPS
    ]
    sizes = {name: BATCH for names in GROUPS for name in names}
    return ShardQueue(GROUPS, missing, shards=shards, sizes=sizes)


def test_a_worker_stays_with_the_models_that_it_has_loaded() -> None:
    queue, groups = queue_of(), list[int]()
    while (given := queue.next_for("a")) is not None:
        queue.finished("a", given.group, given.task.shard, given.task.sizes)
        groups.append(given.group)
    assert groups == [0] * SHARDS + [1] * SHARDS
    assert queue.empty


def test_workers_share_groups() -> None:
    queue = queue_of()
    found = [queue.next_for(worker) for worker in "abc"]
    assert [one.group for one in found if one] == [0, 1, 0]


def test_a_worker_has_one_task_ahead_and_the_last_ones_are_one_each() -> None:
    queue = queue_of()
    for _ in range(AHEAD):
        assert queue.next_for("a") is not None
    assert queue.next_for("a") is None
    few = queue_of(shards=1)  # two tasks, one of each group
    assert few.next_for("a") is not None
    assert few.next_for("b") is not None
    assert few.next_for("a") is None
    assert not few.empty


def test_what_a_lost_worker_had_is_given_again_at_once() -> None:
    queue = queue_of()
    had = [queue.next_for("a"), queue.next_for("a")]
    assert queue.lost("a") == had
    assert [queue.next_for("b"), queue.next_for("b")] == had
    first, second = had
    assert first is not None
    assert second is not None
    assert (queue.losses(first), queue.losses(second)) == (1, 0)
    assert queue.lost("never seen") == []


def test_where_memory_runs_out_all_shards_are_scored_again_in_smaller_batches() -> None:
    queue = queue_of()
    done = queue.next_for("a")
    assert done is not None
    queue.finished("a", 0, done.task.shard, {"tiny": BATCH, "small": BATCH})
    own, other = queue.next_for("a"), queue.next_for("b")
    assert own is not None
    assert other is not None
    assert queue.shrink("tiny", 16)
    assert not queue.shrink("tiny", 16)
    assert not queue.shrink("tiny", 24)  # of another worker, that has more memory
    queue.finished("a", 0, own.task.shard, {"small": BATCH})  # the size fell within the shard
    assert queue.left(0) == set(range(SHARDS))
    again = {one.task.shard: dict(one.task.sizes) for one in drained(queue, "a") if one.group == 0}
    assert again[done.task.shard] == again[own.task.shard] == {"tiny": 16}
    assert again[5] == {"tiny": 16, "small": BATCH}
    queue.finished("b", other.group, other.task.shard, other.task.sizes)
    assert queue.empty


def drained(queue: ShardQueue, worker: str) -> list[GroupTask]:
    found = []
    while (given := queue.next_for(worker)) is not None:
        queue.finished(worker, given.group, given.task.shard, given.task.sizes)
        found.append(given)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_all_is_scored_at_one_size_whatever_happens(seed: int) -> None:
    """Workers come, finish, run out of memory and die, in any order."""
    random, queue = Random(seed), queue_of()
    given: dict[str, list[GroupTask]] = {}
    sizes = {name: BATCH for names in GROUPS for name in names}
    kept: dict[str, dict[int, int]] = {name: {} for name in sizes}
    for _ in range(2000):
        worker = random.choice("abcd")
        own = given.setdefault(worker, [])
        match random.choice(["take", "take", "finish", "finish", "finish", "shrink", "die"]):
            case "take" if (task := queue.next_for(worker)) is not None:
                own.append(task)
            case "finish" if own:
                task = own.pop(0)
                for name, size in task.task.sizes.items():
                    kept[name][task.task.shard] = size
                queue.finished(worker, task.group, task.task.shard, task.task.sizes)
            case "shrink" if own and random.random() < 0.05:
                task = own.pop(0)
                name = random.choice(list(task.task.sizes))
                size = max(task.task.sizes[name] // 2, 1)
                sizes[name] = min(sizes[name], size)
                queue.shrink(name, size)
                rest = {n: one for n, one in task.task.sizes.items() if n != name}
                for other, one in rest.items():
                    kept[other][task.task.shard] = one
                queue.finished(worker, task.group, task.task.shard, rest)
            case "die" if random.random() < 0.1:
                assert queue.lost(worker) == own
                own.clear()
        if queue.empty:
            break
    assert queue.empty
    assert kept == {name: dict.fromkeys(range(SHARDS), size) for name, size in sizes.items()}
