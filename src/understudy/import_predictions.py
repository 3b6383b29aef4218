"""Predictions of other programs as a score table: CSV, JSON or Parquet files joined by a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import DataError, listed, unknown
from understudy.extras import needing
from understudy.files import parse_json
from understudy.label_sets import padded_sets
from understudy.scores import ScoreTable
from understudy.table_validation import NO_LABEL

with needing("importing predictions"):
    import polars as pl


@dataclass(frozen=True)
class LabelFile:
    """The file of the samples: their keys in order, and their labels.

    `label` is None where there are no labels; single ones may be empty. A column of lists, or of
    texts such as "[3, 5]", has several right answers per sample (ReaL labels); samples whose list
    is empty are left out. `group` and `split` name
    columns that may bring groups (a patient, a video) or a split of the user's own.
    """

    file: str | Path
    key: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


def import_predictions(
    labels: LabelFile,
    exits: Mapping[str, str | Path],
    *,
    costs: Mapping[str, float] | None = None,
    unit: str = "MACs",
    prediction: str = "prediction",
    confidence: str = "confidence",
    split: Mapping[str, float] | None = None,
) -> ScoreTable:
    """A table from one file of labels and one file of predictions per exit.

    The rows of every exit's file are joined to the labels by `labels.key`; `prediction` and
    `confidence` name its columns, either for all files, or with `{exit}` in them for the exit's
    name. Labels may be numbers or texts; texts are numbered in sorted order, and predictions with
    them. A label that is empty (or the number -1) is missing: such a table is partly labelled.
    Without costs the calls of the most accurate exit are counted, as in
    `ScoreTable.from_probabilities`.

    Raises:
        DataError: a file or column that is missing; keys that are missing, repeated or surplus;
            labels or predictions that are neither numbers nor texts.
        TableError: NaN confidences, costs that are missing or negative, an unknown split.
    """
    if not exits:
        raise DataError("an import has at least one exit, found none: --exit NAME=FILE")
    if costs:
        _check_costs(costs, exits, unit)
    whole = _with_lists(_read(labels.file, labels.key, what="labels"), labels.label)
    known_keys, frame = _keys(whole, labels.key, labels.file), _answerable(whole, labels)
    keys = frame[labels.key].cast(pl.String)
    rows = {
        name: _exit_rows(
            keys,
            file,
            known=known_keys,
            key=labels.key,
            columns=(prediction.replace("{exit}", name), confidence.replace("{exit}", name)),
        )
        for name, file in exits.items()
    }
    known = _labels(frame, labels)
    answers, label, classes = _class_columns([answer for answer, _ in rows.values()], known)
    table = ScoreTable.from_predictions(
        {name: (answers[row], rows[name][1]) for row, name in enumerate(exits)},
        np.full(len(keys), NO_LABEL) if label is None else label,
        costs={unit: dict(costs)} if costs else None,
        ids=keys.to_list(),
        groups=_texts(frame, labels.group, labels.file),
        split=_texts(frame, labels.split, labels.file) or split,
        provenance={
            "labels": _about(labels),
            "exits": {n: str(f) for n, f in exits.items()},
            "left_out": len(whole) - len(frame),
        },
    )
    return table if classes is None else table.with_classes(classes)


def _check_costs(costs: Mapping[str, float], exits: Mapping[str, object], unit: str) -> None:
    """Refuse costs of other exits, or of some alone."""
    strangers = sorted(set(costs) - set(exits))
    if strangers:
        raise DataError("every cost is that of an exit: " + unknown("exit", strangers[0], exits))
    missing = [name for name in exits if name not in costs]
    if missing:
        raise DataError(
            f"every exit has a cost in {unit}, {listed(map(repr, missing))} "
            f"{'has' if len(missing) == 1 else 'have'} none: --cost {missing[0]}=NUMBER"
        )


def _class_columns(
    answers: Sequence[pl.Series], known: pl.Series | None
) -> tuple[list[np.ndarray], np.ndarray | None, list[str] | None]:
    """Predictions and labels as numbers, and the classes; labels are (N,), or (N, K) where samples
    have several, and -1 where they are missing."""
    if known is None:
        numbers, classes = _numbered(answers)
        return numbers, None, classes
    present = known.drop_nulls()
    several = isinstance(known.dtype, pl.List)
    (*numbers, labelled), classes = _numbered([*answers, present.explode() if several else present])
    if several:
        return numbers, padded_sets(labelled, known.list.len().fill_null(0).to_list()), classes
    label = np.full(len(known), NO_LABEL)
    label[known.is_not_null().to_numpy()] = labelled
    return numbers, label, classes


def read_labels(
    labels: LabelFile, classes: Sequence[str] | None = None
) -> dict[str, int | Sequence[int]]:
    """The labels of a file by sample id, as class numbers; those that are empty are left out.

    Where classes have names, labels are names. A column of lists gives lists.

    Raises:
        DataError: a file or column that is missing, ids that repeat, names of no class, labels that
            are no whole numbers.
    """
    name = labels.label or "label"
    frame = _read(labels.file, labels.key, *([name] if classes else []), what="labels")
    frame = _answerable(_with_lists(frame, name), labels)
    keys = _keys(frame, labels.key, labels.file)
    column = _column(frame, name, labels.file, blanks=True)
    if not isinstance(column.dtype, pl.List):
        column = _without_blanks(column.cast(pl.String) if classes else column)
        keys, column = keys.filter(column.is_not_null()), column.drop_nulls()
        return dict(zip(keys.to_list(), _codes(column, name, labels, classes), strict=True))
    keys, column = keys.filter(column.is_not_null()), column.drop_nulls()
    codes = iter(_codes(column.explode(), name, labels, classes))
    counts = column.list.len().to_list()
    return {
        key: list(islice(codes, count)) for key, count in zip(keys.to_list(), counts, strict=True)
    }


def _codes(
    column: pl.Series, name: str, labels: LabelFile, classes: Sequence[str] | None
) -> list[int]:
    """Labels without blanks as class numbers."""
    if classes:
        column = column.cast(pl.String)
        strange = column.filter(~column.is_in(list(classes))).unique().sort().to_list()
        if strange:
            raise DataError(
                f"labels are classes of the table, {len(strange)} in {str(labels.file)!r} are "
                f"none ({unknown('class', strange[0], classes)}): correct them, or import the "
                "whole table again with its classes"
            )
        numbers = {one: number for number, one in enumerate(classes)}
        return [numbers[one] for one in column.to_list()]
    if len(column) and not _whole(column):
        raise DataError(
            f"the classes of the table are numbers, column {name!r} of {str(labels.file)!r} has "
            f"the type {column.dtype}: write whole numbers"
        )
    found: list[int] = _class_numbers(column).tolist()
    return found


def _with_lists(frame: pl.DataFrame, label: str | None) -> pl.DataFrame:
    """The frame, with labels as lists where they are arrays, or texts such as "[3, 5]"."""
    if label is None or label not in frame.columns:
        return frame
    column = frame[label]
    if isinstance(column.dtype, pl.Array):
        column = column.cast(pl.List(column.dtype.inner))
    if column.dtype == pl.String and len(column.drop_nulls()):
        texts = column.str.strip_chars()
        if (texts.str.starts_with("[") & texts.str.ends_with("]")).all():
            column = _decoded(texts, label)
    return frame.with_columns(column.alias(label))


def _decoded(texts: pl.Series, label: str) -> pl.Series:
    """Texts of JSON lists as lists."""
    try:
        lists = [None if text is None else parse_json(text) for text in texts.to_list()]
        return pl.Series(label, lists)
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"labels in brackets are JSON lists, of numbers or of texts, column {label!r} has "
            f"others ({error}): correct them"
        ) from error


def _answerable(frame: pl.DataFrame, labels: LabelFile) -> pl.DataFrame:
    """The rows without those whose list of labels is empty."""
    if labels.label is None or labels.label not in frame.columns:
        return frame
    column = frame[labels.label]
    if not isinstance(column.dtype, pl.List):
        return frame
    kept = frame.filter(column.list.len().fill_null(1) > 0)
    if not len(kept):
        raise DataError(
            f"some sample has a label, all lists in column {labels.label!r} of "
            f"{str(labels.file)!r} are empty: check the column"
        )
    return kept


def _read(file: str | Path, *texts: str, what: str = "predictions") -> pl.DataFrame:
    """A file as a frame; keys stay as they are written, so that '001' is not 1."""
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{what} are read from a file, {str(file)!r} is none: check the path")
    try:
        if path.suffix.lower() in {".csv", ".tsv", ".txt"}:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            frame = pl.read_csv(
                path,
                separator=separator,
                infer_schema_length=None,
                schema_overrides=dict.fromkeys(texts, pl.String),
            )
        elif path.suffix.lower() == ".json":
            frame = pl.read_json(path)
        elif path.suffix.lower() in {".jsonl", ".ndjson"}:
            frame = pl.read_ndjson(path)
        else:
            frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise DataError(
            f"{what} are CSV (.csv, .tsv), JSON (.json, .jsonl: a record per sample) or Parquet "
            f"files, {str(file)!r} cannot be read as one "
            f"({next(iter(str(error).splitlines()), type(error).__name__)}): write it again"
        ) from error
    if not len(frame):
        raise DataError(
            f"{what} have a row per sample, {str(file)!r} has none below its header: fill it in"
        )
    return frame


def _labels(frame: pl.DataFrame, labels: LabelFile) -> pl.Series | None:
    """The column of labels, null where they are missing; None where all are."""
    if labels.label is None:
        return None
    column = _column(frame, labels.label, labels.file, blanks=True)
    column = column if isinstance(column.dtype, pl.List) else _without_blanks(column)
    return column if column.is_not_null().any() else None


def _without_blanks(column: pl.Series) -> pl.Series:
    """Labels with null where they are missing: at blank texts, at the numbers NaN and -1 too."""
    if column.dtype == pl.String:
        return column.set(column.str.strip_chars() == "", None)
    if column.dtype.is_numeric():
        numbers = column.cast(pl.Float64)
        return column.set((numbers == NO_LABEL) | numbers.is_nan(), None)
    return column


def _column(frame: pl.DataFrame, name: str, file: str | Path, *, blanks: bool = False) -> pl.Series:
    if name not in frame.columns:
        raise DataError(unknown("column", name, frame.columns, where=repr(str(file))))
    column = frame[name]
    if column.null_count() and not blanks:
        raise DataError(
            f"column {name!r} of {str(file)!r} has a value in every row, {column.null_count()} of "
            f"{len(column)} are empty: fill them or drop the rows"
        )
    return column


def _keys(frame: pl.DataFrame, name: str, file: str | Path) -> pl.Series:
    keys = _column(frame, name, file).cast(pl.String)
    if keys.n_unique() < len(keys):
        repeats = keys.filter(keys.is_duplicated()).unique(maintain_order=True)
        raise DataError(
            f"keys are unique, {len(repeats)} in column {name!r} of {str(file)!r} repeat: "
            f"{listed(repeats.to_list())}"
        )
    return keys


def _exit_rows(
    keys: pl.Series, file: str | Path, *, known: pl.Series, key: str, columns: tuple[str, str]
) -> tuple[pl.Series, np.ndarray]:
    """The answers and confidences of a file, in the order of `keys`; it has all that are known."""
    frame = _read(file, key)
    own = _keys(frame, key, file)
    surplus, missing = (
        own.filter(~own.is_in(known.implode())),
        known.filter(~known.is_in(own.implode())),
    )
    for what, wrong in (("lacks", missing), ("has besides", surplus)):
        if len(wrong):
            raise DataError(
                f"every file has the keys of the labels, {str(file)!r} {what} {len(wrong)} "
                f"{'key' if len(wrong) == 1 else 'keys'}: {listed(wrong.to_list())}"
            )
    answer, confidence = _column(frame, columns[0], file), _confidence(frame, columns[1], file)
    joined = pl.DataFrame({"key": own, "answer": answer, "confidence": confidence})
    rows = pl.DataFrame({"key": keys}).join(joined, on="key", how="left", maintain_order="left")
    return rows["answer"], rows["confidence"].to_numpy()


def _confidence(frame: pl.DataFrame, name: str, file: str | Path) -> pl.Series:
    """A column of numbers; CSV files may spell NaN in ways that make it a column of texts."""
    column = _column(frame, name, file)
    if column.dtype.is_numeric():
        return column if column.dtype.is_float() else column.cast(pl.Float64)
    numbers = column.cast(pl.Float64, strict=False) if column.dtype == pl.String else None
    if numbers is None or numbers.null_count():
        wrong = column[0] if numbers is None else column.filter(numbers.is_null())[0]
        raise DataError(
            f"a confidence is a number, column {name!r} of {str(file)!r} has {wrong!r}: correct it"
        )
    return numbers


def _numbered(columns: Sequence[pl.Series]) -> tuple[list[np.ndarray], list[str] | None]:
    """Classes as numbers; texts are numbered in sorted order over labels and all predictions."""
    if all(_whole(column) for column in columns):
        return [_class_numbers(column) for column in columns], None
    if not all(column.dtype == pl.String for column in columns):
        types = sorted({str(column.dtype) for column in columns})
        raise DataError(
            f"labels and predictions are all whole numbers or all texts, found {', '.join(types)}"
        )
    classes = sorted(set().union(*(column.unique().to_list() for column in columns)))
    codes = (column.cast(pl.Enum(classes)).to_physical() for column in columns)
    return [column.to_numpy().astype(np.int64) for column in codes], classes


def _class_numbers(column: pl.Series) -> np.ndarray:
    """Whole numbers as 64-bit integers.

    Raises:
        DataError: a number beyond that.
    """
    numbers = column.cast(pl.Int64, strict=False)
    strange = column.filter(numbers.is_null())
    if len(strange):
        raise DataError(
            f"classes are numbered from 0, column {column.name!r} has {strange[0]}: correct it"
        )
    return numbers.to_numpy()


def _whole(column: pl.Series) -> bool:
    if column.dtype.is_integer():
        return True
    if not column.dtype.is_float():
        return False
    return bool(((column == column.floor()) & (column.abs() < 2**53)).all())


def _texts(frame: pl.DataFrame, name: str | None, file: str | Path) -> Sequence[str] | None:
    if name is None:
        return None
    texts: list[str] = _column(frame, name, file).cast(pl.String).to_list()
    return texts


def _about(labels: LabelFile) -> dict[str, Any]:
    return {name: None if value is None else str(value) for name, value in vars(labels).items()}
