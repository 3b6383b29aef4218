"""The scoring of several sources, shard by shard, and the measuring of their times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from understudy.errors import DataError, listed
from understudy.measured_rounds import unit_of
from understudy.progress_bars import Advance
from understudy.scoring.outputs import ExitOutputs
from understudy.scoring.shard_scorer import ScoredShard, ShardScorer, ShardTask
from understudy.scoring.shards import Shards
from understudy.scoring.source_run import smaller_batches
from understudy.scoring.sources import Sources
from understudy.sitting import Sitting
from understudy.zoo.batches import Batch
from understudy.zoo.data import Array, DataSet


@dataclass(frozen=True)
class ScoringJob:
    """The scoring of all sources into a folder of shards.

    Sources whose weights fit into memory together are a group: an image is decoded once for all of
    them.

    Attributes:
        scorer: the images and sources, and how they are scored.
        shards: the unfinished work on disk.
        on_progress: called after every batch.
    """

    scorer: ShardScorer
    shards: Shards
    on_progress: Advance

    @property
    def images(self) -> DataSet:
        """The data."""
        return self.scorer.images

    @property
    def sources(self) -> Sources:
        """What is scored."""
        return self.scorer.sources

    @property
    def sizes(self) -> dict[str, int]:
        """The most samples at a time by source: a batch, or as many of it as fit into memory."""
        return dict.fromkeys(self.sources.specs, self.scorer.batch) | self.shards.sizes

    @property
    def halved(self) -> dict[str, Any]:
        """What a table records of exits that ran in smaller batches than all, if any did."""
        return smaller_batches(
            {
                exit.name: size
                for name, size in self.shards.sizes.items()
                for exit in self.sources.probes[name].exits
            }
        )

    def score(self) -> None:
        """Score the missing shards of all sources; damaged ones are missing too.

        Raises:
            ModelError: logits that are not finite, other weights at each loading, or a model that
                does not fit into memory.
            DataError: a corrupt image with `strict`.
        """
        for group in self.sources.groups:
            self._score_group(group)

    def _score_group(self, group: Sequence[str]) -> None:
        """Score the missing shards of sources that are in memory together.

        Where memory runs out at a source, all its shards are missing at its new size.
        """
        tasks = self.missing(group)
        wanted = [name for name in group if any(name in task.sizes for task in tasks)]
        sizes = self.sizes
        runs = self.scorer.load({name: sizes[name] for name in wanted})
        title = title_of(group)
        done = len(self.images) - self.count(tasks)
        self.on_progress(title, done, len(self.images))

        def advance(batch: Batch) -> None:
            nonlocal done
            done += len(batch) + len(batch.corrupt)
            self.on_progress(title, done, len(self.images))

        while tasks:
            done = len(self.images) - self.count(tasks)
            before = {name: run.size for name, run in runs.items()}
            self.scorer.score(tasks, runs, self, group=group, advance=advance)
            tasks = self.missing([name for name in runs if runs[name].size < before[name]])

    def missing(self, group: Iterable[str]) -> list[ShardTask]:
        """The shards that some sources lack, in order; damaged ones are missing too."""
        return self._lacking(group, self.shards.has)

    def absent(self, group: Iterable[str]) -> list[ShardTask]:
        """The shards that are not there, in order, of some sources; damaged ones are there."""
        present = cache(self.shards.present)
        return self._lacking(group, lambda place, shard: shard in present(place))

    def _lacking(self, group: Iterable[str], has: Callable[[str, int], bool]) -> list[ShardTask]:
        sizes, lacking = self.sizes, dict[int, dict[str, int]]()
        places = {
            name: [self._place(exit.name, sizes[name]) for exit in self.sources.probes[name].exits]
            for name in group
        }
        for shard, (name, own) in product(range(len(self.scorer.blocks)), places.items()):
            if not all(has(place, shard) for place in own):
                lacking.setdefault(shard, {})[name] = sizes[name]
        return [ShardTask(shard, names) for shard, names in lacking.items()]

    def keep_size(self, source: str, size: int) -> None:
        """Keep the most samples of a source at a time."""
        self.shards.keep_size(source, size)

    def keep(self, scored: ScoredShard) -> None:
        """Keep a shard of some sources."""
        self.keep_files(scored.shard, scored.sizes, scored.files)

    def keep_files(self, shard: int, sizes: Mapping[str, int], files: Mapping[str, bytes]) -> None:
        """Keep the files of a shard.

        Args:
            shard: its number.
            sizes: the most samples at a time with which sources ran, by source.
            files: `ScoredShard.files`, of all exits of these sources.
        """
        for name, size in sizes.items():
            for exit in self.sources.probes[name].exits:
                self.shards.write(self._place(exit.name, size), shard, files[exit.name])

    def count(self, tasks: Iterable[ShardTask]) -> int:
        """The images of some tasks."""
        blocks = self.scorer.blocks
        return sum(len(blocks[task.shard]) for task in tasks)

    def _place(self, exit: str, size: int) -> str:
        """What the shards of an exit are kept under: its number, and the size of its runs."""
        number = next(n for n, one in enumerate(self.sources.exits) if one.name == exit)
        return f"{number:03}" if size == self.scorer.batch else f"{number:03}@{size}"

    def measured(self, sizes: Sequence[int], *, seconds: float) -> tuple[Sitting, ...]:
        """The times of all sources at some batch sizes, measured unless they are kept.

        Args:
            sizes: batch sizes.
            seconds: after which few rounds have to do, at each size.
        """
        found = []
        for size in sizes:
            sitting = self.shards.sitting(unit_of(size))
            if sitting is None:
                sitting = self.measure_at(size, seconds=seconds)
                self.shards.keep_sitting(sitting)
            found.append(sitting)
        return tuple(found)

    def measure_at(self, size: int, *, seconds: float) -> Sitting:
        """The times of all sources in batches of a size, measured now."""
        return self.scorer.measured(size, seconds=seconds, on_progress=self.on_progress)

    def read(self) -> tuple[Array, dict[str, ExitOutputs]]:
        """Which images every model could score, (N,) bool, and the outputs for those, by exit.

        Raises:
            DataError: a corrupt image with `strict`, or a damaged shard.
        """
        sizes, shards = self.sizes, len(self.scorer.blocks)
        kept = {
            exit.name: self.shards.read(self._place(exit.name, sizes[name]), shards)
            for name, probed in self.sources.probes.items()
            for exit in probed.exits
        }
        scored = np.ones(len(self.images), bool)
        for positions, _ in kept.values():
            scored &= np.isin(np.arange(len(self.images)), positions)
        corrupt = self.images.ids[~scored].tolist()
        if corrupt and self.scorer.strict:
            raise DataError(
                f"images can be decoded, {len(corrupt)} of {len(scored)} cannot "
                f"({listed(map(repr, corrupt))}): mend or remove them"
            )
        return scored, {
            name: outputs if scored.all() else outputs.rows(np.flatnonzero(scored[positions]))
            for name, (positions, outputs) in kept.items()
        }


def title_of(group: Sequence[str]) -> str:
    """What the progress of a group of sources is called.

    >>> title_of(["tiny", "big", "huge"])
    'tiny and 2 more'
    """
    return group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more"
