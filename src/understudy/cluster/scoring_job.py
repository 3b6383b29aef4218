"""Scoring by actors on Ray, into the folder of the process that asks."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from understudy.cluster.connection import ClusterError
from understudy.cluster.probing_run import FEW, probe_on_ray
from understudy.cluster.remote_scoring import RemoteScoring
from understudy.cluster.shard_actors import ShardActors, check
from understudy.cluster.shard_news import (
    Decoded,
    Measure,
    News,
    Round,
    Scored,
    Shrunk,
    Started,
)
from understudy.cluster.shard_queue import ShardQueue
from understudy.progress_bars import Advance
from understudy.scoring.job import ScoringJob, title_of
from understudy.scoring.new_sources import NewSources
from understudy.scoring.place import ScoringPlace
from understudy.scoring.probing import probing_progress
from understudy.scoring.shard_scorer import ShardScorer
from understudy.scoring.shards import Shards
from understudy.scoring.sources import Sources
from understudy.sitting import Sitting
from understudy.zoo.data import DataSet

logger = logging.getLogger(__name__)
_LOSSES = 3  # processes that end while they score one shard, after which it is given up


@dataclass(frozen=True)
class RayScoringJob(ScoringJob):
    """The scoring of all sources by actors on Ray, while this process is `connected`.

    This process hands out shards, and writes the files that come back, into the folder that it
    would score into itself; so the table, an interrupted run and what resumes it are the same. The
    times are measured by one actor, alone, when all is scored.

    Attributes:
        actors: of which none has begun.
    """

    actors: ShardActors

    def score(self) -> None:
        """Score the missing shards of all sources; damaged ones are missing too.

        Raises:
            ModelError, DataError: as `ScoringJob.score`; or they are of one node, which is named.
            ClusterError: a node has other libraries, or no actor answers.
        """
        groups = self.sources.groups
        queue = ShardQueue(
            groups,
            [self.missing(group) for group in groups],
            shards=len(self.scorer.blocks),
            sizes=self.sizes,
        )
        if not queue.empty:
            _ScoringRun(self, queue, self._begun).run()

    def measure_at(self, size: int, *, seconds: float) -> Sitting:
        """The times of all sources in batches of a size, measured by one actor alone.

        Raises:
            ModelError: a source runs out of memory in batches of this size.
            ClusterError: no actor answers.
        """
        actors, task = self._begun, Measure(size, seconds)
        asked, lost = False, 0
        while lost < _LOSSES:
            for worker, news in actors.answers():
                if news is None:
                    asked, lost = False, lost + 1
                    continue
                for one in news:
                    check(one)
                    if isinstance(one, Round):
                        self.on_progress(one.name, one.done, one.most)
                tasks = [] if asked else [task]
                actors.leave(worker)
                actors.ask(worker, tasks)
                asked = True
                sitting = next((one for one in news if isinstance(one, Sitting)), None)
                if sitting is not None:
                    return sitting
        raise ClusterError(
            f"one process measures all models, {lost} ended at it: see whether memory runs out on "
            "the nodes, or leave times out with `--measure none`; what is scored is kept"
        )

    @cached_property
    def _begun(self) -> ShardActors:
        """The actors, with the data open."""
        scoring = _remote(
            self.images,
            self.sources,
            batch=self.scorer.batch,
            workers=self.scorer.workers,
            keep_logits=self.scorer.keep_logits,
            strict=self.scorer.strict,
        )
        self.actors.begin(scoring, most=len(self.sources.groups) * len(self.scorer.blocks))
        return self.actors


@dataclass(frozen=True)
class RayPlace(ScoringPlace):
    """The cluster that this process is connected to, as a place to score."""

    actors: ShardActors

    def probed(self, models: NewSources, shards: Shards, on_progress: Advance) -> Sources:
        """Some sources, run on some images: many of them by actors.

        Raises:
            ModelError, DataError: as for `ScoringPlace`; or they are of one node, which is named.
            ClusterError: a node has other libraries, or no actor answers.
        """
        missing = [name for name in models.specs if shards.probe(name) is None]
        if len(missing) >= FEW and self.actors.room > 1:
            sources = Sources(models.specs, {}, models.device, models.allow_code)
            show = probing_progress(on_progress, len(models.specs))
            probe_on_ray(self.actors, _remote(models.images, sources), missing, shards, show)
        return super().probed(models, shards, on_progress)

    def job(self, scorer: ShardScorer, shards: Shards, on_progress: Advance) -> RayScoringJob:
        """The scoring of sources that are probed, by actors."""
        return RayScoringJob(scorer, shards, on_progress, self.actors)


@contextmanager
def on_ray(device: str, threads: int) -> Iterator[RayPlace]:
    """Actors on the cluster that this process is connected to; they end with the block.

    Args:
        device: on which they run models, as torch names it.
        threads: of PyTorch in each.

    Raises:
        ClusterError: no node has so many cores, or no GPU.
    """
    actors = ShardActors(device, threads)
    try:
        yield RayPlace(actors)
    finally:
        actors.leave()


def _remote(
    images: DataSet,
    sources: Sources,
    *,
    batch: int = 1,
    workers: int | None = None,
    keep_logits: bool = False,
    strict: bool = False,
) -> RemoteScoring:
    """What actors need; to probe sources alone, the defaults do."""
    files = images.encoded
    return RemoteScoring(
        data=images.spec,
        fingerprint=images.fingerprint,
        content=None if files is None else files.hash().to_dict(),
        sources=sources,
        batch=batch,
        workers=workers,
        keep_logits=keep_logits,
        strict=strict,
        threads=torch.get_num_threads(),
        folder=str(Path.cwd()),
        modules=tuple(sys.path),
    )


class _ScoringRun:
    """One run of a job: shards go out, files and progress come back."""

    def __init__(self, job: RayScoringJob, queue: ShardQueue, actors: ShardActors) -> None:
        self._job = job
        self._queue = queue
        self._actors = actors
        self._started: set[str] = set()
        self._images: Counter[tuple[str, int]] = Counter()  # of shards that are not finished

    def run(self) -> None:
        """Go on until all shards are kept."""
        while not self._queue.empty:
            for worker, news in self._actors.answers():
                if news is None:
                    self._lose(worker)
                    continue
                for one in news:
                    self._take(worker, one)
                self._give(worker)

    def _take(self, worker: str, news: News) -> None:
        check(news)
        match news:
            case Started():
                self._started.add(worker)
            case Decoded(group, images):
                self._images[worker, group] += images
                self._show(group)
            case Shrunk(source, size):
                if self._queue.shrink(source, size):
                    self._job.keep_size(source, size)
            case Scored(group, shard, sizes, files):
                self._job.keep_files(shard, sizes, files)
                self._queue.finished(worker, group, shard, sizes)
                self._images[worker, group] -= len(self._job.scorer.blocks[shard])
                self._show(group)

    def _give(self, worker: str) -> None:
        """Give an actor what it may have, and ask it for news."""
        tasks = []
        while worker in self._started and (task := self._queue.next_for(worker)) is not None:
            tasks.append(task)
            self._show(task.group)
        self._actors.ask(worker, tasks)

    def _lose(self, worker: str) -> None:
        self._started.discard(worker)
        for key in [key for key in self._images if key[0] == worker]:
            del self._images[key]
        for lost in self._queue.lost(worker)[:1]:
            logger.warning("a process ended, shard %d is scored again", lost.task.shard)
            if self._queue.losses(lost) >= _LOSSES:
                raise ClusterError(
                    f"a process scores a shard to its end, {_LOSSES} ended at shard "
                    f"{lost.task.shard} of {', '.join(lost.task.sizes)}: see whether memory runs "
                    "out on the nodes; what is scored is kept, and the same command goes on"
                )

    def _show(self, group: int) -> None:
        blocks, names = self._job.scorer.blocks, self._job.sources.groups[group]
        total = len(self._job.images)
        left = sum(len(blocks[shard]) for shard in self._queue.left(group))
        partly = sum(images for (_, own), images in self._images.items() if own == group)
        self._job.on_progress(title_of(names), max(total - left + partly, 0), total)
