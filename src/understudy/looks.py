"""Looks at certify samples: how often their labels were read, sample by sample.

A certificate's probability holds for one look at its samples, fixed beforehand. Whoever looks
several times (at other splits of the same samples, other models, other options) and keeps the best
result has as many chances to be wrong. So looks are numbered, and kept with the table by sample id:
samples that are imported again, or split anew, bring their looks along.

TABLE/looks.parquet  id, look: the number of the last look at each sample that was read
TABLE/looks.jsonl    the log: one line per look
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from understudy.documents import HASH, content_hash
from understudy.errors import PolicyError, TableError, UnderstudyError
from understudy.extras import needing
from understudy.files import parse_json, replacing
from understudy.locks import locked
from understudy.parquet_files import ERRORS, read_parquet, write_parquet

with needing("a table on disk"):
    import polars as pl

_LOG, _BY_SAMPLE = "looks.jsonl", "looks.parquet"
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_SCHEMA = pl.Schema({"id": pl.String, "look": pl.UInt32})


def count_looks(path: str | Path, ids: npt.ArrayLike) -> int:
    """The number of the last look at any of these samples of the table in a folder; 0 for none.

    Raises:
        TableError: the folder's count of looks is damaged.
    """
    seen = _last_looks(Path(path))
    last = seen.filter(pl.col("id").is_in(_column(ids).implode()))["look"].max()
    return 0 if last is None else int(last)  # type: ignore[arg-type]


@contextmanager
def looking(path: str | Path) -> Iterator[None]:
    """Keep other looks at the table in a folder waiting, so that each has a number of its own.

    For whoever counts the looks before a search and logs its own behind it. A folder that cannot be
    written to is read without.
    """
    with ExitStack() as stack:
        with _where_writable():
            if Path(path).is_dir():
                stack.enter_context(locked(path))
        yield


def log_look(
    path: str | Path,
    ids: npt.ArrayLike,
    *,
    why: str,
    search: Mapping[str, Any] | None = None,
) -> int:
    """Note that the labels of these samples were read, and return the number of this look.

    It is one above the last look at any of the samples, so two looks that share a sample differ in
    their numbers. A folder that cannot be written to is read without noting this look.

    Args:
        path: the table's folder.
        ids: of the samples, (N,): those of certify, or all where all were shown.
        why: for people, such as "search [0.5]".
        search: plain JSON: what was searched for, by which `verify` finds the look again.

    Raises:
        TableError: the folder's count of looks is damaged.
    """
    folder = Path(path)
    with looking(folder):
        look = count_looks(folder, ids) + 1
        if not folder.is_dir():
            return look
        column = _column(ids)
        now = pl.DataFrame({"id": column, "look": [look] * len(column)}, schema=_SCHEMA)
        seen = pl.concat([now, _last_looks(folder)]).unique("id", keep="first", maintain_order=True)
        line = {"look": look, "why": why, "search": None if search is None else dict(search)}
        with _where_writable():
            _write(seen, folder)
            _append({**line, HASH: content_hash(line)}, folder)
    return look


def logged_looks(path: str | Path) -> list[dict[str, Any]]:
    """The lines of the log, oldest first: `look`, `why` and `search` (None for other looks).

    Older lines have no `search`.

    Raises:
        TableError: the log is damaged.
    """
    file = Path(path) / _LOG
    try:
        texts = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [_line(parse_json(text)) for text in texts]
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error


def keep_looks(older: str | Path, folder: str | Path) -> None:
    """Copy the looks of a table's folder, if there is one, into that of another with its samples,
    such as the table that replaces it."""
    seen = _last_looks(Path(older))
    if len(seen):
        _write(seen, Path(folder))
    log = Path(older) / _LOG
    if log.exists():
        (Path(folder) / _LOG).write_bytes(log.read_bytes())


def delta_of_look(delta: float, look: int) -> float:
    """The level of one look that keeps the levels of all looks together within `delta`.

    It is delta / (k (k + 1)) for look k: the sum over k = 1, 2, ... is delta. So the best of any
    number of looks is wrong with a probability of at most `delta`, as long as what is searched for
    at one look was not chosen by what an earlier look showed.

    >>> [delta_of_look(0.06, look) for look in (1, 2, 3)]
    [0.03, 0.01, 0.005]

    Raises:
        PolicyError: a look below 1, or a level that is no probability.
    """
    if not 0 < delta < 1:
        raise PolicyError(
            f"the level of all looks is a probability between 0 and 1, found {delta:g}: try 0.05"
        )
    if look < 1:
        raise PolicyError(f"looks are numbered from 1 on, found {look}: count this one too")
    return delta / (look * (look + 1))


def _line(line: Any) -> dict[str, Any]:
    """A line of the log, checked; older ones have no hash, and no `search`."""
    if not isinstance(line, dict) or type(line.get("look")) is not int:
        raise ValueError("a line without the number of its look")
    if not line.keys() <= {"look", "why", "search", HASH}:
        raise ValueError(f"a line with the keys {', '.join(line)}")
    if line.pop(HASH, content_hash(line)) != content_hash(line):
        raise ValueError("a line that was changed after it was written")
    return line


def _last_looks(folder: Path) -> pl.DataFrame:
    """The last look at every sample (id, look).

    Folders of before looks were kept by sample have the log alone: each line is a look at every
    certify sample.
    """
    file, log, samples = folder / _BY_SAMPLE, folder / _LOG, folder / "samples.parquet"
    try:
        if file.exists():
            seen = read_parquet(file, sealed=_hashed(log))
            if seen.schema != _SCHEMA or seen.null_count().sum_horizontal().item():
                raise ValueError(f"the columns {dict(seen.schema)}")
            return seen
        if not log.exists() or not samples.exists():
            return _SCHEMA.to_frame()
        looks = len(log.read_text(encoding="utf-8").splitlines())
        certify = pl.read_parquet(samples, columns=["id", "split"]).filter(split="certify")
        return certify.select("id", look=pl.lit(looks, pl.UInt32))
    except ERRORS as error:
        raise _damaged(file if file.exists() else log, error) from error


def _hashed(log: Path) -> bool:
    """Whether the last look was logged with a hash, as those of older versions were not."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return bool(lines) and HASH in parse_json(lines[-1])


def _column(ids: npt.ArrayLike) -> pl.Series:
    return pl.Series("id", [str(one) for one in ids], dtype=pl.String)  # type: ignore[union-attr]


def _write(seen: pl.DataFrame, folder: Path) -> None:
    write_parquet(seen, folder / _BY_SAMPLE)


def _append(line: Mapping[str, Any], folder: Path) -> None:
    """Add a line to the log, which is written whole or not at all."""
    log = folder / _LOG
    older = log.read_bytes() if log.exists() else b""
    with replacing(log) as temporary:
        temporary.write_bytes(older + json.dumps(line, allow_nan=False).encode() + b"\n")


@contextmanager
def _where_writable() -> Iterator[None]:
    """Go on where the user may not write; a full disk, for example, is an error."""
    try:
        yield
    except (OSError, UnderstudyError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _READ_ONLY:
            raise


def _damaged(file: Path, error: Exception) -> TableError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TableError(
        f"the looks at a table's samples are counted in {str(file)!r}, which is damaged "
        f"({reason}): restore it, or make the table again in another folder"
    )
