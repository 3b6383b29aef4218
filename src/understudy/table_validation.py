"""The rules of a score table: arrays of one shape, read-only; valid names, labels and costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError, listed, unknown

Array = npt.NDArray[Any]
Costs = Mapping[str, Mapping[str, float]]
NO_LABEL = -1


def read_only(values: npt.ArrayLike, dtype: Any) -> Array:
    """An array of that type that nobody can write to: it shares memory that is read-only already,
    and copies other memory.

    >>> mine = np.zeros(2)
    >>> theirs = read_only(mine, float)
    >>> mine[0] = 7
    >>> theirs.tolist(), read_only(theirs, float) is theirs
    ([0.0, 0.0], True)
    """
    array = np.asarray(values, dtype)
    return array if all(not one.flags.writeable for one in _owners(array)) else frozen(array.copy())


def frozen(array: Array) -> Array:
    """An array that was just made, now read-only, as is what it is a view of."""
    for one in _owners(array):
        one.flags.writeable = False
    return array


def _owners(array: Array) -> Iterator[Array]:
    """An array, what it is a view of, and so on."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        yield owner
        owner = owner.base


def class_numbers(values: npt.ArrayLike, what: str) -> Array:
    """Read-only class numbers, int32.

    Raises:
        TableError: they are no whole numbers, or 32 bits would not hold them.
    """
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
    return read_only(numbers, np.int32)


def label_numbers(values: npt.ArrayLike | Sequence[int | None]) -> Array | None:
    """Read-only labels, int32, -1 where one is missing; None where all are.

    A missing label may be given as None, -1 or NaN (as pandas does).

    >>> label_numbers([2, None, 0]).tolist(), label_numbers([-1, -1])
    ([2, -1, 0], None)

    Raises:
        TableError: what is there is no whole number.
    """
    labels = np.asarray(values)
    if labels.dtype == object:
        labels = np.array([NO_LABEL if label is None else label for label in labels.tolist()])
    if np.issubdtype(labels.dtype, np.floating) and np.isnan(labels).any():
        filled = np.where(np.isnan(labels), NO_LABEL, labels)
        labels = filled.astype(np.int64) if (filled == filled.astype(np.int64)).all() else labels
    numbers = class_numbers(labels, "labels")
    return None if numbers.size and (numbers == NO_LABEL).all() else numbers


def confidence_rows(values: npt.ArrayLike, name: str) -> Array:
    """Read-only confidences: as they are where that is float32, else as float64.

    Raises:
        TableError: they are no numbers.
    """
    rows = np.asarray(values)
    if not np.issubdtype(rows.dtype, np.number):
        raise TableError(f"confidences are numbers, {name!r} has the type {rows.dtype}")
    return read_only(rows, np.float32 if rows.dtype == np.float32 else np.float64)


def read_only_costs(costs: Costs) -> Costs:
    """Costs that cannot be changed.

    Raises:
        TableError: a cost is negative or no finite number.
    """
    for unit, parts in costs.items():
        for part, cost in parts.items():
            if not math.isfinite(cost) or cost < 0:
                raise TableError(
                    f"a cost is a number, zero or more; {part!r} has {cost!r} {unit}: correct it"
                )
    return MappingProxyType({unit: MappingProxyType(dict(parts)) for unit, parts in costs.items()})


def check_exit_names(names: Sequence[str]) -> None:
    """Refuse a table without exits, or with names that repeat.

    Raises:
        TableError: the message has the names.
    """
    if not names:
        raise TableError("a table has at least one exit, found none")
    repeats = _repeats(names)
    if repeats:
        raise TableError(f"exit names are unique, {listed(map(repr, repeats))} repeat: rename them")


def check_ids(ids: Array) -> None:
    """Refuse a table without samples, or with ids that repeat.

    Raises:
        TableError: the message has the ids.
    """
    if not len(ids):
        raise TableError("a table has at least one sample, found none")
    repeats = _repeats(ids.tolist())
    if repeats:
        raise TableError(f"sample ids are unique, {len(repeats)} repeat: {listed(repeats)}")


