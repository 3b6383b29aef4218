"""Scoring models that specs name, on data that a spec names, into a table on disk; resumable."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.errors import DataError, ModelError, UnderstudyError, listed
from understudy.nn.device import usable_device
from understudy.scores import ScoreTable
from understudy.scoring.append import check_extends, extended
from understudy.scoring.job import Progress, ScoringJob, examine_all, exits_of
from understudy.scoring.outputs import Array, ExitOutputs
from understudy.scoring.probe import Probe
from understudy.scoring.shards import SHARD_BATCHES, Shards
from understudy.split import DEFAULT_SHARES, assign_splits
from understudy.store import check_target, load_table, save_table
from understudy.zoo.data import DataSet, open_data

_LIBRARIES = ("understudy", "torch", "torchvision", "timm", "numpy", "pillow")
_NAMED = 20  # corrupt images that the provenance names; all are counted


def _silent(name: str, done: int, total: int) -> None:
    """No progress is shown."""


def score_into(
    path: str | Path,
    models: Mapping[str, str],
    data: str,
    *,
    batch: int = 256,
    keep_logits: bool = False,
    strict: bool = False,
    measure_batches: Sequence[int] = (1, 32),
    workers: int = 2,
    split: Mapping[str, float] | Sequence[str] = DEFAULT_SHARES,
    groups: Sequence[str] | None = None,
    device: str | None = None,
    on_progress: Progress = _silent,
) -> ScoreTable:
    """Score models one after another into the table at `path`, and read it back.

    Unfinished work lies in ``PATH.partial``: the same call goes on where it was interrupted, and
    ends with the bytes of an undisturbed run (`times.json` apart). Where `path` is a table of the
    same data already, the models become further exits of it, and its split stays.

    Images that cannot be decoded are left out for all models; ``provenance["corrupt"]`` counts and
    names them.

    Args:
        path: the table's folder.
        models: name -> model spec (`zoo.load_stages`); a network of ``exits:DIR`` brings all its
            exits.
        data: data spec (`zoo.open_data`).
        batch: samples per batch; part of what decides the last bits of the scores.
        keep_logits: keep all logits, as float16.
        strict: take a corrupt image as an error.
        measure_batches: batch sizes at which ms per sample are measured, as the units ``ms@SIZE``.
        workers: threads that decode ahead.
        split: shares of tune, certify and test, or one split name per image.
        groups: one name per image; images of one group share a split. By default the data's own.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        on_progress: called after every batch.

    Raises:
        ModelError: models that cannot be loaded, that differ in their classes, or whose logits are
            not finite.
        DataError: data that cannot be read, labels out of the models' range, a corrupt image with
            `strict`, or unfinished work of another kind.
        TableError: something else is at `path`, a table of other data or with these exits, or a
            split that does not fit.
        UnderstudyError: `path` cannot be written.
    """
    target = Path(path)
    _check_arguments(models, batch, measure_batches)
    check_target(target)
    images = open_data(data)
    older = load_table(target) if target.is_dir() and any(target.iterdir()) else None
    groups = images.groups if groups is None and images.groups is not None else groups
    assign_splits(images.ids, split, groups=groups)  # what does not fit fails before hours of work
    facts = _run_facts(batch, usable_device(device))
    exams = examine_all(images, models, device=facts["device"])
    if older is not None:
        names = [exit.name for exit in exits_of(exams)]
        check_extends(older, target, fingerprint=images.fingerprint, names=names)
    job = ScoringJob(
        images=images,
        sources=models,
        exams=exams,
        shards=Shards(target, _plan(images, models, exams, {"logits": keep_logits, **facts})),
        batch=batch,
        workers=workers,
        keep_logits=keep_logits,
        strict=strict,
        device=facts["device"],
        on_progress=on_progress,
    )
    try:
        for source in models:
            job.score(source, measured=measure_batches)
    except UnderstudyError:
        job.shards.remove_if_bare()
        raise
    table = _table(job, facts=facts, split=split, groups=groups, measured=measure_batches)
    save_table(table if older is None else extended(older, table), target)
    job.shards.remove()
    return load_table(target)


def _table(
    job: ScoringJob,
    *,
    facts: Mapping[str, Any],
    split: Mapping[str, float] | Sequence[str],
    groups: Sequence[str] | None,
    measured: Sequence[int],
) -> ScoreTable:
    images = job.images
    seen, said = _read(job)
    corrupt = images.ids[~seen].tolist()
    table = ScoreTable.from_predictions(
        {name: (rows.prediction, rows.confidence) for name, rows in said.items()},
        None if images.labels is None else images.labels[seen],
        costs={"MACs": {p: macs for exam in job.exams.values() for p, macs in exam.macs.items()}},
        ids=images.ids[seen].tolist(),
        groups=None if groups is None else list(compress(groups, seen)),
        split=split if isinstance(split, Mapping) else list(compress(split, seen)),
        provenance={
            "data": images.spec,
            "fingerprint": images.fingerprint,
            "corrupt": {"count": len(corrupt), "ids": corrupt[:_NAMED]},
            "runs": [{"exits": [exit.name for exit in job.exits], **facts}],
        },
        parts={exit.name: exit.parts for exit in job.exits},
    )
    return replace(
        table,
        exits=job.exits,
        times=job.times(measured),
        classes=images.classes,
        details={name: rows.detail for name, rows in said.items()},
    )


def _plan(
    images: DataSet,
    models: Mapping[str, str],
    exams: Mapping[str, Probe],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """All that decides the scores, in plain JSON; what differs first is named first."""
    return {
        "data": images.fingerprint,
        "models": dict(models),
        "weights": {exit.name: exit.origin["weights_hash"] for exit in exits_of(exams)},
        "shard": SHARD_BATCHES,
        **facts,
        "origin": {exit.name: dict(exit.origin) for exit in exits_of(exams)},
    }


def _read(job: ScoringJob) -> tuple[Array, dict[str, ExitOutputs]]:
    """Which images every model has seen, (N,), and what each said about those."""
    kept = {
        exit.name: job.shards.read(number, len(job.blocks)) for number, exit in enumerate(job.exits)
    }
    seen = np.ones(len(job.images), bool)
    for positions, _ in kept.values():
        seen &= np.isin(np.arange(len(job.images)), positions)
    corrupt = job.images.ids[~seen].tolist()
    if corrupt and job.strict:
        raise DataError(
            f"images can be decoded, {len(corrupt)} of {len(seen)} cannot "
            f"({listed(map(repr, corrupt))}): mend or remove them"
        )
    return seen, {
        name: said.rows(np.flatnonzero(seen[positions])) for name, (positions, said) in kept.items()
    }


def _check_arguments(models: Mapping[str, str], batch: int, measured: Sequence[int]) -> None:
    if not models:
        raise ModelError("scoring needs at least one model, found none: name some")
    if any(size < 1 for size in (batch, *measured)):
        raise DataError(f"batches have at least 1 sample, found {batch} and {list(measured)}")


def _run_facts(batch: int, device: str) -> dict[str, Any]:
    """What decides the last bits of the scores beside the models and the data."""
    libraries = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "batch": batch,
        "device": device,
        "threads": torch.get_num_threads(),
        "libraries": libraries,
    }
