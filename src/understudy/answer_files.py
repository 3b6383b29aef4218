"""Answers on disk: one row per sample, as Parquet, or as CSV, which needs no extra."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import MissingExtra
from understudy.extras import installed
from understudy.files import replacing


def check_format(path: str | Path) -> None:
    """Refuse a file of answers that cannot be written here, before there are any.

    Raises:
        MissingExtra: it would be Parquet, and Polars is not installed.
    """
    if not _is_csv(path) and not installed("polars"):
        raise MissingExtra(
            f"Parquet ({str(path)!r})",
            "search",
            otherwise=f"write CSV ({str(Path(path).with_suffix('.csv'))!r})",
        )


def save_answers(path: str | Path, columns: Mapping[str, Any]) -> None:
    """Write answers, one row per sample, as Parquet, or as CSV where the name ends in .csv.

    Args:
        path: the file; an older one is replaced.
        columns: name -> a value per sample; None is an empty cell.

    Raises:
        MissingExtra: Parquet needs Polars, which is not installed.
        UnderstudyError: the place cannot be written.
    """
    check_format(path)
    with replacing(path) as temporary:
        if _is_csv(path):
            _write_csv(temporary, columns)
        else:
            import polars as pl

            pl.DataFrame(dict(columns)).write_parquet(temporary)


def read_answers(path: str | Path) -> dict[str, tuple[int, str]]:
    """Read the Parquet file of `save_answers`: sample id -> (prediction, exit)."""
    import polars as pl

    frame = pl.read_parquet(path, columns=["id", "prediction", "exit"])
    return {key: (prediction, exit) for key, prediction, exit in frame.iter_rows()}


def _is_csv(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".csv"


def _write_csv(file: Path, columns: Mapping[str, Any]) -> None:
    """Numbers in the fewest digits that give them back."""
    cells = [
        values.astype(str) if isinstance(values, np.ndarray) else values
        for values in columns.values()
    ]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))
