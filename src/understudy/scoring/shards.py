"""Work in progress on disk: one Parquet shard per exit and block of batches, so that a run resumes.

TABLE.partial/manifest.json      what is being scored, and how
TABLE.partial/000/times.json     the first exit's times measured so far
TABLE.partial/000/00000.parquet  its first shard: positions and outputs there
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from understudy.errors import DataError
from understudy.exit import Detail
from understudy.files import keep_plan, read_json, replacing, write_json
from understudy.nn.confidence import confidence_functions
from understudy.scoring.outputs import ExitOutputs
from understudy.zoo.data import Array

FORMAT, VERSION = "understudy.partial", 1
SHARD_BATCHES = 8


class Shards:
    """The folder next to a table that holds an unfinished run.

    Args:
        table: the table's folder.
        plan: plain JSON that determines the scores; an older run resumes under the same one.

    Raises:
        DataError: an older run of another plan is in the way.
        UnderstudyError: the place cannot be written.
    """

    def __init__(self, table: Path, plan: Mapping[str, Any]) -> None:
        self.folder = table.with_name(f"{table.name}.partial")
        keep_plan(self.folder, plan, kind=FORMAT, newest=VERSION, what="an unfinished run")

    def times(self, exit: int) -> dict[str, dict[str, float]]:
        """The times measured so far, unit -> part -> ms per sample; a network's are kept with its
        first exit."""
        file = self._times(exit)
        kept: dict[str, dict[str, float]] = (
            read_json(file, DataError, "times") if file.exists() else {}
        )
        return kept

    def keep_times(self, exit: int, times: Mapping[str, Mapping[str, float]]) -> None:
        """Add measured times, unit -> part -> ms per sample."""
        write_json(self._times(exit), {**self.times(exit), **times})

    def has(self, exit: int, shard: int) -> bool:
        """Whether a shard is done."""
        return self._file(exit, shard).exists()

    def write(self, exit: int, shard: int, positions: Array, outputs: ExitOutputs | None) -> None:
        """Keep a shard, whole or not at all; None where none of its images could be decoded."""
        with replacing(self._file(exit, shard)) as temporary:
            _frame(positions, outputs).write_parquet(temporary, compression="lz4", statistics=False)

    def read(self, exit: int, shards: int) -> tuple[Array, ExitOutputs]:
        """Positions (n,) and the exit's outputs there, from its first shards.

        Raises:
            DataError: a shard is damaged.
        """
        files = [self._file(exit, shard) for shard in range(shards)]
        try:
            frames = [pl.read_parquet(file) for file in files]
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"unfinished work in {str(self.folder)!r} is damaged ({error}): delete that folder"
            ) from error
        frames = [frame for frame in frames if len(frame)]
        positions = np.concatenate([frame["position"].to_numpy() for frame in frames])
        return positions, ExitOutputs.concatenate([_outputs(frame) for frame in frames])

    def remove(self) -> None:
        """Delete the folder, when the table is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Delete the folder where no shard is done yet: there is nothing to resume."""
        if not any(self.folder.glob("*/*.parquet")):
            self.remove()

    def _times(self, exit: int) -> Path:
        return self.folder / f"{exit:03}" / "times.json"

    def _file(self, exit: int, shard: int) -> Path:
        return self.folder / f"{exit:03}" / f"{shard:05}.parquet"


def _frame(positions: Array, outputs: ExitOutputs | None) -> pl.DataFrame:
    columns = {"position": pl.Series(positions, dtype=pl.Int64)}
    if outputs is None:
        return pl.DataFrame(columns)
    detail = outputs.detail
    columns["prediction"] = pl.Series(outputs.prediction)
    columns |= {name: pl.Series(values) for name, values in outputs.confidence.items()}
    columns["top_class"] = _rows(detail.top_classes, pl.Int32)
    columns["top_probability"] = _rows(detail.top_probabilities, pl.Float32)
    if detail.logits is not None:
        columns["logits"] = _rows(detail.logits.view(np.uint16), pl.UInt16)
    return pl.DataFrame(columns)


def _outputs(frame: pl.DataFrame) -> ExitOutputs:
    logits = frame["logits"].to_numpy().view(np.float16) if "logits" in frame.columns else None
    return ExitOutputs(
        frame["prediction"].to_numpy(),
        {name: frame[name].to_numpy() for name in confidence_functions},
        Detail(frame["top_class"].to_numpy(), frame["top_probability"].to_numpy(), logits),
    )


def _rows(values: Array, dtype: Any) -> pl.Series:
    return pl.Series(np.ascontiguousarray(values), dtype=pl.Array(dtype, values.shape[1]))
