"""The charts of the page as SVG text, drawn by Vega-Altair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from understudy.app.bench_result import EXECUTOR, IDEAL, LARGE, NAIVE, Bench
from understudy.app.report.drawing import (
    ABOVE,
    BUDGET,
    FAINT,
    INK,
    LINE,
    ORACLE,
    PLAN,
    RANDOM,
    SINGLE,
    SIZE,
    ZERO,
    Axis,
    Label,
    Mark,
    chart_of,
    colours,
    horizontal,
    place,
    scale,
    short,
    spread,
    svg,
    texts,
)
from understudy.app.report.record import Report

MOST_NAMED, ALL_NAMED = 8, 12
CLOSE_FROM = 1.5

_MARGIN = 110.0
SHOWN = {LARGE: SINGLE, NAIVE: SINGLE, EXECUTOR: PLAN, IDEAL: ORACLE}
ROW, NAMES = 34.0, 140.0


def tradeoff(report: Report, *, width: float, height: float) -> str:
    """Cost against accuracy: the frontier, every exit by itself, and the plans."""
    x, y = _whole(report, width, height)
    return _costs_and_gains(report, x, y, budgets=not needs_closeup(report))


def closeup(report: Report, *, width: float, height: float) -> str:
    """The same where it matters: around the budgets."""
    x, y = _near(report, width, height)
    return _costs_and_gains(report, x, y, budgets=True)


def needs_closeup(report: Report) -> bool:
    """Whether there is something to see around the budgets that is small within the whole range."""
    (_, whole), (_, near) = _whole(report, 1.0, 1.0), _near(report, 1.0, 1.0)
    return report.saves and whole.high - whole.low > CLOSE_FROM * (near.high - near.low)


def against(report: Report, *, width: float) -> str:
    """The drop of every plan next to those of the best single exit, random and oracle deferral."""
    plans = report.result.choices
    height = 46.0 * len(plans)
    values = [0.0, *(plan.max_drop for plan in plans)]
    baselines = [plan.baselines for plan in plans]
    for base in baselines:
        found = (base.single_drop, base.random_drop, base.oracle_drop)
        values += [value for value in found if value is not None]
    values += [edge for plan in plans for edge in plan.outcome.drop_interval]
    x = Axis.around(values, length=width)
    across = horizontal(x, "drop in points (further left is better)")
    y = _rows([f"≤ {plan.max_drop:g}" for plan in plans], height, title="budget", **ABOVE)

    def dots(drop: Sequence[float | None], colour: str, shape: str, size: int = 90) -> Any:
        data = [{"x": d, "y": row} for row, d in enumerate(drop) if d is not None]
        mark = chart_of(data).mark_point(
            shape=shape, color=colour, size=size, opacity=1, filled=True
        )
        return mark.encode(x=across, y=y)

    bars = [
        {"x": low, "x2": high, "y": row}
        for row, (low, high) in enumerate(plan.outcome.drop_interval for plan in plans)
    ]
    bounds = [
        {"x": plan.max_drop, "y": row - 0.36, "y2": row + 0.36} for row, plan in enumerate(plans)
    ]
    layers = [
        chart_of([{"x": 0}]).mark_rule(color=INK, size=1).encode(x=across),
        chart_of(bounds)
        .mark_rule(color=BUDGET, strokeDash=[4, 3], size=2)
        .encode(x=across, y=y, y2="y2:Q"),
        chart_of(bars).mark_rule(color=PLAN, size=2.5).encode(x=across, x2="x2:Q", y=y),
        dots([b.single_drop for b in baselines], SINGLE, "square"),
        dots([b.random_drop for b in baselines], RANDOM, "triangle-down"),
        dots([b.oracle_drop for b in baselines], ORACLE, "triangle-up"),
        dots([plan.outcome.drop for plan in plans], PLAN, "diamond", 150),
    ]
    return svg(layers, width, height)


def by_tenth(report: Report, *, width: float, height: float) -> str:
    """Accuracy of every exit by tenth, the little model's most confident samples first."""
    found = report.result.difficulty
    if found is None:
        return ""
    bins = found.by_confidence
    order = report.exits_by_cost(bins)
    named = _named(report, order)
    inner = width - _MARGIN
    shade = colours(order)
    values = [100 * accuracy for row in bins for accuracy in row.accuracy.values()]
    y = Axis.around(values, length=height)
    y = Axis(max(y.low, 0.0), min(y.high, 100.5), height)
    x = Axis(0.75, len(bins) + 0.25, inner)
    across = alt.X(
        "x:Q",
        scale=scale(x),
        axis=alt.Axis(
            values=list(range(1, len(bins) + 1)),
            format="d",
            grid=False,
            title=f"tenth, {found.little} surest of 1",
        ),
    )
    up = alt.Y("y:Q", scale=scale(y), axis=alt.Axis(title=f"{report.measure}, %", **ABOVE))
    layers = []
    for name in sorted(order, key=lambda name: name in named):
        data = [{"x": i + 1, "y": 100 * row.accuracy[name]} for i, row in enumerate(bins)]
        chart = chart_of(data).encode(x=across, y=up)
        colour = shade[name] if name in named else FAINT
        layers.append(chart.mark_line(color=colour, strokeWidth=2 if name in named else 1))
        if name in named:
            layers.append(chart.mark_point(color=colour, filled=True, size=34, opacity=1))
    ends = [height - y.pixel(100 * bins[-1].accuracy[name]) for name in named]
    places = spread(ends, gap=1.25 * SIZE, low=0.0, high=height)
    labels = [
        Label(short(name), x.pixel(len(bins)) + 12, place, "left")
        for name, place in zip(named, places, strict=True)
    ]
    return svg([*layers, *texts(labels, x, y, across, up)], inner, height)


