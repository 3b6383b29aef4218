"""A process on Ray that scores shards: models and images stay loaded, and files go back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

import ray

from understudy.cluster.remote_scoring import RemoteScoring
from understudy.cluster.shard_news import (
    Decoded,
    Failed,
    Look,
    Measure,
    News,
    Probed,
    Round,
    Scored,
    Shrunk,
    Started,
    Task,
)
from understudy.cluster.shard_queue import GroupTask
from understudy.errors import MissingExtra, UnderstudyError, brief
from understudy.library_versions import library_versions
from understudy.malloc import keep_freed_memory
from understudy.scoring.new_sources import NewSources
from understudy.scoring.shard_scorer import ScoredShard, ShardScorer, ShardTask
from understudy.scoring.source_run import SourceRun
from understudy.sitting import Sitting
from understudy.zoo.batches import Batch

_MOMENT = 0.5  # seconds for which an actor waits for news before it answers
_AT_ONCE = (Started, Probed, Scored, Sitting, Failed)  # news for which it waits no longer


class ShardActor:
    """Scores the shards that it is given in a thread of its own, and answers with what happened."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        self._news: SimpleQueue[News] = SimpleQueue()
        self._next: Task | None = None
        self._group: int | None = None
        self._runs: dict[str, SourceRun] = {}
        self._preparing = False
        self._begun = False

    def begin(self, scoring: RemoteScoring) -> None:
        """Open the data, and wait for tasks.

        A process that has begun already was taken for lost: it makes room for a new one.
        """
        if self._begun:
            os._exit(1)
        self._begun = True
        work = partial(self._work, scoring)
        Thread(target=work, name="understudy-score", daemon=True).start()

    def work(self, tasks: Sequence[Task]) -> list[News]:
        """Take further tasks, and return the news there are, or that come within a moment."""
        for task in tasks:
            self._tasks.put(task)
        until, news = monotonic() + _MOMENT, list[News]()
        while not any(isinstance(one, _AT_ONCE) for one in news):
            try:
                news.append(self._news.get(timeout=max(until - monotonic(), 0.001)))
            except Empty:
                break
        return news

    def keep_size(self, source: str, size: int) -> None:
        """Tell the most samples of a source at a time."""
        self._news.put(Shrunk(source, size))

    def keep(self, scored: ScoredShard) -> None:
        """Hand on a shard."""
        assert self._group is not None
        self._news.put(Scored(self._group, scored.shard, scored.sizes, scored.files))

    def _work(self, scoring: RemoteScoring) -> None:
        """Do one task after another, until one fails."""
        try:
            keep_freed_memory()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with self._about_this_node():
                scorer = scoring.scorer()
            self._news.put(Started(_node(), library_versions()))
            while True:
                task, self._next = self._next or self._tasks.get(), None
                match task:
                    case Look(source):
                        with self._about_this_node():
                            found = NewSources.of(scorer.sources, scorer.images).probe(source)
                        self._news.put(Probed(source, found))
                    case Measure():
                        self._news.put(self._measured(scorer, task))
                    case _:
                        self._score(scorer, task)
        except Exception as error:  # noqa: BLE001
            self._news.put(_failure(error, of_node=self._preparing))

    def _score(self, scorer: ShardScorer, first: GroupTask) -> None:
        """Score tasks of one group, as long as further ones are there when they can be decoded."""
        if first.group != self._group:
            self._group = first.group
            self._runs.clear()  # before others are loaded
        scorer.score(
            self._drawn(scorer, first),
            self._runs,
            self,
            group=scorer.sources.groups[first.group],
            advance=partial(self._advance, first.group),
        )

    def _drawn(self, scorer: ShardScorer, first: GroupTask) -> Iterator[ShardTask]:
        self._next = first
        while isinstance(self._next, GroupTask) and self._next.group == first.group:
            task, self._next = self._next.task, None
            with self._about_this_node():
                lacking = {n: size for n, size in task.sizes.items() if n not in self._runs}
                self._runs |= scorer.load(lacking)
            yield task
            if not self._tasks.empty():
                self._next = self._tasks.get()

    def _advance(self, group: int, batch: Batch) -> None:
        self._news.put(Decoded(group, len(batch) + len(batch.corrupt)))

    def _measured(self, scorer: ShardScorer, task: Measure) -> Sitting:
        self._runs.clear()
        self._group = None
        return scorer.measured(
            task.size,
            seconds=task.seconds,
            on_progress=lambda name, done, most: self._news.put(Round(name, done, most)),
        )

    @contextmanager
    def _about_this_node(self) -> Iterator[None]:
        """What fails in the block does so because of this node, unlike any other."""
        self._preparing = True
        yield
        self._preparing = False


def _failure(error: Exception, *, of_node: bool) -> Failed:
    """What the process that asked says about an error: the same sentence, where there is one."""
    node = _node()
    if isinstance(error, UnderstudyError):
        kind = UnderstudyError if isinstance(error, MissingExtra) else type(error)
        return Failed(node, kind.__name__, str(error), of_node)
    if isinstance(error, OSError):
        place = "a file" if error.filename is None else repr(str(error.filename))
        reason = error.strerror or str(error)
        way = "make room there, or take that node out"
        message = f"{place} cannot be read or written ({reason}): {way}"
        return Failed(node, "UnderstudyError", message, True)
    message = f"a model runs on all images, it fails ({brief(error)}): score it without --ray, "
    return Failed(node, "ModelError", f"{message}which shows where", True)


def _node() -> str:
    return str(ray.util.get_node_ip_address())
