"""Where models are run on some images, and scored: this process, unless another place is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from understudy.progress_bars import Advance
from understudy.scoring.job import ScoringJob
from understudy.scoring.new_sources import NewSources
from understudy.scoring.probing import Probe, probing_progress
from understudy.scoring.shard_scorer import ShardScorer
from understudy.scoring.shards import Shards
from understudy.scoring.sources import Sources


class ScoringPlace:
    """Scores in this process; derived classes do it elsewhere."""

    def probed(self, models: NewSources, shards: Shards, on_progress: Advance) -> Sources:
        """Some sources, run on some images unless what was found of them is kept.

        Args:
            models: the sources.
            shards: of their plan, where it is kept.
            on_progress: called after every source of many.

        Raises:
            ModelError, DataError: as `NewSources.probe` and `NewSources.probed`.
        """
        found: dict[str, Probe] = {}
        show = probing_progress(on_progress, len(models.specs))
        for name in models.specs:
            kept = shards.probe(name)
            found[name] = models.probe(name) if kept is None else kept
            if kept is None:
                shards.keep_probe(name, found[name])
            show(len(found))
        return models.probed(found)

    def job(self, scorer: ShardScorer, shards: Shards, on_progress: Advance) -> ScoringJob:
        """The scoring of sources that are probed."""
        return ScoringJob(scorer, shards, on_progress)


@contextmanager
def this_process(_device: str, _threads: int) -> Iterator[ScoringPlace]:
    """This process, which has the device and the threads already."""
    yield ScoringPlace()
