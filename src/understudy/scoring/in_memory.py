"""Scoring models that are in memory, on a loader."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from operator import length_hint
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor, nn

from understudy.class_outputs import class_codes
from understudy.errors import DataError, ModelError
from understudy.measured_rounds import batch_sizes, seconds_after
from understudy.nn.preprocess import as_tensor
from understudy.nn.stage import Images, stages_of
from understudy.nn.training_modes import modes_kept
from understudy.progress_bars import Advance, no_bar, progress_bars
from understudy.runtime.loader_batch import checked_images, class_names_in, taken_apart
from understudy.scores import ScoreTable
from understudy.scoring.measuring import measure as measure_rounds
from understudy.scoring.outputs import ExitOutputs
from understudy.scoring.probing import Probe, common_classes, probe, table_of
from understudy.scoring.repeatability import CHECKED
from understudy.scoring.source_run import SourceRun, smaller_batches
from understudy.sitting import Sitting
from understudy.zoo.batches import stacked
from understudy.zoo.data import Array, check_class_names, check_labels


def score(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    costs: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    split: Mapping[str, float] | Sequence[str] | None = None,
    keep_logits: bool = True,
    measure: int | Sequence[int] = (),
    progress: bool = True,
) -> ScoreTable:
    """Run every model on every batch and keep the outputs.

    Models run in eval mode, and are back in their own mode afterwards. What they write into their
    input changes neither the batches nor the scores of other models. Where a model runs out of
    memory its batches are halved from there on; ``provenance["smaller_batches"]`` has their size.

    Args:
        models: exit name -> a `Stage`, a module that takes the loader's images as they are, or an
            `ExitNetwork`, which is scored at all its exits.
        loader: batches ``(images, labels)``, dictionaries such as ``{"pixel_values": images,
            "labels": labels}``, or images alone; a torch DataLoader does. Images are what the
            models take: uint8 (N, C, H, W) or a list of (C, H, W) for stages with preprocessing,
            tensors for plain modules.
        costs: {unit: {part: cost}}, or {part: cost} for MACs; MACs counted on the first image
            unless given. A model is one part of its own name.
        classes: the names of the classes; by default those of the loader's data set, where it has
            as many as the models.
        ids: (N,) unique names of the samples; row numbers by default.
        groups: (N,) names; samples of one group share a split.
        split: shares of tune, certify and test, or (N,) split names; by default
            .2, .6 and .2, or .2 and .8 without test below 5,000 samples.
        keep_logits: keep all logits, as float16.
        measure: batch sizes at which ms per sample are measured afterwards, as the units
            ``ms@SIZE``: all models in turns, on the first images.
        progress: show a bar of the batches, where stderr is a terminal or in a notebook.

    >>> import torch
    >>> images = torch.randn(8, 4)
    >>> table = score({"tiny": nn.Linear(4, 3), "big": nn.Linear(4, 3)}, [(images, [0] * 8)])
    >>> table.prediction.shape, table.costs["MACs"]["tiny"]
    ((2, 8), 12.0)

    Raises:
        ModelError: no model, one that returns no finite logits (N, C), models whose classes differ
            in number, or one whose logits for an image depend on chance or on the rest of a batch.
        DataError: no batch, labels that are no class numbers, or that the models cannot answer, or
            a batch size below 1.
        TableError: ids, groups or splits that do not fit.
    """
    if not isinstance(models, Mapping):
        raise ModelError(
            f"models are given by name, {{NAME: model}}, found a {type(models).__name__}: name them"
        )
    if not models:
        raise ModelError("scoring needs at least one model, found none: name some")
    sizes = batch_sizes(measure)
    bars = progress_bars("batches", measuring="rounds") if progress else nullcontext(no_bar)
    with modes_kept(models.values()), bars as advance:
        stages_of(models)  # refuses two exits of one name
        run = _Run(
            runs={
                name: SourceRun(name, stages_of({name: model}), size=sys.maxsize)
                for name, model in models.items()
            },
            classes=classes,
            named=class_names_in(loader),
            keep_logits=keep_logits,
            wanted=max(sizes, default=0),
        )
        start, total = perf_counter(), length_hint(loader)
        for number, batch in enumerate(loader, start=1):
            run.add(batch)
            advance("scoring", number, total)
        sittings = run.measured(sizes, seconds_after(perf_counter() - start), advance)
    table = run.table(costs=costs, ids=ids, groups=groups, split=split)
    return replace(table, times={one.unit: one.median for one in sittings}, sittings=sittings)


@dataclass
class _Run:
    """The outputs of all batches so far, by exit, and their labels.

    Attributes:
        runs: each model, run on batches.
        classes: the names of the classes.
        named: those that the data set brings, taken where the models have as many.
        keep_logits: whether all logits are kept.
        wanted: how many images are kept, to be timed.
    """

    runs: Mapping[str, SourceRun]
    classes: Sequence[str] | None
    named: Sequence[str] | None
    keep_logits: bool
    wanted: int
    probes: dict[str, Probe] = field(default_factory=dict)
    outputs: dict[str, list[ExitOutputs]] = field(default_factory=dict)
    labels: list[Array] = field(default_factory=list)
    first: list[Any] = field(default_factory=list)
    count: int = 0

    def add(self, batch: Any) -> None:
        """Run all models on a batch of the loader."""
        images, labels = _images_and_labels(batch, self.classes)
        if not len(images):
            return
        if not self.probes:
            some = images[:CHECKED]
            self.probes = {name: probe(run.stages, some) for name, run in self.runs.items()}
            check_class_names(self.classes, self._classes, data="`classes`")
            if self.classes is None and len(self.named or ()) == self._classes:
                self.classes = self.named
        if labels is not None:
            self.labels.append(labels)
            check_labels(labels, self._classes, data="the loader")
        self.first.extend(images[: self.wanted - len(self.first)])
        ids = [str(self.count + row) for row in range(len(images))]
        for run in self.runs.values():
            found = run.outputs(images, ids=ids, keep_logits=self.keep_logits)
            for name, outputs in found.items():
                self.outputs.setdefault(name, []).append(outputs)
        self.count += len(images)

    @property
    def _classes(self) -> int:
        return common_classes({name: found.classes for name, found in self.probes.items()})

    def measured(
        self, sizes: Sequence[int], seconds: float, on_progress: Advance
    ) -> tuple[Sitting, ...]:
        """The times of all models at some batch sizes, on the first images."""
        stages = [stage for run in self.runs.values() for stage in run.stages.values()]
        return tuple(
            measure_rounds(
                {name: partial(dict, run.stages) for name, run in self.runs.items()},
                stacked(list(islice(cycle(self.first), size))),
                bytes_of=dict.fromkeys(self.runs, 0),  # all are in memory
                device=str(stages[0].device),
                seconds=seconds,
                on_progress=on_progress,
            )
            for size in (sizes if self.count else ())
        )

    def table(self, **more: Any) -> ScoreTable:
        """The table of all batches, without times.

        Raises:
            DataError: no batch, or labels of some batches only.
        """
        if not self.count:
            raise DataError("scoring needs at least one image, the loader gave none")
        labels = np.concatenate(self.labels) if self.labels else None
        if labels is not None and len(labels) != self.count:
            raise DataError(
                f"either every batch has labels or none has, found {len(labels)} labels for "
                f"{self.count} images"
            )
        outputs = {name: ExitOutputs.concatenate(pieces) for name, pieces in self.outputs.items()}
        halved = {
            exit: run.size
            for run in self.runs.values()
            for exit in run.stages
            if run.size < sys.maxsize
        }
        provenance = smaller_batches(halved)
        return table_of(
            self.probes, outputs, labels, classes=self.classes, provenance=provenance, **more
        )


def _images_and_labels(batch: Any, classes: Sequence[str] | None) -> tuple[Images, Array | None]:
    """Images as tensors, and labels or None."""
    images, labels = taken_apart(batch)
    found = _tensors(checked_images(images))
    return found, None if labels is None else _labels(labels, len(images), classes)


def _tensors(images: Any) -> Images:
    """Images as tensors; arrays are accepted as well."""
    if isinstance(images, np.ndarray):
        return as_tensor(images)
    if isinstance(images, Tensor):
        return images
    return [as_tensor(one) if isinstance(one, np.ndarray) else one for one in images]


def _labels(values: Any, count: int, classes: Sequence[str] | None) -> Array:
    labels = values.cpu() if isinstance(values, Tensor) else values
    labels = np.asarray(class_codes(labels, classes, "labels"))
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels are one class number per image, ({count},), found the shape {labels.shape} of "
            f"{labels.dtype}: give class numbers"
        )
    return labels
