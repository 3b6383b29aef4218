"""What all charts share: scales, labels and shapes as SVG text.

Shapes have classes; the style sheet of the page gives them their colours, in light and in dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape

from understudy.chart_layout import LEADING, SIZE, Axis, Label, text_width, wrapped

_RIGHT = 22.0


@dataclass(frozen=True)
class Scale:
    """An axis with the values that are named on it, and what it shows."""

    axis: Axis
    names: Mapping[float, str]
    title: str

    @staticmethod
    def of(axis: Axis, title: str, text: Callable[[float], str], *, upright: bool = False) -> Scale:
        """A scale with as many round values as can be read, side by side or one above another."""
        ticks = axis.ticks(
            (lambda _: 2.5 * LEADING) if upright else (lambda value: text_width(text(value)) + 14)
        )
        return Scale(axis, {value: text(value) for value in ticks}, title)


def left_of(y: Scale) -> float:
    """The pixels that the names on an upright scale take."""
    return max(map(text_width, y.names.values()), default=0.0) + 8


def inner_width(width: float, y: Scale, right: float = _RIGHT) -> float:
    """The length of the x axis: what the scale at its left and the right margin leave."""
    return width - left_of(y) - right


def chart(
    marks: Iterable[str],
    x: Scale,
    y: Scale,
    *,
    about: str,
    right: float = _RIGHT,
    axes: str = "",
) -> str:
    """Marks in a frame of two scales as SVG; `about` says what it shows to those who cannot see.

    The origin of marks is the upper left of the plot. What is above and below it is as high as
    its text needs, so that nothing is cut.
    """
    left, across, up = left_of(y), x.axis.length, y.axis.length
    width = left + across + right
    above = wrapped(y.title, width) if y.title else ()
    below = wrapped(x.title, across + 2 * min(left, right))
    top, foot = LEADING * len(above) + 12, LEADING * len(below)
    grid = "".join(
        _line(0, up - y.axis.pixel(value), across, up - y.axis.pixel(value), "c-grid")
        for value in y.names
    )
    ticks = "".join(
        _line(x.axis.pixel(value), up, x.axis.pixel(value), up + 5, "c-axis")
        + label_svg(Label((name,), x.axis.pixel(value), up + 16, "middle"), "tick")
        for value, name in x.names.items()
    )
    names = "".join(
        label_svg(Label((name,), -8, up - y.axis.pixel(value), "end"), "tick")
        for value, name in y.names.items()
    )
    titles = label_svg(Label(above, -left, -12 - LEADING * len(above) / 2, "start"), "title")
    titles += label_svg(Label(below, across / 2, up + 28 + foot / 2, "middle"), "title")
    inside = grid + _line(0, up, across, up, "c-axis") + ticks + names + titles + "".join(marks)
    height = top + up + 30 + foot
    frame = element("g", inside, transform=f"translate({left:.4g} {top:.4g})")
    return svg(frame, width, height, about=about, axes=axes)


def svg(inside: str, width: float, height: float, *, about: str, axes: str = "") -> str:
    """An SVG image of a size in pixels; `about` says what it shows to those who cannot see, `axes`
    to a script where values lie (`axes_for_script`)."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:.5g} '
        f'{height:.5g}"{axes} role="img" aria-label="{escape(about)}">{inside}</svg>'
    )


def axes_for_script(x: Axis, y: Axis) -> str:
    """Attributes from which a script finds where values lie: low, high, length, "log" or not."""

    def data(axis: Axis) -> str:
        return f"{axis.low!r} {axis.high!r} {axis.length:.6g}{' log' if axis.log else ''}"

    return f' data-x="{data(x)}" data-y="{data(y)}"'


def label_svg(label: Label, kind: str = "label") -> str:
    """The lines of a label."""
    top = label.y - LEADING * (len(label.lines) - 1) / 2 + 0.36 * SIZE
    return "".join(
        element(
            "text", escape(line), x=label.x, y=top + LEADING * row, kind=kind, anchor=label.anchor
        )
        for row, line in enumerate(label.lines)
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return path([(x1, y1), (x2, y2)], kind)


def element(tag: str, *inside: str, kind: str = "", **attributes: str | float) -> str:
    """An SVG element with a class; `inside` is markup.

    >>> element("circle", kind="c-plan", r=4.5)
    '<circle class="c-plan" r="4.5"/>'
    """
    values = ({"class": kind} if kind else {}) | attributes
    values = {"text-anchor" if name == "anchor" else name: v for name, v in values.items()}
    texts = (
        f' {name.replace("_", "-")}="{value if isinstance(value, str) else _number(value)}"'
        for name, value in values.items()
    )
    head = f"<{tag}{''.join(texts)}"
    return f"{head}>{''.join(inside)}</{tag}>" if inside else f"{head}/>"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def path(points: Iterable[tuple[float, float]], kind: str, **attributes: str | float) -> str:
    """A line through points."""
    through = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element(
        "path", kind=kind, d=f"M{through}", fill="none", stroke="currentColor", **attributes
    )


SHAPES = {
    "diamond": "M0-7L6 0L0 7L-6 0z",
    "square": "M-5-5H5V5H-5z",
    "down": "M-6-5H6L0 6z",
    "up": "M-6 5H6L0-6z",
    "small": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "dot": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
}


def point(shape: str, x: float, y: float, kind: str) -> str:
    """A filled shape of `SHAPES` at a place."""
    at = f"translate({x:.1f} {y:.1f})"
    return element("path", kind=kind, d=SHAPES[shape], transform=at, fill="currentColor")
