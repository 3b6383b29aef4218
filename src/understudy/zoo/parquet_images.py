"""Images in a Parquet file: encoded bytes, labels and keys in columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, unknown
from understudy.extras import needing
from understudy.zoo.spec import Spec

with needing("`parquet:` data"):
    import polars as pl

Array = npt.NDArray[Any]
HELD_WHOLE = 256 * 2**20  # bytes; larger files are read by blocks of rows
BLOCK_ROWS = 1024
_KEYS = ("name", "key", "id", "file_name")
_ERRORS = (pl.exceptions.PolarsError, OSError)


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The columns of an image file; the images themselves are read on access.

    Attributes:
        ids: (N,) text, the key column or row numbers.
        labels: (N,) class numbers, or None.
        classes: the sorted label names, where labels are names.
        groups: N names, or None.
        footer: the bytes of the file's metadata, for telling files apart.
        image_bytes: the encoded image at a row.
    """

    ids: Array
    labels: Array | None
    classes: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    footer: Array
    image_bytes: _ImageColumn


def open_parquet(spec: Spec) -> ImageTable:
    """The images, labels and keys of the file that a ``parquet:`` spec names.

    Raises:
        DataError: no Parquet file, a column that is not there, or one of the wrong type.
    """
    path = Path(spec.target).expanduser()
    try:
        return _open(path, spec)
    except _ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{str(path)!r} cannot be read as Parquet ({reason}): make the file again"
        ) from error


def _open(path: Path, spec: Spec) -> ImageTable:
    schema = pl.read_parquet_schema(path)
    image = spec.options.get("image", "image")
    key = spec.options.get("key", next((name for name in _KEYS if name in schema), None))
    label = spec.options.get("label", "label" if "label" in schema else None)
    group = spec.options.get("group")
    for option, column in (("image", image), ("key", key), ("label", label), ("group", group)):
        if column is not None and column not in schema:
            raise DataError(
                unknown("column", column, schema, where=repr(str(path)))
                + f": name it, ?{option}=COLUMN"
            )
    columns = list(dict.fromkeys(column for column in (key, label, group) if column is not None))
    frame = pl.read_parquet(path, columns=columns) if columns else pl.DataFrame()
    rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    labels, classes = (None, None) if label is None else _labels(frame[label])
    return ImageTable(
        ids=_names(frame[key] if key else pl.Series("row", range(rows), dtype=pl.Int64)),
        labels=labels,
        classes=classes,
        groups=None if group is None else tuple(_names(frame[group])),
        footer=_footer(path),
        image_bytes=_ImageColumn(path, _image_column(image, schema[image]), rows),
    )


class _ImageColumn:
    """The encoded image at a row: all in memory for small files, else blocks of rows."""

    def __init__(self, path: Path, column: pl.Expr, rows: int) -> None:
        small = path.stat().st_size <= HELD_WHOLE
        self._path, self._column = path, column
        self.block_rows = max(rows, 1) if small else BLOCK_ROWS
        self._block = lru_cache(maxsize=4)(self._read)
        self._lock = Lock()

    def __call__(self, row: int) -> bytes:
        number, place = divmod(row, self.block_rows)
        with self._lock:
            block = self._block(number)
        encoded = block[place]
        if encoded is None:
            raise ValueError("the cell is empty")
        return bytes(encoded)

    def _read(self, number: int) -> pl.Series:
        scan = pl.scan_parquet(self._path).select(self._column)
        frame = scan.slice(number * self.block_rows, self.block_rows).collect()
        return frame.to_series()


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


def _labels(column: pl.Series) -> tuple[Array, tuple[str, ...] | None]:
    if column.null_count():
        raise DataError(
            f"every image has a label, column {column.name!r} has {column.null_count()} empty "
            "cells: leave those rows out"
        )
    if column.dtype.is_integer():
        return column.to_numpy().astype(np.int64), None
    if isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
        names, codes = np.unique(np.array(column.cast(pl.String).to_list()), return_inverse=True)
        return codes.astype(np.int64), tuple(names.tolist())
    raise DataError(
        f"labels are class numbers or names, column {column.name!r} is {column.dtype}: "
        "convert it, or name another, ?label=COLUMN"
    )


def _footer(path: Path) -> Array:
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-min(8 + length, path.stat().st_size), 2)
        return np.frombuffer(file.read(), np.uint8)
