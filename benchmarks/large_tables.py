"""Made-up tables of any size, written exit by exit, so that none is ever in memory.

Accuracies are 60 to 90 %, difficulty is shared between the models, and a confidence knows some of
it; every fourth model is quantised to few levels, so that ties occur, and some costs are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from understudy.documents import read_document, write_document
from understudy.errors import TableError
from understudy.parquet_files import write_parquet
from understudy.scores import ScoreTable
from understudy.store import FORMAT, VERSION, save_table

Array = npt.NDArray[Any]
CLASSES = 1000


@dataclass(frozen=True)
class LargeTable:
    """M models m0000, m0001, ... on N samples with one confidence; the same for the same seed."""

    models: int
    samples: int
    seed: int = 0

    @property
    def names(self) -> list[str]:
        return [f"m{number:04}" for number in range(self.models)]

    def accuracies(self) -> Array:
        return self._draw(0).uniform(0.6, 0.9, self.models)

    def costs(self) -> dict[str, float]:
        """Dearer is mostly better."""
        logs = 10 * self.accuracies() + self._draw(1).normal(size=self.models)
        return dict(zip(self.names, np.exp(logs).round(-2).tolist(), strict=True))

    def shared(self) -> tuple[Array, Array]:
        """The label and the ease of each sample, (N,) both."""
        draw = self._draw(2)
        labels = draw.integers(0, CLASSES, self.samples, np.int32)
        return labels, draw.standard_normal(self.samples, np.float32)

    def exit(self, model: int) -> tuple[Array, Array]:
        """The predictions and confidences of a model, (N,) both."""
        draw = self._draw(3 + model)
        labels, shared = _shared(self)
        ease = 0.8 * shared + 0.6 * draw.standard_normal(self.samples, np.float32)
        cut = int((1 - self.accuracies()[model]) * self.samples)
        margin = ease - np.partition(ease, cut)[cut]
        noise = np.float32(draw.uniform(0.3, 1)) * draw.standard_normal(self.samples, np.float32)
        sure = 1 / (1 + np.exp(-2 * (margin + noise)))
        wrong = (labels + draw.integers(1, CLASSES, self.samples, np.int32)) % CLASSES
        digits = int(draw.integers(1, 4))
        confidence = sure.round(digits) if model % 4 == 0 else sure
        return np.where(margin > 0, labels, wrong).astype(np.int32), confidence.astype(np.float32)

    def in_memory(self) -> ScoreTable:
        """The whole table, for small ones."""
        answers = {name: self.exit(number) for number, name in enumerate(self.names)}
        return ScoreTable.from_predictions(answers, self.shared()[0], costs=self.costs())

    def write(self, folder: Path, *, threads: int = 2) -> None:
        """Write the folder, an exit at a time in each thread."""
        few = LargeTable(1, self.samples, self.seed)
        first = ScoreTable.from_predictions(
            {"m0000": few.exit(0)}, self.shared()[0], costs={"m0000": 1.0}
        )
        save_table(first, folder)
        with ThreadPoolExecutor(threads) as pool:
            tasks = [(self, folder, number) for number in range(self.models)]
            hashes = dict(pool.map(_write_exit, tasks))
        file = folder / "table.json"
        head = read_document(
            file, kind=FORMAT, newest=VERSION, what="a table", error=TableError, remedy=""
        )
        exits = [{"name": name, "parts": [name], "origin": {}} for name in self.names]
        costs = {"MACs": self.costs()}
        write_document(file, {**head, "exits": exits, "costs": costs, "files": hashes})

    def _draw(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])


@contextmanager
def written(table: LargeTable, folder: Path) -> Iterator[Path]:
    """The folder of a table, which is removed in the end."""
    try:
        table.write(folder)
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


@cache
def _shared(table: LargeTable) -> tuple[Array, Array]:
    return table.shared()


def _write_exit(task: tuple[LargeTable, Path, int]) -> tuple[str, str]:
    table, folder, number = task
    answers, confidence = table.exit(number)
    frame = pl.DataFrame({"prediction": answers, "max_softmax": confidence})
    name = f"exits/{number:03}.parquet"
    return name, write_parquet(frame, folder / name)
