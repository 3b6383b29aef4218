"""Compiled half of `all_pairs`: one little model against 512 large ones at a time, in bits.

A row of a bit matrix is a sample, a bit of it a model (`right_bits`). 64 rows, picked in the little
model's order, are transposed, which gives one word per large model: its right answers on the next
64 samples. Two popcounts then move the sum of each large model on by 64 samples; a word is looked
into only if a need can be met within it. Imported on first use, because importing Numba is slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from understudy.searching._jit import compiled
from understudy.searching.right_bits import BITS, GROUP, LANES

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

_DONE = np.int64(2**62)
_ONE, _LAST = np.uint64(1), np.uint64(BITS - 1)


class RankedSamples(NamedTuple):
    """One little model's N samples by rising confidence.

    Attributes:
        order: (N,) unsigned, their positions.
        own: (⌈N / 64⌉,) which of them it has correct, see `pack_row`.
        edge: (⌈N / 64⌉,) bit r is set where deferring exactly r samples splits no tie.
    """

    order: npt.NDArray[np.uint64]
    own: Words
    edge: Words


class _BlockState(NamedTuple):
    """Up to 512 large models: needs, where they were met, what is missing to the next one, the
    number of that one, and 1 where it may be met."""

    need: Array
    met: Array
    left: Array
    level: Array
    near: Array


def pack_row(flags: npt.NDArray[np.bool_]) -> Words:
    """Flags (N,) as ⌈N / 64⌉ words, the first flag in the lowest bit."""
    octets = np.zeros(-(-len(flags) // BITS) * 8, np.uint8)
    octets[: -(-len(flags) // 8)] = np.packbits(flags, bitorder="little")
    return octets.view(np.uint64)


def rising_order(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint64]:
    """The positions of confidences (N,), none NaN, from the least on; ties in any order."""
    if scores.dtype != np.float32:
        return np.argsort(scores).view(np.uint64)
    order: npt.NDArray[np.uint64] = _radix_order(np.ascontiguousarray(scores).view(np.uint32))
    return order


@compiled
def _radix_order(floats: Array) -> Array:
    """The order of float32 numbers by their bits: three rounds of counting sort, 11 bits each."""
    count, sign = floats.shape[0], np.uint32(1 << 31)
    keys, order = np.empty(count, np.uint32), np.empty(count, np.uint64)
    next_keys, next_order = np.empty(count, np.uint32), np.empty(count, np.uint64)
    places = np.zeros((3, 2048), np.int64)
    for at in range(count):
        bits = floats[at]
        key = ~bits if bits & sign else bits | sign
        keys[at], order[at] = key, at
        places[0, key & np.uint32(2047)] += 1
        places[1, (key >> np.uint32(11)) & np.uint32(2047)] += 1
        places[2, key >> np.uint32(22)] += 1
    for turn in range(3):
        start = 0
        for digit in range(2048):
            start, places[turn, digit] = start + places[turn, digit], start
        for at in range(count):
            key = keys[at]
            digit = (key >> np.uint32(11 * turn)) & np.uint32(2047)
            place = places[turn, digit]
            places[turn, digit] = place + 1
            next_keys[place], next_order[place] = key, order[at]
        keys, next_keys = next_keys, keys
        order, next_order = next_order, order
    return order


@intrinsic  # type: ignore[untyped-decorator]
def _count(_: Any, word: Any) -> Any:
    """The number of ones in a word: the processor's own instruction."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), emit


@compiled
def _lowest(word: Any) -> Any:
    """The position of the lowest one; 64 where there is none."""
    return _count(~word & (word - _ONE))


@compiled
def _swap(block: Words, step: int, mask: np.uint64) -> None:
    shift = np.uint64(step)
    width = step * LANES
    for start in range(0, BITS * LANES, 2 * width):
        for at in range(start, start + width):
            moved = ((block[at] >> shift) ^ block[at + width]) & mask
            block[at + width] ^= moved
            block[at] ^= moved << shift


@compiled
def _transpose(block: Words) -> None:
    """Transpose eight interleaved 64 x 64 bit matrices in place (Hacker's Delight, 7-3)."""
    _swap(block, 32, np.uint64(0x00000000FFFFFFFF))
    _swap(block, 16, np.uint64(0x0000FFFF0000FFFF))
    _swap(block, 8, np.uint64(0x00FF00FF00FF00FF))
    _swap(block, 4, np.uint64(0x0F0F0F0F0F0F0F0F))
    _swap(block, 2, np.uint64(0x3333333333333333))
    _swap(block, 1, np.uint64(0x5555555555555555))


@compiled
def _gather(rows: Words, order: Array, start: int, block: Words) -> None:
    stop = min(start + BITS, order.shape[0])
    for at in range(start, stop):
        row = order[at]
        for lane in range(LANES):
            block[(at - start) * LANES + lane] = rows[row, lane]
    block[(stop - start) * LANES :] = 0


@compiled
def _advance(block: Words, own: Any, left: Array, near: Array) -> None:
    """Move every sum on by 64 samples, and mark the models that may meet a need on the way."""
    own_count = np.int64(_count(own))
    for model in range(GROUP):
        word = block[model]
        near[model] = np.int64(_count(word & ~own)) >= left[model]
        left[model] -= np.int64(_count(word)) - own_count


