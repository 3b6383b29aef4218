"""Outputs of classifiers in memory, arrays or data frames: one order of classes for all exits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError, listed, unknown
from understudy.extras import needing
from understudy.table_validation import NO_LABEL

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ClassOutputs:
    """One number per class and sample of every exit.

    Attributes:
        rows: by exit, (N, C) floats, classes in one order.
        classes: (C,) their names; None where neither the caller nor a data frame names them.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"dog": [0.9], "cat": [0.1]})
    >>> found = ClassOutputs.of({"tiny": frame}, classes=["cat", "dog"])
    >>> found.rows["tiny"].tolist(), found.classes
    ([[0.1, 0.9]], ('cat', 'dog'))
    """

    rows: Mapping[str, Array]
    classes: tuple[str, ...] | None

    @staticmethod
    def of(outputs: Mapping[str, Any], *, classes: Sequence[str] | None) -> ClassOutputs:
        """The outputs as arrays; the columns of data frames are put in the order of the classes.

        Raises:
            TableError: no exit; shapes or columns that differ, or are not those of the classes.
        """
        if not isinstance(outputs, Mapping):
            raise TableError(
                f"outputs are given by exit, {{NAME: array}}, found a {type(outputs).__name__}"
            )
        if not outputs:
            raise TableError("a table has at least one exit, found none")
        read = {name: _values(rows) for name, rows in outputs.items()}
        named = (columns for _, columns in read.values() if columns is not None)
        order = next(named, None) if classes is None else tuple(map(str, classes))
        rows = {
            name: _ordered(values, columns, order, name) for name, (values, columns) in read.items()
        }
        shapes = {name: values.shape for name, values in rows.items()}
        if any(len(shape) != 2 or not all(shape) for shape in shapes.values()):
            raise TableError(f"every exit has an array (samples, classes), found {shapes}")
        if len(set(shapes.values())) > 1:
            raise TableError(f"all exits have the same samples and classes, found {shapes}")
        count = next(iter(shapes.values()))[1]
        if order is not None and len(order) != count:
            raise TableError(
                f"there is a name for each of {count} classes, found {len(order)}: "
                f"{listed(map(repr, order))}"
            )
        return ClassOutputs(rows, order)


def _values(rows: Any) -> tuple[Array, tuple[str, ...] | None]:
    """The numbers of an array or a data frame, and the names of its columns."""
    values, columns = array_of(rows)
    if not np.issubdtype(values.dtype, np.number):
        raise TableError(f"the outputs of an exit are numbers, found the type {values.dtype}")
    return values, columns


def array_of(rows: Any) -> tuple[Array, tuple[str, ...] | None]:
    """An array of what is in an array, tensor or data frame, and the names of its columns."""
    if hasattr(rows, "detach"):  # a tensor of PyTorch
        rows = rows.detach().cpu()
    if hasattr(rows, "__arrow_c_stream__") and not hasattr(rows, "to_numpy"):
        with needing("reading Arrow tables"):
            import polars as pl

        rows = pl.DataFrame(rows)
    columns = None
    if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
        names = list(rows.columns)
        columns = tuple(map(str, names)) if any(isinstance(n, str) for n in names) else None
        rows = rows.to_numpy()
    values = np.asarray(rows)
    if columns is not None and values.dtype == object:  # pandas' nullable numbers
        numbers = all(isinstance(one, int | float) for one in values.ravel().tolist())
        values = values.astype(np.float64) if numbers else values
    return values, columns


def is_frame(values: Any) -> bool:
    """Whether something is a data frame: of pandas or Polars, or a table of Arrow by its capsule.

    >>> import polars as pl
    >>> is_frame(pl.DataFrame({"label": [0, 1]})), is_frame(pl.Series([0, 1])), is_frame([0, 1])
    (True, False, False)
    """
    if isinstance(values, list | tuple | np.ndarray):
        return False
    capsule = hasattr(values, "__arrow_c_stream__")
    series = any(hasattr(values, name) for name in ("tolist", "to_list"))
    return hasattr(values, "columns") or (capsule and not series and not _is_arrow_array(values))


def _is_arrow_array(values: Any) -> bool:
    return hasattr(values, "to_pylist") and not hasattr(values, "column_names")


def one_column(values: Any, what: str) -> Any:
    """Something with an entry per sample as an array, list or series: that of a data frame with one
    column, of Arrow's arrays, and of whatever has `__array__`.

    >>> import polars as pl
    >>> one_column(pl.DataFrame({"label": ["cat", "dog"]}), "labels").tolist()
    ['cat', 'dog']

    Raises:
        TableError: a data frame of several columns.
    """
    if values is None or isinstance(values, list | tuple | np.ndarray | str | Mapping):
        return values
    if _is_arrow_array(values):
        return values.to_pylist()
    if is_frame(values):
        rows, _ = array_of(values)
        if rows.ndim != 2 or rows.shape[1] != 1:
            raise TableError(
                f"{what} are one column, found a data frame of the shape {rows.shape}: name the "
                "column"
            )
        return rows[:, 0]
    if hasattr(values, "__array__") and not hasattr(values, "__len__"):
        return np.asarray(values)
    return values


def _ordered(
    values: Array, columns: tuple[str, ...] | None, order: tuple[str, ...] | None, name: str
) -> Array:
    if columns is None or order is None or columns == order:
        return values
    if sorted(columns) != sorted(order) or len(set(columns)) < len(columns):
        strange = sorted(set(columns) ^ set(order)) or ["names that repeat"]
        raise TableError(
            f"the columns of every exit are the {len(order)} classes, those of {name!r} differ "
            f"in {listed(map(repr, strange))}: rename or drop columns"
        )
    return values[:, [columns.index(one) for one in order]]


def class_codes(values: Any, classes: Sequence[str] | None, what: str) -> Any:
    """Names of classes as their numbers, -1 where one is missing; numbers stay as they are.

    >>> class_codes(["dog", None, "cat"], ["cat", "dog"], "labels").tolist()
    [1, -1, 0]

    Raises:
        TableError: names without classes, or that are none of them.
    """
    if not _has_names(values):
        return values
    if classes is None:
        raise TableError(
            f"{what} are class numbers, or names together with classes=[...] in the order of the "
            f"columns, found {next(filter(_is_name, entries(values)))!r} without classes"
        )
    codes = {str(one): code for code, one in enumerate(classes)}
    strange = [one for one in entries(values) if _is_name(one) and one not in codes]
    if strange:
        raise TableError(
            f"{what} are names of classes, {len(strange)} are none: "
            f"{unknown('class', strange[0], codes)}"
        )
    numbers = (codes.get(one, NO_LABEL if is_missing(one) else one) for one in entries(values))
    return np.array(list(numbers))


def names_of_classes(columns: Sequence[Any]) -> tuple[str, ...] | None:
    """The classes of predictions and labels, sorted, where these are names; None for numbers.

    >>> names_of_classes([["dog", "cat"], ["cat", None]])
    ('cat', 'dog')

    Raises:
        TableError: some are names and some are numbers.
    """
    kinds = [_has_names(column) for column in columns]
    if not any(kinds):
        return None
    found = [one for column in columns for one in entries(column) if not is_missing(one)]
    numbers = [one for one in found if not _is_name(one)]
    if numbers:
        raise TableError(
            "predictions and labels are all class numbers or all names, found "
            f"{next(filter(_is_name, found))!r} and {numbers[0]!r}: number the classes, or name "
            "all of them"
        )
    return tuple(sorted(set(found)))


def entries(values: Any) -> list[Any]:
    """What an array, data frame's column or list holds, as a list."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _is_name(one: Any) -> bool:
    return isinstance(one, str) and one != ""


def is_missing(one: Any) -> bool:
    """Whether an entry stands for none: None, NaN or an empty text."""
    return one is None or one == "" or (isinstance(one, float) and math.isnan(one))


def _has_names(values: Any) -> bool:
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind in "biufc":  # the common case, at once
        return False
    return any(map(_is_name, entries(values)))
