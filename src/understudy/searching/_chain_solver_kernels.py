"""Compiled half of `chain_solver`: two thresholds before a last exit, on a grid and exactly.

A threshold is a prefix: how many of its most confident samples a model accepts. Every prefix has a
net loss, the sum of (last exit correct) - (model correct), which must stay within a budget.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.searching._jit import compiled

Array = npt.NDArray[Any]

LEVELS, KINDS = 64, 4
_ROWS = 16
_WIDTH = LEVELS * KINDS
_CODES_PER_ROW = _WIDTH // _ROWS
_NEVER = np.int32(2**30)


class RankedModel(NamedTuple):
    """One model on N samples.

    Attributes:
        order: (N,) the samples by falling confidence.
        edge: (N,) whether the prefix that ends here splits no tie.
        loss: (N,) by sample: (last exit correct) - (model correct).
        price: the cost per sample.
    """

    order: Array
    edge: Array
    loss: Array
    price: float


class CodedModels(NamedTuple):
    """All models before a last exit: codes (K, N), see `encode`, costs (K,), and the last's."""

    codes: Array
    price: Array
    full: float


class _PrefixTree(NamedTuple):
    """Prefix losses of a model over its runs: a run starts where the loss changes.

    Node k has the children 2 k and 2 k + 1; the leaves are the second half.

    Attributes:
        total: the sum of losses below each node.
        least: the least prefix below each node that ends on an edge, from the node's start.
        end: by run, the length of its longest prefix that ends on an edge.
        run: by sample, the leaf of the run that it starts; 0 where it has no loss.
    """

    total: Array
    least: Array
    end: Array
    run: Array


@compiled
def encode(model: RankedModel, out: Array) -> None:
    """The code of each sample, (N,): four times its level of confidence + its loss + 1.

    Level 0 is the most confident of `LEVELS`; ties share one.
    """
    samples, level = model.order.shape[0], 0
    for at in range(samples):
        if at == 0 or model.edge[at - 1]:
            level = at * LEVELS // samples
        sample = model.order[at]
        out[sample] = KINDS * level + model.loss[sample] + 1


@compiled
def _histogram(first: Array, second: Array, counts: Array) -> None:
    """The number of samples by row of the first model (four levels) and code of the second."""
    counts[:] = 0
    for sample in range(first.shape[0]):
        row = first[sample] // _CODES_PER_ROW
        counts[np.int64(row) * _WIDTH + second[sample]] += 1


@compiled
def _accepted(code: Array) -> tuple[Array, Array]:
    """How many samples lie above each row of levels, and what they lose: (_ROWS,) each."""
    count, loss = np.zeros(_ROWS, np.int64), np.zeros(_ROWS, np.int64)
    for sample in range(code.shape[0]):
        row = np.int64(code[sample]) // _CODES_PER_ROW + 1
        if row < _ROWS:
            count[row] += 1
            loss[row] += np.int64(code[sample]) % KINDS - 1
    return np.cumsum(count), np.cumsum(loss)


@compiled
def longest_prefixes(model: RankedModel, last: Array, budgets: Array) -> Array:
    """How many samples a model may answer before a last exit within each budget: (D,).

    Args:
        last: (N,) by sample: (reference correct) - (last exit correct).
        budgets: (D,) the greatest net loss of both exits together.
    """
    out, gap = np.zeros(budgets.shape[0], np.int64), np.int64(0)
    for sample in range(last.shape[0]):
        gap += model.loss[sample]
    pending, widest = budgets.shape[0], budgets.max()
    for at in range(last.shape[0] - 1, -1, -1):
        sample = model.order[at]
        if gap <= widest and model.edge[at]:
            widest = -last.shape[0] - 2
            for drop in range(budgets.shape[0]):
                if not out[drop] and gap <= budgets[drop]:
                    out[drop] = at + 1
                    pending -= 1
                if not out[drop]:
                    widest = max(widest, budgets[drop])
            if not pending:
                break
        gap += np.int64(last[sample]) - model.loss[sample]
    return out


@compiled
def screen(coded: CodedModels, first: int, seconds: Array, budgets: Array, out: Array) -> None:
    """The least summed cost of first -> second -> last on a grid of 16 x 64 levels.

    Args:
        first: the model that comes first.
        seconds: (K,) whether a model is tried as the second.
        budgets: (D,) the greatest net loss.
        out: (K, D), by second model; a cost that is found replaces a higher one.
    """
    models, samples = coded.codes.shape
    price, code = coded.price, coded.codes[first]
    count, loss = _accepted(code)
    counts = np.empty(_ROWS * _WIDTH, np.int32)
    answered, gap = np.empty(LEVELS + 1, np.int32), np.empty(LEVELS + 1, np.int32)
    for second in range(models):
        if not seconds[second]:
            continue
        _histogram(code, coded.codes[second], counts)
        for row in range(_ROWS - 2, 0, -1):
            _add_later_rows(counts, row)
        for row in range(1, _ROWS):
            left = samples - count[row]
            paid = samples * price[first] + left * price[second]
            _accumulate(counts, row, answered, gap)
            for drop in range(budgets.shape[0]):
                at, allowed = LEVELS, budgets[drop] - loss[row]
                while at and gap[at] > allowed:
                    at -= 1
                if at:
                    cost = paid + (left - answered[at]) * coded.full
                    out[second, drop] = min(out[second, drop], cost)


