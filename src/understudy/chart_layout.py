"""Where things lie in a chart, in pixels: widths of texts, labels that do not collide, axes.

The report draws with it, and so do the plots.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

SIZE, LEADING = 13.0, 16.0
_GAP = 9.0
# The widest of common fonts (DejaVu Sans) in em, rounded up; what is in no group has the last.
_WIDTHS = (
    (0.42, " !'()[],-./:;\\|fijlrtI"),
    (0.64, '0123456789abcdeghknopqsuvxyz_$?*"`{}FJLT'),
    (0.84, "ABCDEGHKNOPQRSUVXYZw&#+<=>^~\N{MINUS SIGN}\N{RIGHTWARDS ARROW}≤≥×"),
    (1.02, ""),
)
_WIDTH = {character: width for width, group in _WIDTHS for character in group}

Box = tuple[float, float, float, float]


def text_width(text: str) -> float:
    """The pixels that a text takes at most, whichever common font it is set in.

    >>> text_width("resnet") < text_width("RESNET")
    True
    """
    return SIZE * sum(_WIDTH.get(character, _WIDTHS[-1][0]) for character in text)


def wrapped(text: str, width: float) -> tuple[str, ...]:
    """A text in lines of at most a width in pixels, broken after signs where it can be.

    >>> wrapped("vit_base_patch16_224", 90)
    ('vit_base_', 'patch16_224')
    """
    pieces = [piece for piece in re.split(r"(?<=[_./+: -])", text) if piece]
    lines: list[str] = [""]
    for piece in pieces:
        if lines[-1] and text_width((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        for character in piece:
            if lines[-1] and text_width(lines[-1]) + text_width(character.strip()) > width:
                lines.append("")
            lines[-1] += character
    return tuple(line.rstrip() for line in lines)


@dataclass(frozen=True)
class Mark:
    """Something to name: its text and where it lies, in pixels from the upper left."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Label:
    """Lines of text at a place in pixels: `anchor` says which end lies there; y is the middle."""

    lines: tuple[str, ...]
    x: float
    y: float
    anchor: str

    @property
    def box(self) -> Box:
        width, half = max(map(text_width, self.lines)), LEADING * len(self.lines) / 2
        left = self.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return left, self.y - half, left + width, self.y + half


def place(
    marks: Sequence[Mark],
    *,
    width: float,
    height: float,
    avoid: Sequence[Box] = (),
    beside: Sequence[Box] = (),
) -> list[Label]:
    """Labels for as many marks as there is room for, the first ones first.

    Each lies around its mark, inside the frame, on no other label and on nothing to `avoid`, and
    on as little as can be of what it should be `beside`.

    >>> marks = [Mark("a", 50, 50), Mark("b", 99, 50)]
    >>> [label.anchor for label in place(marks, width=100, height=99)]
    ['start', 'end']
    """
    dots = [(m.x - 5, m.y - 5, m.x + 5, m.y + 5) for m in marks]
    placed: list[Label] = []
    for own, mark in enumerate(marks):
        others = (dot for row, dot in enumerate(dots) if row != own)
        taken = [*others, *avoid, *(one.box for one in placed)]
        free = [
            label
            for label in _around(mark, width / 2)
            if _inside(label.box, width, height) and not _touched(label.box, taken)
        ]
        if free:
            placed.append(min(free, key=lambda label: _touched(label.box, beside)))
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


def _around(mark: Mark, width: float) -> Iterator[Label]:
    lines, x, y = wrapped(mark.text, width), mark.x, mark.y
    up = 0.8 * _GAP + LEADING * len(lines) / 2
    yield Label(lines, x + _GAP, y, "start")
    yield Label(lines, x, y + up, "middle")
    yield Label(lines, x - _GAP, y, "end")
    yield Label(lines, x, y - up, "middle")
    for down in (up, -up):
        yield Label(lines, x + 0.5 * _GAP, y + down, "start")
        yield Label(lines, x - 0.5 * _GAP, y + down, "end")


def _inside(box: Box, width: float, height: float) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height


def _touched(a: Box, boxes: Iterable[Box]) -> int:
    return sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes)


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
    def of_costs(values: Iterable[float], *, length: float, log_from: float = 20.0) -> Axis:
        """An axis for costs: logarithmic where they span a factor of 20, else from about zero.

        >>> Axis.of_costs([1e6, 1e9], length=100).log, Axis.of_costs([4, 18], length=100).low
        (True, 0.0)
        """
        found = list(values)
        low, high = min(found), max(found)
        if low > 0 and high / low >= log_from:
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
        """The value that lies at a pixel.

        >>> Axis(1, 100, 200, log=True).value(100)
        10.0
        """
        low, high = self._flat(self.low), self._flat(self.high)
        at = low + (high - low) * pixel / self.length
        return 10.0**at if self.log else at

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self, room: Callable[[float], float]) -> list[float]:
        """Round values, as many as there is room for: `room` is the pixels that a value takes.

        >>> Axis(1.5, 30, 200, log=True).ticks(lambda value: 30.0)
        [2.0, 5.0, 10.0, 20.0]
        >>> Axis(0, 11, 100).ticks(lambda value: 30.0)
        [0.0, 5.0, 10.0]
        """
        found: list[float] = []
        for found in self._by_decades() if self.log else self._by_steps():
            places = [(self.pixel(value), room(value) / 2) for value in found]
            if all(b - right >= a + left for (a, left), (b, right) in pairwise(places)):
                break
        return found

    def _by_steps(self) -> Iterator[list[float]]:
        """Multiples of 1, 2 and 5 times powers of ten, from fine to coarse."""
        decade = math.floor(math.log10(self.high - self.low)) - 2
        for power in range(decade, decade + 4):
            for size in (1, 2, 5):
                step = size * 10.0**power
                first, last = math.ceil(self.low / step), math.floor(self.high / step)
                yield [round(number * step, 12) for number in range(first, last + 1)]

    def _by_decades(self) -> Iterator[list[float]]:
        """1, 2, 5 per decade, or 1, or 1 in every few decades."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps, every in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
            decades = range(first, last + 1, every)
            values = [float(f"{step}e{decade}") for decade in decades for step in steps]
            yield [value for value in values if self.holds(value)]

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


# From cheap to dear, on light and on dark ground: also apart by their brightness.
_RAMPS = (
    ((0.25, 0.62, 0.36), (0.10, 0.50, 0.53), (0.19, 0.32, 0.58), (0.29, 0.04, 0.37)),
    ((0.82, 0.95, 0.68), (0.38, 0.80, 0.71), (0.36, 0.62, 0.90), (0.64, 0.47, 0.85)),
)


def shades(count: int) -> list[tuple[str, str]]:
    """Colours from cheap to dear, each on light and on dark ground.

    >>> shades(2)
    [('#409e5c', '#d1f2ad'), ('#4a0a5e', '#a378d9')]
    """
    shares = [number / max(count - 1, 1) for number in range(count)]
    return [(_mixed(_RAMPS[0], share), _mixed(_RAMPS[1], share)) for share in shares]


def _mixed(ramp: Sequence[tuple[float, float, float]], share: float) -> str:
    at = share * (len(ramp) - 1)
    below = min(int(at), len(ramp) - 2)
    parts = (a + (at - below) * (b - a) for a, b in zip(ramp[below], ramp[below + 1], strict=True))
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
