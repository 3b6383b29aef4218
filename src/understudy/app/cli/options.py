"""What verbs take: arguments and options that several of them declare, and their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.app.cli.terminal import UsageError, note


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
        metavar="DATA",
        help="folder:DIR, imagenet:DIR, parquet:FILE, wds:FILE, hf:NAME or digits:",
        callback=_existing_data,
    ),
]
OptionalData = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Show images of the data that TABLE was scored on; as for `score`.",
        callback=_existing_data,
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
CacheGb = Annotated[
    float,
    typer.Option(
        min=0,
        max=10**9,
        metavar="GB",
        help="Disk space for features of training images, at most.",
        callback=finite,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MOST_THREADS,
        metavar="N",
        help="Threads that decode images; 0 decodes without threads. [dim]Default: one per core, "
        "at most 8.[/]",
        show_default=False,
    ),
]
TrainingBatch = Annotated[
    int | None,
    typer.Option(min=2, max=MOST_IMAGES, help="Images per step. [dim]Default: 256[/]"),
]
TrainingSeed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of training. [dim]Default: 0[/]", callback=seed),
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
Ray = Annotated[
    str | None,
    option(
        "[ADDRESS]",
        "Work on Ray: on the cluster at HOST:PORT, of which this machine is a node, or that of "
        "RAY_ADDRESS, else on all cores of this machine.",
    ),
]


def with_ray_address(words: Sequence[str]) -> list[str]:
    """The words of a command, with no address after `--ray` where none was given.

    >>> with_ray_address(["score", "--ray", "timm:resnet18", "--ray", "10.0.0.7:6379"])
    ['score', '--ray=', 'timm:resnet18', '--ray', '10.0.0.7:6379']
    """
    return [
        "--ray=" if word == "--ray" and not _RAY_ADDRESS.match(" ".join(words[place:])) else word
        for place, word in enumerate(words, 1)
    ]


_RAY_ADDRESS = re.compile(r"(auto|\S+://\S*|\S+:\d+)(?!\S)")


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
