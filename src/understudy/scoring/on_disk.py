"""Scoring models that specs name, on data that a spec names, into a table on disk; resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from understudy.errors import DataError, ModelError, UnderstudyError, listed
from understudy.files import only_writer
from understudy.measured_rounds import seconds_after, size_of
from understudy.nn.stage import usable_device
from understudy.progress_bars import Advance, no_bar
from understudy.scores import ScoreTable
from understudy.scoring.further_exits import (
    appended,
    check_new_names,
    check_same_data,
    has_exits,
    table_at,
)
from understudy.scoring.job import ScoringJob
from understudy.scoring.joined import JoinedScoring
from understudy.scoring.joined_probing import JoinedProbing
from understudy.scoring.launcher import own_gpu, sign_of_others
from understudy.scoring.new_sources import NewSources
from understudy.scoring.place import ScoringPlace, this_process
from understudy.scoring.plan import (
    OtherThreads,
    check_resumable,
    found_of,
    plan_of,
    settings_of,
    table_arguments,
    torch_threads,
)
from understudy.scoring.probing import Probe, table_of
from understudy.scoring.shard_scorer import ShardScorer
from understudy.scoring.shards import Shards, plan_with
from understudy.scoring.sources import Sources
from understudy.sitting import Sitting
from understudy.split import assign_splits
from understudy.store import check_target, load_table, save_table
from understudy.zoo.data import DataSet, open_data

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
    threads: int | None = None,
    join: bool = False,
    allow_code: Collection[str] = (),
    on_progress: Advance = no_bar,
    place_of: Callable[[str, int], AbstractContextManager[ScoringPlace]] = this_process,
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

    With `join` any number of processes, on any machines, score the same models into one table: each
    makes the same call, and returns the finished table. A process that is killed is replaced by the
    others. The folder lies on a file system that all of them share.

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
            .2, .6 and .2, or .2 and .8 without test below 5,000 samples.
        groups: one name per image; images of one group share a split. By default the data's own.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU. Of
            several GPUs a process that joins takes that of its number on the machine, as torchrun
            (LOCAL_RANK) and Slurm (SLURM_LOCALID) give it.
        threads: of PyTorch, on which the last bits of the scores may depend; its own number unless
            given, or that of the run that is joined.
        join: work together with all processes that join; else alone.
        allow_code: the modules that specs ``py:module:factory`` in folders of exits may import.
        on_progress: called after every batch, and after every round in which times are measured.
        place_of: makes the place where models are probed, scored and measured, for a device and a
            number of threads: this process, unless it is `cluster.scoring_job.on_ray`; not for
            processes that join.

    Returns:
        The table at `path`, with all its exits.

    Raises:
        ModelError: models that cannot be loaded, that differ in their classes, whose logits are
            not finite, or that do not fit into memory.
        DataError: data that cannot be read, labels out of the models' range, a corrupt image with
            `strict`, or unfinished work of another kind.
        InUse: another process scores one of these models into the same table, and not both join.
        TableError: something else is at `path`, a table of other data or with other models of
            these names, or a split that does not fit.
        UnderstudyError: `path` cannot be written.
    """
    _check_arguments(models, batch, measure_batches or (), threads)
    check_target(path)
    if device is None and join:
        device = own_gpu(os.environ, torch.cuda.device_count())
    device = usable_device(device)
    with place_of(device, threads or torch.get_num_threads()) as place:
        images = open_data(data)
        groups = images.groups if groups is None and images.groups is not None else groups
        assign_splits(images.ids, split, groups=groups)  # what does not fit fails before hours
        request = _Request(
            target=Path(path),
            models=models,
            images=images,
            batch=batch,
            keep_logits=keep_logits,
            strict=strict,
            measured=measure_batches,
            workers=workers,
            split=split,
            groups=groups,
            device=device,
            join=join,
            allow_code=allow_code,
            on_progress=on_progress,
            place=place,
        )
        return _scored_with(threads, request)


@dataclass(frozen=True)
class _Request:
    """What `score_into` was called with, checked; see there."""

    target: Path
    models: Mapping[str, str]
    images: DataSet
    batch: int
    keep_logits: bool | None
    strict: bool
    measured: Sequence[int] | None
    workers: int | None
    split: Mapping[str, float] | Sequence[str] | None
    groups: Sequence[str] | None
    device: str
    join: bool
    allow_code: Collection[str]
    on_progress: Advance
    place: ScoringPlace


def _scored_with(threads: int | None, request: _Request) -> ScoreTable:
    """The table at the target, with so many threads, or as many as the run that is joined."""
    join, found = request.join, None
    if join and threads is None:
        found = plan_with(request.target, request.models)
    number = int(found.get("threads", 0)) if found is not None else threads
    while True:
        with torch_threads(number or torch.get_num_threads()):
            try:
                table = _scored(request)
            except OtherThreads as error:  # others that join began meanwhile
                if not join or threads is not None:
                    raise
                number = error.threads
            else:
                if table is not None:
                    return table


