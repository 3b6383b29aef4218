"""Samples with several right answers, such as ImageNet's ReaL labels (arXiv 2006.07159).

A label set is a row of class numbers, padded with -1; an answer is right if it is in the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from understudy.class_outputs import class_codes
from understudy.errors import TableError
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


def _several(labels: Any) -> bool:
    """Whether some sample has a row of labels."""
    return any(isinstance(row, (list, tuple, np.ndarray)) for row in labels)


def _entries(row: Any) -> list[Any]:
    """The labels of a sample, without padding."""
    if isinstance(row, (list, tuple, np.ndarray)):
        values = row.tolist() if isinstance(row, np.ndarray) else list(row)
        return [one for one in values if not (one is None or one == NO_LABEL)]
    return [] if row is None else [row]
