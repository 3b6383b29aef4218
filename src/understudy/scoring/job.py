"""One resumable run: models are seen on one image first, then scored shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from understudy.errors import DataError, ModelError
from understudy.nn.cost import measure_ms
from understudy.nn.stage import Stage
from understudy.scoring.exam import Exam, check_classes, check_labels, check_together, examine
from understudy.scoring.said import Array, Said, check_finite, said_by
from understudy.scoring.shards import SHARD_BATCHES, Shards
from understudy.zoo.batches import batches
from understudy.zoo.data import DataSet
from understudy.zoo.models import load_stage

Progress = Callable[[str, int, int], None]
"""Called with the model's name, the samples done, and all samples."""


@dataclass(frozen=True)
class Job:
    """What is scored, how, and where the unfinished work lies; one model is in memory at a time."""

    images: DataSet
    models: Mapping[str, str]
    shards: Shards
    batch: int
    workers: int
    keep_logits: bool
    strict: bool
    device: str
    on_progress: Progress

    @property
    def names(self) -> list[str]:
        """The exits, in the order of their numbers."""
        return list(self.models)

    @property
    def blocks(self) -> list[range]:
        """The positions of each shard: a fixed number of whole batches."""
        total, step = len(self.images), self.batch * SHARD_BATCHES
        return [range(start, min(start + step, total)) for start in range(0, total, step)]

    def score(self, name: str, exam: Exam, *, measured: Sequence[int]) -> None:
        """Score the shards of one model that are missing, and measure its missing times.

        Raises:
            ModelError: logits that are not finite, or a model that is another at each loading.
            DataError: a corrupt image, where these are errors.
        """
        number = self.names.index(name)
        missing = [shard for shard in range(len(self.blocks)) if not self.shards.has(number, shard)]
        kept = self.shards.times(number)
        unmeasured = [size for size in measured if unit_of(size) not in kept]
        done = len(self.images) - sum(len(self.blocks[shard]) for shard in missing)
        self.on_progress(name, done, len(self.images))
        if not (missing or unmeasured):
            return
        stage = load_stage(self.models[name]).to(self.device)
        _check_same(stage, exam, self.models[name])
        for shard in missing:
            self._score_shard(name, shard, stage, done)
            done += len(self.blocks[shard])
        times = {unit_of(size): measure_ms(stage, _first(self.images, size)) for size in unmeasured}
        self.shards.keep_times(number, times)

    def _score_shard(self, name: str, shard: int, stage: Stage, done: int) -> None:
        positions: list[Array] = []
        pieces: list[Said] = []
        block = self.blocks[shard]
        for piece in batches(self.images, block, size=self.batch, workers=self.workers):
            if piece.corrupt and self.strict:
                raise DataError(piece.corrupt[0])
            if len(piece):
                logits = stage(piece.images)
                check_finite(logits, model=name, ids=self.images.ids[piece.positions].tolist())
                pieces.append(said_by(logits, keep_logits=self.keep_logits))
                positions.append(piece.positions)
            done += len(piece) + len(piece.corrupt)
            self.on_progress(name, done, len(self.images))
        self.shards.write(
            self.names.index(name),
            shard,
            np.concatenate(positions) if positions else np.empty(0, np.int64),
            Said.joined(pieces) if pieces else None,
        )


def examine_all(images: DataSet, models: Mapping[str, str], *, device: str) -> dict[str, Exam]:
    """See every model on one image, so that what cannot work fails before hours of scoring.

    Raises:
        ModelError: a model that cannot be loaded or run, or other classes than the others'.
        DataError: no image that can be decoded, or labels that the models cannot answer.
    """
    (image,) = _first(images, 1)
    exams = {name: examine(load_stage(spec).to(device), image) for name, spec in models.items()}
    classes = check_together({name: exam.classes for name, exam in exams.items()})
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


def _check_same(stage: Stage, exam: Exam, spec: str) -> None:
    before, now = str(exam.origin["weights_hash"]), stage.weights_hash
    if now != before:
        raise ModelError(
            f"a model has the same weights whenever it is loaded, {spec!r} has not (hash "
            f"{now[:12]}, before {before[:12]}): let the factory set a seed, or give "
            "?checkpoint=FILE"
        )
