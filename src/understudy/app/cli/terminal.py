"""How a verb prints: its answer on stdout; notes, progress and errors on stderr.

Rich is imported when something is printed, so that help and shell completion start fast.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from understudy.display import cost_text, group_of, note_of, percent, table_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from understudy.scores import ScoreTable

WIDTH = 120  # columns, where the output is no terminal

Advance = Callable[[str, int, int], None]
"""Called as work proceeds: with a description, the units that are done, and all units."""


def answer(view: RenderableType, data: Any, *, as_json: bool) -> None:
    """Print the answer of a verb: a view for people, or JSON for machines."""
    if as_json:
        sys.stdout.write(json.dumps(data, allow_nan=False, ensure_ascii=False) + "\n")
    else:
        whole_lines = isinstance(view, str)  # a path that is broken cannot be copied
        _console(stderr=False).print(view, highlight=False, markup=False, soft_wrap=whole_lines)


def answer_table(scores: ScoreTable, path: Path, *, as_json: bool) -> None:
    """Print what a table that was written holds: its exits with accuracy and costs."""
    from understudy.split import SPLITS

    splits = ", ".join(
        f"{name} {int((scores.split == code).sum()):,}" for code, name in enumerate(SPLITS)
    )
    head = ["exit", *([] if scores.label is None else ["accuracy"]), *scores.units]
    rows = []
    for row, name in enumerate(scores.names):
        right = scores.prediction[row] == scores.label
        accuracy = [] if scores.label is None else [percent(float(right.mean()))]
        costs = [cost_text(scores.cost_of([name], unit), unit) for unit in scores.units]
        rows.append([name, *accuracy, *costs])
    view = group_of(
        table_of(f"{len(scores):,} samples ({splits})", head, rows),
        note_of(f"written to {path}"),
    )
    data = {
        "table": str(path),
        "samples": len(scores),
        "exits": list(scores.names),
        "units": list(scores.units),
        "confidences": list(scores.confidence),
        "hash": scores.hash,
    }
    answer(view, data, as_json=as_json)


def note(text: str, *, style: str | None = None) -> None:
    """Print a remark on stderr."""
    _console(stderr=True).print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def fail(message: str, *, code: int = 2) -> NoReturn:
    """Print one sentence on stderr and exit with a code."""
    from rich.text import Text

    text = Text.assemble(("error:", "bold red"), f" {message}")
    _console(stderr=True).print(text, highlight=False, soft_wrap=True)
    sys.exit(code)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what models and libraries print to stderr: stdout is for the answer alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def progress(unit: str) -> Iterator[Advance]:
    """A progress bar per description on stderr, with rate and time left; none without a terminal.

    What is printed to stdout meanwhile goes to stderr.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]}} {unit}/s"),
        TimeRemainingColumn(),
    )
    console = _console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with (
        stdout_to_stderr(),
        Progress(*columns, console=console, disable=not console.is_terminal) as bars,
    ):

        def advance(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(
                    description, total=total, rate="…", completed=done
                )
            task = tasks[description]
            speed = bars.tasks[bars.task_ids.index(task)].speed
            bars.update(task, completed=done, rate=_rate(speed))

        yield advance


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def _rate(speed: float | None) -> str:
    if not speed:
        return "…"
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
