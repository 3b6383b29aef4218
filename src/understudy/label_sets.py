"""Samples with several right answers, such as ImageNet's ReaL labels (arXiv 2006.07159).

A label set is a row of class numbers, padded with -1; an answer is right if it is in the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from understudy.class_outputs import class_codes
from understudy.errors import TableError, listed
from understudy.table_validation import NO_LABEL, Array, class_numbers, frozen


def flat_labels(labels: Any) -> Any:
    """The labels of all samples in one row; those with one label each stay as they are.

    >>> flat_labels([["cat", "dog"], [], ["dog"]])
    ['cat', 'dog', 'dog']
    """
    if hasattr(labels, "dtype") or not _several(labels):
        return labels
    return [one for row in labels for one in _entries(row)]


def coded_labels(labels: Any, classes: Sequence[str] | None) -> Any:
    """Labels as class numbers: (N,), or (N, K) where samples have several, padded with -1.

    >>> coded_labels([["cat", "dog"], [], ["dog"]], ["cat", "dog"]).tolist()
    [[0, 1], [-1, -1], [1, -1]]

    Raises:
        TableError: names without classes, or that are none of them.
    """
    codes = class_codes(flat_labels(labels), classes, "labels")
    if hasattr(labels, "dtype") or not _several(labels):
        return codes
    return padded_sets(codes, [len(_entries(row)) for row in labels])


def padded_sets(codes: Any, counts: Iterable[int]) -> Array:
    """Class numbers in one row as sets (N, K), so many for each sample, padded with -1.

    >>> padded_sets([3, 5, 4], [2, 0, 1]).tolist()
    [[3, 5], [-1, -1], [4, -1]]
    """
    sizes = np.array(list(counts), np.intp)
    sets = np.full((len(sizes), max(int(sizes.max(initial=0)), 1)), NO_LABEL, np.int64)
    sets[np.arange(sets.shape[1]) < sizes[:, None]] = codes
    return sets


def checked_sets(sets: Any, label: Array | None, samples: int) -> Array | None:
    """Read-only label sets (N, K) int32; None where no sample has more than one label.

    Args:
        sets: (N, K) class numbers, or None.
        label: (N,) the first of each set, or None.
        samples: N.

    Raises:
        TableError: another shape, padding that is not at the end, or labels that are not the first
            of each set.
    """
    rows = class_numbers(sets, "label sets")
    if rows.ndim != 2 or len(rows) != samples or not rows.shape[1]:
        raise TableError(
            f"label sets have a row per sample, ({samples}, K), found {rows.shape}: pad the rows "
            "with -1"
        )
    if ((rows[:, 1:] != NO_LABEL) & (rows[:, :-1] == NO_LABEL)).any():
        raise TableError("label sets are padded with -1 at the end, found -1 before a class number")
    if label is not None and (label != rows[:, 0]).any():
        raise TableError(
            "the label of a sample is the first of its label set, found others: give label_sets "
            "alone"
        )
    widest = int((rows != NO_LABEL).sum(1).max())
    return None if widest <= 1 else frozen(np.ascontiguousarray(rows[:, :widest]))


def is_right(prediction: Array, sets: Array) -> Array:
    """Which answers (..., N) are among the right ones of their samples, (N, K).

    >>> is_right(np.array([[3, 4], [5, 6]]), np.array([[3, 5], [4, -1]])).tolist()
    [[True, True], [True, False]]
    """
    right = prediction == sets[:, 0]
    for column in sets.T[1:]:
        right |= prediction == column
    return np.asarray(right)


def with_labels(
    sets: Array, ids: Array, labels: Mapping[str, SupportsIndex | Iterable[SupportsIndex]]
) -> Array:
    """Label sets (N, K) with those of further samples: id -> class number, or several.

    >>> with_labels(np.array([[3], [-1]]), np.array(["a", "b"]), {"b": [0, 2]}).tolist()
    [[3, -1], [0, 2]]

    Raises:
        TableError: unknown ids, numbers that are no classes, or labels other than those there are.
    """
    rows, added = _label_rows(ids, labels)
    whole = np.full((len(sets), max(sets.shape[1], added.shape[1])), NO_LABEL)
    whole[:, : sets.shape[1]] = sets
    new = np.full((len(rows), whole.shape[1]), NO_LABEL)
    new[:, : added.shape[1]] = added
    changed = np.flatnonzero((whole[rows, 0] != NO_LABEL) & (whole[rows] != new).any(1))
    if len(changed):
        raise TableError(
            f"labels that the table has stay as they are, {len(changed):,} of {len(labels):,} "
            f"differ: {listed(map(repr, ids[rows[changed]]))}: correct them, or import "
            "the table again"
        )
    whole[rows] = new
    return whole


def _label_rows(
    ids: Array, labels: Mapping[str, SupportsIndex | Iterable[SupportsIndex]]
) -> tuple[Array, Array]:
    """The rows of samples that get labels, (M,), and their labels, (M, K)."""
    position = {key: row for row, key in enumerate(ids.tolist())}
    strange = [key for key in labels if key not in position]
    if strange:
        raise TableError(
            f"labels are those of the table's samples, {len(strange):,} of {len(labels):,} ids "
            f"are unknown: {listed(map(repr, strange))}: correct them, or leave the rows out"
        )
    rows = np.array([position[key] for key in labels], np.intp)
    values = [[*one] if isinstance(one, Iterable) else [one] for one in labels.values()]
    numbers = np.array([one for row in values for one in row], np.int64)
    if (numbers < 0).any():
        raise TableError(f"labels are class numbers from 0, found {int(numbers.min())}")
    sets = padded_sets(class_numbers(numbers, "labels"), map(len, values))
    some = sets[:, 0] != NO_LABEL
    return rows[some], sets[some]


def _several(labels: Any) -> bool:
    """Whether some sample has a row of labels."""
    return any(isinstance(row, (list, tuple, np.ndarray)) for row in labels)


def _entries(row: Any) -> list[Any]:
    """The labels of a sample, without padding."""
    if isinstance(row, (list, tuple, np.ndarray)):
        values = row.tolist() if isinstance(row, np.ndarray) else list(row)
        return [one for one in values if not (one is None or one == NO_LABEL)]
    return [] if row is None else [row]
