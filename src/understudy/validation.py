"""What every score table is held to: arrays of one shape, read-only; names, labels and costs that
make sense."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError, listed
from understudy.exit import Array

if TYPE_CHECKING:
    from understudy.scores import ScoreTable

Costs = Mapping[str, Mapping[str, float]]


def freeze(table: ScoreTable) -> None:
    """Give the fields of a new table their types, and make them read-only.

    Raises:
        TableError: predictions or labels that are no class numbers, confidences that are no
            numbers.
    """
    fields: dict[str, Any] = {
        "exits": tuple(table.exits),
        "prediction": _class_numbers(table.prediction, "predictions"),
        "confidence": MappingProxyType(
            {name: _sure(rows, name) for name, rows in table.confidence.items()}
        ),
        "label": None if table.label is None else _class_numbers(table.label, "labels"),
        "ids": _read_only(table.ids, object),
        "split": _read_only(table.split, np.uint8),
        "costs": _frozen_costs(table.costs),
        "times": _frozen_costs(table.times),
        "provenance": MappingProxyType(dict(table.provenance)),
    }
    for name, value in fields.items():
        object.__setattr__(table, name, value)


def check(table: ScoreTable) -> None:
    """Hold a frozen table to the rules.

    Raises:
        TableError: shapes that do not agree, NaN, names or ids that repeat, labels out of range,
            negative costs.
    """
    _check_exits(table.names)
    _check_shapes(table)
    _check_numbers(table)
    check_labels(table.label, None if table.classes is None else len(table.classes))
    repeats = _repeats(table.ids.tolist())
    if repeats:
        raise TableError(f"sample ids are unique, {len(repeats)} repeat: {listed(repeats)}")
    for costs in (table.costs, table.times):
        _check_costs(costs)


def check_labels(label: Array | None, classes: int | None) -> None:
    """Refuse labels that are no numbers of classes; `classes` is None where nobody knows how many.

    Raises:
        TableError: the message counts them and has their range.
    """
    if label is None:
        return
    low, high = int(label.min()), int(label.max())
    if low < 0 or (classes is not None and high >= classes):
        top = "" if classes is None else f" to {classes - 1}"
        wrong = int(((label < 0) | (label >= (classes or np.inf))).sum())
        raise TableError(
            f"labels are class numbers from 0{top}, {wrong} lie outside (found {low} "
            f"to {high}): check the label column and the order of the classes"
        )


def stacked(rows: Mapping[str, npt.ArrayLike], what: str) -> Array:
    """Rows of all exits as one array (E, N).

    Raises:
        TableError: their shapes differ.
    """
    arrays = {name: np.asarray(row) for name, row in rows.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise TableError(
            f"{what} of all exits have one entry per sample, found the shapes {shapes}"
        )
    return np.stack(list(arrays.values()))


def costs_by_unit(costs: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Costs as {unit: {part: number}}; a plain {part: number} is MACs.

    Raises:
        TableError: they are neither.
    """
    units = (
        costs if all(isinstance(value, Mapping) for value in costs.values()) else {"MACs": costs}
    )
    try:
        return {unit: {p: float(c) for p, c in parts.items()} for unit, parts in units.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"costs are {{unit: {{part: number}}}}, or {{part: number}} for MACs, found {costs!r}"
        ) from error


def _read_only(values: npt.ArrayLike, dtype: Any) -> Array:
    array = np.asarray(values, dtype).view()
    array.flags.writeable = False
    return array


def _class_numbers(values: npt.ArrayLike, what: str) -> Array:
    """Whole numbers as int32, or an error where 32 bits would not hold them."""
    numbers = np.asarray(values)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TableError(f"{what} are class numbers, found the type {numbers.dtype}")
    if numbers.dtype.itemsize >= 4 and numbers.size:
        low, high = int(numbers.min()), int(numbers.max())
        if low < -(2**31) or high >= 2**31:
            raise TableError(
                f"{what} are class numbers below 2**31, found {low} to {high}: number the classes "
                "from 0"
            )
    return _read_only(numbers, np.int32)


def _sure(values: npt.ArrayLike, name: str) -> Array:
    """Confidences as they came where that is float32, else as float64."""
    rows = np.asarray(values)
    if not np.issubdtype(rows.dtype, np.number):
        raise TableError(f"confidences are numbers, {name!r} has the type {rows.dtype}")
    return _read_only(rows, np.float32 if rows.dtype == np.float32 else np.float64)


def _frozen_costs(costs: Costs) -> Costs:
    return MappingProxyType({unit: MappingProxyType(dict(parts)) for unit, parts in costs.items()})


def _check_exits(names: Sequence[str]) -> None:
    if not names:
        raise TableError("a table has at least one exit, found none")
    repeats = _repeats(names)
    if repeats:
        raise TableError(f"exit names are unique, {listed(map(repr, repeats))} repeat: rename them")


def _check_shapes(table: ScoreTable) -> None:
    count = len(table.ids)
    if not count:
        raise TableError("a table has at least one sample, found none")
    if not table.confidence:
        raise TableError("a table has at least one confidence, found none")
    shape = (len(table.exits), count)
    arrays = {"prediction": table.prediction}
    arrays |= {f"confidence {name!r}": rows for name, rows in table.confidence.items()}
    for what, rows in arrays.items():
        if rows.shape != shape:
            raise TableError(f"{what} has the shape (exits, samples) = {shape}, found {rows.shape}")
    for what, row in (("label", table.label), ("split", table.split)):
        if row is not None and row.shape != (count,):
            raise TableError(f"{what} has one entry per sample, ({count},), found {row.shape}")


def _check_numbers(table: ScoreTable) -> None:
    for name, rows in table.confidence.items():
        wrong = np.isnan(rows).sum(1)
        if wrong.any():
            worst = int(wrong.argmax())
            raise TableError(
                f"confidences are numbers, {name!r} of exit {table.names[worst]!r} has "
                f"{int(wrong[worst])} NaN among {len(table)}: score that model again"
            )


def _check_costs(costs: Costs) -> None:
    for unit, parts in costs.items():
        for part, cost in parts.items():
            if not math.isfinite(cost) or cost < 0:
                raise TableError(
                    f"a cost is a number, zero or more; {part!r} has {cost!r} {unit}: correct it"
                )


def _repeats(names: Sequence[str]) -> list[str]:
    if len(set(names)) == len(names):
        return []
    return [name for name, times in Counter(names).items() if times > 1]
