"""The scoring of several sources, shard by shard, and the measuring of their times."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from understudy.errors import DataError, ModelError, listed
from understudy.measured_rounds import seconds_after, unit_of
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Stage, resizings_of
from understudy.progress_bars import Advance
from understudy.scoring.measuring import measure
from understudy.scoring.outputs import (
    SHARD_BATCHES,
    ExitOutputs,
    Probe,
    Shards,
    exits_of,
    run_stages,
)
from understudy.sitting import Sitting
from understudy.zoo.batches import batches, first_images
from understudy.zoo.data import Array, DataSet
from understudy.zoo.models import load_stages


@dataclass(frozen=True)
class ScoringJob:
    """The scoring of all sources, shard by shard; one source is in memory at a time.

    A source is a model, or a network with all its exits.

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
    workers: int
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

    def run(self, sizes: Sequence[int]) -> tuple[Sitting, ...]:
        """Score all sources, and measure their times at some batch sizes.

        Raises:
            ModelError: logits that are not finite, or other weights at each loading.
            DataError: a corrupt image with `strict`.
        """
        start = perf_counter()
        for source in self.sources:
            self.score(source)
        return self.measured(sizes, seconds=seconds_after(perf_counter() - start))

    def score(self, source: str) -> None:
        """Score the missing shards of one source; damaged ones are missing too.

        Raises:
            ModelError: logits that are not finite, or other weights at each loading.
            DataError: a corrupt image with `strict`.
        """
        numbers = self._numbers(source)
        missing = [
            shard
            for shard in range(len(self.blocks))
            if not all(self.shards.has(number, shard) for number in numbers)
        ]
        done = len(self.images) - sum(len(self.blocks[shard]) for shard in missing)
        self.on_progress(source, done, len(self.images))
        if not missing:
            return
        stages = self._load(source)
        for shard in missing:
            self._score_shard(source, shard, stages, done)
            done += len(self.blocks[shard])

    def measured(self, sizes: Sequence[int], *, seconds: float) -> tuple[Sitting, ...]:
        """The times of all sources at some batch sizes, measured unless they are kept.

        Args:
            sizes: batch sizes.
            seconds: after which few rounds have to do, at each size.
        """
        bytes_of = {
            name: 4 * max(exit.origin["parameters"] for exit in probed.exits)
            for name, probed in self.probes.items()
        }
        resizings = frozenset[Resizing | None]().union(
            *(probed.resizings for probed in self.probes.values())
        )
        found = []
        for size in sizes:
            sitting = self.shards.sitting(unit_of(size))
            if sitting is None:
                sitting = measure(
                    {name: partial(self._load, name) for name in self.sources},
                    first_images(self.images, size, resizings=resizings, workers=self.workers),
                    bytes_of=bytes_of,
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
        kept = {
            exit.name: self.shards.read(number, len(self.blocks))
            for number, exit in enumerate(exits_of(self.probes))
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
            name: outputs.rows(np.flatnonzero(scored[positions]))
            for name, (positions, outputs) in kept.items()
        }

    def _numbers(self, source: str) -> list[int]:
        """The numbers of a source's exits among those of all sources."""
        own = {exit.name for exit in self.probes[source].exits}
        return [n for n, exit in enumerate(exits_of(self.probes)) if exit.name in own]

    def _score_shard(self, source: str, shard: int, stages: Mapping[str, Stage], done: int) -> None:
        positions: list[Array] = []
        pieces: dict[str, list[ExitOutputs]] = {name: [] for name in stages}
        for batch in batches(
            self.images,
            self.blocks[shard],
            size=self.batch,
            workers=self.workers,
            resizings=resizings_of(stages.values()),
        ):
            if batch.corrupt and self.strict:
                raise DataError(batch.corrupt[0])
            if len(batch):
                ids = self.images.ids[batch.positions].tolist()
                for name, outputs in run_stages(
                    stages, batch.images, ids=ids, keep_logits=self.keep_logits
                ):
                    pieces[name].append(outputs)
                positions.append(batch.positions)
            done += len(batch) + len(batch.corrupt)
            self.on_progress(source, done, len(self.images))
        decoded = np.concatenate(positions) if positions else np.empty(0, np.int64)
        for number, name in zip(self._numbers(source), stages, strict=True):
            whole = ExitOutputs.concatenate(pieces[name]) if pieces[name] else None
            self.shards.write(number, shard, decoded, whole)


def _check_weights(stages: Mapping[str, Stage], probed: Probe, spec: str) -> None:
    for exit, (name, stage) in zip(probed.exits, stages.items(), strict=True):
        before, now = str(exit.origin["weights_hash"]), stage.weights_hash
        if now != before:
            raise ModelError(
                f"a model has the same weights whenever it is loaded, {spec!r} has not at {name!r} "
                f"(hash {now[:12]}, before {before[:12]}): let the factory set a seed, or give "
                "?checkpoint=FILE"
            )
