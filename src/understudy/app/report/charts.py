"""The charts of the page as SVG text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from understudy.app.report.drawing import (
    Scale,
    axes_for_script,
    chart,
    inner_width,
    label_svg,
    path,
    point,
)
from understudy.app.report.record import Report
from understudy.app.report.words import minus
from understudy.chart_layout import (
    LEADING,
    Axis,
    Box,
    Label,
    Mark,
    place,
    spread,
    text_width,
    wrapped,
)
from understudy.display import cost_text
from understudy.intervals import Interval
from understudy.shift import SEARCHED, AppliedPlan, ShiftCard
from understudy.text_table import short_names

MOST_NAMED, ALL_NAMED = 8, 12
CLOSE_FROM = 1.5
_ROW, _SHORT_ROW = 46.0, 30.0
_TABLE_NAME = 16  # characters of the name of a table
_ROOM = 0.02  # of an axis, beyond the end that no figure can pass: less than from tick to tick
_TABLE = "The figures are in the table below."
_ON_SPLIT = {"tune": "c-single", "certify": "c-best"}
_SHAPES = {"c-plan": "diamond", "c-best": "dot", "c-single": "square"}
_Drop = tuple[str, str, float, Interval, float]  # name, class, drop, its interval, the budget


def tradeoff(report: Report, *, width: float, height: float) -> str:
    """Cost against accuracy: the frontier, every exit by itself, and the plans."""
    close = needs_closeup(report)
    return _costs_and_gains(
        report, *_whole(report, height), width, budgets=not close, where="over the whole range"
    )


def closeup(report: Report, *, width: float, height: float) -> str:
    """The same where it matters: around the budgets."""
    costs, y = _near(report, height)
    return _costs_and_gains(report, costs, y, width, budgets=True, where="around the budgets")


def needs_closeup(report: Report) -> bool:
    """Whether there is something to see around the budgets that is small within the whole range."""
    (_, whole), (_, near) = _whole(report, 1.0), _near(report, 1.0)
    return report.saves and whole.high - whole.low > CLOSE_FROM * (near.high - near.low)


def against(report: Report, *, width: float) -> str:
    """The drop of every plan next to those of the best single exit, random and oracle deferral."""
    plans = report.result.choices
    names = {float(row): minus(f"≤ {plan.max_drop:g}") for row, plan in enumerate(plans)}
    y = Scale(Axis(len(plans) - 0.5, -0.5, _ROW * len(plans)), names, "budget")
    baselines = [plan.baselines for plan in plans]
    values = [0.0, *(plan.max_drop for plan in plans)]
    for base in baselines:
        found = (base.single_drop, base.random_drop, base.oracle_drop)
        values += [value for value in found if value is not None]
    values += _edges(report)
    axis = Axis.around(values, length=inner_width(width, y))
    if not report.labelled:
        axis = replace(axis, low=-_ROOM * axis.high)
    figure = _signed if report.labelled else "{:g}".format
    x = Scale.of(axis, f"{report.gap} in points (further left is better)", figure)
    marks = [path([(axis.pixel(0), 0), (axis.pixel(0), y.axis.length)], "c-axis")]
    for row, (plan, base) in enumerate(zip(plans, baselines, strict=True)):
        at, bound = y.axis.length - y.axis.pixel(row), axis.pixel(plan.max_drop)
        low, high = (axis.pixel(edge) for edge in report.interval(plan.outcome.drop_interval))
        marks.append(path([(bound, at - 17), (bound, at + 17)], "c-budget dashed"))
        marks.append(path([(low, at), (high, at)], "c-plan bar"))
        marks += [
            point(shape, axis.pixel(drop), at, kind)
            for drop, shape, kind in (
                (base.single_drop, "square", "c-single"),
                (base.random_drop, "down", "c-random"),
                (base.oracle_drop, "up", "c-oracle"),
                (plan.outcome.drop, "diamond", "c-plan"),
            )
            if drop is not None
        ]
    about = f"The {report.gap} of every plan beside those of the best single exit, of random and of"
    return chart(marks, x, y, about=f"{about} oracle deferral. {_TABLE}")


def shifted(report: Report, shift: ShiftCard, *, width: float) -> str:
    """The drop of every plan where it was searched and on other tables, beside its budget."""
    called = short_names((table.name for table in shift.tables), _TABLE_NAME)
    rows = [row for plan in shift.plans for row in _drops_by_table(plan, called)]
    about = "The drop of every plan on other tables, beside where it was searched and its budget."
    return _drops(rows, "budget, table", report.gap, _signed, width=width, about=about)


def optimism(report: Report, *, width: float) -> str:
    """The drop of every plan on each split, beside its budget."""
    rows = [
        (
            f"≤ {plan.max_drop:g}, {split}",
            "c-plan" if split == report.result.measured_on else _ON_SPLIT[split],
            outcome.drop,
            report.interval(outcome.drop_interval),
            plan.max_drop,
        )
        for plan in report.result.choices
        if len(plan.policy.exits) > 1
        for split, outcome in plan.on.items()
    ]
    figure = _signed if report.labelled else "{:g}".format
    about = f"The {report.gap} of every plan on the samples that chose it, proved it and neither."
    return _drops(rows, "budget, samples", report.gap, figure, width=width, about=about)


def _drops(
    rows: Sequence[_Drop],
    names: str,
    gap: str,
    figure: Callable[[float], str],
    *,
    width: float,
    about: str,
) -> str:
    """Drops below one another, each with its interval and beside its budget."""
    called = {float(number): minus(name) for number, (name, *_) in enumerate(rows)}
    y = Scale(Axis(len(rows) - 0.5, -0.5, _SHORT_ROW * len(rows)), called, names)
    values = [0.0, *(v for _, _, drop, ends, budget in rows for v in (drop, *ends, budget))]
    axis = Axis.around(values, length=inner_width(width, y))
    x = Scale.of(axis, f"{gap} in points (further left is better)", figure)
    marks = [path([(axis.pixel(0), 0), (axis.pixel(0), y.axis.length)], "c-axis")]
    for number, (_, kind, drop, ends, budget) in enumerate(rows):
        at, bound = y.axis.length - y.axis.pixel(number), axis.pixel(budget)
        half = _SHORT_ROW / 2
        marks.append(path([(bound, at - half), (bound, at + half)], "c-budget dashed"))
        marks.append(path([(axis.pixel(end), at) for end in ends], f"{kind} bar"))
        marks.append(point(_SHAPES[kind], axis.pixel(drop), at, kind))
    return chart(marks, x, y, about=f"{about} {_TABLE}")


def _drops_by_table(plan: AppliedPlan, called: Mapping[str, str]) -> Iterator[_Drop]:
    """A plan where it was searched, and on each table; none for the reference alone."""
    if plan.max_drop is None or len(plan.policy.exits) < 2:
        return
    budget = plan.max_drop
    if plan.seen is not None:
        yield f"≤ {budget:g}, {SEARCHED}", "c-plan", plan.seen.drop, plan.seen.drop_interval, budget
    for name, one in plan.on.items():
        drop, ends = one.outcome.drop, one.outcome.drop_interval
        yield f"≤ {budget:g}, {called[name]}", "c-best", drop, ends, budget


def by_tenth(report: Report, *, width: float, height: float) -> str:
    """Accuracy of every exit by tenth, the little model's most confident samples first."""
    found = report.result.difficulty
    if found is None:
        return ""
    bins = found.by_confidence
    order = report.exits_by_cost(bins)
    named = _named(report, order)
    lines = [wrapped(name, width / 4) for name in named]
    gap = LEADING * max(map(len, lines)) + 2
    height = max(height, gap * len(lines))
    right = max(text_width(line) for name in lines for line in name) + 24
    values = [100 * accuracy for row in bins for accuracy in row.accuracy.values()]
    around = Axis.around(values, length=height)
    axis = Axis(max(around.low, 0.0), min(around.high, 100 + _ROOM * (100 - around.low)), height)
    y = Scale.of(axis, f"{report.measure}, %", lambda value: f"{value:g}", upright=True)
    x = Scale(
        Axis(0.75, len(bins) + 0.25, inner_width(width, y, right)),
        {float(number): f"{number}" for number in range(1, len(bins) + 1)},
        f"tenth of the samples, from those that {found.little} is surest of",
    )
    marks = []
    for name in sorted(order, key=lambda name: name in named):
        places = [
            (x.axis.pixel(row + 1), height - axis.pixel(100 * tenth.accuracy[name]))
            for row, tenth in enumerate(bins)
        ]
        if name in named:
            tint = report.tints[name]
            marks += [path(places, f"{tint} bar"), *(point("dot", *at, tint) for at in places)]
        else:
            marks.append(path(places, "c-faint"))
    last = [height - axis.pixel(100 * bins[-1].accuracy[name]) for name in named]
    ends = spread(last, gap=gap, low=gap / 2, high=height - gap / 2)
    edge = x.axis.pixel(len(bins))
    for name, text, at, end in zip(named, lines, last, ends, strict=True):
        marks.append(path([(edge, at), (edge + 14, end)], report.tints[name]))
        marks.append(label_svg(Label(text, edge + 18, end, "start")))
    about = f"{report.measure.capitalize()} of every exit by tenth of difficulty. {_TABLE}"
    return chart(marks, x, y, about=about, right=right)


