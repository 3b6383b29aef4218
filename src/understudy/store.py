"""Score tables on disk: a folder of Parquet files and one JSON.

TABLE/table.json        format, version, exits, costs, provenance, the hashes of exits and logits
TABLE/samples.parquet   id, label (-1 where it is missing), split; label_set where some have several
TABLE/exits/000.parquet prediction, the confidences, top_class, top_probability
TABLE/logits/000.parquet logits (float16), where they were kept
TABLE/times.json        measured times: apart, since they differ from run to run
TABLE/looks.*           how often the certify samples have been read (see `understudy.looks`)

Every file carries the hash of what it holds (`documents`, `parquet_files`), so that labels, times
and looks are each replaced by themselves; table.json names the files and the samples that belong
together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from understudy.contained_files import check_contained
from understudy.documents import read_document, write_document
from understudy.errors import TableError, UnderstudyError
from understudy.exit import Array, Detail, Exit, LazyDetails
from understudy.extras import needing
from understudy.folders import read_unchanged, recover, replacing_folder
from understudy.lazy_table import LazyTable
from understudy.locks import locked
from understudy.looks import keep_looks
from understudy.parquet_files import ERRORS, read_parquet, write_parquet
from understudy.scores import ScoreTable
from understudy.sitting import Sitting, sittings_of
from understudy.split import SPLITS
from understudy.table_validation import Costs

with needing("a table on disk"):
    import polars as pl

FORMAT, VERSION = "understudy.table", 2
TIMES_FORMAT, TIMES_VERSION = "understudy.times", 2
_TABLE, _SAMPLES, _TIMES = "table.json", "samples.parquet", "times.json"
Content = TypeVar("Content")
_KEPT = 128  # columns of a lazy table, those that were read last
_ROWS_PER_BYTE = 64  # of the file of samples, whose ids differ: more is no table


def save_table(table: ScoreTable, path: str | Path) -> None:
    """Write a table as a folder, whole or not at all; an older table there is replaced.

    Looks at the samples of an older table stay counted, by their ids.

    >>> from tempfile import TemporaryDirectory
    >>> table = ScoreTable.from_predictions({"big": ([0, 1], [.9, .8])}, [0, 1], costs={"big": 9})
    >>> with TemporaryDirectory() as folder:
    ...     save_table(table, f"{folder}/table")
    ...     sorted(path.name for path in Path(folder, "table").iterdir())
    ['exits', 'samples.parquet', 'table.json']

    Raises:
        TableError: something that is no table is in the way.
        UnderstudyError: the place cannot be written.
    """
    check_target(path)
    with replacing_folder(path) as folder:
        (folder / "exits").mkdir()
        files: dict[str, str] = {}
        for number, name in enumerate(table.names):
            files |= _write_exit(table, name, folder, number)
        _write_samples(table, folder)
        write_document(folder / _TABLE, {**_head(table), "files": files})
        if table.times:
            save_times(folder, table.times, table.sittings)
        keep_looks(path, folder)


def load_table(path: str | Path) -> ScoreTable:
    """Read a table; top classes and logits are read on first use.

    >>> from tempfile import TemporaryDirectory
    >>> table = ScoreTable.from_predictions({"big": ([0, 1], [.9, .8])}, [0, 1], costs={"big": 9})
    >>> with TemporaryDirectory() as folder:
    ...     save_table(table, f"{folder}/table")
    ...     load_table(f"{folder}/table").hash == table.hash
    True

    Raises:
        TableError: no table there, one that was damaged or changed, or one that a newer version
            wrote.
    """
    return read_unchanged(path, _load)


def open_table(path: str | Path) -> LazyTable:
    """Open a table that may be larger than memory: its exits are read when they are asked for.

    The hash of a file is checked whenever it is read. The columns of about 64 exits, 8 bytes per
    sample each, are kept in memory.

    >>> from tempfile import TemporaryDirectory
    >>> table = ScoreTable.from_predictions({"big": ([0, 1], [.9, .8])}, [0, 1], costs={"big": 9})
    >>> with TemporaryDirectory() as folder:
    ...     save_table(table, f"{folder}/table")
    ...     open_table(f"{folder}/table").names
    ('big',)

    Raises:
        TableError: as for `load_table`.
    """
    return read_unchanged(path, _open)


def _open(folder: Path) -> LazyTable:
    return _reading(folder, _assemble_lazily)


def _load(folder: Path) -> ScoreTable:
    return _reading(folder, _assemble)


def _reading(folder: Path, assemble: Callable[[Path, Mapping[str, Any]], Content]) -> Content:
    """What is assembled of a folder and its description.

    Raises:
        TableError: no table, or a damaged one.
    """
    if not (folder / _TABLE).is_file():
        raise TableError(
            f"a score table is a folder with a {_TABLE}, {str(folder)!r} is none: make one with "
            "`understudy score` or `understudy import`"
        )
    check_contained(folder, error=TableError)
    head = _read_head(folder)
    try:
        return assemble(folder, head)
    except UnderstudyError:
        raise
    except (KeyError, TypeError, AttributeError, *ERRORS) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TableError(
            f"the score table {str(folder)!r} is damaged ({reason}): make it again"
        ) from error


def save_labels(path: str | Path, table: ScoreTable) -> None:
    """Write the labels of a table into its folder, whole or not at all; the rest stays as it is.

    Raises:
        TableError: no table there, or one of other samples.
        UnderstudyError: the place cannot be written.
    """
    with locked(path):
        if _samples_hash(load_table(path)) != _samples_hash(table):
            raise TableError(
                f"labels are written to the table of their samples, {str(path)!r} has other "
                "samples or splits: save the whole table"
            )
        _write_samples(table, Path(path))


def save_times(path: str | Path, times: Costs, sittings: Sequence[Sitting] = ()) -> None:
    """Write measured times (unit -> part -> ms per sample) next to the scores, with their spread
    where it is known."""
    plain = {unit: dict(parts) for unit, parts in times.items()}
    spread = {"sittings": [one.to_dict() for one in sittings]} if sittings else {}
    head = {"format": TIMES_FORMAT, "version": TIMES_VERSION}
    write_document(Path(path) / _TIMES, {**head, "times": plain, **spread})


def check_target(path: str | Path) -> None:
    """Refuse a place where a table would overwrite something that is no table.

    Raises:
        TableError: a file, or a folder of something else, is there.
    """
    target = recover(path)
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not (target / _TABLE).is_file():
        raise TableError(
            f"a table is written to a new folder or over an older table, {str(path)!r} is neither: "
            "choose another name"
        )


def stored_shares(path: str | Path) -> dict[str, float] | None:
    """The shares that split the table at `path`; None where there is none, or a column split it.

    A table that is written over an older one keeps them, so that no sample changes its split.
    """
    if not (recover(path) / _TABLE).is_file():
        return None
    head = _read_head(Path(path))
    found: dict[str, float] | None = head.get("provenance", {}).get("split", {}).get("shares")
    return found


def _read_head(folder: Path) -> dict[str, Any]:
    return read_document(
        folder / _TABLE,
        kind=FORMAT,
        newest=VERSION,
        what="a score table",
        error=TableError,
        remedy="make it again",
    )


def _read_times(folder: Path) -> dict[str, Any]:
    if not (folder / _TIMES).exists():
        return {"times": {}}
    return read_document(
        folder / _TIMES,
        kind=TIMES_FORMAT,
        newest=TIMES_VERSION,
        what="a file of times",
        error=TableError,
        remedy="measure again, or delete it",
    )


def _head(table: ScoreTable) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "samples": len(table),
        "samples_hash": _samples_hash(table),
        "exits": [
            {"name": exit.name, "parts": list(exit.parts), "origin": dict(exit.origin)}
            for exit in table.exits
        ],
        "confidences": list(table.confidence),
        "costs": {unit: dict(parts) for unit, parts in table.costs.items()},
        "classes": None if table.classes is None else list(table.classes),
        "provenance": dict(table.provenance),
    }


@dataclass(frozen=True, eq=False)
class _Files:
    """The Parquet files of a table: their hashes by name, or None in version 1, which had none."""

    folder: Path
    hashes: Mapping[str, str] | None
    rows: int

    @staticmethod
    def of(folder: Path, head: Mapping[str, Any]) -> _Files:
        rows, most = head["samples"], (folder / _SAMPLES).stat().st_size * _ROWS_PER_BYTE
        if rows > most:
            raise ValueError(f"{_SAMPLES} is too small for {rows:,} samples")
        return _Files(folder, None if head["version"] == 1 else head["files"], rows)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists() if self.hashes is None else name in self.hashes

    def samples(self) -> pl.DataFrame:
        return read_parquet(self.folder / _SAMPLES, sealed=self.hashes is not None, rows=self.rows)

    def read(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        digest = None if self.hashes is None else self.hashes[name]
        sealed = self.hashes is not None
        return read_parquet(
            self.folder / name, columns, sealed=sealed, digest=digest, rows=self.rows
        )


def _assemble(folder: Path, head: Mapping[str, Any]) -> ScoreTable:
    files = _Files.of(folder, head)
    numbers = range(len(head["exits"]))
    frames = [files.read(_exit_file(n), ["prediction", *head["confidences"]]) for n in numbers]
    return _table(files, head, frames)


def _assemble_lazily(folder: Path, head: Mapping[str, Any]) -> LazyTable:
    files, exits = _Files.of(folder, head), _exits(head)
    frame = files.read(_exit_file(0), ["prediction", *head["confidences"]])
    first = _table(files, {**head, "exits": head["exits"][:1]}, [frame])
    read = lru_cache(_KEPT)(partial(_read_column, files))
    return LazyTable(exits, first, read, fingerprint=_fingerprint(folder))


def _read_column(files: _Files, number: int, name: str) -> Array:
    """A column of one exit.

    Raises:
        TableError: the file is damaged, or that of a table that took the place of this one.
    """
    try:
        column: Array = files.read(_exit_file(number), [name])[name].to_numpy()
    except ERRORS as error:
        reason = str(error).splitlines()[0]
        raise TableError(
            f"{str(files.folder / _exit_file(number))!r} is damaged, or the table was changed "
            f"while it was read ({reason}): try again, or make it again"
        ) from error
    return column


def _fingerprint(folder: Path) -> str:
    """SHA-256 over the files that are replaced by themselves or name all others."""
    digest = hashlib.sha256()
    for name in (_TABLE, _SAMPLES, _TIMES):
        file = folder / name
        digest.update(hashlib.sha256(file.read_bytes() if file.exists() else b"").digest())
    return digest.hexdigest()


def _exits(head: Mapping[str, Any]) -> tuple[Exit, ...]:
    return tuple(Exit(e["name"], tuple(e["parts"]), e["origin"]) for e in head["exits"])


def _table(files: _Files, head: Mapping[str, Any], frames: Sequence[pl.DataFrame]) -> ScoreTable:
    """The table of the exits of a description, whose files were read."""
    exits, names = _exits(head), list(head["confidences"])
    samples, measured, classes = files.samples(), _read_times(files.folder), head["classes"]
    table = ScoreTable(
        exits=exits,
        prediction=np.stack([frame["prediction"].to_numpy() for frame in frames]),
        confidence={n: np.stack([frame[n].to_numpy() for frame in frames]) for n in names},
        label=samples["label"].to_numpy() if "label" in samples.columns else None,
        ids=np.array(samples["id"].to_list(), dtype=object),
        split=_split_codes(samples["split"]),
        costs=head["costs"],
        times=measured["times"],
        classes=None if classes is None else tuple(classes),
        details=_details(files, exits),
        provenance=head["provenance"],
        sittings=sittings_of(measured),
        label_sets=samples["label_set"].to_numpy() if "label_set" in samples.columns else None,
    )
    if files.hashes is not None and _samples_hash(table) != head["samples_hash"]:
        raise ValueError(f"{_SAMPLES} has other ids or splits")
    return table


def _samples_hash(table: ScoreTable) -> str:
    """SHA-256 over ids and splits, which stay when labels are added."""
    digest = hashlib.sha256("\0".join(map(str, table.ids)).encode())
    digest.update(np.ascontiguousarray(table.split).data)
    return digest.hexdigest()


def _split_codes(column: pl.Series) -> Array:
    return column.cast(pl.Enum(list(SPLITS))).to_physical().cast(pl.UInt8).to_numpy()


def _exit_file(number: int) -> str:
    return f"exits/{number:03}.parquet"


def _logits_file(number: int) -> str:
    return f"logits/{number:03}.parquet"


def _details(files: _Files, exits: tuple[Exit, ...]) -> LazyDetails:
    read = cache(_read_detail)
    return LazyDetails(
        {
            exit.name: partial(read, files, number)
            for number, exit in enumerate(exits)
            if "top_class" in pl.read_parquet_schema(files.folder / _exit_file(number))
        }
    )


def _read_detail(files: _Files, number: int) -> Detail:
    try:
        frame = files.read(_exit_file(number), ["top_class", "top_probability"])
        logits = _logits_file(number)
        stored = files.read(logits)["logits"].to_numpy() if files.has(logits) else None
    except ERRORS as error:
        raise TableError(
            f"{str(files.folder / _exit_file(number))!r} or its logits cannot be read ({error}): "
            "score that model again"
        ) from error
    return Detail(
        frame["top_class"].to_numpy(),
        frame["top_probability"].to_numpy(),
        None if stored is None else stored.view(np.float16),
    )


def _write_samples(table: ScoreTable, folder: Path) -> None:
    samples = {"id": pl.Series(table.ids.tolist(), dtype=pl.String)}
    if table.label is not None:
        samples["label"] = pl.Series(table.label)
    if table.label_sets is not None:
        samples["label_set"] = _array_column(table.label_sets, pl.Int32)
    samples["split"] = pl.Series([SPLITS[code] for code in table.split.tolist()])
    write_parquet(pl.DataFrame(samples), folder / _SAMPLES)


def _write_exit(table: ScoreTable, name: str, folder: Path, number: int) -> dict[str, str]:
    """Write the files of an exit, and return their hashes by name."""
    row, hashes = table.index(name), {}
    columns = {"prediction": pl.Series(table.prediction[row])}
    columns |= {key: pl.Series(rows[row]) for key, rows in table.confidence.items()}
    detail = table.details.get(name)
    if detail is not None:
        columns["top_class"] = _array_column(detail.top_classes, pl.Int32)
        columns["top_probability"] = _array_column(detail.top_probabilities, pl.Float32)
        if detail.logits is not None:
            (folder / "logits").mkdir(exist_ok=True)
            bits = np.ascontiguousarray(detail.logits, np.float16).view(np.uint16)
            frame = pl.DataFrame({"logits": _array_column(bits, pl.UInt16)})
            hashes[_logits_file(number)] = write_parquet(frame, folder / _logits_file(number))
    hashes[_exit_file(number)] = write_parquet(pl.DataFrame(columns), folder / _exit_file(number))
    return hashes


def _array_column(rows: Array, dtype: Any) -> pl.Series:
    return pl.Series(np.ascontiguousarray(rows), dtype=pl.Array(dtype, rows.shape[1]))
