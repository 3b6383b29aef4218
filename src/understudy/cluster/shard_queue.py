"""Which worker scores which shard: a queue of what is missing, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from understudy.scoring.shard_scorer import ShardTask

AHEAD = 2  # tasks of a worker: one is scored, the images of the next are decoded


@dataclass(frozen=True)
class GroupTask:
    """A shard for some sources of a group.

    Attributes:
        group: the number of the group.
        task: the shard, and the sources that lack it.
    """

    group: int
    task: ShardTask


class ShardQueue:
    """Shards that wait for a worker, and those that workers were given.

    A worker stays with a group, whose models it has loaded, as long as shards of it wait. What a
    worker was given that is lost waits again, before others. Where memory ran out at a source, all
    its shards wait again at the smaller size.

    Args:
        groups: the names of sources by group.
        missing: the shards that each group lacks.
        shards: how many there are.
        sizes: the most samples at a time, by source.

    >>> tasks = [ShardTask(number, {"tiny": 256}) for number in range(3)]
    >>> queue = ShardQueue([["tiny"]], [tasks], shards=3, sizes={"tiny": 256})
    >>> [queue.next_for("a").task.shard, queue.next_for("a").task.shard, queue.next_for("a")]
    [0, 1, None]
    >>> queue.finished("a", 0, 0, {"tiny": 256})
    >>> [lost.task.shard for lost in queue.lost("a")], queue.next_for("b").task.shard
    ([1], 1)
    """

    def __init__(
        self,
        groups: Sequence[Sequence[str]],
        missing: Sequence[Iterable[ShardTask]],
        *,
        shards: int,
        sizes: Mapping[str, int],
    ) -> None:
        self._groups = groups
        self._waiting = [{task.shard: set(task.sizes) for task in tasks} for tasks in missing]
        self._shards = shards
        self._sizes = dict(sizes)
        self._given: dict[str, list[GroupTask]] = {}
        self._group_of: dict[str, int] = {}
        self._losses: Counter[tuple[int, int]] = Counter()

    @property
    def waiting(self) -> int:
        """How many shards wait for a worker, of all groups."""
        return sum(map(len, self._waiting))

    @property
    def empty(self) -> bool:
        """Whether all shards are scored."""
        return not self.waiting and not any(self._given.values())

    def left(self, group: int) -> set[int]:
        """The shards of a group that are not scored for all its sources."""
        given = (one for own in self._given.values() for one in own)
        return {*self._waiting[group], *(one.task.shard for one in given if one.group == group)}

    def next_for(self, worker: str) -> GroupTask | None:
        """The next task of a worker; None where it has enough, or none waits.

        The last tasks are one per worker, so that none waits at one while another is idle.
        """
        own = self._given.setdefault(worker, [])
        if not self.waiting or len(own) >= AHEAD or (own and self.waiting < len(self._given)):
            return None
        group = self._choice(worker)
        shard = min(self._waiting[group])
        names = self._waiting[group].pop(shard)
        sizes = {name: self._sizes[name] for name in self._groups[group] if name in names}
        given = GroupTask(group, ShardTask(shard, sizes))
        own.append(given)
        self._group_of[worker] = group
        return given

    def finished(self, worker: str, group: int, shard: int, sizes: Mapping[str, int]) -> None:
        """Take a shard from a worker that has scored it.

        Args:
            worker: its name.
            group, shard: of the task.
            sizes: the most samples at a time with which sources ran; those that are missing, or
                ran with more than fits by now, wait again.
        """
        own = self._given[worker]
        given = next(one for one in own if (one.group, one.task.shard) == (group, shard))
        own.remove(given)
        self._wait(group, shard, [n for n in given.task.sizes if sizes.get(n) != self._sizes[n]])

    def lost(self, worker: str) -> list[GroupTask]:
        """Forget a worker; what it was given waits again. Returns that, what it scored first."""
        given = self._given.pop(worker, [])
        self._group_of.pop(worker, None)
        for one in given:
            self._wait(one.group, one.task.shard, one.task.sizes)
        for one in given[:1]:
            self._losses[one.group, one.task.shard] += 1
        return given

    def losses(self, given: GroupTask) -> int:
        """How many workers were lost while they scored a task."""
        return self._losses[given.group, given.task.shard]

    def shrink(self, source: str, size: int) -> bool:
        """Let a source take fewer samples at a time, which all its shards are scored with; whether
        they are fewer than before."""
        if size >= self._sizes[source]:
            return False
        self._sizes[source] = size
        group = next(number for number, names in enumerate(self._groups) if source in names)
        at_work = {
            one.task.shard
            for own in self._given.values()
            for one in own
            if one.group == group and source in one.task.sizes
        }  # these wait again where they finish with more
        for shard in set(range(self._shards)) - at_work:
            self._wait(group, shard, [source])
        return True

    def _wait(self, group: int, shard: int, names: Iterable[str]) -> None:
        names = set(names)
        if names:
            self._waiting[group].setdefault(shard, set()).update(names)

    def _choice(self, worker: str) -> int:
        """The worker's own group, or else the one with the most shards per worker."""
        own = self._group_of.get(worker)
        if own is not None and self._waiting[own]:
            return own
        workers = Counter(self._group_of.values())
        most = [len(waiting) / (1 + workers[n]) for n, waiting in enumerate(self._waiting)]
        return most.index(max(most))
