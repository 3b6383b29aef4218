"""A paper's rows on images: exits are trained, models scored, and policies searched; resumable.

INTO/PAPER.json         the record of all rows that were run
INTO/ROW/exits          trained exits, where the row has some
INTO/ROW/val            the score table of the images that figures are reported of
INTO/ROW/train          that of train images, where the paper's rule needs some
INTO/ROW/result.json    the certified search
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.extras import needing

with needing("a reproduction", extra="torch"):
    import torch

from understudy.early_exit.exit_sequence import SEQUENCE, SequenceSize
from understudy.early_exit.serialization import ExitFolder
from understudy.errors import DataError
from understudy.library_versions import installed_version
from understudy.looks import count_looks, log_look, looking
from understudy.progress_bars import Advance, no_bar
from understudy.reproduction.papers import LITTLE_BIG, Paper, PaperRow
from understudy.reproduction.procedures import RowTables, reproduce_row
from understudy.reproduction.record import Reproduction, RowFindings
from understudy.reproduction.settings import RunSettings
from understudy.reproduction.workload import RECORD_IMAGES, Rate
from understudy.scores import ScoreTable
from understudy.scoring.on_disk import score_into
from understudy.training.api import Note, train_exits
from understudy.training.config import TrainingConfig
from understudy.training.named_config import ALL
from understudy.zoo.models import build_stage

LIBRARIES = ("understudy", "torch", "torchvision", "timm", "numpy")
YARDSTICK, RATE_BATCH = "torchvision:resnet50", 8
"""The network, with random weights, by which the rate of a machine is measured."""


def reproduce(
    name: str,
    paper: Paper,
    rows: Sequence[PaperRow],
    settings: RunSettings,
    *,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> Reproduction:
    """Run rows of a paper one after another, and write the record after each.

    The same call resumes where it was interrupted: what is trained and scored stays, and a row
    whose scores are those of an earlier record is taken from it.

    Args:
        name: of the paper.
        paper: with that name.
        rows: of it.
        settings: what it is run with.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    Raises:
        DataError: images that cannot be read, a record of other settings in the folder, or no row
            that can be run.
        ModelError: a model that cannot be had, scored or split.
        UnderstudyError: a folder cannot be written.
    """
    left_out = settings.left_out(rows)
    runnable = [row for row in rows if row.name not in left_out]
    if not runnable:
        first = next(iter(left_out.items()))
        raise DataError(f"no row can be run, found {first[0]!r}, where {first[1]}")
    file = settings.into / f"{name}.json"
    record = _begun(file, name, settings)
    for row in runnable:
        on_note(f"row {row.name}")
        known = next((one for one in record.rows if one.row.name == row.name), None)
        found = _RowRuns(name, paper, row, settings, on_progress, on_note).findings(known)
        kept = [one for one in record.rows if one.row.name != row.name]
        order = [one.name for one in paper.rows]
        ordered = sorted([*kept, found], key=lambda one: order.index(one.row.name))
        gone = {k: v for k, v in record.left_out.items() if k != row.name} | left_out
        record = replace(record, rows=tuple(ordered), left_out=gone)
        record.save(file)
    return record


def measured_rate(device: str) -> Rate:
    """How fast a machine computes: one network with random weights, the fastest of three batches.

    Other networks reach more or less: those of depthwise convolutions and attention less.
    """
    stage = build_stage(f"{YARDSTICK}?weights=random").to(device)
    images = torch.zeros(RATE_BATCH, 3, 256, 256, dtype=torch.uint8)
    from understudy.nn.cost import count_parts, measure_parts

    times = measure_parts({"net": stage}, images, repeats=3)
    macs = sum(one.total for one in count_parts({"net": stage}, images[0]).values())
    rate = macs / (min(times.values()) / 1000)
    return Rate(
        rate,
        f"measured here: ResNet-50 with random weights, batches of {RATE_BATCH} on {device}, "
        f"{torch.get_num_threads()} threads",
    )


@dataclass(frozen=True)
class _RowRuns:
    """One row of a paper as it is run."""

    name: str
    paper: Paper
    row: PaperRow
    settings: RunSettings
    on_progress: Advance
    on_note: Note

    @property
    def folder(self) -> Path:
        return self.settings.into / self.row.name

    def findings(self, known: RowFindings | None) -> RowFindings:
        """What the row gives; the known findings where they are of the same scores and row."""
        models = self._models()
        table = self._scored("val", models, self.settings.data())
        train = None
        if self.settings.has_train and (self.row.exits is not None or self.name != LITTLE_BIG):
            train = self._scored("train", models, self.settings.data("train", RECORD_IMAGES))
        tables = RowTables(table, train)
        result = self.folder / "result.json"
        if known is not None and known.table == tables.hash and known.row == self.row:
            if result.is_file():
                return known
            self.on_note(f"{result} is gone: searched again")
        with looking(self.folder / "val"):
            looks = count_looks(self.folder / "val", table.ids) + 1
            found, searched = reproduce_row(self.name, self.row, tables, looks=looks)
            searched.save(result)
            log_look(self.folder / "val", table.ids, why=f"reproduce {self.name}")
        return replace(found, result=f"{self.row.name}/result.json")

    def _scored(self, part: str, models: Mapping[str, str], data: str) -> ScoreTable:
        settings = self.settings
        return score_into(
            self.folder / part,
            models,
            data,
            batch=settings.batch,
            workers=settings.workers,
            device=settings.device,
            keep_logits=False,
            measure_batches=None if part == "val" else (),
            on_progress=self.on_progress,
        )

    def _models(self) -> Mapping[str, str]:
        """Name -> spec of what is scored; exits are trained first."""
        models = self.row.models(self.settings.weights)
        if self.row.exits is None:
            return models
        folder = self.folder / "exits"
        if not self._trained(folder):
            self._train(folder, models)
        return {self.row.reference: f"exits:{folder}"}

    def _trained(self, folder: Path) -> bool:
        """Whether the exits of the row are there, trained as they would be now."""
        if not (folder / "exits.json").is_file():
            return False
        recipe = ExitFolder.read(folder).training.get("recipe", {})
        if recipe != self._config().to_dict():
            raise DataError(
                f"exits are trained once, those in {str(folder)!r} were trained with other "
                "settings: remove that folder, or reproduce into another one"
            )
        return True

    def _train(self, folder: Path, models: Mapping[str, str]) -> None:
        exits, settings = self.row.exits, self.settings
        assert exits is not None
        big = models[self.row.reference]
        savers = [f"{name}={spec}" for name, spec in models.items() if spec != big]
        train_exits(
            f"{self.row.reference}={big}",
            settings.data("train"),
            folder,
            taps=ALL,
            heads=exits.heads,
            saver=savers[0] if savers else None,
            sequence=SequenceSize.parse(exits.sequence) if exits.sequence else SEQUENCE,
            config=self._config(),
            cache_gb=settings.cache_gb,
            workers=settings.workers,
            device=settings.device,
            on_progress=self.on_progress,
            on_note=self.on_note,
        )

    def _config(self) -> TrainingConfig:
        """The paper's settings of training, as far as they are known and can be set."""
        own = dict(self.paper.training)
        if self.settings.epochs is not None:
            own |= {"epochs": self.settings.epochs, "patience": self.settings.epochs}
        return TrainingConfig.from_dict(TrainingConfig().to_dict() | own)


def _begun(file: Path, name: str, settings: RunSettings) -> Reproduction:
    """The record that is there, or a new one.

    Raises:
        DataError: it is of other settings.
    """
    data, limit, weights = settings.data(), settings.limit, settings.weights
    if not file.exists():
        return Reproduction(name, data, limit, weights, (), {}, _provenance(settings))
    record = Reproduction.load(file)
    for what, found, wanted in (
        ("the images", record.data, data),
        ("the weights", record.weights or "published", weights or "published"),
    ):
        if found != wanted:
            raise DataError(
                f"a record is of one run, {str(file)!r} has {what} {found!r} and not {wanted!r}: "
                "reproduce into another folder"
            )
    return replace(record, provenance=_provenance(settings))


def _provenance(settings: RunSettings) -> dict[str, Any]:
    libraries = {name: installed_version(name) for name in LIBRARIES}
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "libraries": {"python": platform.python_version(), **libraries},
        "epochs": settings.epochs,
        "batch": settings.batch,
    }