def speed(bench: Bench, *, width: float) -> str:
    """Images per second of a cascade and its competitors, one bar each.

    The first stage alone, which does not compete, is left to the table.
    """
    inner, height = width - NAMES - 10, ROW * len(SHOWN)
    rates = {name: bench.rate(name) for name in SHOWN}
    x = Axis(0.0, 1.1 * max(rates.values()), inner)
    y = _rows(list(SHOWN), height, title=None, labelLimit=NAMES, minExtent=NAMES)
    across = horizontal(x, "images per second", si=True)
    layers = []
    for row, (name, rate) in enumerate(rates.items()):
        bar = chart_of([{"x": 0.0, "x2": rate, "y": row - 0.3, "y2": row + 0.3}])
        label = chart_of([{"x": rate, "y": row, "t": f"{rate:,.0f}"}])
        text = label.mark_text(align="left", dx=5, color=INK, fontSize=12)
        layers += [
            bar.mark_rect(color=SHOWN[name], opacity=1).encode(x=across, x2="x2:Q", y=y, y2="y2:Q"),
            text.encode(x=across, y=y, text="t:N"),
        ]
    return svg(layers, inner, height)


def _rows(names: Sequence[str], height: float, **look: Any) -> Any:
    """The encoding of `y` as rows with names, the first at the top."""
    labels = f"{json.dumps(names, ensure_ascii=False)}[datum.value]"
    axis = alt.Axis(values=list(range(len(names))), labelExpr=labels, grid=False, **look)
    lines = Axis(-0.5, len(names) - 0.5, height)
    return alt.Y("y:Q", scale=scale(lines, flipped=True), axis=axis)


def _whole(report: Report, width: float, height: float) -> tuple[Axis, Axis]:
    costs = [cost for cost, _ in (*report.frontier, *report.singles.values())]
    drops = [drop for _, drop in (*report.frontier, *report.singles.values())]
    drops += [edge for plan in report.result.choices for edge in plan.outcome.drop_interval]
    return Axis.of_costs(costs, length=width), Axis.around([-d for d in drops], length=height)


def _near(report: Report, width: float, height: float) -> tuple[Axis, Axis]:
    plans = report.result.choices
    drops = [0.0, *(plan.max_drop for plan in plans)]
    drops += [edge for plan in plans for edge in plan.outcome.drop_interval]
    drops.append(min((drop for _, drop in report.frontier), default=0.0))
    y = Axis.around([-drop for drop in drops], length=height, margin=0.12)
    around = (*report.frontier, *report.singles.values())
    near = [plan.outcome.cost[report.result.unit] for plan in plans]
    near += [cost for cost, drop in around if y.holds(-drop)]
    return Axis.of_costs(near, length=width), y


