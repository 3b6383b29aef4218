"""What a reproduction is run with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.reproduction.papers import Paper, PaperRow
from understudy.reproduction.workload import Rate, Workload, workload_of
from understudy.zoo.imagenet_images import PARENTS


@dataclass(frozen=True)
class RunSettings:
    """What a run is made with.

    Attributes:
        imagenet: the folder of ImageNet (`zoo.imagenet_images`); None for a plan alone.
        into: where tables, exits, results and the record go.
        limit: the most images of each set, in turn from the classes; None for all.
        weights: "random" for models without their published weights; otherwise empty.
        epochs: of training exits, in place of the paper's.
        batch: images per batch.
        workers: threads that decode; one per core and at most 8 unless given.
        cache_gb: disk space for the features of train images.
        device: as torch names it; an NVIDIA GPU if there is one, else the CPU.
    """

    imagenet: Path | None
    into: Path
    limit: int | None = None
    weights: str = ""
    epochs: int | None = None
    batch: int = 256
    workers: int | None = None
    cache_gb: float = 8.0
    device: str | None = None

    def data(self, split: str = "", most: int | None = None) -> str:
        """The spec of the images of a split: those that figures are reported of, or train."""
        limits = [limit for limit in (self.limit, most) if limit is not None]
        options = [f"split={split}"] if split else []
        options += [f"limit={min(limits)}"] if limits else []
        return f"imagenet:{self.imagenet}" + (f"?{'&'.join(options)}" if options else "")

    @property
    def has_train(self) -> bool:
        """Whether there are train images; assumed where no folder is named."""
        if self.imagenet is None:
            return True
        return any((self.imagenet / parent / "train").is_dir() for parent in PARENTS)

    def left_out(self, rows: Sequence[PaperRow]) -> dict[str, str]:
        """Row -> why it cannot be run here."""
        reasons = {row.name: row.missing for row in rows if row.missing}
        if self.has_train:
            return reasons
        needing = [row.name for row in rows if row.exits is not None]
        why = f"its exits are trained on train images, {str(self.imagenet)!r} has no train/"
        return reasons | dict.fromkeys(needing, why)

    def workload(
        self, name: str, paper: Paper, rows: Sequence[PaperRow], *, rate: Rate | None = None
    ) -> Workload:
        """What rows of a paper take with these settings, at the rate of a machine."""
        return workload_of(
            name,
            paper,
            rows,
            limit=self.limit,
            epochs=self.epochs,
            downloads=not self.weights,
            train=self.has_train,
            rate=rate,
            left_out=self.left_out(rows),
        )
