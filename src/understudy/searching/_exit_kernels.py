"""The compiled half of `line`: walk samples in order of confidence, in whole numbers.

The fate of a sample is one small code, ``2 * group + right``: the group whose exit answers it (the
number of groups for the full model) and whether that answer is right. Costs and the weight of a
mistake are counted in a quantum, a power of two so small that sums over all samples are exact in
int64: no result depends on the order of summation. Imported on first use, because importing Numba
is slow. Numba's cache on disk refers to the tuples here by name: renaming one breaks caches in use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.searching._compiled import compiled
from understudy.searching.exit_problem import LAST, LOW_BITS, OFF, RIGHT

Array = npt.NDArray[Any]


class Record(NamedTuple):
    """An `ExitProblem` of K exits in J groups on N samples, as plain arrays.

    The exits of group j are `first[j]` to `first[j + 1]`. Exit k has the shared parts
    ``part[part_first[k] : part_first[k + 1]]``. `code` is empty; its type holds the codes.
    """

    confidence: Array
    correct: Array
    final: Array
    order: Array
    first: Array
    code: Array
    trunk: Array
    head: Array
    part_first: Array
    part: Array
    part_price: Array


class ThresholdState(NamedTuple):
    """The exit of each group, or `OFF`, and its threshold, (J,) each; set in place."""

    choice: Array
    threshold: Array


class Aim(NamedTuple):
    """What a mistake costs in quanta, and how large a quantum is."""

    weight: int
    quantum: float


@compiled
def leave_costs(record: Record, choice: Array) -> Array:
    """What a sample has paid when it leaves at each group, and at the full model: (J + 1,)."""
    groups = choice.shape[0]
    out = np.zeros(groups + 1)
    paid = np.zeros(record.part_price.shape[0], np.bool_)
    running = 0.0
    for group in range(groups + 1):
        exit = choice[group] if group < groups else record.head.shape[0]
        if exit == OFF:
            continue
        if group < groups:
            running += record.head[exit]
        for at in range(record.part_first[exit], record.part_first[exit + 1]):
            part = record.part[at]
            if not paid[part]:
                paid[part] = True
                running += record.part_price[part]
        out[group] = record.trunk[exit] + running
    return out


@compiled
def _quanta(record: Record, choice: Array, quantum: float) -> Any:
    return np.rint(leave_costs(record, choice) / quantum).astype(np.int64)


@compiled
def _stop(record: Record, group: int, exit: int, threshold: float, fate: Array) -> None:
    """Let an exit answer what it is sure of, before all that `fate` (N,) knows of."""
    own, confidence, correct = 2 * group, record.confidence[exit], record.correct[exit]
    for sample in range(fate.shape[0]):
        sure = np.float64(confidence[sample]) >= threshold
        fate[sample] = own + correct[sample] if sure else fate[sample]


@compiled
def _last(record: Record, fate: Array) -> None:
    """The fate of samples that no exit answers."""
    own = 2 * (record.first.shape[0] - 1)
    for sample in range(fate.shape[0]):
        fate[sample] = own + record.final[sample]


@compiled
def _settle(record: Record, setting: ThresholdState, fate: Array) -> None:
    """Fill `fate` (N,) with the codes of a whole configuration."""
    _last(record, fate)
    for group in range(setting.choice.shape[0] - 1, -1, -1):
        if setting.choice[group] != OFF:
            _stop(record, group, setting.choice[group], setting.threshold[group], fate)


@compiled
def _without(state: Array, fate: Array, group: int, out: Array) -> None:
    """The codes with a group off: `state` where a sample leaves before it, `fate` elsewhere."""
    for sample in range(out.shape[0]):
        early = state[sample] < 2 * group
        out[sample] = state[sample] if early else fate[sample]


@compiled
def _count(codes: Array, counts: Array) -> None:
    """The number of samples of each code, (2 J + 2,)."""
    lanes = np.zeros((4, counts.shape[0]), np.int64)
    for sample in range(codes.shape[0]):
        lanes[sample & 3, codes[sample]] += 1
    for code in range(counts.shape[0]):
        counts[code] = lanes[0, code] + lanes[1, code] + lanes[2, code] + lanes[3, code]


@compiled
def _totals(leave: Array, counts: Array) -> tuple[Any, Any]:
    """Cost and mistakes of a whole configuration."""
    cost, wrong = np.int64(0), np.int64(0)
    for group in range(leave.shape[0]):
        cost += (counts[2 * group] + counts[2 * group + 1]) * leave[group]
        wrong += counts[2 * group]
    return cost, wrong


@compiled
def _changes(leave: Array, group: int) -> Array:
    """What changes in cost and in mistakes when `group` answers a sample itself: (2, 4 J + 4).

    Column ``2 * code + right`` is for a sample of that code that the group is right about or not;
    samples that leave earlier change nothing.
    """
    out = np.zeros((2, 4 * leave.shape[0]), np.int64)
    for code in range(2 * group, 2 * leave.shape[0]):
        for right in range(2):
            out[0, 2 * code + right] = leave[group] - leave[code >> 1]
            out[1, 2 * code + right] = (code & 1) - right
    return out


@compiled
def _walk(order: Array, codes: Array, change: Array, total: int) -> tuple[int, int]:
    """The least total below the given one over all thresholds, and how many are accepted there."""
    best, accepted = total, 0
    for at in range(order.shape[0]):
        entry = order[at]
        code = np.int64(codes[entry >> LOW_BITS])
        total += change[(code << 1) | np.int64(entry & RIGHT)]
        if total < best and entry & LAST:
            best = total
            accepted = at + 1
    return best, accepted


@compiled
def _between(record: Record, exit: int, accepted: int) -> float:
    """The threshold that accepts the first so many samples: `policy.midpoint`, or -inf for all."""
    order = record.order[exit]
    if accepted == order.shape[0]:
        return -np.inf
    below = np.float64(record.confidence[exit, order[accepted] >> LOW_BITS])
    above = np.float64(record.confidence[exit, order[accepted - 1] >> LOW_BITS])
    middle = below + (above - below) / 2
    return float(middle if below < middle < above else above)


@compiled
def _best(
    record: Record, choice: Array, group: int, aim: Aim, codes: Array
) -> tuple[int, int, int]:
    """The best setting of a group, given the `codes` with it off: total, exit, number accepted."""
    counts = np.empty(2 * choice.shape[0] + 2, np.int64)
    _count(codes, counts)
    choice[group] = OFF
    cost, wrong = _totals(_quanta(record, choice, aim.quantum), counts)
    best, best_exit, most = cost + aim.weight * wrong, OFF, 0
    for exit in range(record.first[group], record.first[group + 1]):
        choice[group] = exit
        leave = _quanta(record, choice, aim.quantum)
        change = _changes(leave, group)
        cost, wrong = _totals(leave, counts)
        total = cost + aim.weight * wrong
        least, accepted = _walk(
            record.order[exit], codes, change[0] + aim.weight * change[1], total
        )
        if accepted and least < best:
            best, best_exit, most = least, exit, accepted
    return best, best_exit, most


@compiled
def descend(record: Record, setting: ThresholdState, aim: Aim) -> Array:
    """Improve group after group, in place, until none can be; the counts (2 J + 2,) at the end.

    Groups are visited from the last to the first, so that the fate of what a group lets pass grows
    by one group at a time.
    """
    choice, threshold = setting
    groups, samples = choice.shape[0], record.final.shape[0]
    counts = np.empty(2 * groups + 2, np.int64)
    state, fate, codes = np.empty((3, samples), record.code.dtype)
    _settle(record, setting, state)
    _count(state, counts)
    cost, wrong = _totals(_quanta(record, choice, aim.quantum), counts)
    value, settled = cost + aim.weight * wrong, 0
    while settled < groups:
        _last(record, fate)
        for group in range(groups - 1, -1, -1):
            if settled < groups:
                before = choice[group]
                _without(state, fate, group, codes)
                best, exit, accepted = _best(record, choice, group, aim, codes)
                better = best < value
                settled = 1 if better else settled + 1
                choice[group] = exit if better else before
                if better:
                    value = best
                    if accepted:
                        threshold[group] = _between(record, exit, accepted)
            if choice[group] != OFF:
                _stop(record, group, choice[group], threshold[group], fate)
        state, fate = fate, state
    _count(state, counts)
    return counts


@compiled
def _offer(
    order: Array, codes: Array, change: Array, start: tuple[int, int, int, int], points: Array
) -> None:
    """Enter every threshold of one exit; `start` is cost, mistakes, configuration and exit."""
    cost, wrong, configuration, exit = start
    for at in range(order.shape[0]):
        entry = order[at]
        kind = (np.int64(codes[entry >> LOW_BITS]) << 1) | np.int64(entry & RIGHT)
        cost += change[0, kind]
        wrong += change[1, kind]
        if entry & LAST and cost < points[wrong, 0]:
            points[wrong] = cost, configuration, exit, at + 1


@compiled
def fill(
    record: Record, setting: ThresholdState, quantum: float, configuration: int, points: Array
) -> None:
    """Enter every neighbour of a configuration that differs in one group.

    `points` (N + 1, 4) holds by number of mistakes the least cost and whence it comes: the
    configuration, the exit, and how many it accepts; 0 stands for off.
    """
    choice, threshold = setting
    groups, samples = choice.shape[0], record.final.shape[0]
    counts = np.empty(2 * groups + 2, np.int64)
    state, fate, codes = np.empty((3, samples), record.code.dtype)
    _settle(record, setting, state)
    _last(record, fate)
    for group in range(groups - 1, -1, -1):
        before = choice[group]
        _without(state, fate, group, codes)
        _count(codes, counts)
        choice[group] = OFF
        cost, wrong = _totals(_quanta(record, choice, quantum), counts)
        if cost < points[wrong, 0]:
            points[wrong] = cost, configuration, record.first[group], 0
        for exit in range(record.first[group], record.first[group + 1]):
            choice[group] = exit
            leave = _quanta(record, choice, quantum)
            cost, wrong = _totals(leave, counts)
            start = (cost, wrong, configuration, exit)
            _offer(record.order[exit], codes, _changes(leave, group), start, points)
        choice[group] = before
        if before != OFF:
            _stop(record, group, before, threshold[group], fate)
