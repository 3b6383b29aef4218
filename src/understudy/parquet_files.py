"""Parquet files that carry the hash of their own bytes, which is checked before they are decoded.

The hash stands between the columns and the footer, where readers of Parquet never look, so that the
files stay plain Parquet, and each can be replaced by itself. It covers every byte: a decoder is
never fed with damaged ones, which may crash it or make it allocate anything.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import IO

from understudy.extras import needing
from understudy.files import replacing

with needing("reading and writing Parquet"):
    import polars as pl

_MARK = b"understudy sha256"
_SEAL = len(_MARK) + hashlib.sha256().digest_size
_END = 8  # the length of the footer in 4 bytes, and "PAR1"
ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, MemoryError)


def write_parquet(frame: pl.DataFrame, file: Path, *, compression: str = "zstd") -> str:
    """Write a frame with its hash, atomically, and return the hash.

    Raises:
        UnderstudyError: the place cannot be written.
    """
    with replacing(file) as temporary:
        frame.write_parquet(temporary, compression=compression, statistics=False)  # type: ignore[arg-type]
        with temporary.open("r+b") as stream:
            return _seal(stream)


def parquet_bytes(frame: pl.DataFrame, *, compression: str = "zstd") -> bytes:
    """A frame with its hash as the bytes of a file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "numbers.parquet"
    ...     _ = file.write_bytes(parquet_bytes(pl.DataFrame({"number": [1, 2]})))
    ...     read_parquet(file)["number"].to_list()
    [1, 2]
    """
    stream = BytesIO()
    frame.write_parquet(stream, compression=compression, statistics=False)  # type: ignore[arg-type]
    _seal(stream)
    return stream.getvalue()


def read_parquet(
    file: Path,
    columns: list[str] | None = None,
    *,
    sealed: bool = True,
    digest: str | None = None,
    rows: int | None = None,
) -> pl.DataFrame:
    """Read columns of a Parquet file whose hash is right.

    Args:
        file: what `write_parquet` wrote.
        columns: all by default.
        sealed: whether the file has to have a hash; one that is there is always checked.
        digest: the hash it has to have, where that is known from elsewhere.
        rows: the number of rows it has to have; more are not decoded.

    Raises:
        ValueError: the file was changed, has no hash, or another number of rows.
        ERRORS: it cannot be read.
    """
    data = file.read_bytes()
    found = _checked(data, file.name, sealed=sealed)
    if digest is not None and found != digest:
        raise ValueError(f"{file.name} is that of another table")
    frame = pl.read_parquet(data, columns=columns, n_rows=None if rows is None else rows + 1)
    if rows is not None and len(frame) != rows:
        found = "more" if len(frame) > rows else f"{len(frame):,}"
        raise ValueError(f"{file.name} has {rows:,} rows, found {found}")
    return frame


def _seal(stream: IO[bytes]) -> str:
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]
    end = stream.seek(-_END, 2)
    footer = int.from_bytes(stream.read(4), "little")
    stream.seek(end - footer)
    tail = stream.read()
    stream.seek(end - footer)
    stream.write(_MARK + digest.digest() + tail)
    return digest.hexdigest()


def _checked(data: bytes, name: str, *, sealed: bool) -> str | None:
    """The hash of a file's bytes; None where it has none and need not have one."""
    place = len(data) - _END - int.from_bytes(data[-_END:-4], "little")
    start = max(place - _SEAL, 0)
    seal = data[start:place] if place > 0 else b""
    if not seal.startswith(_MARK):
        if sealed:
            raise ValueError(f"{name} has no hash where its footer begins")
        return None
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(view[place:])
    if digest.digest() != seal[len(_MARK) :]:
        raise ValueError(f"{name} was changed, its bytes have another hash")
    return digest.hexdigest()
