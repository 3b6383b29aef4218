"""One process's share of scoring that several processes do in one folder."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence

from understudy.errors import UnderstudyError
from understudy.scoring.claims import Claims
from understudy.scoring.job import ScoringJob, title_of
from understudy.scoring.members import LEASE, Members
from understudy.scoring.shard_scorer import ScoredShard, ShardTask
from understudy.scoring.source_run import SourceRun
from understudy.zoo.batches import Batch

logger = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two looks at what others have done."""
_TABLE = "table"  # the task of making the table of all shards


class JoinedScoring:
    """The scoring of a job's shards together with other processes; none of them leads.

    A process claims a shard for a group of sources, scores it and claims the next. Each keeps to
    one group while that has shards to claim, and to shards behind one another. The last one makes
    the table.

    Args:
        job: the same in all processes.
        members: the processes, this one among them.
        expected: what tells of others, for a remark where none is seen; or None.
    """

    def __init__(self, job: ScoringJob, members: Members, *, expected: str | None) -> None:
        self._job, self._members, self._expected = job, members, expected
        self._claims = Claims(job.shards.claims, members)
        self._groups: list[Sequence[str]] = job.sources.groups
        self._loaded: tuple[int, dict[str, SourceRun]] = (-1, {})
        self._drawn = self._done = 0
        self._start, self._next_look, self._waits_for = time.monotonic(), 0.0, ""

    def score(self) -> bool:
        """Score shards until none is missing.

        Returns:
            Whether this process is the one that makes the table; else another one has made it.

        Raises:
            ModelError, DataError: as `ScoringJob.score`.
            UnderstudyError: the folder cannot be written.
        """
        try:
            while self._job.shards.exist:
                number = self._next_group()
                if number is not None:
                    self._score_group(number)
                elif not any(map(self._job.absent, self._groups)) and self._claims.take(_TABLE):
                    self._remark_alone(after=0)
                    self._loaded = (-1, {})
                    self._show()
                    return True
                else:
                    self._wait()
        except UnderstudyError:
            if self._job.shards.exist:
                raise
        return False

    def keep_size(self, source: str, size: int) -> None:
        """Keep the most samples of a source at a time, for all processes."""
        self._job.keep_size(source, size)

    def keep(self, scored: ScoredShard) -> None:
        """Keep a shard that this process has claimed."""
        self._job.keep(scored)
        self._drawn, self._done = self._drawn - 1, 0

    def _next_group(self) -> int | None:
        """The group with the most shards to claim per process at work in it; None without any."""
        held = self._held_by_others()
        shares = {}
        for number, group in enumerate(self._groups):
            keys = self._keys(number, self._job.absent(group))
            free = sum(key not in held for key in keys.values())
            if free:
                shares[number] = free / (1 + len({held.get(key) for key in keys.values()} - {None}))
        return max(shares, key=shares.__getitem__, default=None)

    def _score_group(self, number: int) -> None:
        """Score shards of a group until there is none to claim."""
        group = self._groups[number]
        first = self._draw(number, None, behind=None)
        if first is None:
            return
        lacking: dict[str, int] = {}
        for task in (*self._job.absent(group), first):
            lacking |= task.sizes
        if self._loaded[0] != number or not lacking.keys() <= self._loaded[1].keys():
            self._loaded = (-1, {})
            self._loaded = (number, self._job.scorer.load(lacking))
        runs = self._loaded[1]
        tasks = self._tasks(number, first, runs)
        self._job.scorer.score(tasks, runs, self, group=group, advance=self._advance)

    def _tasks(self, number: int, first: ShardTask, loaded: Collection[str]) -> Iterator[ShardTask]:
        task: ShardTask | None = first
        while task is not None:
            self._drawn += 1
            yield task
            task = self._draw(number, loaded, behind=task.shard)

    def _draw(
        self, number: int, loaded: Collection[str] | None, *, behind: int | None
    ) -> ShardTask | None:
        """Claim a shard of a group; None where there is none.

        Args:
            number: of the group.
            loaded: the sources that are loaded; those that others need end the work on the group.
            behind: the shard that was claimed last.
        """
        self._remark_alone(after=LEASE)
        absent = self._job.absent(self._groups[number])
        keys = self._keys(number, absent)
        held = self._claims.held if self._drawn else self._held_by_others()
        taken = {shard for shard, key in keys.items() if key in held}
        free = [shard for shard in keys if shard not in taken]
        if self._drawn and len(free) <= len(self._members.at_work):
            return None  # the last shards are for those that have none
        while free:
            shard = shard_to_claim(free, taken, behind=behind)
            if self._claims.take(keys[shard]):
                now = {task.shard: task for task in self._job.absent(self._groups[number])}
                if shard in now:  # it may have been finished meanwhile
                    fits = loaded is None or now[shard].sizes.keys() <= set(loaded)
                    return now[shard] if fits else None
            free.remove(shard)
            taken.add(shard)
        return None

    def _held_by_others(self) -> dict[str, str]:
        own = self._members.name
        return {key: name for key, name in self._claims.held.items() if name != own}

    def _keys(self, number: int, tasks: Iterable[ShardTask]) -> dict[int, str]:
        """The names of tasks in the claims, by shard; where a size falls all tasks are new ones."""
        group = self._groups[number]
        fallen = sorted(one for one in self._job.shards.sizes.items() if one[0] in group)
        state = hashlib.sha256(repr(fallen).encode()).hexdigest()[:8] if fallen else "whole"
        return {task.shard: f"{number:03}-{task.shard:05}-{state}" for task in tasks}

    def _advance(self, batch: Batch) -> None:
        self._done += len(batch) + len(batch.corrupt)
        self._look()

    def _look(self) -> None:
        """Show what all processes have done, once in a while."""
        now = time.monotonic()
        if now >= self._next_look:
            self._show()
            after = time.monotonic()
            self._next_look = after + max(PAUSE, 20 * (after - now))

    def _show(self) -> None:
        """Show what all processes have done: the images of all groups that were begun."""
        for number, group in enumerate(self._groups):
            total = len(self._job.images)
            done = total - self._job.count(self._job.absent(group))
            own = self._done if number == self._loaded[0] else 0
            if done or own:
                self._job.on_progress(title_of(group), min(done + own, total), total)

    def _wait(self) -> None:
        """Let others go on; no models stay in memory where one of them measures times."""
        owner = self._claims.held.get(_TABLE)
        if owner is None:
            self._look()
        else:
            self._loaded = (-1, {})
            self._job.on_progress("waiting for the table", 0, 0)
            if self._waits_for != owner:
                process = self._members.process(owner) or "another process"
                logger.warning("waiting for %s, which measures times and writes the table", process)
                self._waits_for = owner
        time.sleep(PAUSE)

    def _remark_alone(self, *, after: float) -> None:
        """Remark once that no other process was seen where there are some, after some seconds."""
        if self._expected is None or time.monotonic() - self._start < after:
            return
        if not self._members.others and not self._claims.has_others:
            logger.warning(
                "no other process works in %r, though there are some (%s): where that is no folder "
                "of a shared file system, each process scores everything into a table of its own",
                str(self._job.shards.folder),
                self._expected,
            )
        self._expected = None


def shard_to_claim(free: Sequence[int], taken: Collection[int], *, behind: int | None) -> int:
    """The shard that a process claims next.

    It is the one behind its last; or else one in the longest run of free shards: the first, but
    the middle where another process comes towards it from below.

    Args:
        free: shards that nobody has, in order.
        taken: shards that others work on.
        behind: the shard that the process claimed last.

    >>> shard_to_claim([0, 1, 2, 3], [], behind=None)
    0
    >>> shard_to_claim([1, 2, 3], [0], behind=None), shard_to_claim([1, 2, 3], [0], behind=0)
    (2, 1)
    """
    if behind is not None and behind + 1 in free:
        return behind + 1
    runs: list[list[int]] = []
    for shard in free:
        if runs and runs[-1][-1] == shard - 1:
            runs[-1].append(shard)
        else:
            runs.append([shard])
    longest = max(runs, key=len)
    return longest[len(longest) // 2] if longest[0] - 1 in taken else longest[0]
