"""train-exits: heads inside a network learn to answer early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from understudy.app.cli.options import Device, Json
from understudy.app.cli.terminal import answer, note, progress
from understudy.display import percent


def register(app: typer.Typer) -> None:
    app.command("train-exits", rich_help_panel="Make exits")(train_exits)


def train_exits(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="timm:NAME, torchvision:NAME or py:module:factory; NAME=SPEC names the network.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="folder:DIR, parquet:FILE or digits:train. Score the exits on other data!",
        ),
    ],
    into: Annotated[Path, typer.Option(metavar="DIR", help="The folder of exits to write.")],
    taps: Annotated[
        str | None,
        typer.Option(
            metavar="PATHS",
            help="Module paths, joined by commas, or how many places. [dim]Default: 6[/]",
        ),
    ] = None,
    heads: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="Kinds of heads at every tap, joined by commas: linear, mlp1x256, conv64.",
        ),
    ] = "linear",
    saver: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A small model that answers first; an exit at every tap refines its answer.",
        ),
    ] = None,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="Train the network's own last layer anew, first.")
    ] = False,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What exits learn: labels, backbone (its answers) or both. "
            "[dim]Default: labels[/]",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the backbone's answers. [dim]Default: 1[/]")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Weight of its answers beside the labels, for both. [dim]Default: .5[/]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="How samples weigh: even, dyce or tinysaver. [dim]Default: even[/]"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most. [dim]Default: 12[/]")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without gain that end it. [dim]Default: 5[/]")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step. [dim]Default: 256[/]")] = None,
    lr: Annotated[
        float | None, typer.Option(help="The highest learning rate. [dim]Default: .002[/]")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="[dim]Default: .05[/]")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Spoils deferral. [dim]Default: 0[/]")
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Views of every image to learn from. [dim]Default: 2[/]")
    ] = None,
    shift: Annotated[
        float | None,
        typer.Option(help="How far views move, as a share of the sides. [dim]Default: .125[/]"),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Mirror views. [dim]Default: flip[/]"),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Share of images that choose the best epoch instead. [dim]Default: .05[/]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[dim]Default: 0[/]")] = None,
    cache_gb: Annotated[
        float, typer.Option(min=0, metavar="GB", help="The most room that features may take.")
    ] = 8.0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train exits inside a network, which itself stays as it is, and write them into a folder.

    Interrupt it when you like: the same command goes on where it stopped. Then score the exits as
    exits:DIR, on data that they have not seen.
    """
    from understudy.early_exit.serialization import ExitFolder
    from understudy.training.api import train_exits as train
    from understudy.training.config import TrainingConfig

    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "weight_decay": weight_decay,
        "views": views,
        "shift": shift,
        "flip": flip,
        "targets": targets,
        "temperature": temperature,
        "share": share,
        "weights": weights,
        "label_smoothing": label_smoothing,
        "held_out": held_out,
        "patience": patience,
        "seed": seed,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    config = replace(TrainingConfig(), **given)
    with progress("steps") as advance:
        train(
            model,
            data,
            into,
            taps=_taps(taps),
            heads=_parts(heads),
            saver=saver,
            classifier=classifier,
            config=config,
            cache_gb=cache_gb,
            workers=workers,
            device=device,
            on_progress=advance,
            on_note=lambda text: note(escape(text)),
        )
    told = ExitFolder.read(into)
    answer(
        _view(told.training, into),
        {"folder": str(into), "spec": f"exits:{into}", "name": told.name, **told.training},
        as_json=as_json,
    )


def _taps(text: str | None) -> int | list[str] | None:
    if text is None:
        return None
    return int(text) if text.strip().isdecimal() else _parts(text)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _view(training: Mapping[str, Any], into: Path) -> Group:
    corrupt = f", {training['corrupt']} corrupt left out" if training["corrupt"] else ""
    title = (
        f"{training['samples']:,} images ({training['held_out']:,} more held out{corrupt}), "
        f"{training['seconds']:,.0f} s"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("exit", "held-out accuracy", "loss", "best epoch"):
        table.add_column(column, justify="left" if column == "exit" else "right")
    for name, score in training["exits"].items():
        table.add_row(
            escape(name), percent(score["accuracy"]), f"{score['loss']:.4f}", str(score["epoch"])
        )
    return Group(table, Text(f"  written to {into}; score it as exits:{into}, on other data"))