def _costs_and_gains(report: Report, x: Axis, y: Axis, *, budgets: bool) -> str:
    unit, choices = report.result.unit, report.result.choices
    across = horizontal(x, f"mean {unit} per sample", si=unit == "MACs")
    title = f"points of {report.measure} above {report.result.reference}"
    if report.measure != "accuracy":
        title = f"{report.measure}, points from 100 %"
    up = alt.Y(
        "y:Q", scale=scale(y), axis=alt.Axis(title=title, format="+~r", labelExpr=ZERO, **ABOVE)
    )
    dots = [
        {"x": cost, "y": -drop}
        for cost, drop in report.singles.values()
        if x.holds(cost) and y.holds(-drop)
    ]
    plans = []
    for outcome in (choice.outcome for choice in choices):
        low, high = outcome.drop_interval
        plans.append({"x": outcome.cost[unit], "y": -outcome.drop, "low": -high, "high": -low})
    layers = [chart_of([{"y": 0}]).mark_rule(color=INK, size=1).encode(y=up)]
    if budgets:
        levels = [{"y": -choice.max_drop} for choice in choices]
        layers.append(chart_of(levels).mark_rule(color=BUDGET, strokeDash=[4, 3]).encode(y=up))
    layers += [
        chart_of(_line(report, x, y))
        .mark_line(color=LINE, interpolate="step-after", strokeWidth=2)
        .encode(x=across, y=up, order="n:Q"),
        chart_of(dots)
        .mark_point(shape="circle", color=SINGLE, filled=True, size=60, opacity=1)
        .encode(x=across, y=up),
        chart_of(plans)
        .mark_rule(color=PLAN, size=2)
        .encode(x=across, y=alt.Y("low:Q"), y2="high:Q"),
        chart_of(plans)
        .mark_point(shape="diamond", color=PLAN, filled=True, size=140, opacity=1)
        .encode(x=across, y=up),
    ]
    labels = place(
        [*_plan_marks(report, x, y, named=budgets), *_single_marks(report, x, y)],
        width=x.length,
        height=y.length,
        avoid=[
            *([] if budgets else _plan_marks(report, x, y, named=False)),
            *(_mark("", dot["x"], -dot["y"], x, y) for dot in dots),
        ],
    )
    return svg([*layers, *texts(labels, x, y, across, up)], x.length, y.length)


def _line(report: Report, x: Axis, y: Axis) -> list[dict[str, float]]:
    """The part of the frontier that lies in the frame, as far as its lower edge."""
    points = [(cost, -drop) for cost, drop in report.frontier]
    held = [
        (cost, max(gain, y.low))
        for (cost, gain), (_, following) in pairwise([*points, *points[-1:]])
        if max(gain, following) >= y.low and x.holds(cost)
    ]
    return [{"x": cost, "y": gain, "n": number} for number, (cost, gain) in enumerate(held)]


def _mark(text: str, cost: float, drop: float, x: Axis, y: Axis) -> Mark:
    return Mark(text, x.pixel(cost), y.length - y.pixel(-drop))


def _plan_marks(report: Report, x: Axis, y: Axis, *, named: bool) -> list[Mark]:
    return [
        _mark(
            f"≤ {choice.max_drop:g}" if named else "",
            choice.outcome.cost[report.result.unit],
            choice.outcome.drop,
            x,
            y,
        )
        for choice in report.result.choices
    ]


def _single_marks(report: Report, x: Axis, y: Axis) -> list[Mark]:
    """Marks of single exits; where they are many, only those in plans or on the frontier."""
    important = report.on_frontier | report.planned | {report.result.reference}
    many = len(report.singles) > ALL_NAMED
    singles = ((name, *report.singles[name]) for name in report.by_importance)
    return [
        _mark(name, cost, drop, x, y)
        for name, cost, drop in singles
        if x.holds(cost) and y.holds(-drop) and (not many or name in important)
    ]


def _named(report: Report, order: Sequence[str]) -> list[str]:
    """The exits whose lines have names: all if few, else the important ones, cheapest first."""
    cheapest = order[:1]
    rest = (name for name in report.by_importance if name in order and name not in cheapest)
    first = [*cheapest, *rest][:MOST_NAMED]
    return [name for name in order if name in first]
