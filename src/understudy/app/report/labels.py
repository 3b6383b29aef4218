"""Names beside marks, placed so that they do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
