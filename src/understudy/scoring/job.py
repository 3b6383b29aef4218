"""The scoring of several sources, shard by shard, and the measuring of their times."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, product
from typing import Any

import numpy as np

from understudy.errors import DataError, ModelError, listed
from understudy.measured_rounds import unit_of
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Stage
from understudy.progress_bars import Advance
from understudy.scoring.measuring import groups_in_memory, measure
from understudy.scoring.outputs import ExitOutputs, GatheredOutputs
from understudy.scoring.probing import Probe, exits_of
from understudy.scoring.shards import SHARD_BATCHES, Shards
from understudy.scoring.source_run import SourceRun, smaller_batches
from understudy.sitting import Sitting
from understudy.zoo.batches import Batch, batches, first_images
from understudy.zoo.data import Array, DataSet
from understudy.zoo.models import load_stages


@dataclass(frozen=True)
class ScoringJob:
    """The scoring of all sources, shard by shard.

    A source is a model, or a network with all its exits. Sources whose weights fit into memory
    together are a group: an image is decoded once for all of them. Batches are aligned to shards,
    so that a source's outputs depend on the batch size alone, whatever its group, and whichever
    shards were scored before.

    Attributes:
        images: the data.
        sources: name of a source -> its model spec.
        probes: what is known of the exits, by source.
        shards: the unfinished work on disk.
        batch: samples per batch.
        workers: threads that decode ahead.
        keep_logits: whether all logits are kept.
        strict: whether a corrupt image is an error.
        device: where to run, as torch names it.
        allow_code: the modules that specs in folders of exits may import.
        on_progress: called after every batch.
    """

    images: DataSet
    sources: Mapping[str, str]
    probes: Mapping[str, Probe]
    shards: Shards
    batch: int
    workers: int | None
    keep_logits: bool
    strict: bool
    device: str
    allow_code: Collection[str]
    on_progress: Advance

    @property
    def blocks(self) -> list[range]:
        """The positions of each shard: a fixed number of whole batches."""
        total, step = len(self.images), self.batch * SHARD_BATCHES
        return [range(start, min(start + step, total)) for start in range(0, total, step)]

    @property
    def sizes(self) -> dict[str, int]:
        """The most samples at a time by source: `batch`, or as many of it as fit into memory."""
        return dict.fromkeys(self.sources, self.batch) | self.shards.sizes

    @property
    def halved(self) -> dict[str, Any]:
        """What a table records of exits that ran in smaller batches than `batch`, if any did."""
        return smaller_batches(
            {
                exit.name: size
                for name, size in self.shards.sizes.items()
                for exit in self.probes[name].exits
            }
        )

    def score(self) -> None:
        """Score the missing shards of all sources; damaged ones are missing too.

        Raises:
            ModelError: logits that are not finite, other weights at each loading, or a model that
                does not fit into memory.
            DataError: a corrupt image with `strict`.
        """
        for group in groups_in_memory(self._bytes):
            self._score_group(group)

    def _score_group(self, group: Sequence[str]) -> None:
        """Score the missing shards of sources that are in memory together.

        Where memory runs out at a source, all its shards are missing at its new size.
        """
        missing = self._missing(group)
        wanted = [name for name in group if any(name in names for names in missing.values())]
        sizes = self.sizes
        runs = {name: SourceRun(name, self._load(name), size=sizes[name]) for name in wanted}
        title = group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more"
        done = len(self.images) - self._count(missing)
        self.on_progress(title, done, len(self.images))

        def advance(batch: Batch) -> None:
            nonlocal done
            done += len(batch) + len(batch.corrupt)
            self.on_progress(title, done, len(self.images))

        while missing:
            done = len(self.images) - self._count(missing)
            before = {name: run.size for name, run in runs.items()}
            decoded = self._decoded(missing, group)
            for shard, names in missing.items():
                block = islice(decoded, -(-len(self.blocks[shard]) // self.batch))
                self._score_shard(shard, block, {name: runs[name] for name in names}, advance)
            missing = self._missing([name for name in runs if runs[name].size < before[name]])

    def _score_shard(
        self,
        shard: int,
        block: Iterable[Batch],
        runs: Mapping[str, SourceRun],
        advance: Callable[[Batch], None],
    ) -> None:
        """Score one shard for some sources; it stays missing where the size falls within it."""
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
                    self.shards.keep_size(name, run.size)
                sizes[name].add(run.size)
                for exit, outputs in found.items():
                    gathered[exit].add(outputs)
            positions.append(batch.positions)
            advance(batch)
        decoded = np.concatenate(positions)
        for name, run in runs.items():
            if len(sizes[name]) <= 1:
                for exit in run.stages:
                    place = self._place(exit, run.size)
                    self.shards.write(place, shard, decoded, gathered[exit].whole)

    def _missing(self, group: Sequence[str]) -> dict[int, list[str]]:
        """The shards that some sources lack, in order, with the names of those."""
        sizes, lacking = self.sizes, dict[int, list[str]]()
        for shard, name in product(range(len(self.blocks)), group):
            exits = self.probes[name].exits
            if not all(self.shards.has(self._place(e.name, sizes[name]), shard) for e in exits):
                lacking.setdefault(shard, []).append(name)
        return lacking

    def _count(self, shards: Iterable[int]) -> int:
        """The images of some shards."""
        return sum(len(self.blocks[shard]) for shard in shards)

    def _decoded(self, shards: Iterable[int], group: Sequence[str]) -> Iterator[Batch]:
        """The batches of some shards, one after another, in the sizes that a group takes."""
        return batches(
            self.images,
            list(chain.from_iterable(self.blocks[shard] for shard in shards)),
            size=self.batch,
            workers=self.workers,
            resizings=self._resizings(group),
        )

    def _resizings(self, group: Iterable[str]) -> frozenset[Resizing | None]:
        found = (self.probes[name].resizings for name in group)
        return frozenset[Resizing | None]().union(*found)

    def _place(self, exit: str, size: int) -> str:
        """What the shards of an exit are kept under: its number, and the size of its runs."""
        number = next(n for n, one in enumerate(exits_of(self.probes)) if one.name == exit)
        return f"{number:03}" if size == self.batch else f"{number:03}@{size}"

    @property
    def _bytes(self) -> dict[str, int]:
        return {name: probed.bytes for name, probed in self.probes.items()}

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
                sitting = measure(
                    {name: partial(self._load, name) for name in self.sources},
                    first_images(
                        self.images,
                        size,
                        resizings=self._resizings(self.sources),
                        workers=self.workers,
                    ),
                    bytes_of=self._bytes,
                    device=self.device,
                    seconds=seconds,
                    on_progress=self.on_progress,
                )
                self.shards.keep_sitting(sitting)
            found.append(sitting)
        return tuple(found)

    def _load(self, source: str) -> dict[str, Stage]:
        """The stages of a source on the device, the same as when it was probed."""
        loaded = load_stages(self.sources[source], source, allow_code=self.allow_code)
        stages = {name: stage.to(self.device) for name, stage in loaded.items()}
        _check_weights(stages, self.probes[source], self.sources[source])
        return stages

    def read(self) -> tuple[Array, dict[str, ExitOutputs]]:
        """Which images every model could score, (N,) bool, and the outputs for those, by exit.

        Raises:
            DataError: a corrupt image with `strict`, or a damaged shard.
        """
        sizes = self.sizes
        kept = {
            exit.name: self.shards.read(self._place(exit.name, sizes[name]), len(self.blocks))
            for name, probed in self.probes.items()
            for exit in probed.exits
        }
        scored = np.ones(len(self.images), bool)
        for positions, _ in kept.values():
            scored &= np.isin(np.arange(len(self.images)), positions)
        corrupt = self.images.ids[~scored].tolist()
        if corrupt and self.strict:
            raise DataError(
                f"images can be decoded, {len(corrupt)} of {len(scored)} cannot "
                f"({listed(map(repr, corrupt))}): mend or remove them"
            )
        return scored, {
            name: outputs if scored.all() else outputs.rows(np.flatnonzero(scored[positions]))
            for name, (positions, outputs) in kept.items()
        }


def _check_weights(stages: Mapping[str, Stage], probed: Probe, spec: str) -> None:
    for exit, (name, stage) in zip(probed.exits, stages.items(), strict=True):
        before, now = str(exit.origin["weights_hash"]), stage.weights_hash
        if now != before:
            raise ModelError(
                f"a model has the same weights whenever it is loaded, {spec!r} has not at {name!r} "
                f"(hash {now[:12]}, before {before[:12]}): let the factory set a seed, or give "
                "?checkpoint=FILE"
            )