@compiled
def _first_met(word: Any, own: Any, edge: Any, rise: int) -> Any:
    """The first edge in a word up to which the sum has risen by `rise`; 64 where there is none."""
    differ = word ^ own
    total = 0
    while True:
        change = _lowest(differ)
        reached = edge if change >= _LAST else edge & ((_ONE << (change + _ONE)) - _ONE)
        if reached and total >= rise:
            return np.int64(_lowest(reached))
        edge &= ~reached
        if not differ or not edge:
            return BITS
        total += 1 if (word >> change) & _ONE else -1
        differ &= differ - _ONE


@compiled
def _resolve_marked(block: Words, own: Any, edge: Any, start: int, state: _BlockState) -> Any:
    """Look into the words that were marked; returns how many models have met their last need."""
    need, left, near = state.need, state.left, state.near
    own_count, drops, finished = np.int64(_count(own)), need.shape[1], 0
    for eight, marks in enumerate(near.view(np.uint64)):
        if not marks:
            continue
        for model in range(eight * LANES, eight * LANES + LANES):
            if not near[model]:
                continue
            word, level = block[model], state.level[model]
            after = need[model, level] - left[model]
            before = after - np.int64(_count(word)) + own_count
            while level < drops:
                met = _first_met(word, own, edge, need[model, level] - before)
                if met == BITS:
                    break
                state.met[model, level] = start + met
                level += 1
            state.level[model] = level
            left[model] = _DONE if level == drops else need[model, level] - after
            finished += level == drops
    return finished


@compiled
def discordant_counts(words: Words, ranked: RankedSamples, ends: Array, first: int) -> Any:
    """How many of a little model's first samples only a larger one, or only itself, has right.

    Args:
        words: the bit matrices of `RightBits`, (⌈M / 512⌉, N, 8).
        ranked: the little model's samples; the edges are not used.
        ends: (P,) rising, from 1 on: how many samples count.
        first: the position of the first larger model; those before are left out.

    Returns:
        (2, P, 512 ⌈M / 512⌉) losses and gains, by position in the matrices.
    """
    models, steps = words.shape[0] * GROUP, ends.shape[0]
    found = np.zeros((2, steps, models), np.int32)
    block = np.empty(GROUP, np.uint64)
    for base in range(first // GROUP * GROUP, models, GROUP):
        losses, gains = np.zeros(GROUP, np.int32), np.zeros(GROUP, np.int32)
        step = 0
        for piece in range(ranked.own.shape[0]):
            own, start = ranked.own[piece], piece * BITS
            _gather(words[base // GROUP], ranked.order, start, block)
            _transpose(block)
            while step < steps and ends[step] <= start + BITS:
                some = ~np.uint64(0) >> np.uint64(start + BITS - ends[step])
                found[0, step, base : base + GROUP] = losses
                found[1, step, base : base + GROUP] = gains
                _add_discordant(block, own, some, found[:, step, base : base + GROUP])
                step += 1
            if step == steps:
                break
            for model in range(GROUP):
                losses[model] += np.int32(_count(block[model] & ~own))
                gains[model] += np.int32(_count(~block[model] & own))
    return found


@compiled
def _add_discordant(block: Words, own: Any, some: Any, counts: Array) -> None:
    """Add the losses and gains of some of 64 samples, (2, 512)."""
    for model in range(GROUP):
        counts[0, model] += np.int32(_count(block[model] & ~own & some))
        counts[1, model] += np.int32(_count(~block[model] & own & some))


@compiled
def fewest_deferred(words: Words, ranked: RankedSamples, need: Array, first: int) -> Any:
    """How many of its least confident samples a little model must defer to each larger one.

    Args:
        words: the bit matrices of `RightBits`, (⌈M / 512⌉, N, 8).
        ranked: the little model's samples.
        need: (M, D), D >= 1, rising in D: the least sum of (large correct) - (little correct)
            over the deferred samples, by position in the matrices.
        first: the position of the first larger model; those before are left out.

    Returns:
        (M, D) the fewest samples, at an edge, that meet each need; N where none do.
    """
    models = need.shape[0]
    met = np.full(need.shape, ranked.order.shape[0], np.int32)
    block = np.empty(GROUP, np.uint64)
    for base in range(first // GROUP * GROUP, models, GROUP):
        begin, end = max(first, base), min(base + GROUP, models)
        left = np.full(GROUP, _DONE)
        left[begin - base : end - base] = need[begin:end, 0]
        state = _BlockState(
            need[base:end],
            met[base:end],
            left,
            np.zeros(GROUP, np.int64),
            np.empty(GROUP, np.uint8),
        )
        unmet = end - begin
        for piece in range(ranked.own.shape[0]):
            if not unmet:
                break
            own, start = ranked.own[piece], piece * BITS
            _gather(words[base // GROUP], ranked.order, start, block)
            _transpose(block)
            _advance(block, own, state.left, state.near)
            unmet -= _resolve_marked(block, own, ranked.edge[piece], start, state)
    return met
