"""What all charts share: axes, texts, and SVG that needs no script and no fonts from afar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from understudy.app.report.axes import Axis
from understudy.app.report.labels import SIZE, Label
from understudy.app.report.palette import GRID, INK

ZERO = "datum.value == 0 ? '0' : datum.label"

ABOVE: Mapping[str, Any] = {
    "titleAngle": 0,
    "titleAlign": "left",
    "titleBaseline": "bottom",
    "titleAnchor": "end",
    "titleX": -34,
    "titleY": -8,
}


def chart_of(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A chart of rows of plain values, which travel inside it."""
    return alt.Chart(alt.Data(values=list(rows)))


def scale(axis: Axis, *, flipped: bool = False) -> Any:
    """The scale of an axis, with its very ends."""
    return alt.Scale(
        type="log" if axis.log else "linear",
        domain=[axis.low, axis.high],
        nice=False,
        zero=False,
        reverse=flipped,
    )


def horizontal(axis: Axis, title: str, *, si: bool = False) -> Any:
    """The encoding of `x` on an axis, with a title below and ticks where the axis wants them."""
    ticks = axis.ticks()
    look = alt.Axis(
        title=title,
        format="~s" if si else "~r",
        labelExpr=ZERO,
        grid=axis.log,
        labelOverlap=True,
        **({"values": ticks} if ticks else {"tickCount": max(3, int(axis.length // 80))}),
    )
    return alt.X("x:Q", scale=scale(axis), axis=look)


def texts(labels: Sequence[Label], x: Axis, y: Axis, across: Any, up: Any) -> list[Any]:
    """Labels with a white rim, so that they can be read on lines."""
    layers = []
    for align in ("left", "center", "right"):
        data = [
            {"x": x.value(label.x), "y": y.value(y.length - label.y), "t": label.text}
            for label in labels
            if label.align == align
        ]
        if data:
            chart = chart_of(data).encode(x=across, y=up, text="t:N")
            style = {"align": align, "baseline": "middle", "fontSize": SIZE}
            layers += [
                chart.mark_text(stroke="white", strokeWidth=3.5, strokeJoin="round", **style),
                chart.mark_text(color=INK, **style),
            ]
    return layers


def svg(layers: Sequence[Any], width: float, height: float) -> str:
    """The SVG of layers. The spec is ours: checking it point by point would double the time."""
    chart = alt.layer(*layers).properties(width=width, height=height)
    spec = chart.configure(
        font="sans-serif",
        background="white",
        padding=4,
        aria=False,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            gridColor=GRID,
            domainColor="#999999",
            tickColor="#999999",
            labelColor=INK,
            titleColor=INK,
            labelFontSize=SIZE,
            titleFontSize=SIZE,
            titleFontWeight="normal",
            titlePadding=8,
        ),
    ).to_dict(validate=False)
    return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
