"""Scoring models that specs name, on data that a spec names, into a table on disk; resumable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.files import only_writer
from understudy.library_versions import library_versions
from understudy.measured_rounds import seconds_after, size_of
from understudy.nn.identity import SAMPLE
from understudy.nn.stage import resizings_of, usable_device
from understudy.progress_bars import Advance, no_bar
from understudy.scores import ScoreTable
from understudy.scoring.further_exits import (
    already_scored,
    appended,
    check_new_names,
    check_same_data,
    table_at,
)
from understudy.scoring.job import ScoringJob
from understudy.scoring.probing import Probe, common_classes, exits_of, probe, table_of
from understudy.scoring.repeatability import CHECKED
from understudy.scoring.shard_scorer import ShardScorer
from understudy.scoring.shards import SHARD_BATCHES, Shards
from understudy.scoring.sources import Sources
from understudy.sitting import Sitting
from understudy.split import assign_splits
from understudy.store import check_target, load_table, save_table
from understudy.zoo.batches import first_images
from understudy.zoo.data import DataSet, check_class_order, open_data
from understudy.zoo.encoded import check_unchanged
from understudy.zoo.hf_models import label_names
from understudy.zoo.models import load_stages

_NAMED = 20  # corrupt images that the provenance names; all are counted
_LOGIT_CLASSES = 100  # up to which logits are kept by default: 2 bytes per class and sample


def score_into(
    path: str | Path,
    models: Mapping[str, str],
    data: str,
    *,
    batch: int = 256,
    keep_logits: bool | None = None,
    strict: bool = False,
    measure_batches: Sequence[int] | None = None,
    workers: int | None = None,
    split: Mapping[str, float] | Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    device: str | None = None,
    allow_code: Collection[str] = (),
    on_progress: Advance = no_bar,
    job_of: Callable[[ShardScorer, Shards, Advance], ScoringJob] = ScoringJob,
) -> ScoreTable:
    """Score models into the table at `path`, and read it back.

    Models whose weights fit into 2 GiB are in memory together, and each image is decoded once for
    them. Where memory runs out the batches of that model are halved, and all its scores are those
    of the smaller batches: ``provenance["runs"]`` has their size (`smaller_batches`).

    Unfinished work lies in ``PATH.partial``: the same call resumes where it was interrupted, and
    ends with the bytes of an undisturbed run (`times.json` apart). Where `path` is a table of the
    same data already, the models become further exits of it, and its split stays; those that it has
    already, the same under the same names, are left as they are. Several processes may score
    different models into one table at the same time.

    Images that cannot be decoded are left out for all models; ``provenance["corrupt"]`` counts and
    names them.

    Args:
        path: the table's folder.
        models: name -> model spec (`zoo.load_stages`); a network of ``exits:DIR`` brings all its
            exits.
        data: data spec (`zoo.open_data`).
        batch: samples per batch, at most; the last bits of the scores depend on it.
        keep_logits: keep all logits (float16, 2 bytes per class, sample and exit), from which
            `search` combines models; for up to 100 classes unless given.
        strict: treat a corrupt image as an error.
        measure_batches: batch sizes at which ms per sample are measured, as the units ``ms@SIZE``;
            none for an empty list. By default `batch`, or the number of images where that is
            less; and in any case those of the table that is at `path`, so that its units hold for
            all exits. A unit takes no longer than the scoring did, between 3 and 20 seconds,
            unless 3 rounds take longer. The default is lower where batches were halved.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        split: shares of tune, certify and test, or one split name per image; by default
            `split.default_shares`.
        groups: one name per image; images of one group share a split. By default the data's own.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        allow_code: the modules that specs ``py:module:factory`` in folders of exits may import.
        on_progress: called after every batch, and after every round in which times are measured.
        job_of: makes the job that scores and measures: in this process, unless it is
            `cluster.scoring_job.RayScoringJob`.

    Returns:
        The table at `path`, with all its exits.

    Raises:
        ModelError: models that cannot be loaded, that differ in their classes, whose logits are
            not finite, or that do not fit into memory.
        DataError: data that cannot be read, labels out of the models' range, a corrupt image with
            `strict`, or unfinished work of another kind.
        InUse: another process scores one of these models into the same table.
        TableError: something else is at `path`, a table of other data or with other models of
            these names, or a split that does not fit.
        UnderstudyError: `path` cannot be written.
    """
    target = Path(path)
    _check_arguments(models, batch, measure_batches or ())
    check_target(target)
    images = open_data(data)
    groups = images.groups if groups is None and images.groups is not None else groups
    assign_splits(images.ids, split, groups=groups)  # what does not fit fails before hours of work
    settings = _settings(batch, usable_device(device))
    older = table_at(target)
    if older is not None:
        check_same_data(older, target, images)
        Shards.remove_finished(target, older)
    probes = _probe_new(images, models, older, device=settings["device"], allow_code=allow_code)
    if older is not None and not probes:
        return older
    if keep_logits is None:
        keep_logits = all(one.classes <= _LOGIT_CLASSES for one in probes.values())
    files = _files_of(images)
    sources = {name: models[name] for name in probes}
    plan = _plan(images, sources, probes, {"logits": keep_logits, **files, **settings})
    with Shards.of(target, plan, check=partial(_check_resumable, images)) as shards:
        scorer = ShardScorer(
            images=images,
            sources=Sources(sources, probes, settings["device"], allow_code),
            batch=batch,
            workers=workers,
            keep_logits=keep_logits,
            strict=strict,
        )
        job = job_of(scorer, shards, on_progress)
        sittings = _scored_and_measured(job, measure_batches, older)
        further = replace(
            _table_of_job(job, split, groups, settings=settings, files=files),
            times={one.unit: one.median for one in sittings},
            sittings=sittings,
        )
        saved = _added(further, target, images)
        shards.remove()
    return saved


def _scored_and_measured(
    job: ScoringJob, measured: Sequence[int] | None, older: ScoreTable | None
) -> tuple[Sitting, ...]:
    """Score all sources of a job, and measure their times; see `_sizes`."""
    try:
        start = perf_counter()
        job.score()
        fitting = min(*job.sizes.values(), len(job.images))
        sizes = _sizes(measured, fitting, older)
        return job.measured(sizes, seconds=seconds_after(perf_counter() - start))
    except UnderstudyError:
        job.shards.remove_if_empty()
        raise


def _added(further: ScoreTable, target: Path, images: DataSet) -> ScoreTable:
    """The table at `target` after further exits were added to it, or it was made of them."""
    with only_writer(target):  # other runs may have added exits meanwhile
        older = table_at(target)
        if older is not None:
            check_same_data(older, target, images)
            check_new_names(older, target, further.names)
        save_table(further if older is None else appended(older, further), target)
        return load_table(target)


def _table_of_job(
    job: ScoringJob,
    split: Mapping[str, float] | Sequence[str] | None,
    groups: Sequence[str] | None,
    *,
    settings: Mapping[str, Any],
    files: Mapping[str, Any],
) -> ScoreTable:
    """The table of the exits that a job has scored, without times."""
    images, probes = job.images, job.sources.probes
    rows, outputs = job.read()
    corrupt = images.ids[~rows].tolist()
    return table_of(
        probes,
        outputs,
        None if images.right_answers is None else images.right_answers[rows],
        classes=images.classes or _names_of_models(probes),
        ids=images.ids[rows].tolist(),
        groups=None if groups is None else list(compress(groups, rows)),
        split=list(compress(split, rows)) if isinstance(split, Sequence) else split,
        provenance={
            "data": images.spec,
            "fingerprint": images.fingerprint,
            **files,
            **({"left_out": images.left_out} if images.left_out else {}),
            "corrupt": {"count": len(corrupt), "ids": corrupt[:_NAMED]},
            "runs": [{"exits": list(outputs), **settings, **job.halved}],
        },
    )


def _names_of_models(probes: Mapping[str, Probe]) -> tuple[str, ...] | None:
    """The names of the classes that the models have, where the data have none; None where models
    name them otherwise."""
    names = {one.class_names for one in probes.values() if one.class_names is not None}
    return names.pop() if len(names) == 1 else None


def _files_of(images: DataSet) -> dict[str, Any]:
    """What a table records of the files of images: their hashes, and how they are decoded."""
    if images.encoded is None:
        return {}
    return {"content": images.encoded.hash().to_dict(), "decoding": images.encoded.decoding}


def _check_arguments(models: Mapping[str, str], batch: int, measured: Sequence[int]) -> None:
    if not models:
        raise ModelError("scoring needs at least one model, found none: name some")
    if any(size < 1 for size in (batch, *measured)):
        raise DataError(f"batches have at least 1 sample, found {batch} and {list(measured)}")


def _sizes(measured: Sequence[int] | None, batch: int, older: ScoreTable | None) -> list[int]:
    """The batch sizes at which models are measured, with those of the table they are added to.

    Args:
        measured: those that were chosen; None for the default.
        batch: the default, for a new table.
        older: the table that exits are added to.
    """
    if measured is not None and not measured:
        return []
    units = [] if older is None else map(size_of, older.times)
    known = [size for size in units if size is not None]
    further = ([batch] if older is None else []) if measured is None else measured
    return list(dict.fromkeys([*known, *further]))


def _settings(batch: int, device: str) -> dict[str, Any]:
    """What else the last bits of the scores depend on, besides the models and the data."""
    return {
        "batch": batch,
        "device": device,
        "threads": torch.get_num_threads(),
        "libraries": library_versions(),
    }


def _probe_new(
    images: DataSet,
    sources: Mapping[str, str],
    older: ScoreTable | None,
    *,
    device: str,
    allow_code: Collection[str],
) -> dict[str, Probe]:
    """Run every source on some images, so that what cannot work fails before hours of scoring.

    Sources that the older table has already, the same models, are left out.

    Raises:
        ModelError: a model that cannot be loaded or run, whose logits depend on chance or on the
            rest of a batch, other classes than the others', or two exits of one name.
        DataError: no image that can be decoded, or labels that the models cannot answer.
        TableError: the older table has other models of these names.
    """
    probes: dict[str, Probe] = {}
    names: set[str] = set()
    for source, spec in sources.items():
        loaded = load_stages(spec, source, allow_code=allow_code)
        repeated = [name for name in loaded if name in names]
        if repeated:
            raise ModelError(
                f"exits have names of their own, {spec!r} brings {repeated[0]!r}, which is there "
                "already: leave one out, or name it NAME=SPEC"
            )
        names |= set(loaded)
        stages = {name: stage.to(device) for name, stage in loaded.items()}
        if older is None or not already_scored(older, stages):
            some = first_images(images, CHECKED, resizings=resizings_of(stages.values()))
            probes[source] = probe(stages, some)
            for stage in stages.values():
                check_class_order(images.classes, label_names(stage.model), data=repr(images.spec))
    if probes:
        classes = common_classes({name: one.classes for name, one in probes.items()})
        images.check_classes(classes)
        for one in probes.values():
            images.check_classes(classes, names=one.class_names)
    return probes


def _plan(
    images: DataSet,
    models: Mapping[str, str],
    probes: Mapping[str, Probe],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Plain JSON that determines the scores; an error names the first key that differs."""
    exits = exits_of(probes)
    return {
        "data": images.fingerprint,
        "models": dict(models),
        "weights": {exit.name: exit.origin["weights_hash"] for exit in exits},
        "shard": SHARD_BATCHES,
        **settings,
        "origin": {exit.name: {**exit.origin, SAMPLE: None} for exit in exits},  # it may round
    }


def _check_resumable(images: DataSet, plan: Mapping[str, Any]) -> None:
    """Refuse to resume work on files that have changed.

    Raises:
        DataError: the message names them.
    """
    if images.encoded is not None and "content" in plan and plan["data"] == images.fingerprint:
        check_unchanged(images.encoded, images.ids, plan, where="the unfinished part")
