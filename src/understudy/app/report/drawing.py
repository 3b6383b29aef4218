"""What all charts share: colours, axes, text, and SVG without script or fonts from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

SIZE, LONGEST = 12.0, 24
_GAP, _WIDE = 9.0, 0.58


@dataclass(frozen=True)
class Mark:
    """Something to name: its text and where it lies, in pixels from the upper left."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Label:
    """A text at a place in pixels: `align` says which of its ends lies there; y is its middle."""

    text: str
    x: float
    y: float
    align: str

    @property
    def box(self) -> tuple[float, float, float, float]:
        width = _WIDE * SIZE * len(self.text)
        left = self.x - width * {"left": 0.0, "center": 0.5, "right": 1.0}[self.align]
        return left, self.y - 0.6 * SIZE, left + width, self.y + 0.6 * SIZE


def place(
    marks: Sequence[Mark], *, width: float, height: float, avoid: Sequence[Mark] = ()
) -> list[Label]:
    """Labels for as many marks as there is room for, the first ones first.

    Each lies right of, below, left of or above its mark, inside the frame, on no other label and on
    no mark, those in `avoid` included.

    >>> marks = [Mark("a", 50, 50), Mark("b", 99, 50)]
    >>> [label.align for label in place(marks, width=100, height=99)]
    ['left', 'right']
    """
    dots = [(m.x - 5, m.y - 5, m.x + 5, m.y + 5) for m in (*marks, *avoid)]
    placed: list[Label] = []
    for own, mark in enumerate(marks):
        taken = [*(dot for row, dot in enumerate(dots) if row != own), *(p.box for p in placed)]
        for label in _around(mark):
            left, top, right, bottom = label.box
            inside = left >= 0 and top >= 0 and right <= width and bottom <= height
            if inside and not any(_overlap(label.box, box) for box in taken):
                placed.append(label)
                break
    return placed


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places moved as little as is simple, until neighbours are a gap apart, from low to high.

    >>> spread([10, 11, 90], gap=10, low=0, high=100)
    [10.0, 20.0, 90.0]
    """
    order = sorted(range(len(places)), key=lambda row: places[row])
    moved = [float(place) for place in places]
    edge = low
    for row in order:
        edge = moved[row] = max(moved[row], edge)
        edge += gap
    edge = high
    for row in reversed(order):
        edge = moved[row] = min(moved[row], edge)
        edge -= gap
    return moved


def short(text: str) -> str:
    """A text cut to the room a label has.

    >>> short("a" * 30)
    'aaaaaaaaaaaaaaaaaaaaaaa…'
    """
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _around(mark: Mark) -> list[Label]:
    text, x, y = short(mark.text), mark.x, mark.y
    return [
        Label(text, x + _GAP, y, "left"),
        Label(text, x, y + 1.6 * _GAP, "center"),
        Label(text, x - _GAP, y, "right"),
        Label(text, x, y - 1.6 * _GAP, "center"),
        Label(text, x + 0.7 * _GAP, y + 1.4 * _GAP, "left"),
        Label(text, x - 0.7 * _GAP, y - 1.4 * _GAP, "right"),
    ]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# distinct without colour vision, too
LINE, PLAN, SINGLE, BUDGET = "#0072b2", "#d55e00", "#555555", "#767676"
RANDOM, ORACLE = "#b07c00", "#007a5a"
INK, GRID, FAINT = "#333333", "#e8e8e8", "#c8c8c8"

_RAMP = ((0.27, 0.0, 0.33), (0.23, 0.32, 0.55), (0.13, 0.57, 0.55), (0.37, 0.79, 0.38))
LOG_FROM = 20.0
ZERO = "datum.value == 0 ? '0' : datum.label"

ABOVE: Mapping[str, Any] = {
    "titleAngle": 0,
    "titleAlign": "left",
    "titleBaseline": "bottom",
    "titleAnchor": "end",
    "titleX": -34,
    "titleY": -8,
}


@dataclass(frozen=True)
class Axis:
    """A range of values on a length of pixels, linear or logarithmic."""

    low: float
    high: float
    length: float
    log: bool = False

    @staticmethod
    def around(values: Iterable[float], *, length: float, margin: float = 0.06) -> Axis:
        """A linear axis that holds all values, with a margin at both ends."""
        found = list(values)
        low, high = min(found), max(found)
        room = margin * (high - low) or max(abs(high), 1.0) * margin
        return Axis(low - room, high + room, length)

    @staticmethod
    def of_costs(values: Iterable[float], *, length: float) -> Axis:
        """An axis for costs: logarithmic where they span a factor of 20, else from about zero.

        >>> Axis.of_costs([1e6, 1e9], length=100).log, Axis.of_costs([4, 18], length=100).low
        (True, 0.0)
        """
        found = list(values)
        low, high = min(found), max(found)
        if low > 0 and high / low >= LOG_FROM:
            room = (high / low) ** 0.05
            return Axis(low / room, high * room, length, log=True)
        return Axis(min(0.0, low), 1.06 * high or 1.0, length)

    def pixel(self, value: float) -> float:
        """Where a value lies, in pixels from the low end.

        >>> Axis(1, 100, 200, log=True).pixel(10)
        100.0
        """
        low, high, at = (self._flat(v) for v in (self.low, self.high, value))
        return self.length * (at - low) / (high - low)

    def value(self, pixel: float) -> float:
        """The value at a pixel: the inverse of `pixel`."""
        low, high = self._flat(self.low), self._flat(self.high)
        flat = low + pixel / self.length * (high - low)
        return float(10.0**flat) if self.log else flat

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self) -> list[float] | None:
        """1, 2, 5 per decade of a logarithmic axis, or 1 where decades are many; None if linear.

        >>> Axis(1.5, 30, 200, log=True).ticks()
        [2.0, 5.0, 10.0, 20.0]
        """
        if not self.log:
            return None
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if (last - first) * 60 < self.length else (1,)
        values = (float(step * 10.0**decade) for decade in range(first, last + 1) for step in steps)
        return [value for value in values if self.holds(value)]

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per exit, from light (cheap) to dark (dear).

    >>> colours(["tiny", "big"])
    {'tiny': '#5ec961', 'big': '#450054'}
    """
    last = len(_RAMP) - 1
    found = {}
    for number, name in enumerate(names):
        at = last * (1 - number / max(len(names) - 1, 1))
        below = min(int(at), last - 1)
        mixed = (
            a + (at - below) * (b - a) for a, b in zip(_RAMP[below], _RAMP[below + 1], strict=True)
        )
        found[name] = "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
    return found


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
