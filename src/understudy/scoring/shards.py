"""The outputs of exits as shards on disk, until all are there.

TABLE.partial/manifest.json       the plan, and what was found of the models when all were probed
TABLE.partial/probes/003.json     what was found of source 3
TABLE.partial/003/00012.parquet   shard 12 of exit 3
TABLE.partial/003@64/             the same, of exits that ran on 64 samples at a time
TABLE.partial/sizes/003@64        source 3 runs on 64 samples at a time, for want of memory
TABLE.partial/ms@256.json         measured times
TABLE.partial/joined/             where processes have joined: `processes` (`members`), `claims` of
                                  shards and `probe_claims` of sources, and in manifest.json the
                                  arguments of the table that they make
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from understudy.errors import DataError, UnderstudyError
from understudy.exit import Detail
from understudy.files import beside, only_writer, read_json, sync, write_json, writing
from understudy.folders import remove_folder
from understudy.locks import InUse
from understudy.nn.confidence_functions import confidence_functions
from understudy.parquet_files import ERRORS, parquet_bytes, read_parquet
from understudy.scores import ScoreTable
from understudy.scoring.claims import check_claimable
from understudy.scoring.members import Members, check_nobody_joined
from understudy.scoring.outputs import ExitOutputs
from understudy.scoring.probing import Probe
from understudy.sitting import Sitting
from understudy.unfinished import (
    Plan,
    add_to_plan,
    holds_work,
    keep_plan,
    own_folder,
    plans_of,
    remove_finished,
    shared_folder,
)
from understudy.zoo.data import Array

FORMAT, VERSION, JOINED = "understudy.partial", 1, "understudy.joined"
SHARD_BATCHES = 8
_JOINED, _SIZES, _PROBES = "joined", "sizes", "probes"
_RUN = "an unfinished run"


class Shards:
    """The folder next to a table that holds an unfinished run.

    Args:
        folder: what `Shards.of` locked.
        plan: plain JSON that determines the scores; an older run resumes under the same one.
        check: called with the plan of an older run before they are compared.

    Attributes:
        sources: their names, in order.

    Raises:
        DataError: an older run of another plan is in the way.
        UnderstudyError: the place cannot be written.
    """

    def __init__(
        self, folder: Path, plan: Plan, *, check: Callable[[Plan], None] = lambda _: None
    ) -> None:
        self.folder = folder
        self.sources = list(plan["models"])
        keep_plan(self.folder, plan, kind=FORMAT, newest=VERSION, what=_RUN, check=check)

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
            check_nobody_joined(shards.processes)
            yield shards

    @staticmethod
    @contextmanager
    def joined(
        table: Path,
        plan: Plan,
        arguments: Plan,
        *,
        check: Callable[[Plan], None] = lambda _: None,
    ) -> Iterator[tuple[Shards, Members]]:
        """The shards of a run in which several processes work, and those processes.

        Args:
            table, plan, check: as for `of`.
            arguments: of the table, the same in all processes.

        Raises:
            InUse: a process that has not joined scores one of the models.
            UnderstudyError: the file system does not do what joining needs.
            DataError: what the class raises, or other arguments.
        """
        with ExitStack() as stack:

            def join(folder: Path, plan: Plan) -> tuple[Shards, Members]:
                shards = Shards(folder, plan, check=check)
                what = "joined scoring"
                keep_plan(folder / _JOINED, arguments, kind=JOINED, newest=1, what=what)
                check_claimable(shards.processes)
                members = Members(shards.processes)
                stack.callback(shards.remove_if_left, members, table)
                stack.enter_context(members.joined())
                return shards, members

            try:
                shards, members = shared_folder(table, plan, join, beside=_other_models)
            except InUse as error:
                raise InUse(
                    f"processes work on one table where all of them join, {str(table)!r} is that "
                    "of one that works alone: wait until it ends, or start it again with --join"
                ) from error
            yield shards, members

    @property
    def processes(self) -> Path:
        """The folder for the processes that have joined."""
        return self.folder / _JOINED / "processes"

    @property
    def claims(self) -> Path:
        """The folder for their claims."""
        return self.folder / _JOINED / "claims"

    @property
    def probe_claims(self) -> Path:
        """The folder for the claims of sources that are probed."""
        return self.folder / _JOINED / "probe_claims"

    @property
    def exist(self) -> bool:
        """Whether the folder is there still: who makes the table of it removes it."""
        return holds_work(self.folder)

    @staticmethod
    def remove_finished(table: Path, written: ScoreTable) -> None:
        """Delete what runs have left that were killed after they had written their table."""
        weights = {exit.name: exit.origin.get("weights_hash") for exit in written.exits}
        remove_finished(
            table, lambda plan: plan.get("weights", {"": ""}).items() <= weights.items()
        )

    @property
    def probed(self) -> set[str]:
        """The sources of which something was found, whole or damaged."""
        numbers = _numbers_in(self.folder / _PROBES, ".json")
        return {self.sources[number] for number in numbers}

    def probe(self, source: str) -> Probe | None:
        """What was found of a source; None where it was not probed, or the file is damaged."""
        try:
            return Probe.load(self._probe(source))
        except UnderstudyError:
            return None

    def keep_probe(self, source: str, found: Probe) -> None:
        """Keep what was found of a source."""
        file = self._probe(source)
        with writing(file):
            file.parent.mkdir(exist_ok=True)  # alone: the folder may have been removed meanwhile
        found.save(file)

    def keep_found(self, table: Path, found: Plan) -> None:
        """Keep what was found of all sources, and what follows from it, in the plan.

        Args:
            table: the table's folder, whose lock is held meanwhile.
            found: plain JSON.

        Raises:
            DataError: what an older run, or one that has joined, has found differs.
        """
        with only_writer(table):
            if self.exist:
                add_to_plan(self.folder, found, kind=FORMAT, newest=VERSION, what=_RUN)

    def sitting(self, unit: str) -> Sitting | None:
        """The times measured in a unit; None where they are not, or the file is damaged."""
        try:
            return Sitting.from_dict(read_json(self._times(unit), DataError, "times"))
        except UnderstudyError:
            return None

    def keep_sitting(self, sitting: Sitting) -> None:
        """Keep the times measured in a unit, unless the folder has been removed meanwhile."""
        if self.exist:
            write_json(self._times(sitting.unit), sitting.to_dict())

    @property
    def sizes(self) -> dict[str, int]:
        """The most samples at a time by source, where whole batches did not fit into memory."""
        found: dict[str, int] = {}
        for file in (self.folder / _SIZES).glob("*@*"):
            number, _, size = file.name.partition("@")
            source = self.sources[int(number)]
            found[source] = min(int(size), found.get(source, int(size)))
        return found

    def keep_size(self, source: str, size: int) -> None:
        """Keep the most samples of a source at a time; the lowest that anybody keeps is valid."""
        file = self.folder / _SIZES / f"{self.sources.index(source):03}@{size}"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            file.touch()

    def present(self, exit: str) -> set[int]:
        """The shards that are there, whole or damaged."""
        return _numbers_in(self.folder / exit, ".parquet")

    def has(self, exit: str, shard: int) -> bool:
        """Whether a shard is done; one that is damaged is not."""
        try:
            read_parquet(self._file(exit, shard), ["position"])
        except ERRORS:
            return False
        return True

    def write(self, exit: str, shard: int, content: bytes) -> None:
        """Keep what `shard_bytes` made of a shard, whole or not at all."""
        file = self._file(exit, shard)
        temporary = beside(file)
        with writing(file):
            file.parent.mkdir(exist_ok=True)  # alone: the folder may have been removed meanwhile
            try:
                temporary.write_bytes(content)
                sync(temporary)
                temporary.replace(file)
                sync(file.parent)
            finally:
                temporary.unlink(missing_ok=True)

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

    def remove_if_left(self, members: Members, table: Path) -> None:
        """Delete the folder where no shard is done and all processes that have joined are gone."""
        with only_writer(table):
            if self.exist and not members.others:
                self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Delete the folder where no shard is done yet: there is nothing to resume."""
        if not any(self.folder.glob("*/*.parquet")):
            self.remove()

    def _probe(self, source: str) -> Path:
        return self.folder / _PROBES / f"{self.sources.index(source):03}.json"

    def _times(self, unit: str) -> Path:
        return self.folder / f"{unit}.json"

    def _file(self, exit: str, shard: int) -> Path:
        return self.folder / exit / f"{shard:05}.parquet"


def _numbers_in(folder: Path, ending: str) -> set[int]:
    """The numbers that are the names of a folder's files."""
    try:
        with os.scandir(folder) as entries:
            names = [one.name.removesuffix(ending) for one in entries if one.name.endswith(ending)]
    except FileNotFoundError:
        return set()
    return {int(name) for name in names if name.isdecimal()}


def plan_with(table: Path, models: Collection[str]) -> Plan | None:
    """The plan of an unfinished run that scores some of these models; None where there is none."""
    named = {"models": dict.fromkeys(models)}
    return next((plan for plan in plans_of(table) if not _other_models(named, plan)), None)


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
