"""Images in Parquet files: encoded bytes, labels and keys in columns, of one file or of shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, unknown
from understudy.extras import needing
from understudy.zoo.image_source import KEYS, ImageSource, named_classes
from understudy.zoo.shards import shard_files
from understudy.zoo.spec import Spec

with needing("`parquet:` data"):
    import polars as pl

    from understudy.zoo.parquet_column import ImageColumn, Shard

Array = npt.NDArray[Any]
SUFFIXES = (".parquet", ".pq")
_ERRORS = (pl.exceptions.PolarsError, OSError)


def open_parquet(spec: Spec) -> ImageSource:
    """The images, labels and keys of the files that a ``parquet:`` spec names.

    Raises:
        DataError: no Parquet file, a column that is not there, or one of the wrong type.
    """
    files = shard_files(spec.target, SUFFIXES, scheme="parquet")
    tables = [_read(file, spec) for file in files]
    columns = _columns(pl.read_parquet_schema(files[0]), files[0], spec)
    frame = _together([table for table, _, _ in tables], spec)
    shards = [shard for _, shard, _ in tables]
    key, label, group = (columns[option] for option in ("key", "label", "group"))
    rows = sum(shard.rows for shard in shards)
    named = None if label is None else _stored_names(files[0], label)
    labels, classes = (None, None) if label is None else _labels(frame[label], spec, named)
    image_bytes = ImageColumn(shards)
    return ImageSource(
        ids=_names(frame[key] if key else pl.Series("row", range(rows), dtype=pl.Int64)),
        labels=labels,
        classes=classes,
        groups=None if group is None else tuple(_names(frame[group])),
        content=np.concatenate([footer for _, _, footer in tables]),
        read=image_bytes,
        block=image_bytes.block_rows,
    )


def _read(path: Path, spec: Spec) -> tuple[pl.DataFrame, Shard, Array]:
    """The columns of a file beside the images, where these are, and the file's footer."""
    try:
        schema = pl.read_parquet_schema(path)
        columns = _columns(schema, path, spec)
        image = columns["image"] or ""
        others = [column for option, column in columns.items() if option != "image" and column]
        names = list(dict.fromkeys(others))
        frame = pl.read_parquet(path, columns=names, glob=False) if names else pl.DataFrame()
        rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        return frame, Shard(path, _image_column(image, schema[image]), rows), _footer(path)
    except _ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{str(path)!r} cannot be read as Parquet ({reason}): make the file again"
        ) from error


def _together(tables: Sequence[pl.DataFrame], spec: Spec) -> pl.DataFrame:
    try:
        return pl.concat(tables, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"shards have the same columns, those of {spec.target!r} differ ({reason}): name files "
            "that belong together"
        ) from error


def _columns(schema: Any, path: Path, spec: Spec) -> dict[str, str | None]:
    """Option -> the column that it names, or the default; None for none."""
    found: dict[str, str | None] = {
        "image": spec.options.get("image", "image"),
        "key": spec.options.get("key", next((name for name in KEYS if name in schema), None)),
        "label": spec.options.get("label", "label" if "label" in schema else None),
        "group": spec.options.get("group"),
    }
    for option, column in found.items():
        if column is not None and column not in schema:
            raise DataError(
                unknown("column", column, schema, where=repr(str(path)))
                + f": name it, ?{option}=COLUMN"
            )
    return found


def _image_column(name: str, dtype: Any) -> pl.Expr:
    if dtype == pl.Binary:
        return pl.col(name)
    if isinstance(dtype, pl.Struct) and {f.name: f.dtype for f in dtype.fields}.get("bytes") == (
        pl.Binary
    ):
        return pl.col(name).struct.field("bytes")
    raise DataError(
        f"images are a column of encoded bytes, or of structs with a field 'bytes', {name!r} is "
        f"{dtype}: name another, ?image=COLUMN"
    )


def _names(column: pl.Series) -> Array:
    if column.null_count():
        raise DataError(
            f"every sample has a name, column {column.name!r} has {column.null_count()} empty "
            "cells: fill them, or name another column"
        )
    return np.array(column.cast(pl.String).to_list(), object)


def _labels(
    column: pl.Series, spec: Spec, stored: Sequence[str] | None
) -> tuple[Array, tuple[str, ...] | None]:
    """Class numbers, and the names of the classes where they are known."""
    if column.null_count():
        raise DataError(
            f"every image has a label, column {column.name!r} has {column.null_count()} empty "
            "cells: leave those rows out"
        )
    what = f"labels of column {column.name!r}"
    if column.dtype.is_integer():
        numbers = column.to_numpy().astype(np.int64)
        if stored is None:
            return numbers, None
        if "classes" not in spec.options:
            return numbers, tuple(stored)
        column = pl.Series(column.name, np.array(stored, object)[numbers].tolist())
    if isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
        names, codes = np.unique(np.array(column.cast(pl.String).to_list()), return_inverse=True)
        classes, numbers_of = named_classes(names.tolist(), spec, what=what)
        return np.array([numbers_of[name] for name in names.tolist()], np.int64)[codes], classes
    raise DataError(
        f"labels are class numbers or names, column {column.name!r} is {column.dtype}: "
        "convert it, or name another, ?label=COLUMN"
    )


def _stored_names(path: Path, label: str) -> list[str] | None:
    """The names of the classes that Hugging Face's `datasets` writes into its Parquet files."""
    try:
        stored = json.loads(pl.read_parquet_metadata(path).get("huggingface", "null"))
        names = stored["info"]["features"][label]["names"]
    except (*_ERRORS, ValueError, KeyError, TypeError):
        return None
    text = type(names) is list and all(type(name) is str for name in names)
    return list(names) if text and len(set(names)) == len(names) else None


def _footer(path: Path) -> Array:
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-min(8 + length, path.stat().st_size), 2)
        return np.frombuffer(file.read(), np.uint8)
