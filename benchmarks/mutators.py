"""Ways to damage a file: bytes of any file, values of JSON, CSV, TOML, Parquet and NumPy files.

Every way takes a random generator, so that a seed names the damage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl

Way = Callable[[Path, Random], None]
"""Changes a file in place."""

STRANGE_NUMBERS = ("NaN", "inf", "-inf", "1e308", "-1e308", "1e-300", "99999999999999999999", "-1")
STRANGE_TEXTS = ("", " ", "0", "../../x", "/", "a\nb", "a\0b", "é" * 300, ":smile:", "[bold]x[/]")
STRANGE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 10**30, 0.5, 1e308, -1e308, float("nan"), float("inf")),
    *STRANGE_TEXTS,
    *("nan", "inf", "\ud800", [], {}, [[]], [None], {"": None}),
)


def damage(file: Path, random: Random) -> str:
    """Damage a file and return the name of the way that was drawn."""
    kinds = {
        ".json": JSON,
        ".jsonl": JSON,
        ".csv": CSV,
        ".toml": LINES,
        ".parquet": PARQUET,
        ".npz": NUMPY,
    }
    ways = [*BYTES, *kinds.get(file.suffix, ()) * 3]
    way = random.choice(ways)
    try:
        way(file, random)
    except (ValueError, OSError, pl.exceptions.PolarsError, TypeError, OverflowError):
        flip_bit(file, random)
        return f"{way.__name__}, else flip_bit"
    return way.__name__


# Bytes.


def flip_bit(file: Path, random: Random) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(bytes(data))


def truncate(file: Path, random: Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: random.randrange(len(data) + 1)])


def insert_bytes(file: Path, random: Random) -> None:
    data = file.read_bytes()
    at = random.randrange(len(data) + 1)
    file.write_bytes(data[:at] + random.randbytes(random.choice((1, 4, 100))) + data[at:])


def delete_bytes(file: Path, random: Random) -> None:
    data = file.read_bytes()
    at = random.randrange(len(data) + 1)
    file.write_bytes(data[:at] + data[at + random.choice((1, 4, 100)) :])


def zero_block(file: Path, random: Random) -> None:
    data = bytearray(file.read_bytes())
    at, length = random.randrange(len(data) + 1), random.choice((1, 16, 512))
    data[at : at + length] = bytes(len(data[at : at + length]))
    file.write_bytes(bytes(data))


def swap_blocks(file: Path, random: Random) -> None:
    data = file.read_bytes()
    first, second, third = sorted(random.randrange(len(data) + 1) for _ in range(3))
    file.write_bytes(data[:first] + data[second:third] + data[first:second] + data[third:])


def not_utf8(file: Path, random: Random) -> None:
    data = file.read_bytes()
    at = random.randrange(len(data) + 1)
    file.write_bytes(data[:at] + b"\xff\xfe\xc3\x28" + data[at:])


def another_encoding(file: Path, _: Random) -> None:
    file.write_bytes(file.read_bytes().decode("latin-1").encode("utf-16"))


def empty(file: Path, _: Random) -> None:
    file.write_bytes(b"")


def text(file: Path, random: Random) -> None:
    file.write_text(random.choice(("hello", "{}", "[]", "null", "\n", "0", '"x"', "{", "a,b\n1,2")))


def folder_instead(file: Path, _: Random) -> None:
    file.unlink()
    file.mkdir()


def missing(file: Path, _: Random) -> None:
    file.unlink()


def neighbour_instead(file: Path, random: Random) -> None:
    others = sorted(other for other in file.parent.iterdir() if other.is_file() and other != file)
    if others:
        shutil.copyfile(random.choice(others), file)


def link_to_itself(file: Path, _: Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def twice(file: Path, _: Random) -> None:
    file.write_bytes(file.read_bytes() * 2)


# JSON.


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Every entry as its container and key."""
    entries = (
        list(data.items())
        if isinstance(data, dict)
        else list(enumerate(data))
        if isinstance(data, list)
        else []
    )
    return [place for key, value in entries for place in ((data, key), *_places(value))]


def _rewritten(file: Path, random: Random, change: Callable[[Any, Any], None]) -> None:
    lines = file.suffix == ".jsonl"
    source = file.read_text(encoding="utf-8")
    data = [json.loads(line) for line in source.splitlines()] if lines else json.loads(source)
    places = _places(data)
    if not places:
        raise ValueError("no entry")
    change(*random.choice(places))
    written = "\n".join(map(json.dumps, data)) if lines else json.dumps(data)
    file.write_text(written + "\n", encoding="utf-8")


