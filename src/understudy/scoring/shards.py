"""The outputs of exits as shards on disk, until all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from understudy.errors import DataError, UnderstudyError
from understudy.exit import Detail
from understudy.files import read_json, replacing, write_json
from understudy.folders import remove_folder
from understudy.nn.confidence_functions import confidence_functions
from understudy.parquet_files import ERRORS, parquet_bytes, read_parquet
from understudy.scores import ScoreTable
from understudy.scoring.outputs import ExitOutputs
from understudy.sitting import Sitting
from understudy.unfinished import Plan, keep_plan, own_folder, remove_finished
from understudy.zoo.data import Array

FORMAT, VERSION = "understudy.partial", 1
SHARD_BATCHES = 8


class Shards:
    """The folder next to a table that holds an unfinished run.

    Args:
        folder: what `Shards.of` locked.
        plan: plain JSON that determines the scores; an older run resumes under the same one.
        check: called with the plan of an older run before they are compared.

    Raises:
        DataError: an older run of another plan is in the way.
        UnderstudyError: the place cannot be written.
    """

    def __init__(
        self, folder: Path, plan: Plan, *, check: Callable[[Plan], None] = lambda _: None
    ) -> None:
        self.folder = folder
        what = "an unfinished run"
        keep_plan(self.folder, plan, kind=FORMAT, newest=VERSION, what=what, check=check)

    @staticmethod
    @contextmanager
    def of(
        table: Path, plan: Plan, *, check: Callable[[Plan], None] = lambda _: None
    ) -> Iterator[Shards]:
        """The shards of a run, in a folder that no other process uses while the block runs.

        Runs that score other models work beside this one, in folders of their own.

        Raises:
            InUse: another process scores one of the models.
            DataError: what the class raises.
        """
        with own_folder(table, plan, partial(Shards, check=check), beside=_other_models) as shards:
            yield shards

    @staticmethod
    def remove_finished(table: Path, written: ScoreTable) -> None:
        """Delete what runs have left that were killed after they had written their table."""
        weights = {exit.name: exit.origin.get("weights_hash") for exit in written.exits}
        remove_finished(
            table, lambda plan: plan.get("weights", {"": ""}).items() <= weights.items()
        )

    def sitting(self, unit: str) -> Sitting | None:
        """The times measured in a unit; None where they are not, or the file is damaged."""
        try:
            return Sitting.from_dict(read_json(self._times(unit), DataError, "times"))
        except UnderstudyError:
            return None

    def keep_sitting(self, sitting: Sitting) -> None:
        """Keep the times measured in a unit."""
        write_json(self._times(sitting.unit), sitting.to_dict())

    @property
    def sizes(self) -> dict[str, int]:
        """The most samples at a time by source, where whole batches did not fit into memory."""
        try:
            found = read_json(self._sizes, DataError, "sizes")
        except UnderstudyError:
            return {}
        return {name: int(size) for name, size in found.items()}

    def keep_size(self, source: str, size: int) -> None:
        """Keep the most samples of a source at a time."""
        write_json(self._sizes, {**self.sizes, source: size})

    def has(self, exit: str, shard: int) -> bool:
        """Whether a shard is done; one that is damaged is not."""
        try:
            read_parquet(self._file(exit, shard), ["position"])
        except ERRORS:
            return False
        return True

    def write(self, exit: str, shard: int, content: bytes) -> None:
        """Keep what `shard_bytes` made of a shard, whole or not at all."""
        with replacing(self._file(exit, shard)) as temporary:
            temporary.write_bytes(content)

    def read(self, exit: str, shards: int) -> tuple[Array, ExitOutputs]:
        """Positions (n,) and the exit's outputs there, from its first shards.

        Raises:
            DataError: a shard is damaged.
        """
        frames = []
        for file in (self._file(exit, shard) for shard in range(shards)):
            try:
                frames.append(read_parquet(file))
            except ERRORS as error:
                raise DataError(
                    f"unfinished work is whole, {str(file)!r} was damaged while scoring: score "
                    "again, which repairs it"
                ) from error
        frames = [frame for frame in frames if len(frame)]
        positions = np.concatenate([frame["position"].to_numpy() for frame in frames])
        return positions, ExitOutputs.concatenate([_outputs(frame) for frame in frames])

    def remove(self) -> None:
        """Delete the folder, when the table is written."""
        remove_folder(self.folder)

    def remove_if_empty(self) -> None:
        """Delete the folder where no shard is done yet: there is nothing to resume."""
        if not any(self.folder.glob("*/*.parquet")):
            self.remove()

    @property
    def _sizes(self) -> Path:
        return self.folder / "sizes.json"

    def _times(self, unit: str) -> Path:
        return self.folder / f"{unit}.json"

    def _file(self, exit: str, shard: int) -> Path:
        return self.folder / exit / f"{shard:05}.parquet"


def _other_models(plan: Plan, other: Plan) -> bool:
    return not set(plan["models"]) & set(other.get("models", plan["models"]))


def shard_bytes(positions: Array, outputs: ExitOutputs | None) -> bytes:
    """The file of an exit's outputs (n rows) at some positions (n,), with its hash; None where none
    of the shard's images could be decoded."""
    return parquet_bytes(_frame(positions, outputs), compression="lz4")


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
