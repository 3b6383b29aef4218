"""Scoring models that specs name, on data that a spec names, into a table on disk; resumable."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.errors import DataError, ModelError, TableError, UnderstudyError, listed
from understudy.exit import Exit
from understudy.files import only_writer
from understudy.nn.identity import SAMPLE
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Stage, resizings_of, usable_device
from understudy.scores import Costs, ScoreTable
from understudy.scoring.measuring import measure, size_of, unit_of
from understudy.scoring.outputs import (
    SHARD_BATCHES,
    ExitOutputs,
    Probe,
    Shards,
    common_classes,
    exits_of,
    probe,
    run_stages,
    table_of,
)
from understudy.scoring.repeatability import CHECKED
from understudy.sitting import Sitting
from understudy.split import assign_splits
from understudy.store import check_target, load_table, save_table
from understudy.zoo.data import Array, DataSet, Progress, batches, no_progress, open_data
from understudy.zoo.encoded import check_unchanged
from understudy.zoo.models import load_stages

_LIBRARIES = ("understudy", "torch", "torchvision", "timm", "numpy", "pillow")
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
    workers: int = 2,
    split: Mapping[str, float] | Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    device: str | None = None,
    allow_code: Collection[str] = (),
    on_progress: Progress = no_progress,
) -> ScoreTable:
    """Score models one after another into the table at `path`, and read it back.

    Unfinished work lies in ``PATH.partial``: the same call resumes where it was interrupted, and
    ends with the bytes of an undisturbed run (`times.json` apart). Where `path` is a table of the
    same data already, the models become further exits of it, and its split stays. Several processes
    may score different models into one table at the same time.

    Images that cannot be decoded are left out for all models; ``provenance["corrupt"]`` counts and
    names them.

    Args:
        path: the table's folder.
        models: name -> model spec (`zoo.load_stages`); a network of ``exits:DIR`` brings all its
            exits.
        data: data spec (`zoo.open_data`).
        batch: samples per batch; the last bits of the scores depend on it.
        keep_logits: keep all logits (float16, 2 bytes per class, sample and exit), from which
            `search` combines models; for up to 100 classes unless given.
        strict: treat a corrupt image as an error.
        measure_batches: batch sizes at which ms per sample are measured, as the units ``ms@SIZE``;
            none for an empty list. By default `batch`, and in any case those of the table that is
            at `path`, so that its units hold for all exits.
        workers: threads that decode ahead.
        split: shares of tune, certify and test, or one split name per image; by default
            `split.default_shares`.
        groups: one name per image; images of one group share a split. By default the data's own.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        allow_code: the modules that specs ``py:module:factory`` in folders of exits may import.
        on_progress: called after every batch.

    Raises:
        ModelError: models that cannot be loaded, that differ in their classes, or whose logits are
            not finite.
        DataError: data that cannot be read, labels out of the models' range, a corrupt image with
            `strict`, or unfinished work of another kind.
        InUse: another process scores one of these models into the same table.
        TableError: something else is at `path`, a table of other data or with these exits, or a
            split that does not fit.
        UnderstudyError: `path` cannot be written.
    """
    target = Path(path)
    _check_arguments(models, batch, measure_batches or ())
    check_target(target)
    images = open_data(data)
    groups = images.groups if groups is None and images.groups is not None else groups
    assign_splits(images.ids, split, groups=groups)  # what does not fit fails before hours of work
    settings = _settings(batch, usable_device(device))
    probes = _probe_all(images, models, device=settings["device"], allow_code=allow_code)
    if keep_logits is None:
        keep_logits = all(one.classes <= _LOGIT_CLASSES for one in probes.values())
    files = _files_of(images)
    plan = _plan(images, models, probes, {"logits": keep_logits, **files, **settings})
    with Shards.of(target, plan, check=partial(_check_resumable, images)) as shards:
        job = ScoringJob(
            images=images,
            sources=models,
            probes=probes,
            shards=shards,
            batch=batch,
            workers=workers,
            keep_logits=keep_logits,
            strict=strict,
            device=settings["device"],
            allow_code=allow_code,
            on_progress=on_progress,
        )
        try:
            older = _older(target)
            if older is not None and shards.resumed and _has_all(older, exits_of(probes)):
                shards.remove()  # the run ended with its table written, and this left behind
                return older
            _check_appendable(older, target, images, exits_of(probes))
            for source in models:
                job.score(source)
            sittings = job.measured(_sizes(measure_batches, batch, older))
        except UnderstudyError:
            shards.remove_if_empty()
            raise
        further = replace(
            _table_of_job(job, split, groups, settings=settings, files=files),
            times={one.unit: one.median for one in sittings},
            sittings=sittings,
        )
        with only_writer(target):  # other runs may have added exits meanwhile
            older = _older(target)
            _check_appendable(older, target, images, exits_of(probes))
            save_table(further if older is None else _append(older, further), target)
            saved = load_table(target)
        shards.remove()
    return saved


def _table_of_job(
    job: ScoringJob,
    split: Mapping[str, float] | Sequence[str] | None,
    groups: Sequence[str] | None,
    *,
    settings: Mapping[str, Any],
    files: Mapping[str, Any],
) -> ScoreTable:
    """The table of the exits that a job has scored, without times."""
    images = job.images
    rows, outputs = job.read()
    corrupt = images.ids[~rows].tolist()
    return table_of(
        job.probes,
        outputs,
        None if images.labels is None else images.labels[rows],
        classes=images.classes,
        ids=images.ids[rows].tolist(),
        groups=None if groups is None else list(compress(groups, rows)),
        split=list(compress(split, rows)) if isinstance(split, Sequence) else split,
        provenance={
            "data": images.spec,
            "fingerprint": images.fingerprint,
            **files,
            "corrupt": {"count": len(corrupt), "ids": corrupt[:_NAMED]},
            "runs": [{"exits": list(outputs), **settings}],
        },
    )


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
    """The batch sizes at which models are measured, with those of the table they are added to."""
    if measured is not None and not measured:
        return []
    units = [] if older is None else map(size_of, older.times)
    known = [size for size in units if size is not None]
    further = ([batch] if older is None else []) if measured is None else measured
    return list(dict.fromkeys([*known, *further]))


def _settings(batch: int, device: str) -> dict[str, Any]:
    """What else the last bits of the scores depend on, besides the models and the data."""
    found = {name: installed_version(name) for name in _LIBRARIES}
    libraries = {name: one for name, one in found.items() if one is not None}
    return {
        "batch": batch,
        "device": device,
        "threads": torch.get_num_threads(),
        "libraries": {"python": platform.python_version(), **libraries},
    }


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _probe_all(
    images: DataSet, sources: Mapping[str, str], *, device: str, allow_code: Collection[str]
) -> dict[str, Probe]:
    """Run every source on some images, so that what cannot work fails before hours of scoring.

    Raises:
        ModelError: a model that cannot be loaded or run, whose logits depend on chance or on the
            rest of a batch, other classes than the others', or two exits of one name.
        DataError: no image that can be decoded, or labels that the models cannot answer.
    """
    probes: dict[str, Probe] = {}
    for source, spec in sources.items():
        loaded = load_stages(spec, source, allow_code=allow_code)
        stages = {name: stage.to(device) for name, stage in loaded.items()}
        known = {exit.name for exit in exits_of(probes)}
        repeated = [name for name in stages if name in known]
        if repeated:
            raise ModelError(
                f"exits have names of their own, {spec!r} brings {repeated[0]!r}, which is there "
                "already: leave one out, or name it NAME=SPEC"
            )
        some = images.first_images(CHECKED, resizings=resizings_of(stages.values()))
        probes[source] = probe(stages, some)
    images.check_classes(common_classes({name: one.classes for name, one in probes.items()}))
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
    on_progress: Progress

    @property
    def blocks(self) -> list[range]:
        """The positions of each shard: a fixed number of whole batches."""
        total, step = len(self.images), self.batch * SHARD_BATCHES
        return [range(start, min(start + step, total)) for start in range(0, total, step)]

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

    def measured(self, sizes: Sequence[int]) -> tuple[Sitting, ...]:
        """The times of all sources at some batch sizes, measured unless they are kept."""
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
                    self.images.first_images(size, resizings=resizings, workers=self.workers),
                    bytes_of=bytes_of,
                    device=self.device,
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


def _older(target: Path) -> ScoreTable | None:
    """The table that exits are added to; None where there is none yet."""
    check_target(target)
    return load_table(target) if target.is_dir() and any(target.iterdir()) else None


def _has_all(older: ScoreTable, exits: Sequence[Exit]) -> bool:
    """Whether a table has the very exits: the same models, seen in the same way."""
    known = {exit.name: exit for exit in older.exits}
    return all(
        exit.name in known and dict(known[exit.name].origin) == dict(exit.origin) for exit in exits
    )


def _check_appendable(
    older: ScoreTable | None, path: Path, images: DataSet, exits: Sequence[Exit]
) -> None:
    """Refuse to append exits that were scored on other data, or whose names are taken.

    Raises:
        TableError: the message has what differs.
    """
    if older is None:
        return
    found = older.provenance.get("fingerprint")
    if found != images.fingerprint:
        raise TableError(
            f"exits of one table are scored on the same data, {str(path)!r} has those of "
            f"{older.provenance.get('data', 'an import')!r} (fingerprint {str(found)[:12]}, here "
            f"{images.fingerprint[:12]}): choose another folder"
        )
    repeats = [exit.name for exit in exits if exit.name in older.names]
    if repeats:
        raise TableError(
            f"exit names are unique, {str(path)!r} has {listed(map(repr, repeats))} already: "
            "leave them out, name them NAME=SPEC, or choose another folder"
        )
    if images.encoded is not None:
        where = repr(str(path))
        check_unchanged(images.encoded, images.ids, older.provenance, where=where, error=TableError)


def _check_resumable(images: DataSet, plan: Mapping[str, Any]) -> None:
    """Refuse to resume work on files that have changed.

    Raises:
        DataError: the message names them.
    """
    if images.encoded is not None and "content" in plan and plan["data"] == images.fingerprint:
        check_unchanged(images.encoded, images.ids, plan, where="the unfinished part")


def _append(older: ScoreTable, further: ScoreTable) -> ScoreTable:
    """The older table with the exits of another one of the same samples; its split stays.

    Raises:
        TableError: the samples or the confidences differ.
    """
    if older.ids.tolist() != further.ids.tolist():
        raise TableError(
            f"exits of one table are scored on the same samples, found {len(further)} where the "
            f"table has {len(older)} (images that could not be decoded differ): mend the data, or "
            "choose another folder"
        )
    differing = set(older.confidence) ^ set(further.confidence)
    if differing:
        raise TableError(
            f"exits of one table have the same confidences, {listed(sorted(differing))} differ: "
            "choose another folder"
        )
    runs = [*older.provenance.get("runs", []), *further.provenance["runs"]]
    return replace(
        older,
        exits=(*older.exits, *further.exits),
        prediction=np.vstack([older.prediction, further.prediction]),
        confidence={
            name: np.vstack([rows, further.confidence[name]])
            for name, rows in older.confidence.items()
        },
        costs=_merge(older.costs, further.costs),
        times=_merge(older.times, further.times),
        sittings=(*older.sittings, *further.sittings),
        details={**older.details, **further.details},
        provenance={**older.provenance, "runs": runs},
    )


def _merge(older: Costs, further: Costs) -> dict[str, Mapping[str, float]]:
    return {unit: {**older.get(unit, {}), **further.get(unit, {})} for unit in {**older, **further}}
