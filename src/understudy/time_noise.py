"""What measured times are worth: their noise, and what it leaves of a saving.

A time is an interval (`Sitting`). A saving by time that the noise could explain is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np

from understudy.errors import listed
from understudy.exit import Array
from understudy.priced_exits import PricedExits
from understudy.scores import ScoreTable
from understudy.sitting import Interval, Sitting

Priced = TypeVar("Priced", bound=PricedExits)
NOISY = 0.1  # of a time, from which on it is remarked
_APART = 10  # by what factor a slower model of fewer MACs contradicts them


def time_interval(table: PricedExits, unit: str, part: str) -> Interval:
    """The interval of a part's time; the time alone where its spread was not stored."""
    sitting = _sitting_of(table, unit, part)
    time = table.times[unit][part]
    return (time, time) if sitting is None else sitting.interval(part)


def with_cautious_times(table: Priced, reference: str) -> Priced:
    """The table with the times that speak most against a saving.

    These are the lower ends of their intervals for the parts of the reference, and the upper ends
    for all others: what costs less then costs less by more than the noise.
    """
    if not table.sittings:
        return table
    own = set(table.exits[table.index(reference)].parts)
    times = {
        unit: {part: time_interval(table, unit, part)[part not in own] for part in parts}
        for unit, parts in table.times.items()
    }
    return table.with_times(times)


def saving_interval(
    table: PricedExits, unit: str, paid: Mapping[str, float], reference: str
) -> Interval:
    """The smallest and the largest saving that the intervals of the times allow.

    Args:
        unit: of measured times.
        paid: part -> the fraction of samples that pay it.
        reference: the exit whose cost is saved.
    """
    own = table.exits[table.index(reference)].parts
    parts = list(dict.fromkeys([*paid, *own]))
    share = np.array([paid.get(part, 0.0) for part in parts])
    full = np.array([float(part in own) for part in parts])
    low, high = np.array([time_interval(table, unit, part) for part in parts]).T
    most = _largest_ratio(share, full, low, high)
    least = -_largest_ratio(-share, full, low, high)
    return 1 - most, 1 - least


def _largest_ratio(share: Array, full: Array, low: Array, high: Array) -> float:
    """The largest share @ t / full @ t for low <= t <= high.

    The maximum of a linear fraction over a box is at a corner: Dinkelbach's iteration (1967).
    """
    if not full @ high:
        return float(np.sign(share.sum()))  # nothing is saved of nothing
    ratio, before = float(share @ high / (full @ high)), -np.inf
    while ratio > before:
        before = ratio
        t = np.where(share - ratio * full > 0, high, low)
        ratio = max(float(share @ t / (full @ t)), before) if full @ t else before
    return ratio


def noise_of(table: ScoreTable, exit: str, unit: str) -> float:
    """Half the width of the interval of an exit's cost, as a fraction of it; 0 for what is counted.

    Raises:
        TableError: a part without a cost in this unit.
    """
    cost = table.cost_of([exit], unit)
    if unit not in table.times or not cost:
        return 0.0
    low, high = _ends(table, exit, unit)
    return (high - low) / 2 / cost


def within_noise(table: ScoreTable, unit: str, reference: str) -> list[str]:
    """The exits whose cost is below that of the reference by no more than the noise."""
    full, cautious = table.cost_of([reference], unit), with_cautious_times(table, reference)
    least = cautious.cost_of([reference], unit)
    return [
        name
        for name in table.names
        if table.cost_of([name], unit) < full and cautious.cost_of([name], unit) >= least
    ]


def time_remarks(table: ScoreTable, unit: str) -> Iterator[str]:
    """What should be known before measured times are compared, one sentence each."""
    if unit not in table.times:
        return
    measured = [
        exit.name for exit in table.exits if all(part in table.times[unit] for part in exit.parts)
    ]
    noisy = [name for name in measured if noise_of(table, name, unit) > NOISY]
    parts = dict.fromkeys(p for name in measured for p in table.exits[table.index(name)].parts)
    found = [_sitting_of(table, unit, part) for part in parts]
    dates = {None if one is None else one.date for one in found}
    own = [one for one in table.sittings if one.unit == unit and one.date in dates]
    if noisy:
        yield (
            f"{unit} of {listed(noisy)} is known to no better than ±{100 * NOISY:.0f} % (load "
            f"{max(one.load for one in own):.1f} on {own[0].cores} cores): measure again on an "
            "idle machine (`understudy measure`)"
        )
    if len(dates) > 1:
        yield (
            f"{unit} was measured in {len(dates)} sittings "
            f"({'; '.join(one.words() for one in own)}): times of different sittings differ by "
            "what else ran, so compare them with care, or measure all together (`understudy "
            "measure`)"
        )
    for name, other in _contradictions(table, unit, measured):
        fewer = table.cost_of([other], "MACs") / table.cost_of([name], "MACs")
        longer = table.cost_of([name], unit) / table.cost_of([other], unit)
        counts = "as many" if fewer < 1.05 else f"{_factor(fewer)} times fewer"
        yield (
            f"{name} has {counts} MACs {'as' if fewer < 1.05 else 'than'} {other} and takes "
            f"{_factor(longer)} times as long in {unit}: its time is spent on something else than "
            "products, so trust the time"
        )


def _contradictions(table: ScoreTable, unit: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """Exits that are slower than one of more MACs, by a factor of `_APART` together and beyond the
    noise, each with the one that contradicts it most."""
    counted = table.costs.get("MACs", {})
    names = [n for n in names if set(table.exits[table.index(n)].parts) <= set(counted)]
    macs = {name: table.cost_of([name], "MACs") for name in names}
    ends = {name: _ends(table, name, unit) for name in names}
    for name in names:
        factors = {
            other: macs[other] / macs[name] * ends[name][0] / ends[other][1]
            for other in names
            if macs[other] >= macs[name] > 0 and ends[name][0] > ends[other][1] > 0
        }
        most = max(factors, key=lambda other: factors[other], default=name)
        if factors.get(most, 0) >= _APART:
            yield name, most


def _factor(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _ends(table: ScoreTable, exit: str, unit: str) -> Interval:
    """The interval of an exit's cost: the sums of those of its parts."""
    ends = [time_interval(table, unit, part) for part in table.exits[table.index(exit)].parts]
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def _sitting_of(table: PricedExits, unit: str, part: str) -> Sitting | None:
    """The last sitting that measured a part in a unit."""
    of_part = (one for one in reversed(table.sittings) if one.unit == unit and part in one.median)
    return next(of_part, None)
