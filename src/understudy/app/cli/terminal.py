"""How a verb prints: its answer on stdout; notes, progress and errors on stderr.

Rich is imported when something is printed, so that help and shell completion start fast.
"""

from __future__ import annotations

import codecs
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from understudy.display import (
    columns,
    cost_text,
    group_of,
    note_of,
    percent,
    table_of,
    visible,
)
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from understudy.progress_bars import Advance
    from understudy.scores import ScoreTable
    from understudy.text_table import Paragraph


def answer(view: RenderableType, data: Any, *, as_json: bool) -> None:
    """Print the answer of a verb: a view for people, or JSON for machines."""
    if as_json:
        sys.stdout.write(_json_text(data) + "\n")
    else:
        shown = note_of(view) if isinstance(view, str) else view
        _console(stderr=False).print(shown, crop=False)  # a path in pieces cannot be copied
    sys.stdout.flush()


def next_steps(*commands: str) -> RenderableType:
    """Commands that a user may want next, each on a line of its own however long it is."""
    from rich.text import Text

    lines = [f"    {visible(command)}\n" for command in commands]
    text = "".join(["  Next:\n", *lines] if lines else [])
    return Text(text, no_wrap=True, overflow="ignore", end="")


def quoted(word: object) -> str:
    """A word of a command, as a shell reads it.

    >>> quoted("my table")
    "'my table'"
    """
    return shlex.quote(str(word))


def _json_text(data: Any) -> str:
    """JSON in the characters of stdout's encoding; others are escaped."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, allow_nan=False)
    return text


def answer_table(
    scores: ScoreTable, path: Path, *, as_json: bool, done: str = "written to", **more: Any
) -> None:
    """Print what a table holds: its exits with accuracy and costs.

    Args:
        scores: the table.
        path: where it is.
        as_json: print JSON for machines.
        done: what was done with it, before its path.
        more: further entries of the JSON.
    """
    from understudy.outcome import units_of
    from understudy.split import SPLITS

    splits = ", ".join(
        f"{name} {int((scores.split == code).sum()):,}" for code, name in enumerate(SPLITS)
    )
    labelled = int(scores.labelled.sum())
    whole = labelled in (0, len(scores))  # where few have a label, accuracy says little
    reference = scores.reference()
    measure = "accuracy" if labelled else f"agreement\nwith {reference}"
    head = ["exit", *([measure] if whole else []), *scores.units]
    rows = []
    for row, name in enumerate(scores.names):
        right = scores.right(reference, row)
        accuracy = [percent(float(right.mean()))] if whole else []
        known = units_of(scores, {name})  # exits of another run may be measured in other batches
        costs = [_cost_cell(scores, name, unit) if unit in known else "–" for unit in scores.units]
        rows.append([name, *accuracy, *costs])
    labels = (
        ""
        if labelled == len(scores)
        else f", {f'{labelled:,}' if labelled else 'none'} with a label"
    )
    search = f"understudy search {quoted(path)} --max-drop 0.5,1,2 --out result.json"
    view = group_of(
        table_of(f"{len(scores):,} samples ({splits}){labels}", head, rows),
        note_of(f"{done} {path}\n"),
        next_steps(*([search] if len(scores.exits) > 1 else [])),
    )
    data = {
        "table": str(path),
        "samples": len(scores),
        "labels": labelled,
        "exits": list(scores.names),
        "units": list(scores.units),
        "confidences": list(scores.confidence),
        "hash": scores.hash,
        **more,
    }
    answer(view, data, as_json=as_json)


def _cost_cell(scores: ScoreTable, exit: str, unit: str) -> str:
    """The cost of an exit; a time that is noisy, with its noise."""
    from understudy.time_noise import NOISY, noise_of

    cost, noise = cost_text(scores.cost_of([exit], unit), unit), noise_of(scores, exit, unit)
    return f"{cost} ±{100 * noise:.0f} %" if noise > NOISY else cost


def note(text: str, *, style: str | None = None) -> None:
    """Print a remark on stderr."""
    _console(stderr=True).print(visible(text), style=style, soft_wrap=True)


def note_missing_labels(scores: ScoreTable) -> None:
    """Say how many labels a partly labelled table has, before figures that need them."""
    labelled = int(scores.labelled.sum())
    if 0 < labelled < len(scores):
        note(
            f"{labelled:,} of {len(scores):,} samples have a label; where it is missing the "
            "reference's answer takes its place: a drop can only be lower than shown, an accuracy "
            "is partly agreement"
        )


def reference_line(scores: ScoreTable, name: str | None, unit: str | None) -> Paragraph:
    """Which exit is the reference, and how accurate it is on tune: the first line of an answer."""
    return note_of(f"{scores.reference_words(name, unit=unit)}\n")


def fail(message: str, *, code: int = 2) -> NoReturn:
    """Print one sentence on stderr and exit with a code."""
    from rich.text import Text

    text = Text.assemble(("error:", "bold red"), f" {visible(' '.join(message.splitlines()))}")
    with suppress(OSError):  # nobody can be told on a full disk
        _console(stderr=True).print(text, soft_wrap=True)
    sys.exit(code)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what models and libraries print to stderr: stdout is for the answer alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def progress(unit: str, **units: str) -> Iterator[Advance]:
    """A progress bar per name of work on stderr (`progress_bars`); none without a terminal.

    What is printed to stdout meanwhile goes to stderr.

    Args:
        unit: what is counted.
        units: what is counted otherwise, by the first word of a name.
    """
    from understudy.progress_bars import progress_bars

    with (
        stdout_to_stderr(),
        progress_bars(unit, console=_console(stderr=True), **units) as advance,
    ):
        yield lambda name, done, total: advance(visible(name), done, total)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on stderr while the block runs, which then vanishes; none without a terminal."""
    console = _console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(visible(what)):
        yield


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper) and "utf" not in stream.encoding.lower():
        stream.reconfigure(errors=_IN_ASCII)
    literal = partial(Console, stderr=stderr, markup=False, emoji=False, highlight=False)
    console = literal()  # a terminal may change its width meanwhile
    return console if console.is_terminal else literal(width=columns())


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Signs in place of those that an encoding lacks; other characters are escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SIGNS.get(c, ascii(c)[1:-1]) for c in text), error.end


_SIGNS = {**dict(zip("−–─→…█●", "--->~#*", strict=True)), "≥": ">=", "≤": "<=", "±": "+-"}
_IN_ASCII = "understudy.ascii"
codecs.register_error(_IN_ASCII, _in_ascii)


class UsageError(UnderstudyError):
    """An option that cannot be read."""
