"""One resumable run: models are seen on one image first, then scored shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from understudy.errors import DataError, ModelError
from understudy.exit import Exit
from understudy.nn.cost import measure_parts
from understudy.nn.stage import Stage
from understudy.scoring.outputs import Array, ExitOutputs, said_by_all
from understudy.scoring.probe import Probe, check_together, probe
from understudy.scoring.shards import SHARD_BATCHES, Shards
from understudy.zoo.batches import batches
from understudy.zoo.classes import check_classes, check_labels
from understudy.zoo.data import DataSet
from understudy.zoo.networks import load_stages

Progress = Callable[[str, int, int], None]
"""Called with the model's name, the samples done, and all samples."""


@dataclass(frozen=True)
class ScoringJob:
    """What is scored, how, and where the unfinished work lies; one source is in memory at a time.

    A source is a model, or a network with all its exits; `exams` has one for each.
    """

    images: DataSet
    sources: Mapping[str, str]
    exams: Mapping[str, Probe]
    shards: Shards
    batch: int
    workers: int
    keep_logits: bool
    strict: bool
    device: str
    on_progress: Progress

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The exits of all sources, in the order of their numbers."""
        return exits_of(self.exams)

    @property
    def blocks(self) -> list[range]:
        """The positions of each shard: a fixed number of whole batches."""
        total, step = len(self.images), self.batch * SHARD_BATCHES
        return [range(start, min(start + step, total)) for start in range(0, total, step)]

    def score(self, source: str, *, measured: Sequence[int]) -> None:
        """Score the shards of one source that are missing, and measure its missing times.

        Raises:
            ModelError: logits that are not finite, or a model that is another at each loading.
            DataError: a corrupt image, where these are errors.
        """
        numbers = self._numbers(source)
        missing = [
            shard
            for shard in range(len(self.blocks))
            if not all(self.shards.has(number, shard) for number in numbers)
        ]
        kept = self.shards.times(numbers[0])
        unmeasured = [size for size in measured if unit_of(size) not in kept]
        done = len(self.images) - sum(len(self.blocks[shard]) for shard in missing)
        self.on_progress(source, done, len(self.images))
        if not (missing or unmeasured):
            return
        loaded = load_stages(self.sources[source], source)
        stages = {name: stage.to(self.device) for name, stage in loaded.items()}
        _check_same(stages, self.exams[source], self.sources[source])
        for shard in missing:
            self._score_shard(source, shard, stages, done)
            done += len(self.blocks[shard])
        times = {
            unit_of(size): measure_parts(stages, _first(self.images, size)) for size in unmeasured
        }
        self.shards.keep_times(numbers[0], times)

    def times(self, measured: Sequence[int]) -> dict[str, dict[str, float]]:
        """The measured times: unit -> part -> ms per sample."""
        kept = [self.shards.times(self._numbers(source)[0]) for source in self.sources]
        return {
            unit_of(size): {part: ms for one in kept for part, ms in one[unit_of(size)].items()}
            for size in measured
        }

    def _numbers(self, source: str) -> list[int]:
        """The numbers of a source's exits among all."""
        own = {exit.name for exit in self.exams[source].exits}
        return [number for number, exit in enumerate(self.exits) if exit.name in own]

    def _score_shard(self, source: str, shard: int, stages: Mapping[str, Stage], done: int) -> None:
        positions: list[Array] = []
        pieces: dict[str, list[ExitOutputs]] = {name: [] for name in stages}
        block = self.blocks[shard]
        for piece in batches(self.images, block, size=self.batch, workers=self.workers):
            if piece.corrupt and self.strict:
                raise DataError(piece.corrupt[0])
            if len(piece):
                ids = self.images.ids[piece.positions].tolist()
                for name, said in said_by_all(
                    stages, piece.images, ids=ids, keep_logits=self.keep_logits
                ):
                    pieces[name].append(said)
                positions.append(piece.positions)
            done += len(piece) + len(piece.corrupt)
            self.on_progress(source, done, len(self.images))
        seen = np.concatenate(positions) if positions else np.empty(0, np.int64)
        for number, name in zip(self._numbers(source), stages, strict=True):
            told = ExitOutputs.joined(pieces[name]) if pieces[name] else None
            self.shards.write(number, shard, seen, told)


def exits_of(exams: Mapping[str, Probe]) -> tuple[Exit, ...]:
    """The exits of all sources, in order."""
    return tuple(exit for exam in exams.values() for exit in exam.exits)


def examine_all(images: DataSet, sources: Mapping[str, str], *, device: str) -> dict[str, Probe]:
    """See every source on one image, so that what cannot work fails before hours of scoring.

    Raises:
        ModelError: a model that cannot be loaded or run, other classes than the others', or two
            exits of one name.
        DataError: no image that can be decoded, or labels that the models cannot answer.
    """
    (image,) = _first(images, 1)
    exams: dict[str, Probe] = {}
    for source, spec in sources.items():
        stages = {name: stage.to(device) for name, stage in load_stages(spec, source).items()}
        known = {exit.name for exit in exits_of(exams)}
        twice = [name for name in stages if name in known]
        if twice:
            raise ModelError(
                f"exits have names of their own, {spec!r} brings {twice[0]!r}, which is there "
                "already: leave one out, or name it NAME=SPEC"
            )
        exams[source] = probe(stages, image)
    classes = check_together({source: exam.classes for source, exam in exams.items()})
    check_classes(images.classes, classes, data=repr(images.spec))
    check_labels(images.labels, classes, data=repr(images.spec))
    return exams


def unit_of(size: int) -> str:
    """The unit of times measured at a batch size.

    >>> unit_of(32)
    'ms@32'
    """
    return f"ms@{size}"


def _first(images: DataSet, count: int) -> list[Tensor]:
    """The first `count` images that can be decoded, from the start again where they run out."""
    found: list[Tensor] = []
    for piece in batches(images, size=count, workers=0):
        found.extend(piece.images)
        if len(found) >= count:
            break
    if not found:
        raise DataError(
            f"no image of {images.spec!r} can be decoded ({len(images)} tried): check the data"
        )
    return [found[place % len(found)] for place in range(count)]


def _check_same(stages: Mapping[str, Stage], exam: Probe, spec: str) -> None:
    for exit, (name, stage) in zip(exam.exits, stages.items(), strict=True):
        before, now = str(exit.origin["weights_hash"]), stage.weights_hash
        if now != before:
            raise ModelError(
                f"a model has the same weights whenever it is loaded, {spec!r} has not at {name!r} "
                f"(hash {now[:12]}, before {before[:12]}): let the factory set a seed, or give "
                "?checkpoint=FILE"
            )