def another_value(file: Path, random: Random) -> None:
    _rewritten(file, random, lambda holder, key: _set(holder, key, random.choice(STRANGE_VALUES)))


def another_number(file: Path, random: Random) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    numbers = [
        (holder, key)
        for holder, key in _places(data)
        if isinstance(holder[key], int | float) and not isinstance(holder[key], bool)
    ]
    holder, key = random.choice(numbers) if numbers else _none()
    holder[key] = random.choice((holder[key] + 1, -holder[key], holder[key] * 1.5, 0, 1e-300))
    file.write_text(json.dumps(data), encoding="utf-8")


def without_entry(file: Path, random: Random) -> None:
    _rewritten(file, random, lambda holder, key: holder.pop(key))


def renamed_key(file: Path, random: Random) -> None:
    def rename(holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[random.choice(("", "x", str(key).upper(), "\ud800"))] = holder.pop(key)

    _rewritten(file, random, rename)


def swapped_values(file: Path, random: Random) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    places = _places(data)
    (one, key), (other, name) = random.choices(places, k=2) if places else _none()
    one[key], other[name] = other[name], one[key]
    file.write_text(json.dumps(data), encoding="utf-8")  # a value inside itself is a ValueError


def repeated_entry(file: Path, random: Random) -> None:
    def repeat(holder: Any, key: Any) -> None:
        if isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[f"{key} again"] = holder[key]

    _rewritten(file, random, repeat)


def duplicate_key(file: Path, random: Random) -> None:
    source = file.read_text(encoding="utf-8")
    data = json.loads(source)
    key = random.choice(sorted(data)) if isinstance(data, dict) and data else _none()
    value = json.dumps(random.choice(STRANGE_VALUES))
    file.write_text(f"{source.rstrip()[:-1]}, {json.dumps(key)}: {value}}}", encoding="utf-8")


def deeply_nested(file: Path, random: Random) -> None:
    deep = random.choice((50, 900, 5_000, 100_000))
    marker = "understudy nested here"
    try:
        _rewritten(file, random, lambda holder, key: _set(holder, key, marker))
        source = file.read_text(encoding="utf-8")
    except ValueError:
        source = f'"{marker}"'
    file.write_text(source.replace(f'"{marker}"', "[" * deep + "]" * deep), encoding="utf-8")


def huge_number(file: Path, random: Random) -> None:
    digits = random.choice((25, 400, 5_000))
    _rewritten(file, random, lambda holder, key: _set(holder, key, "understudy number here"))
    source = file.read_text(encoding="utf-8")
    file.write_text(source.replace('"understudy number here"', "9" * digits), encoding="utf-8")


def _set(holder: Any, key: Any, value: Any) -> None:
    holder[key] = value


def _none() -> Any:
    raise ValueError("nothing to change")


# Lines and cells.


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _save(file: Path, lines: list[str]) -> None:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def another_cell(file: Path, random: Random) -> None:
    lines = _lines(file)
    row = random.randrange(len(lines))
    cells = lines[row].split(",")
    cells[random.randrange(len(cells))] = random.choice((*STRANGE_NUMBERS, *STRANGE_TEXTS))
    lines[row] = ",".join(cells)
    _save(file, lines)


def another_column(file: Path, random: Random) -> None:
    lines = [line.split(",") for line in _lines(file)]
    column, value = random.randrange(len(lines[0])), random.choice((*STRANGE_NUMBERS, "x", ""))
    for cells in lines[1:]:
        cells[column] = value
    _save(file, [",".join(cells) for cells in lines])


def swapped_cells(file: Path, random: Random) -> None:
    lines = _lines(file)
    row = random.randrange(len(lines))
    lines[row] = ",".join(reversed(lines[row].split(",")))
    _save(file, lines)


def repeated_line(file: Path, random: Random) -> None:
    lines = _lines(file)
    _save(file, [*lines, random.choice(lines)])


def without_line(file: Path, random: Random) -> None:
    lines = _lines(file)
    del lines[random.randrange(len(lines))]
    _save(file, lines)


def open_quote(file: Path, random: Random) -> None:
    lines = _lines(file)
    row = random.randrange(len(lines))
    lines[row] = f'"{lines[row]}'
    _save(file, lines)


def another_setting(file: Path, random: Random) -> None:
    lines = _lines(file)
    row = random.randrange(len(lines))
    values = (*STRANGE_NUMBERS, "inf", "nan", '"x"', "[]", "{}", "true", "1979-05-27", "[[1]]")
    lines[row] = f"{lines[row].split('=')[0]}= {random.choice(values)}"
    _save(file, lines)


# Parquet and NumPy.


def _frame_rewritten(file: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    frame = change(pl.read_parquet(file))
    frame.write_parquet(file)


def another_type(file: Path, random: Random) -> None:
    kinds = (pl.String, pl.Float64, pl.Float32, pl.Int8, pl.UInt64, pl.Boolean, pl.Binary)

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        name = random.choice(frame.columns)
        kind = random.choice((*kinds, pl.List(pl.Int64), pl.Date, pl.Null, pl.Categorical))
        values = [None] * len(frame) if kind == pl.Null else frame[name]
        return frame.with_columns(pl.Series(name, values).cast(kind, strict=False).alias(name))

    _frame_rewritten(file, change)


def another_number_in_a_column(file: Path, random: Random) -> None:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        names = [name for name in frame.columns if frame[name].dtype.is_numeric()]
        name = random.choice(names) if names else _none()
        value = random.choice((float("nan"), float("inf"), -1.0, -2.0, 2.0**31, 1e300, 7.0))
        column = frame[name].cast(pl.Float64).to_list()
        column[random.randrange(len(column))] = value
        whole = frame[name].dtype.is_integer() and abs(value) < 2**62
        kind = pl.Int64 if whole else pl.Float64
        return frame.with_columns(pl.Series(name, column).cast(kind, strict=False).alias(name))

    _frame_rewritten(file, change)


def nulls(file: Path, random: Random) -> None:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        name, row = random.choice(frame.columns), random.randrange(max(1, len(frame)))
        gone = pl.int_range(pl.len()) == row
        return frame.with_columns(pl.when(~gone).then(pl.col(name)).alias(name))

    _frame_rewritten(file, change)


def renamed_column(file: Path, random: Random) -> None:
    _frame_rewritten(file, lambda frame: frame.rename({random.choice(frame.columns): "renamed"}))


def without_column(file: Path, random: Random) -> None:
    _frame_rewritten(file, lambda frame: frame.drop(random.choice(frame.columns)))


def other_rows(file: Path, random: Random) -> None:
    changes: tuple[Callable[[pl.DataFrame], pl.DataFrame], ...] = (
        lambda frame: frame.reverse(),
        lambda frame: frame.head(0),
        lambda frame: frame.head(len(frame) // 2),
        lambda frame: pl.concat([frame, frame.head(1)]),
        lambda frame: frame.shift(1),
    )
    _frame_rewritten(file, random.choice(changes))


def another_array(file: Path, random: Random) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    name = random.choice(sorted(arrays))
    array = arrays[name]
    other: Any = random.choice(
        (
            lambda: array.astype(np.float64) * np.nan,
            lambda: array.astype(np.float64) * np.inf,
            lambda: array.astype(str),
            lambda: array.astype(object),
            lambda: array.astype(complex),
            lambda: array[:0],
            lambda: array[..., None],
            lambda: array.T,
            lambda: array.reshape(-1),
            lambda: -array.astype(np.int64) - 5,
            lambda: array.astype(np.float64) + 0.5,
            lambda: array.astype(np.int64) + 2**40,
            lambda: array.astype(np.uint64) + np.uint64(2**63),
            lambda: array.astype(np.datetime64),
            lambda: np.float64(3),
            lambda: array[::-1],
        )
    )()
    arrays[name] = other
    if random.random() < 0.2:
        arrays[random.choice(("x", "label", "preds"))] = arrays.pop(name)
    np.savez(file, **arrays)


BYTES: tuple[Way, ...] = (
    *(flip_bit, flip_bit, truncate, insert_bytes, delete_bytes, zero_block, swap_blocks, not_utf8),
    *(another_encoding, empty, text, folder_instead, missing, neighbour_instead, link_to_itself),
    twice,
)
JSON: tuple[Way, ...] = (
    *(another_value, another_value, another_number, without_entry, renamed_key, swapped_values),
    *(repeated_entry, duplicate_key, deeply_nested, huge_number),
)
CSV: tuple[Way, ...] = (
    *(another_cell, another_column, swapped_cells, repeated_line, without_line, open_quote),
)
LINES: tuple[Way, ...] = (another_setting, another_setting, repeated_line, without_line, open_quote)
PARQUET: tuple[Way, ...] = (
    *(another_type, another_number_in_a_column, nulls, renamed_column, without_column, other_rows),
)
NUMPY: tuple[Way, ...] = (another_array,)
