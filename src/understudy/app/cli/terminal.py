"""What all verbs share: how options are read, how answers and mistakes are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from rich.console import Console, RenderableType

from understudy.errors import UnderstudyError
from understudy.split import check_shares

WIDTH = 120  # where the output is no terminal


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


out = _console(stderr=False)
err = _console(stderr=True)


Advance = Callable[[str, int, int], None]
"""Called as work proceeds: what is being done, how much of it is done, how much there is."""


class UsageError(UnderstudyError):
    """An option that cannot be read."""


def answer(view: RenderableType, data: Any, *, as_json: bool) -> None:
    """Print the answer of a verb: a view for people, or JSON for machines."""
    if as_json:
        sys.stdout.write(json.dumps(data, allow_nan=False, ensure_ascii=False) + "\n")
    else:
        out.print(view)


def note(text: str) -> None:
    """A remark beside the answer, on stderr."""
    err.print(text, highlight=False)


def fail(message: str, *, code: int = 2) -> NoReturn:
    """One sentence on stderr, and the exit code."""
    err.print(f"[bold red]error:[/] {_escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


@contextmanager
def answer_alone() -> Iterator[None]:
    """What models and libraries print meanwhile goes to stderr: stdout is for the answer alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def progress(unit: str) -> Iterator[Advance]:
    """A bar per piece of work on stderr, with rate and time left; silent where nobody looks."""
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
    tasks: dict[str, TaskID] = {}
    with (
        answer_alone(),
        Progress(*columns, console=err, disable=not err.is_terminal) as bars,
    ):

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, rate="…", completed=done)
            task = tasks[what]
            speed = bars.tasks[bars.task_ids.index(task)].speed
            bars.update(task, completed=done, rate=_rate(speed))

        yield advance


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Repeated NAME=VALUE options, in order.

    >>> pairs(["tiny=a.csv", "big=b.csv"], "--exit")
    {'tiny': 'a.csv', 'big': 'b.csv'}

    Raises:
        UsageError: no '=', an empty name, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(
                f"{option} reads NAME=VALUE, found {text!r}: put a name and '=' before the value"
            )
        if name in found:
            raise UsageError(f"{option} names {name!r} once, found it twice: drop one")
        found[name] = value
    return found


def number(text: str, option: str) -> float:
    """A number in an option.

    Raises:
        UsageError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} takes a number, found {text!r}: write it like 0.5") from None


def numbers(texts: Iterable[str], option: str) -> list[float]:
    """Numbers that are repeated or joined by commas.

    >>> numbers(["0.5,1", "2"], "--max-drop")
    [0.5, 1.0, 2.0]
    """
    return [number(part, option) for text in texts for part in text.split(",") if part.strip()]


def counts(texts: Iterable[str], option: str) -> tuple[int, ...]:
    """Whole numbers from 1 up that are repeated or joined by commas.

    >>> counts(["1,16", "64"], "--measure")
    (1, 16, 64)

    Raises:
        UsageError: anything else.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"{option} takes whole numbers from 1 up, found {','.join(parts)!r}: write them like "
            "1,16,64"
        )
    return tuple(map(int, parts))


def shares(text: str) -> dict[str, float]:
    """Shares of splits.

    >>> shares("tune=.2,certify=.6,test=.2")
    {'tune': 0.2, 'certify': 0.6, 'test': 0.2}

    Raises:
        TableError: an unknown split, a share outside 0 to 1, or a sum that is not 1.
        UsageError: no NAME=NUMBER.
    """
    return check_shares(
        {
            name: number(share, "--split")
            for name, share in pairs(text.split(","), "--split").items()
        }
    )


def _rate(speed: float | None) -> str:
    if not speed:
        return "…"
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
