"""Scoring models that are in memory, on a loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from understudy.errors import DataError, ModelError
from understudy.nn.preprocess import as_tensor
from understudy.nn.stage import Images, Stage, stages_of
from understudy.runtime.loader_batch import taken_apart
from understudy.scores import ScoreTable
from understudy.scoring.outputs import (
    ExitOutputs,
    Probe,
    common_classes,
    probe,
    run_stages,
    table_of,
)
from understudy.scoring.repeatability import CHECKED
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
) -> ScoreTable:
    """Run every model on every batch and keep the outputs.

    Models run in eval mode, and are back in their own mode afterwards. What they write into their
    input changes neither the batches nor the scores of other models.

    Args:
        models: exit name -> a `Stage`, a module that takes the loader's images as they are, or an
            `ExitNetwork`, which is scored at all its exits.
        loader: batches ``(images, labels)``, dictionaries such as ``{"pixel_values": images,
            "labels": labels}``, or images alone; a torch DataLoader does. Images are what the
            models take: uint8 (N, C, H, W) or a list of (C, H, W) for stages with preprocessing,
            tensors for plain modules.
        costs: {unit: {part: cost}}, or {part: cost} for MACs; MACs counted on the first image
            unless given. A model is one part of its own name.
        classes: the names of the classes.
        ids: (N,) unique names of the samples; row numbers by default.
        groups: (N,) names; samples of one group share a split.
        split: shares of tune, certify and test, or (N,) split names; by default
            `split.default_shares`.
        keep_logits: keep all logits, as float16.

    >>> import torch
    >>> images = torch.randn(8, 4)
    >>> table = score({"tiny": nn.Linear(4, 3), "big": nn.Linear(4, 3)}, [(images, [0] * 8)])
    >>> table.prediction.shape, table.costs["MACs"]["tiny"]
    ((2, 8), 12.0)

    Raises:
        ModelError: no model, one that returns no finite logits (N, C), models whose classes differ
            in number, or one whose logits for an image depend on chance or on the rest of a batch.
        DataError: no batch, labels that are no class numbers, or that the models cannot answer.
        TableError: ids, groups or splits that do not fit.
    """
    if not models:
        raise ModelError("scoring needs at least one model, found none: name some")
    with _modes_kept(models):
        stages_of(models)  # refuses two exits of one name
        sources = {name: stages_of({name: model}) for name, model in models.items()}
        run = _run(sources, loader, classes=classes, keep_logits=keep_logits)
    labels = np.concatenate(run.labels) if run.labels else None
    if labels is not None and len(labels) != run.count:
        raise DataError(
            f"either every batch has labels or none has, found {len(labels)} labels for "
            f"{run.count} images"
        )
    return table_of(
        run.probes,
        {name: ExitOutputs.concatenate(pieces) for name, pieces in run.outputs.items()},
        labels,
        classes=classes,
        costs=costs,
        ids=ids,
        groups=groups,
        split=split,
    )


@contextmanager
def _modes_kept(models: Mapping[str, nn.Module]) -> Iterator[None]:
    """Training and eval modes of all modules, as they were before."""
    own = [model for model in models.values() if isinstance(model, nn.Module)]
    before = [(module, module.training) for model in own for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@dataclass
class _Run:
    """The outputs of all batches so far, by exit, and their labels."""

    probes: dict[str, Probe] = field(default_factory=dict)
    outputs: dict[str, list[ExitOutputs]] = field(default_factory=dict)
    labels: list[Array] = field(default_factory=list)
    count: int = 0


def _run(
    sources: Mapping[str, Mapping[str, Stage]],
    loader: Iterable[Any],
    *,
    classes: Sequence[str] | None,
    keep_logits: bool,
) -> _Run:
    run = _Run(outputs={exit: [] for stages in sources.values() for exit in stages})
    for batch in loader:
        images, labels = _images_and_labels(batch)
        if not len(images):
            continue
        if not run.probes:
            some = images[:CHECKED]
            run.probes = {name: probe(stages, some) for name, stages in sources.items()}
            count = common_classes({name: found.classes for name, found in run.probes.items()})
            check_class_names(classes, count, data="`classes`")
        if labels is not None:
            run.labels.append(labels)
            check_labels(labels, count, data="the loader")
        ids = [str(run.count + row) for row in range(len(images))]
        for stages in sources.values():
            for name, outputs in run_stages(stages, images, ids=ids, keep_logits=keep_logits):
                run.outputs[name].append(outputs)
        run.count += len(images)
    if not run.count:
        raise DataError("scoring needs at least one image, the loader gave none")
    return run


def _images_and_labels(batch: Any) -> tuple[Images, Array | None]:
    """Images as tensors, and labels or None."""
    images, labels = taken_apart(batch)
    return _tensors(images), None if labels is None else _labels(labels, len(images))


def _tensors(images: Any) -> Images:
    """Images as tensors; arrays are accepted as well."""
    if isinstance(images, np.ndarray):
        return as_tensor(images)
    if isinstance(images, Tensor):
        return images
    return [as_tensor(one) if isinstance(one, np.ndarray) else one for one in images]


def _labels(values: Any, count: int) -> Array:
    labels = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels are one class number per image, ({count},), found the shape {labels.shape} of "
            f"{labels.dtype}: give class numbers"
        )
    return labels
