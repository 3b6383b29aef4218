"""How a verb prints: its answer on stdout; notes, progress and errors on stderr.

Rich is imported when something is printed, so that help and shell completion start fast.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

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
        right = scores.prediction[row] == scores.truth(reference)
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


def argument(metavar: str, help: str) -> Any:
    """An argument of a verb, which has no default."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


def option(metavar: str, help: str, *names: str) -> Any:
    """An option of a verb that takes a value; its name is the parameter's unless given.

    Infinity and NaN are refused.
    """
    return typer.Option(*names, metavar=metavar, help=help, callback=finite)


def finite(value: Any) -> Any:
    """A callback that refuses infinity and NaN, which a range may let pass."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def seed(value: int | None) -> int | None:
    """A callback that refuses what no generator takes; as a range it would fill the help."""
    if value is not None and value >= 2**63:
        raise typer.BadParameter(f"{value} has more than 63 bits.")
    return value


def _existing_data(value: str | None) -> str | None:
    """A data spec with its scheme, checked before anything slow is imported."""
    from understudy.zoo.data_specs import parse_data_spec

    return None if value is None else parse_data_spec(value).text


MOST_IMAGES, MOST_THREADS, MOST_STAGES = 2**20, 1024, 1000  # of a batch, of a command, of a policy
SMALL_BUDGET = 0.1  # points, below which a fraction may be meant
MOST_ROUNDS = 10**6  # in which something is measured again

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
TablePath = Annotated[Path, argument("TABLE", "A score table.")]
ResultPath = Annotated[Path, argument("RESULT", "What `search --out` wrote.")]
CascadePath = Annotated[Path, argument("CASCADE", "What `build` or `export` wrote.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="DATA", help="folder:DIR, parquet:FILE or digits:", callback=_existing_data
    ),
]
Device = Annotated[
    str | None,
    option(
        "DEVICE",
        "Where to compute, as torch names it: cpu, cuda, cuda:1. "
        "[dim]Default: an NVIDIA GPU if there is one, else the CPU; the CPU for what `export` "
        "wrote.[/]",
    ),
]
StageBatch = Annotated[
    int, typer.Option(min=1, max=MOST_IMAGES, help="Images per batch of every stage.")
]
WithinDrop = Annotated[
    float | None,
    option(
        "POINTS",
        "Set the cascade to its cheapest certified policy within this drop. "
        "[dim]Default: as it was built.[/]",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, max=MOST_THREADS, help="Threads that decode images; 0 decodes without threads."
    ),
]
Reference = Annotated[
    str | None,
    option(
        "EXIT",
        "The exit that accuracy is compared with. [dim]Default: the most accurate on tune.[/]",
    ),
]
Unit = Annotated[
    str | None,
    option(
        "UNIT",
        "The unit of cost to minimise, such as ms@64. [dim]Default: the table's first.[/]",
        "--unit",
        "--cost",
    ),
]
Confidence = Annotated[
    str,
    option("NAME", "The stored confidence that thresholds apply to."),
]
ThresholdsOn = Annotated[
    str | None,
    option(
        "NAME",
        "The stored confidence that thresholds apply to. [dim]Default: a score learned on tune.[/]",
    ),
]
AtMostStages = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=MOST_STAGES,
        metavar="N",
        help="The most exits that a sample may visit. [dim]Default: 4; 6 for exits of one "
        "network.[/]",
    ),
]
Without = Annotated[
    list[str] | None,
    option("FAMILY", "Leave out learned, ensembles, or chains (3 exits and more); or several."),
]
Budgets = Annotated[
    list[str], option("POINTS", "Budget(s) for the drop in accuracy: 0.5, or 0.25,0.5,1.")
]
SplitShares = Annotated[
    str | None,
    option(
        "SHARES",
        "Shares of the splits. [dim]Default: tune=.2,certify=.6,test=.2; "
        "below 5,000 samples tune=.2,certify=.8; over an older table, the shares of that one.[/]",
    ),
]

AllowCode = Annotated[
    list[str] | None,
    option(
        "MODULE",
        "A module that specs py:MODULE:factory in files may import. Repeat it. [dim]Default: none; "
        "the specs that you write yourself need no option.[/]",
    ),
]


class UsageError(UnderstudyError):
    """An option that cannot be read."""


def named_values(texts: Iterable[str], option: str) -> dict[str, str]:
    """Repeated NAME=VALUE options, in order.

    >>> named_values(["tiny=a.csv", "big=b.csv"], "--exit")
    {'tiny': 'a.csv', 'big': 'b.csv'}

    Raises:
        UsageError: no '=', an empty name, or a name given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(
                f"{option} reads NAME=VALUE, found {text!r}: put a name and '=' before the value"
            )
        if name in values:
            raise UsageError(f"{option} names {name!r} once, found it twice: drop one")
        values[name] = value
    return values


