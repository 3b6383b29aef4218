"""All ordered pairs of a zoo: the exact threshold of every model before every costlier one."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError
from understudy.policy import midpoint
from understudy.searching.right_bits import RightBits
from understudy.short_repr import short_repr

Array = npt.NDArray[Any]
ScoreRow = Callable[[int], Array]
"""The confidences of a model, (N,), by its number."""


@dataclass(frozen=True, eq=False)
class AllPairs:
    """The best two-stage cascade of every ordered pair of M models, for each of D budgets.

    Both arrays are (M, M, D), indexed [little, big, drop], and read-only.

    Attributes:
        threshold: the little model answers where its confidence is at least this: ``-inf`` for all
            samples, ``inf`` for none, NaN where it is not strictly cheaper than the big one.
        accepted: how many samples the little model answers; 0 where it is not strictly cheaper.
    """

    threshold: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.int64]

    __repr__ = short_repr


def search_all_pairs(
    correct: Array,
    confidence: Array,
    cost: npt.ArrayLike,
    max_drops: npt.ArrayLike,
    *,
    threads: int | None = None,
) -> AllPairs:
    """For every ordered pair, the threshold by which the little model answers most within a drop.

    The largest set of most confident samples within the budget is found, not the one before the
    first crossing (TinySaver, arXiv 2403.17726); ties are never split. A drop is paired, in points,
    and counted in whole samples: 0.1 of 50,000 is 50. A negative one requires a gain. Where nothing
    fits, the little model answers nothing. The result does not depend on `threads`.

    Args:
        correct: (M, N) bool, or uint8 of 0 and 1: which samples each model has correct.
        confidence: (M, N) float32 or float64, any real number.
        cost: (M,) per sample, in one unit. A model is paired with the strictly costlier ones.
        max_drops: (D,) points, in any order.
        threads: how many to use; all cores by default.

    >>> pairs = search_all_pairs(
    ...     np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool),
    ...     np.array([[.9, .8, .6, .5], [.9, .9, .9, .9]], np.float32), [1, 9], [0, 25])
    >>> pairs.accepted[0, 1].tolist(), pairs.threshold[0, 1].round(3).tolist()
    ([2, 4], [0.7, -inf])

    Raises:
        TableError: wrong types or shapes, no sample, NaN, a negative cost, or no thread.
    """
    right, scores, prices = _checked_zoo(correct, confidence, cost)
    bits = RightBits.of(right.__getitem__, prices, right.shape[1])
    return all_pairs_of(bits, scores.__getitem__, max_drops, threads=threads)


def all_pairs_of(
    bits: RightBits,
    confidence: ScoreRow,
    max_drops: npt.ArrayLike,
    *,
    threads: int | None = None,
) -> AllPairs:
    """`search_all_pairs` for a zoo that is larger than memory.

    Bits may be mapped from a file (`open_right_bits`); each thread holds the confidences of one
    model at a time, which take 32 bytes per sample while they are sorted. The result takes 16 bytes
    per ordered pair and drop.

    Args:
        bits: the right answers and costs of M models.
        confidence: reads the confidences of a model, (N,) float32 or float64, by its number.
        max_drops, threads: as for `search_all_pairs`.

    >>> correct = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool)
    >>> bits = RightBits.of(correct.__getitem__, np.array([1., 9.]), 4)
    >>> scores = np.array([[.9, .8, .6, .5], [.9, .9, .9, .9]], np.float32)
    >>> all_pairs_of(bits, scores.__getitem__, [0, 25]).accepted[0, 1].tolist()
    [2, 4]

    Raises:
        TableError: confidences of another type or length, or NaN among them; no thread.
    """
    drops = _checked_drops(max_drops)
    workers = _checked_threads(threads)
    shape = len(bits), len(bits), len(drops)
    pairs = AllPairs(np.full(shape, np.nan), np.zeros(shape, np.int64))
    littles = np.flatnonzero(bits.first_dearer < len(bits))
    if len(drops) and len(littles):
        fill = _pair_filler(bits, confidence, gap_budgets(drops, bits.samples), pairs)
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, littles.tolist()))
    for array in (pairs.threshold, pairs.accepted):
        array.flags.writeable = False
    return pairs


def gap_budgets(max_drops: npt.NDArray[np.float64], samples: int) -> npt.NDArray[np.int64]:
    """The most samples that may be lost net, (D,): the whole part of each drop in points.

    Rounding of the product is forgiven, so that 0.3 points of 1,000 samples are 3, not 2.

    >>> gap_budgets(np.array([0.3, 0.1, -0.1, 1e9]), 1_000).tolist()
    [3, 1, -1, 1000]
    """
    exact = np.clip(max_drops / 100 * samples, -samples - 1, samples)
    return np.asarray(np.floor(exact + 1e-9 + 1e-14 * samples), np.int64)


def _pair_filler(
    bits: RightBits, confidence: ScoreRow, budgets: Array, out: AllPairs
) -> Callable[[int], None]:
    """The function that writes the pairs of one little model into `out`."""
    from understudy.searching import _all_pairs_kernels as kernels

    widest_first = np.argsort(-budgets, kind="stable")
    gap_left = bits.right[bits.by_cost][:, None] - budgets[widest_first]

    def fill(little: int) -> None:
        scores = _checked_row(confidence(little), little, bits.samples)
        first, order = int(bits.first_dearer[little]), kernels.rising_order(scores)
        rising = scores[order]
        edges = np.append(True, rising[1:] != rising[:-1])
        marks, ends = kernels.pack_row(bits.row(little)[order]), kernels.pack_row(edges)
        ranked = kernels.RankedSamples(order, marks, ends)
        need = gap_left - bits.right[little]
        deferred = kernels.fewest_deferred(bits.words, ranked, need, first)[first:]
        by_drop = np.empty_like(deferred)
        by_drop[:, widest_first] = deferred
        out.accepted[little, bits.by_cost[first:]] = len(order) - by_drop
        out.threshold[little, bits.by_cost[first:]] = _thresholds(rising, by_drop)

    return fill


def _thresholds(rising: Array, deferred: Array) -> npt.NDArray[np.float64]:
    """The thresholds that defer so many of the least confident samples, from 0 to N."""
    below = rising[np.maximum(deferred - 1, 0)].astype(np.float64)
    above = rising[np.minimum(deferred, len(rising) - 1)].astype(np.float64)
    between = np.where(deferred == len(rising), np.inf, midpoint(below, above))
    return np.where(deferred == 0, -np.inf, between)


def _checked_zoo(
    correct: Array, confidence: Array, cost: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], Array, npt.NDArray[np.float64]]:
    right, scores, prices = np.asarray(correct), np.asarray(confidence), _numbers(cost, "costs")
    if right.ndim != 2 or not right.size:
        raise TableError(
            f"`correct` has the shape (models, samples), at least one of each, found {right.shape}"
        )
    if right.dtype != bool and (right.dtype != np.uint8 or right.max() > 1):
        found = f"values up to {right.max()}" if right.dtype == np.uint8 else f"type {right.dtype}"
        raise TableError(
            f"`correct` holds true or false (bool, or uint8 of 0 and 1), found {found}: "
            "compare predictions with labels first"
        )
    if scores.shape != right.shape:
        raise TableError(
            f"`confidence` has the shape of `correct`, {right.shape}, found {scores.shape}"
        )
    for model, row in enumerate(scores):
        _checked_row(row, model, right.shape[1])
    if prices.shape != right.shape[:1]:
        raise TableError(f"one cost per model, {right.shape[:1]}, found {prices.shape}")
    wrong = ~(np.isfinite(prices) & (prices >= 0))
    if wrong.any():
        model = int(wrong.argmax())
        raise TableError(
            f"a cost is a number, zero or more, model {model} has {float(prices[model])!r}: "
            "correct it"
        )
    return right.view(bool), scores, prices


def _checked_row(scores: Array, model: int, samples: int) -> Array:
    if scores.shape != (samples,):
        raise TableError(
            f"a model has one confidence per sample, ({samples},), model {model} has {scores.shape}"
        )
    if scores.dtype not in (np.float32, np.float64):
        raise TableError(f"`confidence` is float32 or float64, found {scores.dtype}: convert it")
    wrong = int(np.isnan(scores).sum())
    if wrong:
        raise TableError(
            f"confidences are numbers, model {model} has {wrong} NaN among {samples}: score that "
            "model again"
        )
    return scores


def _checked_drops(max_drops: npt.ArrayLike) -> npt.NDArray[np.float64]:
    drops = _numbers(max_drops, "drops")
    if drops.ndim != 1 or np.isnan(drops).any():
        raise TableError(f"drops are a list of numbers, in points, found {max_drops!r}")
    return drops


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return os.cpu_count() or 1
    if threads < 1:
        raise TableError(f"a search runs in at least one thread, found {threads}: give 1 or more")
    return threads


def _numbers(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TableError(f"{what} are numbers, found {values!r}: correct them") from error
