"""Costs in several units as SVG: what is saved of each, and how the exits compare in two."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.app.report.drawing import Scale, chart, inner_width, label_svg, path, point
from understudy.app.report.record import Report
from understudy.app.report.words import minus
from understudy.chart_layout import Axis, Mark, place
from understudy.choice import Choice
from understudy.display import cost_text
from understudy.intervals import Interval

_ROW = 30.0
_LOG = 2.0  # the span from which on axes are logarithmic: there proportion is a straight line


def saved_by_unit(report: Report, *, width: float) -> str:
    """What every plan saves in each unit, with the intervals of measured times."""
    rows = list(_savings(report))
    names = {float(number): minus(name) for number, (name, *_) in enumerate(rows)}
    y = Scale(Axis(len(rows) - 0.5, -0.5, _ROW * len(rows)), names, "budget, unit")
    values = [0.0, *(100 * value for *_, saving, ends in rows for value in (saving, *ends))]
    axis = Axis.around(values, length=inner_width(width, y))
    x = Scale.of(axis, "saved, % (further right is better)", lambda value: minus(f"{value:g}"))
    marks = [path([(axis.pixel(0), 0), (axis.pixel(0), y.axis.length)], "c-axis")]
    for number, (_, kind, saving, ends) in enumerate(rows):
        at, end = y.axis.length - y.axis.pixel(number), axis.pixel(100 * saving)
        marks.append(path([(axis.pixel(0), at), (end, at)], f"{kind} thick"))
        if ends[0] < ends[1]:
            marks.append(path([(axis.pixel(100 * one), at) for one in ends], "c-ink bar"))
    about = "What every plan saves in each unit of cost. The figures are on the cards of the plans."
    return chart(marks, x, y, about=about)


def _savings(report: Report) -> Iterator[tuple[str, str, float, Interval]]:
    """Name, class, saving and its interval of every plan that is a cascade, unit by unit."""
    for plan in _cascades(report):
        for unit in (report.result.unit, *report.other_units):
            kind = "c-plan" if unit == report.result.unit else "c-best"
            outcome = plan.outcome
            name = f"≤ {plan.max_drop:g}, {unit}"
            yield name, kind, outcome.saving[unit], outcome.saving_interval(unit)


def _cascades(report: Report) -> list[Choice]:
    return [plan for plan in report.result.choices if len(plan.policy.exits) > 1]


def compared_units(report: Report) -> list[str]:
    """The other units in which the reference and another exit have a cost; at most two."""
    found = ((unit, costs_of_exits(report, unit)) for unit in report.other_units)
    reference = report.result.reference
    return [unit for unit, costs in found if reference in costs and len(costs) > 1][:2]


def costs_in_two_units(report: Report, other: str, *, width: float, height: float) -> str:
    """Every exit's cost in the unit that was minimised and in another one, beside the line on
    which costs are in proportion to those of the reference."""
    unit, reference = report.result.unit, report.result.reference
    costs = costs_of_exits(report, other)
    upright = Axis.of_costs([one for _, one in costs.values()], length=height, log_from=_LOG)
    y = Scale.of(upright, f"{other} per sample", lambda v: cost_text(v, other), upright=True)
    firsts = [one for one, _ in costs.values()]
    across = Axis.of_costs(firsts, length=inner_width(width, y), log_from=_LOG)
    x = Scale.of(across, f"{unit} per sample", lambda value: cost_text(value, unit))

    def at(first: float, second: float) -> tuple[float, float]:
        return across.pixel(first), height - upright.pixel(second)

    line = [at(*one) for one in _proportion(across, upright, costs[reference])]
    marks = [path(line, "c-budget dashed")]
    dots = {name: at(*one) for name, one in costs.items()}
    marks += [point("dot", *dots[name], _kind(report, name)) for name in reversed(dots)]
    labels = place(
        [Mark(name, *dots[name]) for name in report.by_importance if name in dots],
        width=across.length,
        height=height,
        avoid=[(a - 5, b - 5, a + 5, b + 5) for a, b in dots.values()],
        beside=[(a - 4, b - 4, a + 4, b + 4) for a, b in line],
    )
    about = f"Every exit's {unit} and {other}. The figures are in the table below."
    return chart([*marks, *map(label_svg, labels)], x, y, about=about)


def costs_of_exits(report: Report, other: str) -> dict[str, tuple[float, float]]:
    """The cost of every exit in the unit that was minimised and in another one, where both are
    known and more than nothing; cheapest first."""
    on = report.result.measured_on
    costs = {
        one.name: (one.on[on].cost[report.result.unit], one.on[on].cost[other])
        for one in report.result.singles
        if other in one.on[on].cost
    }
    return {name: pair for name, pair in costs.items() if min(pair) > 0}


def _kind(report: Report, name: str) -> str:
    return "c-plan" if name in report.planned else "c-single"


def _proportion(x: Axis, y: Axis, reference: tuple[float, float]) -> list[tuple[float, float]]:
    """The line through the reference on which both costs are in proportion, inside the frame."""
    ratio = reference[1] / reference[0]
    firsts = (x.value(x.length * step / 100) for step in range(101))
    return [(first, ratio * first) for first in firsts if first > 0 and y.holds(ratio * first)]