def _scored(request: _Request) -> ScoreTable | None:
    """The table at the target, with the exits of all models.

    Returns:
        None where others have written it meanwhile: what it lacks is another question then.
    """
    target, images = request.target, request.images
    settings, files = settings_of(request.batch, request.device), _files_of(images)
    older = table_at(target)
    if older is not None:
        check_same_data(older, target, images)
        Shards.remove_finished(target, older)
    models = NewSources(request.models, images, request.device, request.allow_code).beside(older)
    if older is not None and not models.specs:
        return older
    plan = plan_of(images, models.specs, {**files, **settings})
    check = partial(check_resumable, images)
    if not request.join:
        with Shards.of(target, plan, check=check) as shards:
            with _removed_if_empty(shards):
                sources = request.place.probed(models, shards, request.on_progress)
                check_new_names(older, target, [one.name for one in sources.exits])
            job = request.place.job(_scorer(request, sources, shards), shards, request.on_progress)
            return _written(job, request, older, settings=settings, files=files)
    arguments = table_arguments(
        measured=request.measured, split=request.split, groups=request.groups, strict=request.strict
    )
    with Shards.joined(target, plan, arguments, check=check) as (shards, members):
        if _names(table_at(target)) != _names(older):
            return None
        probes = JoinedProbing(shards, members, request.on_progress).probes(models.probe)
        if probes is None:
            if _names(table_at(target)) == _names(older):
                raise _removed(target, models.specs)
            return None
        sources = models.probed(probes)
        check_new_names(older, target, [one.name for one in sources.exits])
        job = ScoringJob(_scorer(request, sources, shards), shards, request.on_progress)
        joined = JoinedScoring(job, members, expected=sign_of_others(os.environ))
        if not has_exits(table_at(target), sources) and joined.score():
            try:
                return _written(job, request, older, settings=settings, files=files)
            except UnderstudyError:  # others have taken over, where this process was suspended
                if not has_exits(table_at(target), sources):
                    raise
    table = table_at(target)
    if table is None or not has_exits(table, sources):
        raise _removed(target, models.specs)
    return table


def _names(table: ScoreTable | None) -> tuple[str, ...]:
    return () if table is None else table.names


def _scorer(request: _Request, sources: Sources, shards: Shards) -> ShardScorer:
    """What scores shards of sources that are probed; what was found of them joins the plan."""
    keep_logits = request.keep_logits
    if keep_logits is None:
        keep_logits = all(one.classes <= _LOGIT_CLASSES for one in sources.probes.values())
    shards.keep_found(request.target, found_of(sources, keep_logits=keep_logits))
    return ShardScorer(
        images=request.images,
        sources=sources,
        batch=request.batch,
        workers=request.workers,
        keep_logits=keep_logits,
        strict=request.strict,
    )


@contextmanager
def _removed_if_empty(shards: Shards) -> Iterator[None]:
    """Leave nothing of a run that cannot be, unless there are shards already."""
    try:
        yield
    except UnderstudyError:
        shards.remove_if_empty()
        raise


def _written(
    job: ScoringJob,
    request: _Request,
    older: ScoreTable | None,
    *,
    settings: Mapping[str, Any],
    files: Mapping[str, Any],
) -> ScoreTable:
    """Score what is missing, measure times and write the table."""
    sittings = _scored_and_measured(job, request.measured, older)
    further = replace(
        _table_of_job(job, request.split, request.groups, settings=settings, files=files),
        times={one.unit: one.median for one in sittings},
        sittings=sittings,
    )
    saved = _added(further, request.target, request.images)
    job.shards.remove()
    return saved


def _removed(target: Path, models: Iterable[str]) -> DataError:
    """What a process that has joined says when neither the folder nor the table is there."""
    return DataError(
        f"joined processes find their unfinished work beside {str(target)!r} until the table is "
        f"written, it was removed before {listed(models)} were scored: start again"
    )


def _scored_and_measured(
    job: ScoringJob, measured: Sequence[int] | None, older: ScoreTable | None
) -> tuple[Sitting, ...]:
    """Score all sources of a job, and measure their times; see `_sizes`."""
    with _removed_if_empty(job.shards):
        start = perf_counter()
        job.score()
        fitting = min(*job.sizes.values(), len(job.images))
        sizes = _sizes(measured, fitting, older)
        return job.measured(sizes, seconds=seconds_after(perf_counter() - start))


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


def _check_arguments(
    models: Mapping[str, str], batch: int, measured: Sequence[int], threads: int | None
) -> None:
    if threads is not None and threads < 1:
        raise ModelError(f"PyTorch takes at least 1 thread, found {threads}: give more, or none")
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