def _signed(value: float) -> str:
    return minus(f"{value:+g}") if value else "0"


def _whole(report: Report, height: float) -> tuple[list[float], Axis]:
    """The costs and the axis of gains of all that is known."""
    around = (*report.frontier, *report.singles.values())
    drops = [drop for _, drop in around]
    drops += _edges(report)
    return [cost for cost, _ in around], _gains(report, drops, height)


def _gains(report: Report, drops: list[float], height: float, *, margin: float = 0.06) -> Axis:
    """The axis of the gains; where there were no labels it ends at full agreement."""
    axis = Axis.around([-drop for drop in drops], length=height, margin=margin)
    return axis if report.labelled else replace(axis, high=-_ROOM * axis.low)


def _edges(report: Report) -> list[float]:
    """The ends of the intervals of all plans."""
    intervals = (report.interval(plan.outcome.drop_interval) for plan in report.result.choices)
    return [edge for interval in intervals for edge in interval]


def _near(report: Report, height: float) -> tuple[list[float], Axis]:
    """The same around the budgets."""
    plans = report.result.choices
    drops = [0.0, *(plan.max_drop for plan in plans)]
    drops += _edges(report)
    drops.append(min((drop for _, drop in report.frontier), default=0.0))
    y = _gains(report, drops, height, margin=0.12)
    around = (*report.frontier, *report.singles.values())
    near = [plan.outcome.cost[report.result.unit] for plan in plans]
    return near + [cost for cost, drop in around if y.holds(-drop)], y


