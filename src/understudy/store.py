"""Score tables on disk: a folder of Parquet files and one JSON.

TABLE/table.json        format, version, exits, costs, provenance
TABLE/samples.parquet   id, label (-1 where it is missing), split
TABLE/exits/000.parquet prediction, the confidences, top_class, top_probability
TABLE/logits/000.parquet logits (float16), where they were kept
TABLE/times.json        measured times: apart, since they differ from run to run
TABLE/looks.*           how often the certify samples have been read (see `understudy.looks`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from understudy.errors import TableError, UnderstudyError
from understudy.exit import Array, Detail, Exit, LazyDetails
from understudy.files import check_version, read_json, replacing, replacing_folder, write_json
from understudy.looks import keep_looks
from understudy.scores import ScoreTable
from understudy.sitting import Sitting, sittings_of
from understudy.split import SPLITS
from understudy.table_validation import Costs

FORMAT, VERSION = "understudy.table", 1
_TABLE, _SAMPLES, _TIMES = "table.json", "samples.parquet", "times.json"
_PARQUET_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def save_table(table: ScoreTable, path: str | Path) -> None:
    """Write a table as a folder, whole or not at all; an older table there is replaced.

    Looks at the samples of an older table stay counted, by their ids.

    Raises:
        TableError: something that is no table is in the way.
        UnderstudyError: the place cannot be written.
    """
    check_target(path)
    with replacing_folder(path) as folder:
        (folder / "exits").mkdir()
        for number, name in enumerate(table.names):
            _write_exit(table, name, folder, number)
        _write_samples(table, folder)
        write_json(folder / _TABLE, _head(table))
        if table.times:
            save_times(folder, table.times, table.sittings)
        keep_looks(path, folder)


def load_table(path: str | Path) -> ScoreTable:
    """Read a table; top classes and logits are read on first use.

    Raises:
        TableError: no table there, a broken one, or one that a newer version wrote.
    """
    folder = Path(path)
    if not (folder / _TABLE).is_file():
        raise TableError(
            f"a score table is a folder with a {_TABLE}, {str(path)!r} is none: make one with "
            "`understudy score` or `understudy import`"
        )
    head = read_json(folder / _TABLE, TableError, "a score table")
    check_version(head, kind=FORMAT, newest=VERSION, path=folder / _TABLE, error=TableError)
    try:
        return _assemble(folder, head)
    except UnderstudyError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, *_PARQUET_ERRORS) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TableError(
            f"the score table {str(path)!r} is damaged ({reason}): make it again"
        ) from error


def save_labels(path: str | Path, table: ScoreTable) -> None:
    """Write the labels of a table into its folder, whole or not at all; the rest stays as it is.

    Raises:
        TableError: no table there, or one of other samples.
        UnderstudyError: the place cannot be written.
    """
    if load_table(path).ids.tolist() != table.ids.tolist():
        raise TableError(
            f"labels are written to the table of their samples, {str(path)!r} has other samples: "
            "save the whole table"
        )
    _write_samples(table, Path(path))


def save_times(path: str | Path, times: Costs, sittings: Sequence[Sitting] = ()) -> None:
    """Write measured times (unit -> part -> ms per sample) next to the scores.

    Without sittings the file is that of version 1.
    """
    head = {"format": "understudy.times", "version": 2 if sittings else 1}
    spread = {"sittings": [one.to_dict() for one in sittings]} if sittings else {}
    plain = {unit: dict(parts) for unit, parts in times.items()}
    write_json(Path(path) / _TIMES, {**head, "times": plain, **spread})


def check_target(path: str | Path) -> None:
    """Refuse a place where a table would overwrite something that is no table.

    Raises:
        TableError: a file, or a folder of something else, is there.
    """
    target = Path(path)
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
    if not (Path(path) / _TABLE).is_file():
        return None
    head = read_json(Path(path) / _TABLE, TableError, "a score table")
    found: dict[str, float] | None = head.get("provenance", {}).get("split", {}).get("shares")
    return found


def _head(table: ScoreTable) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "samples": len(table),
        "exits": [
            {"name": exit.name, "parts": list(exit.parts), "origin": dict(exit.origin)}
            for exit in table.exits
        ],
        "confidences": list(table.confidence),
        "costs": {unit: dict(parts) for unit, parts in table.costs.items()},
        "classes": None if table.classes is None else list(table.classes),
        "provenance": dict(table.provenance),
    }


def _assemble(folder: Path, head: Mapping[str, Any]) -> ScoreTable:
    exits = tuple(Exit(e["name"], tuple(e["parts"]), e["origin"]) for e in head["exits"])
    names = list(head["confidences"])
    samples = pl.read_parquet(folder / _SAMPLES)
    frames = [
        pl.read_parquet(folder / "exits" / f"{number:03}.parquet", columns=["prediction", *names])
        for number in range(len(exits))
    ]
    timed = (folder / _TIMES).exists()
    measured = read_json(folder / _TIMES, TableError, "a file of times") if timed else {"times": {}}
    classes = head["classes"]
    return ScoreTable(
        exits=exits,
        prediction=np.stack([frame["prediction"].to_numpy() for frame in frames]),
        confidence={n: np.stack([frame[n].to_numpy() for frame in frames]) for n in names},
        label=samples["label"].to_numpy() if "label" in samples.columns else None,
        ids=np.array(samples["id"].to_list(), dtype=object),
        split=_split_codes(samples["split"]),
        costs=head["costs"],
        times=measured["times"],
        classes=None if classes is None else tuple(classes),
        details=_details(folder, exits),
        provenance=head["provenance"],
        sittings=sittings_of(measured),
    )


def _split_codes(column: pl.Series) -> Array:
    return column.cast(pl.Enum(list(SPLITS))).to_physical().cast(pl.UInt8).to_numpy()


def _details(folder: Path, exits: tuple[Exit, ...]) -> LazyDetails:
    read = cache(_read_detail)
    files = {
        exit.name: (folder / "exits" / f"{i:03}.parquet", folder / "logits" / f"{i:03}.parquet")
        for i, exit in enumerate(exits)
    }
    return LazyDetails(
        {
            name: partial(read, *pair)
            for name, pair in files.items()
            if "top_class" in pl.read_parquet_schema(pair[0])
        }
    )


def _read_detail(file: Path, logits: Path) -> Detail:
    try:
        frame = pl.read_parquet(file, columns=["top_class", "top_probability"])
        stored = pl.read_parquet(logits)["logits"].to_numpy() if logits.exists() else None
    except _PARQUET_ERRORS as error:
        raise TableError(
            f"{str(file)!r} cannot be read ({error}): score that model again"
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
    samples["split"] = pl.Series([SPLITS[code] for code in table.split.tolist()])
    _write_parquet(pl.DataFrame(samples), folder / _SAMPLES)


def _write_exit(table: ScoreTable, name: str, folder: Path, number: int) -> None:
    row = table.index(name)
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
            _write_parquet(frame, folder / "logits" / f"{number:03}.parquet")
    _write_parquet(pl.DataFrame(columns), folder / "exits" / f"{number:03}.parquet")


def _array_column(rows: Array, dtype: Any) -> pl.Series:
    return pl.Series(np.ascontiguousarray(rows), dtype=pl.Array(dtype, rows.shape[1]))


def _write_parquet(frame: pl.DataFrame, file: Path) -> None:
    with replacing(file) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=False)


def save_answers(path: str | Path, columns: Mapping[str, Any]) -> None:
    """Write answers, one row per sample, as Parquet, or as CSV where the name ends in .csv."""
    frame = pl.DataFrame(dict(columns))
    with replacing(path) as temporary:
        if Path(path).suffix.lower() == ".csv":
            frame.write_csv(temporary)
        else:
            frame.write_parquet(temporary)


def read_answers(path: str | Path) -> dict[str, tuple[int, str]]:
    """Read the Parquet file of `save_answers`: sample id -> (prediction, exit)."""
    frame = pl.read_parquet(path, columns=["id", "prediction", "exit"])
    return {key: (prediction, exit) for key, prediction, exit in frame.iter_rows()}
