"""Sources that actors on Ray run on some images, before any shard is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from understudy.cluster.connection import ClusterError
from understudy.cluster.remote_scoring import RemoteScoring
from understudy.cluster.shard_actors import ShardActors, check
from understudy.cluster.shard_news import Look, News, Probed, Started
from understudy.scoring.shards import Shards

FEW = 16
"""Sources, below which the process that asks is done before actors have started."""
_LOSSES = 3  # processes that end at one source, after which it is given up


def probe_on_ray(
    actors: ShardActors,
    scoring: RemoteScoring,
    names: Sequence[str],
    shards: Shards,
    show: Callable[[int], None],
) -> None:
    """Run sources on some images by actors, each by one, and keep what they find.

    Args:
        actors: of which none has begun; all are ended.
        scoring: what is scored; nothing is known of its sources.
        names: of the sources.
        shards: of their plan, where it is kept.
        show: called with how many are known, after each.

    Raises:
        ModelError, DataError: a source cannot be scored; the message names the node.
        ClusterError: a node has other libraries, no actor answers, or several end at one source.
    """
    run = _ProbingRun(names, shards, show)
    actors.begin(scoring, most=len(names))
    try:
        while run.left:
            for worker, news in actors.answers():
                if news is None:
                    run.lose(worker)
                else:
                    actors.ask(worker, run.next(worker, news))
    finally:
        actors.leave()


class _ProbingRun:
    """Which source is whose, and which are left."""

    def __init__(self, names: Sequence[str], shards: Shards, show: Callable[[int], None]) -> None:
        self._waiting = list(names)
        self._given: dict[str, str] = {}
        self._started: set[str] = set()
        self._losses: Counter[str] = Counter()
        self._shards, self._show = shards, show

    @property
    def left(self) -> bool:
        """Whether some source is not probed."""
        return bool(self._waiting or self._given)

    def next(self, worker: str, news: Sequence[News]) -> list[Look]:
        """Take an actor's news; what it is to do then."""
        for one in news:
            check(one)
            if isinstance(one, Started):
                self._started.add(worker)
            elif isinstance(one, Probed):
                self._shards.keep_probe(one.source, one.found)
                self._show(len(self._shards.probed))
                del self._given[worker]
        if worker not in self._started or worker in self._given or not self._waiting:
            return []
        self._given[worker] = self._waiting.pop(0)
        return [Look(self._given[worker])]

    def lose(self, worker: str) -> None:
        """Let another actor do what one that was lost had to do."""
        self._started.discard(worker)
        source = self._given.pop(worker, None)
        if source is None:
            return
        self._waiting.insert(0, source)
        self._losses[source] += 1
        if self._losses[source] == _LOSSES:
            raise ClusterError(
                f"a process runs a model on some images, {_LOSSES} ended at {source!r}: see "
                "whether memory runs out on the nodes, or leave it out; the same command goes on"
            )