@compiled
def _add_later_rows(counts: Array, row: int) -> None:
    """Add to the samples of one row of levels of the first model those of all later rows."""
    start = row * _WIDTH
    for cell in range(start, start + _WIDTH):
        counts[cell] += counts[cell + _WIDTH]


@compiled
def _accumulate(counts: Array, row: int, answered: Array, gap: Array) -> None:
    """What the second model's first levels answer and lose, (LEVELS + 1,) each."""
    answered[0], gap[0] = 0, 0
    for at in range(LEVELS):
        cell = row * _WIDTH + KINDS * at
        low, same, high = counts[cell], counts[cell + 1], counts[cell + 2]
        answered[at + 1] = answered[at] + low + same + high
        gap[at + 1] = gap[at] + high - low


@compiled
def _build_tree(model: RankedModel) -> _PrefixTree:
    """The tree of a model that is run on all samples."""
    samples, runs = model.order.shape[0], 1
    for at in range(samples):
        runs += model.loss[at] != 0
    leaves = 1
    while leaves < runs:
        leaves *= 2
    total = np.zeros(2 * leaves, np.int32)
    least = np.full(2 * leaves, _NEVER)
    end, run = np.zeros(leaves, np.int32), np.zeros(samples, np.int32)
    leaf = leaves
    for at in range(samples):
        sample = model.order[at]
        if model.loss[sample]:
            leaf += 1
            run[sample] = leaf
            total[leaf] = model.loss[sample]
        if model.edge[at]:
            end[leaf - leaves] = at + 1
            least[leaf] = total[leaf]
    for node in range(leaves - 1, 0, -1):
        total[node] = total[2 * node] + total[2 * node + 1]
        least[node] = min(least[2 * node], total[2 * node] + least[2 * node + 1])
    return _PrefixTree(total, least, end, run)


@compiled
def _remove(tree: _PrefixTree, sample: int) -> None:
    """Take one sample's loss out of the tree."""
    total, least, node = tree.total, tree.least, tree.run[sample]
    if not node:
        return
    total[node] = 0
    if least[node] < _NEVER:
        least[node] = 0
    node >>= 1
    while node:
        left = total[2 * node]
        total[node] = left + total[2 * node + 1]
        least[node] = min(least[2 * node], left + least[2 * node + 1])
        node >>= 1


@compiled
def _longest_prefix(tree: _PrefixTree, allowed: int) -> Any:
    """The longest prefix that ends on an edge and loses at most `allowed`; 0 for none."""
    total, least = tree.total, tree.least
    leaves = tree.end.shape[0]
    if least[1] > allowed:
        return 0
    node = 1
    while node < leaves:
        node *= 2
        rest = allowed - total[node]
        if least[node + 1] <= rest:
            allowed = rest
            node += 1
    return tree.end[node - leaves]


@compiled
def _insert(marks: Array, position: int) -> None:
    """Enter a position into a Fenwick tree (N + 1,)."""
    at = position + 1
    while at < marks.shape[0]:
        marks[at] += 1
        at += at & -at


@compiled
def _count_inserted(marks: Array, length: int) -> Any:
    """How many of the first positions were entered."""
    out = 0
    while length:
        out += marks[length]
        length -= length & -length
    return out


@compiled
def refine(
    first: RankedModel, second: RankedModel, full: float, budgets: Array, best: Array
) -> Array:
    """The cheapest two thresholds of first -> second -> last within each budget, exactly.

    Every prefix of the first model is tried. The samples it accepts are taken out of a tree over
    the second model's prefix losses, which then gives the longest prefix within the budget in
    O(log N) steps.

    Args:
        full: the cost per sample of the last exit.
        budgets: (D,) the greatest net loss.
        best: (D,) summed costs to beat; those that are beaten are replaced.

    Returns:
        (D, 2) the prefixes of both models; (0, 0) where nothing is cheaper than `best`.
    """
    samples, drops = first.order.shape[0], budgets.shape[0]
    found = np.zeros((drops, 2), np.int64)
    place = np.empty(samples, np.int32)
    for at in range(samples):
        place[second.order[at]] = at
    tree, marks, gap = _build_tree(second), np.zeros(samples + 1, np.int32), np.int64(0)
    for at in range(samples - 1):
        sample, left = first.order[at], samples - at - 1
        gap += first.loss[sample]
        _remove(tree, sample)
        _insert(marks, place[sample])
        if not first.edge[at]:
            continue
        paid = samples * first.price + left * second.price
        for drop in range(drops):
            if paid >= best[drop]:
                continue
            longest = _longest_prefix(tree, budgets[drop] - gap)
            if longest and paid + max(left - longest, 0) * full < best[drop]:
                cost = paid + (left - longest + _count_inserted(marks, longest)) * full
                if cost < best[drop]:
                    best[drop] = cost
                    found[drop] = at + 1, longest
    return found
