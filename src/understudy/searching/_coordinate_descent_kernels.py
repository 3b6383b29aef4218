"""Compiled half of `coordinate_descent` and `exits`: exact line search in whole numbers.

What happens to a sample is one small code, ``2 * group + correct``: the group whose exit answers it
(the number of groups for the full model) and whether that answer is correct. Costs and the weight
of a mistake are counted in a quantum, a power of two so small that sums over all samples are exact
in int64: no result depends on the order of summation. Imported on first use, because importing
Numba is slow. Numba's cache on disk refers to the tuples here by name: renaming one breaks caches
in use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.searching._jit import compiled
from understudy.searching.exit_problem import CORRECT, LAST, LOW_BITS, OFF

Array = npt.NDArray[Any]


class ProblemArrays(NamedTuple):
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


class Objective(NamedTuple):
    """What a mistake costs in quanta, and how large a quantum is."""

    weight: int
    quantum: float


@compiled
def leave_costs(problem: ProblemArrays, choice: Array) -> Array:
    """What a sample has paid when it leaves at each group, and at the full model: (J + 1,)."""
    groups = choice.shape[0]
    out = np.zeros(groups + 1)
    paid = np.zeros(problem.part_price.shape[0], np.bool_)
    running = 0.0
    for group in range(groups + 1):
        exit = choice[group] if group < groups else problem.head.shape[0]
        if exit == OFF:
            continue
        if group < groups:
            running += problem.head[exit]
        for at in range(problem.part_first[exit], problem.part_first[exit + 1]):
            part = problem.part[at]
            if not paid[part]:
                paid[part] = True
                running += problem.part_price[part]
        out[group] = problem.trunk[exit] + running
    return out


@compiled
def _quanta(problem: ProblemArrays, choice: Array, quantum: float) -> Any:
    return np.rint(leave_costs(problem, choice) / quantum).astype(np.int64)


@compiled
def _answer(problem: ProblemArrays, group: int, exit: int, threshold: float, codes: Array) -> None:
    """Let an exit answer what it accepts, before the exits that `codes` (N,) already covers."""
    own, confidence, correct = 2 * group, problem.confidence[exit], problem.correct[exit]
    for sample in range(codes.shape[0]):
        accepted = np.float64(confidence[sample]) >= threshold
        codes[sample] = own + correct[sample] if accepted else codes[sample]


@compiled
def _answer_last(problem: ProblemArrays, codes: Array) -> None:
    """Let the full model answer all samples: (N,) codes."""
    own = 2 * (problem.first.shape[0] - 1)
    for sample in range(codes.shape[0]):
        codes[sample] = own + problem.final[sample]


@compiled
def _all_codes(problem: ProblemArrays, setting: ThresholdState, codes: Array) -> None:
    """Fill `codes` (N,) with those of a whole configuration."""
    _answer_last(problem, codes)
    for group in range(setting.choice.shape[0] - 1, -1, -1):
        if setting.choice[group] != OFF:
            _answer(problem, group, setting.choice[group], setting.threshold[group], codes)


@compiled
def _codes_without(current: Array, later: Array, group: int, out: Array) -> None:
    """The codes with a group off: `current` where a sample leaves before it, `later` elsewhere."""
    for sample in range(out.shape[0]):
        early = current[sample] < 2 * group
        out[sample] = current[sample] if early else later[sample]


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
    """What changes in cost and in mistakes when `group` answers a sample itself: (2, 4 J + 4), at
    ``2 * code + correct``. Samples that leave earlier change nothing."""
    out = np.zeros((2, 4 * leave.shape[0]), np.int64)
    for code in range(2 * group, 2 * leave.shape[0]):
        for correct in range(2):
            out[0, 2 * code + correct] = leave[group] - leave[code >> 1]
            out[1, 2 * code + correct] = (code & 1) - correct
    return out


@compiled
def _best_threshold(order: Array, codes: Array, change: Array, total: int) -> tuple[int, int]:
    """The least total below the given one over all thresholds, and how many are accepted there."""
    best, accepted = total, 0
    for at in range(order.shape[0]):
        entry = order[at]
        code = np.int64(codes[entry >> LOW_BITS])
        total += change[(code << 1) | np.int64(entry & CORRECT)]
        if total < best and entry & LAST:
            best = total
            accepted = at + 1
    return best, accepted


@compiled
def _threshold(problem: ProblemArrays, exit: int, accepted: int) -> float:
    """The threshold that accepts the first so many samples: `policy.midpoint`, or -inf for all."""
    order = problem.order[exit]
    if accepted == order.shape[0]:
        return -np.inf
    below = np.float64(problem.confidence[exit, order[accepted] >> LOW_BITS])
    above = np.float64(problem.confidence[exit, order[accepted - 1] >> LOW_BITS])
    middle = below + (above - below) / 2
    return float(middle if below < middle < above else above)


@compiled
def _best_choice(
    problem: ProblemArrays, choice: Array, group: int, objective: Objective, codes: Array
) -> tuple[int, int, int]:
    """The best setting of a group, given the `codes` with it off: total, exit, number accepted."""
    counts = np.empty(2 * choice.shape[0] + 2, np.int64)
    _count(codes, counts)
    choice[group] = OFF
    cost, wrong = _totals(_quanta(problem, choice, objective.quantum), counts)
    best, best_exit, most = cost + objective.weight * wrong, OFF, 0
    for exit in range(problem.first[group], problem.first[group + 1]):
        choice[group] = exit
        leave = _quanta(problem, choice, objective.quantum)
        change = _changes(leave, group)
        cost, wrong = _totals(leave, counts)
        total = cost + objective.weight * wrong
        least, accepted = _best_threshold(
            problem.order[exit], codes, change[0] + objective.weight * change[1], total
        )
        if accepted and least < best:
            best, best_exit, most = least, exit, accepted
    return best, best_exit, most


@compiled
def descend(problem: ProblemArrays, setting: ThresholdState, objective: Objective) -> Array:
    """Improve group after group, in place, until none can be; the counts (2 J + 2,) at the end.

    Groups are visited from the last to the first, so that the codes behind a group are extended
    by one group at a time.
    """
    choice, threshold = setting
    groups, samples = choice.shape[0], problem.final.shape[0]
    counts = np.empty(2 * groups + 2, np.int64)
    current, later, codes = np.empty((3, samples), problem.code.dtype)
    _all_codes(problem, setting, current)
    _count(current, counts)
    cost, wrong = _totals(_quanta(problem, choice, objective.quantum), counts)
    value, settled = cost + objective.weight * wrong, 0
    while settled < groups:
        _answer_last(problem, later)
        for group in range(groups - 1, -1, -1):
            if settled < groups:
                before = choice[group]
                _codes_without(current, later, group, codes)
                best, exit, accepted = _best_choice(problem, choice, group, objective, codes)
                better = best < value
                settled = 1 if better else settled + 1
                choice[group] = exit if better else before
                if better:
                    value = best
                    if accepted:
                        threshold[group] = _threshold(problem, exit, accepted)
            if choice[group] != OFF:
                _answer(problem, group, choice[group], threshold[group], later)
        current, later = later, current
    _count(current, counts)
    return counts


@compiled
def _enter_thresholds(
    order: Array, codes: Array, change: Array, start: tuple[int, int, int, int], points: Array
) -> None:
    """Enter every threshold of one exit; `start` is cost, mistakes, configuration and exit."""
    cost, wrong, configuration, exit = start
    for at in range(order.shape[0]):
        entry = order[at]
        kind = (np.int64(codes[entry >> LOW_BITS]) << 1) | np.int64(entry & CORRECT)
        cost += change[0, kind]
        wrong += change[1, kind]
        if entry & LAST and cost < points[wrong, 0]:
            points[wrong] = cost, configuration, exit, at + 1


@compiled
def fill(
    problem: ProblemArrays,
    setting: ThresholdState,
    quantum: float,
    configuration: int,
    points: Array,
) -> None:
    """Enter every neighbour of a configuration that differs in one group.

    `points` (N + 1, 4) holds by number of mistakes the least cost and its origin: the
    configuration, the exit, and how many it accepts; 0 stands for off.
    """
    choice, threshold = setting
    groups, samples = choice.shape[0], problem.final.shape[0]
    counts = np.empty(2 * groups + 2, np.int64)
    current, later, codes = np.empty((3, samples), problem.code.dtype)
    _all_codes(problem, setting, current)
    _answer_last(problem, later)
    for group in range(groups - 1, -1, -1):
        before = choice[group]
        _codes_without(current, later, group, codes)
        _count(codes, counts)
        choice[group] = OFF
        cost, wrong = _totals(_quanta(problem, choice, quantum), counts)
        if cost < points[wrong, 0]:
            points[wrong] = cost, configuration, problem.first[group], 0
        for exit in range(problem.first[group], problem.first[group + 1]):
            choice[group] = exit
            leave = _quanta(problem, choice, quantum)
            cost, wrong = _totals(leave, counts)
            start = (cost, wrong, configuration, exit)
            _enter_thresholds(problem.order[exit], codes, _changes(leave, group), start, points)
        choice[group] = before
        if before != OFF:
            _answer(problem, group, before, threshold[group], later)


@compiled
def count_answers(
    problem: ProblemArrays, setting: ThresholdState, exits: Array, accepted: Array, out: Array
) -> None:
    """How many samples each group answers, `out` (R, J + 1), in R neighbours of a configuration.

    In neighbour r only the group of ``exits[r]`` differs: this exit is on and accepts
    ``accepted[r]`` samples, none where it is off. Both rise: the exits, and what one accepts.
    """
    choice, threshold = setting
    groups, samples = choice.shape[0], problem.final.shape[0]
    counts = np.empty(2 * groups + 2, np.int64)
    current, later, codes = np.empty((3, samples), problem.code.dtype)
    _all_codes(problem, setting, current)
    _answer_last(problem, later)
    row = exits.shape[0] - 1
    for group in range(groups - 1, -1, -1):
        if row >= 0 and exits[row] >= problem.first[group]:
            _codes_without(current, later, group, codes)
            _count(codes, counts)
        while row >= 0 and exits[row] >= problem.first[group]:
            exit, last = exits[row], row
            while row >= 0 and exits[row] == exit:
                row -= 1
            rows = slice(row + 1, last + 1)
            out[row + 1] = counts[::2] + counts[1::2]
            _count_prefixes(problem.order[exit], codes, group, accepted[rows], out[rows])
        if choice[group] != OFF:
            _answer(problem, group, choice[group], threshold[group], later)


@compiled
def _count_prefixes(order: Array, codes: Array, group: int, accepted: Array, out: Array) -> None:
    """The same for one exit of `group`, given the `codes` with it off and their counts in the first
    row of `out`."""
    answered, done = out[0].copy(), 0
    for row in range(accepted.shape[0]):
        for at in range(done, accepted[row]):
            code = np.int64(codes[order[at] >> LOW_BITS])
            if code >= 2 * group:
                answered[code >> 1] -= 1
                answered[group] += 1
        done = accepted[row]
        out[row] = answered
