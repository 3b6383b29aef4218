"""The colours of plots, on light and on dark ground: those of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Palette:
    """Colours as hexadecimal texts; told apart with any colour vision, and by their brightness.

    Attributes:
        ground, ink, soft: the background, text, and text that stands back.
        grid, axis, faint: lines of the grid and of axes, and lines without a name.
        best, plan, single: a frontier, what was chosen, exits by themselves.
        budget, random, oracle: budgets, deferral at random and by an oracle.
        scheme: the colour scheme of Vega for shares from 0 to 1; its low end is near the ground.
    """

    ground: str
    ink: str
    soft: str
    grid: str
    axis: str
    faint: str
    best: str
    plan: str
    single: str
    budget: str
    random: str
    oracle: str
    scheme: Literal["yellowgreenblue", "viridis"]

    @staticmethod
    def of(*, dark: bool) -> Palette:
        """The palette on light or on dark ground."""
        return _DARK if dark else _LIGHT

    @property
    def series(self) -> tuple[str, ...]:
        """Colours of lines that have no order, at most eight."""
        return self.best, self.plan, self.oracle, *_FURTHER[self is _DARK]


# Okabe and Ito's, darker on light ground and lighter on dark.
_FURTHER = (
    ("#976a00", "#a3497f", "#333333", "#2f86b8", "#7a3b00"),
    ("#e0b040", "#e59ac6", "#e6eaee", "#9bd3f5", "#c98d5a"),
)
_LIGHT = Palette(
    ground="#ffffff",
    ink="#1c2126",
    soft="#59636e",
    grid="#e8ebee",
    axis="#8a929a",
    faint="#c8ced4",
    best="#0072b2",
    plan="#d55e00",
    single="#555555",
    budget="#767676",
    random="#976a00",
    oracle="#007a5a",
    scheme="yellowgreenblue",
)
_DARK = Palette(
    ground="#1d2329",
    ink="#e6eaee",
    soft="#a0abb6",
    grid="#2c343c",
    axis="#77828d",
    faint="#47515b",
    best="#5fb3ea",
    plan="#ff8a3c",
    single="#b4bec8",
    budget="#8b96a1",
    random="#e0b040",
    oracle="#35c39a",
    scheme="viridis",
)
