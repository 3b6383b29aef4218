"""The loop that scores shards: tasks are drawn one by one, and finished shards handed on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Protocol

import numpy as np

from understudy.errors import DataError
from understudy.progress_bars import Advance, no_bar
from understudy.scoring.measuring import measure
from understudy.scoring.outputs import ExitOutputs, GatheredOutputs
from understudy.scoring.shards import SHARD_BATCHES, shard_bytes
from understudy.scoring.source_run import SourceRun
from understudy.scoring.sources import Sources
from understudy.sitting import Sitting
from understudy.zoo.batches import Batch, batches_of_blocks, first_images
from understudy.zoo.data import Array, DataSet


@dataclass(frozen=True)
class ShardTask:
    """A shard that some sources lack.

    Attributes:
        shard: its number.
        sizes: the most samples that a source takes at a time, by the names of those sources.
    """

    shard: int
    sizes: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class ScoredShard:
    """What some sources gave for a shard.

    Attributes:
        shard: its number.
        positions: (n,) positions of the images that could be decoded.
        sizes: the most samples at a time with which each source ran; a source whose size fell
            within the shard is not among them.
        outputs: by exit, for the exits of these sources; None where no image could be decoded.
    """

    shard: int
    positions: Array
    sizes: Mapping[str, int]
    outputs: Mapping[str, ExitOutputs | None]

    @property
    def files(self) -> dict[str, bytes]:
        """The files that hold the shard, by exit."""
        return {exit: shard_bytes(self.positions, found) for exit, found in self.outputs.items()}


class Keeper(Protocol):
    """What keeps the outcome of scoring."""

    def keep_size(self, source: str, size: int, /) -> None:
        """Keep the most samples of a source at a time, as soon as more ran out of memory."""

    def keep(self, scored: ScoredShard, /) -> None:
        """Keep a shard that was scored."""


@dataclass(frozen=True)
class ShardScorer:
    """Scores shards of images with sources that are loaded.

    A shard is a fixed number of whole batches, so that a source's outputs depend on the batch size
    alone, whatever its group, and whichever shards were scored before, or elsewhere.

    Attributes:
        images: the data.
        sources: what is scored.
        batch: samples per batch.
        workers: threads that decode ahead.
        keep_logits: whether all logits are kept.
        strict: whether a corrupt image is an error.
    """

    images: DataSet
    sources: Sources
    batch: int
    workers: int | None
    keep_logits: bool
    strict: bool

    @property
    def blocks(self) -> list[range]:
        """The positions of each shard."""
        total, step = len(self.images), self.batch * SHARD_BATCHES
        return [range(start, min(start + step, total)) for start in range(0, total, step)]

    def load(self, sizes: Mapping[str, int]) -> dict[str, SourceRun]:
        """Sources on their device, by name, with the most samples that each takes at a time.

        Raises:
            ModelError: one cannot be loaded, or has other weights than when it was probed.
        """
        return {
            name: SourceRun(name, self.sources.load(name), size=size)
            for name, size in sizes.items()
        }

    def measured(self, size: int, *, seconds: float, on_progress: Advance = no_bar) -> Sitting:
        """The times of all sources in batches of the first images.

        Args:
            size: of the batches.
            seconds: after which few rounds have to do.
            on_progress: called after every round.

        Raises:
            ModelError: a source runs out of memory.
        """
        names = self.sources.specs
        resizings = self.sources.resizings(names)
        return measure(
            {name: partial(self.sources.load, name) for name in names},
            first_images(self.images, size, resizings=resizings, workers=self.workers),
            bytes_of=self.sources.bytes,
            device=self.sources.device,
            seconds=seconds,
            on_progress=on_progress,
        )

    def score(
        self,
        tasks: Iterable[ShardTask],
        runs: Mapping[str, SourceRun],
        keeper: Keeper,
        *,
        group: Sequence[str],
        advance: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        """Score shards in the order in which they are drawn.

        A task is drawn when its images can be decoded, while the one before it is scored. Where
        the size of a source falls within a shard, that shard is not kept for it: it is missing
        still, as are all others at the new size.

        Args:
            tasks: drawn lazily.
            runs: the sources that occur in tasks, loaded.
            keeper: gets every shard as soon as it is scored.
            group: the sources for which images are resized, those of `runs` among them.
            advance: called after every batch.

        Raises:
            ModelError: logits that are not finite, or a model that does not fit into memory.
            DataError: a corrupt image with `strict`.
        """
        drawn = deque[ShardTask]()
        blocks = self.blocks

        def draw() -> Iterator[range]:
            for task in tasks:
                drawn.append(task)
                yield blocks[task.shard]

        decoded = batches_of_blocks(
            self.images,
            draw(),
            size=self.batch,
            workers=self.workers,
            resizings=self.sources.resizings(group),
        )
        for first in decoded:
            task = drawn.popleft()
            rest = islice(decoded, -(-len(blocks[task.shard]) // self.batch) - 1)
            for name, size in task.sizes.items():
                runs[name].limit(size)
            taken = {name: runs[name] for name in task.sizes}
            keeper.keep(self._scored(task.shard, chain([first], rest), taken, keeper, advance))

    def _scored(
        self,
        shard: int,
        block: Iterable[Batch],
        runs: Mapping[str, SourceRun],
        keeper: Keeper,
        advance: Callable[[Batch], None],
    ) -> ScoredShard:
        """Score the batches of one shard for some sources."""
        positions: list[Array] = []
        sizes: dict[str, set[int]] = {name: set() for name in runs}
        most = len(self.blocks[shard])
        gathered = {exit: GatheredOutputs(most) for run in runs.values() for exit in run.stages}
        for batch in block:
            if batch.corrupt and self.strict:
                raise DataError(batch.corrupt[0])
            ids = self.images.ids[batch.positions].tolist()
            for name, run in runs.items() if ids else ():
                before = run.size
                found = run.outputs(batch.images, ids=ids, keep_logits=self.keep_logits)
                if run.size < before:
                    keeper.keep_size(name, run.size)
                sizes[name].add(run.size)
                for exit, outputs in found.items():
                    gathered[exit].add(outputs)
            positions.append(batch.positions)
            advance(batch)
        kept = {name: run for name, run in runs.items() if len(sizes[name]) <= 1}
        return ScoredShard(
            shard,
            np.concatenate(positions),
            {name: run.size for name, run in kept.items()},
            {exit: gathered[exit].whole for run in kept.values() for exit in run.stages},
        )