def named_numbers(texts: Iterable[str], option: str) -> dict[str, float]:
    """Repeated NAME=NUMBER options, in order.

    >>> named_numbers(["tiny=1", "big=.5e3"], "--cost")
    {'tiny': 1.0, 'big': 500.0}

    Raises:
        UsageError: what `named_values` and `number` raise.
    """
    return {name: number(value, option) for name, value in named_values(texts, option).items()}


def number(text: str, option: str) -> float:
    """A number.

    Raises:
        UsageError: the text is none, or infinite.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{option} takes a number, found {text!r}: write it like 0.5 or 30e6")
    return value


def numbers(texts: Iterable[str], option: str) -> list[float]:
    """Numbers that are repeated or joined by commas.

    >>> numbers(["0.5,1", "2"], "--max-drop")
    [0.5, 1.0, 2.0]
    """
    return [number(part, option) for text in texts for part in listed_values(text)]


def budgets(texts: Iterable[str]) -> list[float]:
    """The budgets of `--max-drop`, in points; a note where a fraction may be meant.

    >>> budgets(["0.5,1"])
    [0.5, 1.0]
    """
    drops = numbers(texts, "--max-drop")
    for drop in drops:
        if 0 < abs(drop) < SMALL_BUDGET:
            note(
                f"--max-drop {drop:g} is {drop:g} percentage points; for {100 * drop:g} points "
                f"write {100 * drop:g}"
            )
    return drops


def listed_values(text: str) -> list[str]:
    """Values that are joined by commas.

    >>> listed_values("blocks.1, blocks.4")
    ['blocks.1', 'blocks.4']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def batch_sizes(texts: Iterable[str], option: str) -> tuple[int, ...]:
    """Numbers of images, from 1 up, that are repeated or joined by commas.

    >>> batch_sizes(["1,16", "64"], "--measure")
    (1, 16, 64)

    Raises:
        UsageError: anything else.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9]\d{,6}", part) and int(part) <= MOST_IMAGES for part in parts):
        raise UsageError(
            f"{option} takes whole numbers from 1 up to {MOST_IMAGES:,}, found "
            f"{','.join(parts)!r}: write them like 1,16,64"
        )
    return tuple(map(int, parts))


def split_shares(text: str | None, *, into: Path) -> dict[str, float] | None:
    """Shares of splits; without a text those of an older table at `into`, None where there is none.

    >>> split_shares("tune=.2,certify=.6,test=.2", into=Path("table"))
    {'tune': 0.2, 'certify': 0.6, 'test': 0.2}

    Raises:
        TableError: an unknown split, a share outside 0 to 1, or a sum that is not 1.
        UsageError: no NAME=NUMBER.
    """
    from understudy.split import check_shares
    from understudy.store import stored_shares

    if text is None:
        return stored_shares(into)
    return check_shares(named_numbers(text.split(","), "--split"))


def image_size(text: str) -> tuple[int, int]:
    """Height and width in pixels.

    >>> image_size("224x320")
    (224, 320)

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"([1-9]\d{,4})x([1-9]\d{,4})", text)
    if match is None:
        raise UsageError(f"--size reads HxW in pixels, found {text!r}: write it like 224x224")
    return int(match[1]), int(match[2])


def moved(command: str) -> Callable[[object], None]:
    """A callback that refuses an option that became a verb of its own, and names that verb."""

    def refuse(value: object) -> None:
        if value:
            raise UsageError(f"this option is a verb of its own now: use `{command}`")

    return refuse