def check_shapes(
    shape: tuple[int, int],
    *,
    per_exit: Mapping[str, Array] = MappingProxyType({}),
    per_sample: Mapping[str, Array | None] = MappingProxyType({}),
) -> None:
    """Hold arrays to the shape (exits, samples), or (samples,).

    Raises:
        TableError: the message has the first array of another shape.
    """
    for what, rows in per_exit.items():
        if rows.shape != shape:
            raise TableError(f"{what} has the shape (exits, samples) = {shape}, found {rows.shape}")
    for what, row in per_sample.items():
        if row is not None and row.shape != shape[1:]:
            raise TableError(f"{what} has one entry per sample, ({shape[1]},), found {row.shape}")


def check_numbers(confidence: Mapping[str, Array], exits: Sequence[str]) -> None:
    """Refuse NaN among confidences, and a table without confidences.

    Raises:
        TableError: the message has the exit with most NaN.
    """
    if not confidence:
        raise TableError("a table has at least one confidence, found none")
    for name, rows in confidence.items():
        wrong = np.isnan(rows).sum(1)
        if wrong.any():
            worst = int(wrong.argmax())
            raise TableError(
                f"confidences are numbers, {name!r} of exit {exits[worst]!r} has "
                f"{int(wrong[worst])} NaN among {rows.shape[1]}: score that model again"
            )


def check_predictions(prediction: Array, exits: Sequence[str]) -> None:
    """Refuse predictions that are no class numbers.

    Raises:
        TableError: the message has the exit and the lowest one.
    """
    lowest = prediction.min(1)
    if lowest.min() < 0:
        worst = int(lowest.argmin())
        raise TableError(
            f"predictions are class numbers from 0, exit {exits[worst]!r} has {lowest[worst]}: "
            "number the classes from 0"
        )


def check_labels(label: Array | None, classes: int | None) -> None:
    """Refuse labels that are no class numbers; `classes` is their number, None if unknown.

    -1 stands for a label that is missing.

    Raises:
        TableError: the message counts them and has their range.
    """
    if label is None:
        return
    low, high = int(label.min()), int(label.max())
    if low < NO_LABEL or (classes is not None and high >= classes):
        top = "" if classes is None else f" to {classes - 1}"
        wrong = int(((label < NO_LABEL) | (label >= (classes or np.inf))).sum())
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
    return frozen(np.stack(list(arrays.values())))


def costs_by_unit(costs: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Costs as {unit: {part: number}}; a plain {part: number} is MACs.

    Raises:
        TableError: they are neither, or texts.
    """
    units = (
        costs if all(isinstance(value, Mapping) for value in costs.values()) else {"MACs": costs}
    )
    try:
        texts = {p: c for parts in units.values() for p, c in parts.items() if isinstance(c, str)}
        found = {unit: {p: float(c) for p, c in parts.items()} for unit, parts in units.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"costs are {{unit: {{part: number}}}}, or {{part: number}} for MACs, found {costs!r}"
        ) from error
    for part, text in texts.items():
        raise TableError(f"a cost is a number, {part!r} has the text {text!r}: drop the quotes")
    return found


def check_cost_names(costs: Mapping[str, Mapping[str, float]], parts: Iterable[str]) -> None:
    """Refuse costs of names that no exit has.

    Raises:
        TableError: the message has the name, and those that are near.
    """
    known = list(dict.fromkeys(parts))
    for unit, found in costs.items():
        for name in found:
            if name not in known:
                raise TableError(
                    f"costs in {unit} are those of exits, {unknown('exit', name, known)}"
                )


def _repeats(names: Sequence[str]) -> list[str]:
    if len(set(names)) == len(names):
        return []
    return [name for name, times in Counter(names).items() if times > 1]
