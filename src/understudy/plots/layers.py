"""What all plots share: encodings that agree between layers, labels in pixels, the frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from understudy.chart_layout import LEADING, SIZE, Axis, Label, text_width
from understudy.plots.palette import Palette

WIDTH, HEIGHT = 640.0, 400.0
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_ALIGN = {"start": "left", "middle": "center", "end": "right"}
_TITLE = 14
PLAIN = ".4~g"
"""How D3 writes a plain figure."""
Rows = Sequence[Mapping[str, Any]]


def data_of(rows: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as data that the chart carries."""
    return alt.InlineData(values=[dict(row) for row in rows])


@dataclass(frozen=True)
class Frame:
    """The two axes of a chart, whose encodings are the same in every layer.

    Attributes:
        x, y: the axes, whose lengths are the size of the plot.
        fields: the fields that lie along them.
        titles: what they show, with units.
        formats: how D3 writes their figures.
    """

    x: Axis
    y: Axis
    fields: tuple[str, str]
    titles: tuple[str, str]
    formats: tuple[str, str]

    def across(self, field: str | None = None) -> alt.X:
        """The encoding of a field along x."""
        ticks = self.x.ticks(lambda value: text_width(f"{value:.3g} M") + 14)
        return alt.X(
            field or self.fields[0],
            type="quantitative",
            title=self.titles[0],
            scale=_scale(self.x),
            axis=alt.Axis(values=ticks, labelExpr=_figures(self.formats[0]), grid=False),
        )

    def up(self, field: str | None = None) -> alt.Y:
        """The encoding of a field along y."""
        ticks = self.y.ticks(lambda _: 2.5 * LEADING)
        return alt.Y(
            field or self.fields[1],
            type="quantitative",
            title=self.titles[1],
            scale=_scale(self.y),
            axis=alt.Axis(values=ticks, labelExpr=_figures(self.formats[1])),
        )

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place in pixels from the upper left."""
        return self.x.pixel(x), self.y.length - self.y.pixel(y)

    def holds(self, x: float, y: float) -> bool:
        return self.x.holds(x) and self.y.holds(y)

    def texts(self, labels: Sequence[Label], palette: Palette) -> list[alt.Chart]:
        """Labels in pixels as layers of text, with the ground around their letters."""
        rows = [
            {
                self.fields[0]: self.x.value(label.x),
                self.fields[1]: self.y.value(
                    self.y.length - label.y - LEADING * (number - (len(label.lines) - 1) / 2)
                ),
                "text": line,
                "align": _ALIGN[label.anchor],
            }
            for label in labels
            for number, line in enumerate(label.lines)
        ]
        if not rows:
            return []
        words = alt.Chart(data_of(rows)).encode(x=self.across(), y=self.up(), text="text:N")
        look: dict[str, Any] = {
            "align": alt.ExprRef("datum.align"),
            "baseline": "middle",
            "fontSize": SIZE,
        }
        halo = words.mark_text(stroke=palette.ground, strokeWidth=4, strokeJoin="round", **look)
        return [halo, words.mark_text(color=palette.ink, **look)]


def _scale(axis: Axis) -> alt.Scale:
    return alt.Scale(
        type="log" if axis.log else "linear", domain=[axis.low, axis.high], nice=False, zero=False
    )


def _figures(form: str) -> str:
    """The expression of Vega that writes a figure; nothing has neither sign nor prefix."""
    return f"datum.value == 0 ? '0' : format(datum.value, '{form}')"


def cost_format(unit: str) -> str:
    """How D3 writes a cost: with a prefix where it is a count of operations.

    >>> cost_format("MACs"), cost_format("ms@64")
    ('.3~s', '.4~g')
    """
    return ".3~s" if unit == "MACs" else PLAIN


def kinds(names: Sequence[str], colours: Sequence[str], shapes: Sequence[str]) -> dict[str, Any]:
    """Colour and shape by the field `kind`, with one legend for all layers."""
    legend = alt.Legend(title=None, orient="bottom", direction="vertical", columns=2)
    return {
        "color": alt.Color(
            "kind:N", scale=alt.Scale(domain=list(names), range=list(colours)), legend=legend
        ),
        "shape": alt.Shape(
            "kind:N", scale=alt.Scale(domain=list(names), range=list(shapes)), legend=legend
        ),
    }


def framed(chart: Any, palette: Palette, *, title: str, subtitle: Sequence[str] = ()) -> Any:
    """A chart with its title and the colours of its ground, axes and legends."""
    heading = alt.TitleParams(
        title,
        subtitle=list(subtitle),
        anchor="start",
        color=palette.ink,
        subtitleColor=palette.soft,
        fontSize=16,
        subtitleFontSize=SIZE,
        offset=12,
    )
    texts = {"labelColor": palette.soft, "titleColor": palette.ink, "labelFontSize": SIZE}
    return (
        chart.properties(title=heading, background=palette.ground, padding=16)
        .configure(font=FONT)
        .configure_axis(
            **texts,
            titleFontSize=_TITLE,
            titleFontWeight="normal",
            titlePadding=10,
            gridColor=palette.grid,
            domainColor=palette.axis,
            tickColor=palette.axis,
            labelLimit=0,
            titleLimit=0,
        )
        .configure_legend(
            **{**texts, "labelColor": palette.ink}, labelLimit=0, titleFontSize=SIZE, symbolSize=90
        )
        .configure_view(stroke=None)
    )
