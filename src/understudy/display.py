"""Tables and figures for a terminal: Rich views, the same as plain text, numbers as text.

Rich is loaded when the first view is made.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import StringIO
from typing import TYPE_CHECKING
from unicodedata import category

from understudy.text_table import ARROW, Column, Paragraph, TextTable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

WIDTH = 100  # columns, where the output is no terminal
MINUS = "\N{MINUS SIGN}"  # of printed figures; options are written with a hyphen


def columns() -> int:
    """The columns to print in: COLUMNS, those of the terminal, or 100 where there is none."""
    fixed = os.environ.get("COLUMNS", "")
    if fixed.isdecimal() and int(fixed):
        return int(fixed)
    with suppress(OSError, ValueError, AttributeError):  # stdout may be anything
        if sys.stdout.isatty():
            return os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH
    return WIDTH


def plain(view: RenderableType, *, width: int | None = None) -> str:
    """A view as plain text without colours, in `columns()` unless a width is given."""
    from rich.console import Console

    stream, width = StringIO(), width or columns()
    console = Console(file=stream, width=width, color_system=None, force_terminal=False)
    console.print(view, crop=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def table_of(
    title: str, columns: Iterable[str | Column], rows: Iterable[Iterable[str | Text]] = ()
) -> TextTable:
    """A table; without kinds the first column has names and the others figures.

    Text is taken literally; a Rich `Text` brings a style of its own.
    """
    found = (
        column if isinstance(column, Column) else Column(column, "figure" if number else "name")
        for number, column in enumerate(columns)
    )
    return TextTable(
        visible(title),
        tuple(Column(visible(column.head), column.kind) for column in found),
        tuple(
            tuple(visible(cell) if isinstance(cell, str) else cell for cell in row) for row in rows
        ),
    )


def note_of(text: str, *, heading: str = "") -> Paragraph:
    """An indented paragraph, with a bold heading in front."""
    return Paragraph(visible(text), visible(heading))


def group_of(*views: RenderableType) -> Group:
    """Views below one another."""
    from rich.console import Group

    return Group(*views)


def warning_of(text: str) -> Text:
    """A warning in red."""
    from rich.text import Text

    return Text(visible(text), style="bold red")


def visible(text: str) -> str:
    """Text whose control characters are escaped, line breaks apart: a name cannot steer a terminal.

    >>> visible("red\\x1b[31m name")
    'red\\\\x1b[31m name'
    """
    if text.isprintable():
        return text
    hidden = {c for c in text if category(c) in {"Cc", "Cf", "Cs"}} - {"\n"}
    return text.translate({ord(c): ascii(c)[1:-1] for c in hidden})


def cost_text(cost: float, unit: str) -> str:
    """A cost with a prefix where it is a count of operations.

    >>> cost_text(40_551_000, "MACs"), cost_text(999_900_000, "MACs"), cost_text(0.25, "ms@64")
    ('40.6 M', '1 G', '0.25')
    """
    if unit == "MACs":
        for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(cost) >= 0.9995 * size:  # what rounds to a thousand takes the larger prefix
                return f"{cost / size:.3g} {prefix}"
    return f"{cost:.4g}"


def percent(share: float) -> str:
    """A fraction as percent.

    >>> percent(0.875), percent(-0.1)
    ('87.5 %', '−10.0 %')
    """
    return f"{100 * share:.1f} %".replace("-", MINUS)


def least_percent(share: float) -> str:
    """A lower bound of a fraction as percent, rounded down.

    >>> least_percent(0.57196), least_percent(0.57)
    ('57.1 %', '57.0 %')
    """
    return f"{math.floor(1000 * share + 1e-9) / 10:.1f} %".replace("-", MINUS)


def level_text(delta: float) -> str:
    """A probability of being wrong with three digits, rounded up.

    >>> level_text(0.05), level_text(0.025 / 3), level_text(1e-12)
    ('0.05', '0.00834', '1e-12')
    """
    return f"{_level(delta):g}"


def probability_text(delta: float) -> str:
    """The probability that what holds at level `delta` does hold, rounded down.

    >>> probability_text(0.05), probability_text(0.025 / 3), probability_text(1e-5)
    ('0.95', '0.99166', '0.99999')
    """
    return f"{max(1 - _level(delta), 0):.15g}"


def _level(delta: float) -> float:
    """Three digits of a level, rounded up but for the last bits of sums."""
    if delta <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(delta)) - 2)
    return math.ceil(delta / digit - 1e-9) * digit


def signed(value: float, digits: int = 2) -> str:
    """A figure with its sign; one that is rounded to nothing has none.

    >>> signed(1.5), signed(-0.25), signed(-0.001)
    ('+1.50', '−0.25', '0.00')
    """
    text = f"{value:+,.{digits}f}"
    return text.replace("-", MINUS) if text.strip("+-0.,") else text[1:]


def budget_text(points: float) -> str:
    """A budget as it was given.

    >>> budget_text(0.5), budget_text(-1)
    ('0.5', '−1')
    """
    return f"{points:g}".replace("-", MINUS)


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a drop in points.

    >>> interval_text((-0.25, 1))
    '[−0.25, +1.00]'
    """
    return f"[{signed(interval[0])}, {signed(interval[1])}]"


def share_interval_text(interval: tuple[float, float]) -> str:
    """An interval of a share of the samples in %, such as a disagreement: none is below 0.

    >>> share_interval_text((-0.25, 1))
    '[0.00, 1.00]'
    """
    return f"[{max(interval[0], 0):.2f}, {max(interval[1], 0):.2f}]"


def plan_text(shares: Mapping[str, float]) -> str:
    """The stages in order, with the share that each answers.

    >>> plan_text({"tiny": 0.9, "big": 0.1})
    'tiny 90.0% → big 10.0%'
    """
    return ARROW.join(f"{name} {100 * share:.1f}%" for name, share in shares.items())


def shares_text(shares: Mapping[str, float]) -> str:
    """The share that each exit answers.

    >>> shares_text({"tiny": 0.9, "big": 0.1})
    'tiny 90.0 %, big 10.0 %'
    """
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
