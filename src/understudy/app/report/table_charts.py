"""The curves of deferral and the reliability of an exit as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from understudy.app.report.drawing import Scale, chart, inner_width, label_svg, path, point
from understudy.app.report.record import Report
from understudy.chart_layout import Axis, Mark, place, text_width
from understudy.intervals import wilson
from understudy.searching.deferral_curves import Deferral, DeferralCurves
from understudy.searching.reliability import Reliability
from understudy.text_table import short_names

LINES = ("c-best", "c-line2 dash2", "c-line3 dash3", "c-single dash4")
"""The classes of the lines of confidences."""
_POINTS = 150  # of a curve as drawn
_NAME = 22  # characters of a model's name
_PANEL, _HIGH = 280.0, 210.0


def deferral_chart(
    report: Report,
    curves: DeferralCurves,
    drawn: Sequence[str],
    *,
    width: float,
    height: float,
) -> str:
    """Accuracy by the share that the little model defers, beside random and oracle."""
    lines = [(LINES[row], curves.by_confidence[name]) for row, name in enumerate(drawn)]
    lines += [("c-random dashed", curves.random), ("c-oracle dashed", curves.oracle)]
    values = [100 * float(edge(one.accuracy)) for _, one in lines for edge in (np.min, np.max)]
    around = Axis.around(values, length=height, margin=0.1)
    axis = Axis(around.low, min(around.high, 100.5), height)
    y = Scale.of(axis, f"{report.measure}, %", "{:g}".format, upright=True)
    across = Axis(-1.0, 101.0, inner_width(width, y))
    x = Scale.of(across, f"samples that {curves.little} defers, %", "{:g}".format)

    def at(share: float, accuracy: float) -> tuple[float, float]:
        return across.pixel(100 * share), height - axis.pixel(100 * accuracy)

    places_of = [(kind, [at(*one) for one in _thinned(curve)]) for kind, curve in lines]
    marks = [
        path(places, kind if "dashed" in kind else f"{kind} bar") for kind, places in places_of
    ]
    ends = [at(float(end), float(curves.random.accuracy[end])) for end in (0, 1)]
    marks += [point("dot", *end, "c-ink") for end in ends]
    short = short_names((curves.little, curves.big), _NAME)
    named = [Mark(f"{short[name]} alone", *end) for name, end in zip(short, ends, strict=True)]
    named += [
        Mark(name, *at(0.6, float(np.interp(0.6, one.deferred, one.accuracy))))
        for name, one in (("oracle", curves.oracle), ("at random", curves.random))
    ]
    labels = place(
        named,
        width=across.length,
        height=height,
        beside=[(a - 3, b - 3, a + 3, b + 3) for _, places in places_of for a, b in _along(places)],
    )
    about = (
        f"{report.measure.capitalize()} of {curves.little} before {curves.big} by the share that "
        "is deferred, beside random and oracle deferral. The figures are in the table below."
    )
    return chart([*marks, *map(label_svg, labels)], x, y, about=about)


def reliability_panel(name: str, found: Reliability, tint: str, measure: str) -> str:
    """Accuracy against claimed probability of one exit: bins with 95 % intervals, the diagonal,
    and between them the gap."""
    y = Scale.of(Axis(0.0, 100.0, _HIGH), f"{measure}, %", "{:g}".format, upright=True)
    right = text_width("100") / 2 + 2
    across = Axis(0.0, 100.0, inner_width(_PANEL, y, right))
    x = Scale.of(across, "max_softmax, %", "{:g}".format)

    def at(claimed: float, accuracy: float) -> tuple[float, float]:
        return across.pixel(100 * claimed), _HIGH - y.axis.pixel(100 * accuracy)

    bins = list(
        zip(found.claimed.tolist(), found.accuracy.tolist(), found.samples.tolist(), strict=True)
    )
    line = [at(claimed, accuracy) for claimed, accuracy, _ in bins]
    marks = [path([at(0, 0), at(1, 1)], "c-axis dashed")]
    for claimed, accuracy, samples in bins:
        marks.append(path([at(claimed, claimed), at(claimed, accuracy)], "c-faint gap"))
        low, high = wilson(round(accuracy * samples), samples)
        marks.append(path([at(claimed, low), at(claimed, high)], tint))
    marks.append(path(line, f"{tint} bar"))
    marks += [point("small", *place, tint) for place in line]
    about = f"{measure.capitalize()} of {name} by its max softmax, beside the diagonal."
    return chart(marks, x, y, about=f"{about} The errors are in the caption.", right=right)


def _thinned(curve: Deferral) -> Iterator[tuple[float, float]]:
    """The points of a curve nearest to evenly spaced shares, with both ends."""
    places = np.arange(len(curve.deferred))
    if len(places) > _POINTS:
        wanted = np.searchsorted(curve.deferred, np.linspace(0, 1, _POINTS))
        places = np.unique(wanted.clip(max=len(places) - 1))
    yield from zip(curve.deferred[places].tolist(), curve.accuracy[places].tolist(), strict=True)


def _along(places: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Places every few pixels along a line from left to right."""
    xs, ys = zip(*places, strict=True)
    steps = np.linspace(xs[0], xs[-1], 80)
    yield from zip(steps.tolist(), np.interp(steps, xs, ys).tolist(), strict=True)