def _costs_and_gains(
    report: Report, costs: list[float], axis: Axis, width: float, *, budgets: bool, where: str
) -> str:
    unit, height = report.result.unit, axis.length
    if report.labelled:
        y = Scale.of(
            axis, f"points of accuracy above {report.result.reference}", _signed, upright=True
        )
    else:
        title = f"agreement with {report.result.reference}, %"
        y = Scale.of(axis, title, lambda gain: f"{100 + gain:g}", upright=True)
    across = Axis.of_costs(costs, length=inner_width(width, y))
    x = Scale.of(across, f"mean {unit} per sample", lambda value: cost_text(value, unit))

    def at(cost: float, drop: float) -> tuple[float, float]:
        return across.pixel(cost), height - axis.pixel(-drop)

    length, zero = across.length, height - axis.pixel(0)
    marks = [path([(0, zero), (length, zero)], "c-axis")]
    gains = [-choice.max_drop for choice in report.result.choices]
    levels = [height - axis.pixel(gain) for gain in gains if axis.holds(gain)]
    if budgets:
        marks += [path([(0, level), (length, level)], "c-budget dashed") for level in levels]
    line = [at(*one) for one in _line(report, across, axis)]
    marks.append(path(line, "c-best bar"))
    dots = [
        at(cost, drop)
        for cost, drop in report.singles.values()
        if across.holds(cost) and axis.holds(-drop)
    ]
    marks += [point("dot", *dot, "c-single") for dot in dots]
    bars: list[Box] = []
    plans = []
    for choice in report.result.choices:
        outcome, cost = choice.outcome, choice.outcome.cost[unit]
        low, high = report.interval(outcome.drop_interval)
        left, top = at(cost, low)
        _, bottom = at(cost, high)
        bars.append((left - 4, top, left + 4, bottom))
        name = minus(f"≤ {choice.max_drop:g}") if budgets else ""
        plans.append(Mark(name, *at(cost, outcome.drop)))
        marks.append(path([(left, top), (left, bottom)], "c-plan bar"))
        marks.append(point("diamond", *at(cost, outcome.drop), "c-plan"))
    labels = place(
        [*(plans if budgets else ()), *(Mark(n, *at(c, d)) for n, c, d in _shown(report, x, y))],
        width=length,
        height=height,
        avoid=[
            *bars,
            *((mark.x - 6, mark.y - 7, mark.x + 6, mark.y + 7) for mark in plans),
            *((left - 4, top - 4, left + 4, top + 4) for left, top in dots),
        ],
        beside=[
            *(_between(*ends) for ends in pairwise(line)),
            *((0, level - 1, length, level + 1) for level in (zero, *levels)),
        ],
    )
    about = f"Cost against {report.measure} {where}. The figures are in the tables below."
    axes = axes_for_script(across, axis)
    return chart([*marks, *map(label_svg, labels)], x, y, about=about, axes=axes)


def _between(a: tuple[float, float], b: tuple[float, float]) -> Box:
    left, right = sorted((a[0], b[0]))
    top, bottom = sorted((a[1], b[1]))
    return left - 1, top - 1, right + 1, bottom + 1


def _line(report: Report, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """The steps of the frontier that lie in the frame, as far as its lower edge."""
    points = report.frontier
    held = [
        (cost, min(drop, -y.low))
        for (cost, drop), (_, following) in pairwise([*points, *points[-1:]])
        if max(-drop, -following) >= y.low and x.holds(cost)
    ]
    corners = [(cost, drop) for (_, drop), (cost, _) in pairwise(held)]
    return [one for pair in zip(held, [*corners, *held[-1:]], strict=True) for one in pair]


def _shown(report: Report, x: Scale, y: Scale) -> list[tuple[str, float, float]]:
    """Single exits to name, with cost and drop: of many, those in plans or on the frontier."""
    important = report.on_frontier | report.planned | {report.result.reference}
    many = len(report.singles) > ALL_NAMED
    singles = ((name, *report.singles[name]) for name in report.by_importance)
    return [
        (name, cost, drop)
        for name, cost, drop in singles
        if x.axis.holds(cost) and y.axis.holds(-drop) and (not many or name in important)
    ]


def _named(report: Report, order: Sequence[str]) -> list[str]:
    """The exits whose lines have names: all if few, else the important ones, cheapest first."""
    cheapest = order[:1]
    rest = (name for name in report.by_importance if name in order and name not in cheapest)
    first = [*cheapest, *rest][:MOST_NAMED]
    return [name for name in order if name in first]
