"""Tables and figures for a terminal: Rich views, the same as plain text, numbers as text.

Rich is loaded when the first view is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import TYPE_CHECKING
from unicodedata import category

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text


def plain(view: RenderableType, *, width: int = 110) -> str:
    """A view as plain text, without colours."""
    from rich.console import Console

    stream = StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False).print(view)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def table_of(
    title: str, columns: Iterable[str], rows: Iterable[Iterable[str | Text]] = ()
) -> Table:
    """A table; the first column and those of plans are left-aligned, the others right-aligned.

    Text is taken literally; a Rich `Text` brings a style of its own.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    heading = Text(visible(title), style="bold", no_wrap=True, overflow="ignore")  # may be wider
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        left = number == 0 or "plan" in column
        table.add_column(Text(visible(column)), justify="left" if left else "right")
    for row in rows:
        table.add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in row))
    return table


def note_of(text: str, *, heading: str = "") -> Padding:
    """An indented paragraph, with a bold heading in front."""
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text.assemble((heading, "bold"), visible(text)), (0, 2))


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
        for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(cost) >= 0.9995 * size:  # what rounds to a thousand takes the larger prefix
                return f"{cost / size:.3g} {prefix}"
    return f"{cost:.4g}"


def percent(share: float) -> str:
    """A fraction as percent.

    >>> percent(0.875)
    '87.5 %'
    """
    return f"{100 * share:.1f} %"


def least_percent(share: float) -> str:
    """A lower bound of a fraction as percent, rounded down.

    >>> least_percent(0.57196), least_percent(0.57)
    ('57.1 %', '57.0 %')
    """
    return f"{math.floor(1000 * share + 1e-9) / 10:.1f} %"


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a drop in points."""
    return f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


def plan_text(shares: Mapping[str, float]) -> str:
    """The stages in order, with the share that each answers.

    >>> plan_text({"tiny": 0.9, "big": 0.1})
    'tiny 90.0% → big 10.0%'
    """
    return " → ".join(f"{name} {100 * share:.1f}%" for name, share in shares.items())


def shares_text(shares: Mapping[str, float]) -> str:
    """The share that each exit answers.

    >>> shares_text({"tiny": 0.9, "big": 0.1})
    'tiny 90.0 %, big 10.0 %'
    """
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
