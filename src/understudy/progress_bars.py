"""Progress bars on stderr, for the command line, scripts and notebooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from understudy.text_table import short_names

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[str, int, int], None]
"""Called as work proceeds: with its name, the units that are done, and all units, or 0 where their
number is not known."""


@contextmanager
def progress_bars(unit: str, *, console: Console | None = None, **units: str) -> Iterator[Advance]:
    """A bar per name of work, with rate and time left, in a terminal, or in a notebook where
    ipywidgets draws it; else none.

    Args:
        unit: what is counted.
        console: where the bars are shown; stderr by default.
        units: what is counted otherwise, by the first word of a name.

    >>> with progress_bars("batches", measuring="rounds") as advance:  # no terminal: no bar
    ...     advance("scoring", 3, 10)
    """
    if console is None and not (sys.stderr.isatty() or _in_notebook()):
        yield no_bar
        return
    from rich import progress as rich
    from rich.console import Console

    console = console or Console(stderr=True)
    name_width, bar_width = _widths(console.width)
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=bar_width),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]} {task.fields[unit]}/s", markup=False),
        rich.TimeRemainingColumn(compact=True),
    )
    shown = console.is_terminal or console.is_jupyter
    bars = rich.Progress(*columns, console=console, disable=not shown)
    tasks: dict[str, rich.TaskID] = {}

    def advance(name: str, done: int, total: int) -> None:
        if name not in tasks:
            counted = units.get(name.split(" ", maxsplit=1)[0], unit)
            short = short_names((*tasks, name), name_width)[name]
            tasks[name] = bars.add_task(short, completed=done, rate="…", unit=counted)
        speed = bars.tasks[bars.task_ids.index(tasks[name])].speed
        bars.update(tasks[name], completed=done, total=total or None, rate=_rate(speed))

    with bars:
        yield advance


def _widths(columns: int) -> tuple[int, int]:
    """The columns of a name and of a bar; the rest is for figures."""
    return (24, min(columns - 64, 40)) if columns >= 80 else (14, 6)


def _in_notebook() -> bool:
    """Whether a notebook can show bars; without ipywidgets rich warns and shows nothing."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


def no_bar(*_: object) -> None:
    """Show nothing."""


def _rate(speed: float | None) -> str:
    if not speed:
        return "…"
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
