"""train-saver: teach a little model to answer in front of a large one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli import options, terminal
from understudy.display import cost_text, group_of, note_of, percent, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.training.saver_config import SaverConfig
    from understudy.training.saver_record import SaverFolder


def train_saver(
    little: Annotated[
        str,
        options.argument(
            "LITTLE",
            "The model to teach: timm:NAME, torchvision:NAME, hf:NAME or py:module:factory.",
        ),
    ],
    large: Annotated[
        str, options.option("MODEL", "The large model that it learns from.", "--from")
    ],
    data: Annotated[
        str,
        options.option(
            "DATA", "folder:DIR, parquet:FILE or digits:train. Score the models on other data!"
        ),
    ],
    into: Annotated[Path, options.option("DIR", "The folder of the taught weights to write.")],
    max_drop: Annotated[
        float | None,
        options.option(
            "POINTS",
            "The budget at which the certified saving chooses the best epoch. [dim]Default: .5[/]",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        options.option(
            "NAME",
            "What is learned: labels, distillation, or gatekeeper, which adds a loss for "
            "deferral. [dim]Default: gatekeeper[/]",
        ),
    ] = None,
    config: Annotated[
        Path | None, options.option("FILE", "Settings of training (TOML); options override it.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="The most epochs. [dim]Default: 30[/]")
    ] = None,
    batch: options.TrainingBatch = None,
    lr: Annotated[
        float | None, options.option("RATE", "The highest learning rate. [dim]Default: .001[/]")
    ] = None,
    seed: options.TrainingSeed = None,
    workers: options.Workers = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Teach a little model to answer the easy inputs of a large one, and to know the others.

    The large model stays as it is. It can be interrupted at any time: the same command resumes
    where it stopped. Then score both models on data that the little one was not trained on.
    """
    from understudy.zoo.model_specs import check_found, named_specs

    for text in (little, large):  # seen before PyTorch is imported
        for spec in named_specs([text]).values():
            check_found(spec)
    given = {"epochs": epochs, "batch": batch, "lr": lr, "seed": seed}
    own = {"max_drop": max_drop, "objective": objective}
    with terminal.progress("epochs") as advance:
        from understudy.training.saver import train_saver as train

        record = train(
            little,
            large,
            data,
            into,
            config=_saver_config(config, own, given),
            workers=workers,
            device=device,
            on_progress=advance,
            on_note=terminal.note,
        )
    terminal.answer(_view(record), {"folder": str(into), **record.to_dict()}, as_json=as_json)


def _saver_config(
    file: Path | None, own: Mapping[str, Any], given: Mapping[str, Any]
) -> SaverConfig:
    """The settings in a file, or the default ones, overridden by the options that were given."""
    from understudy.training.saver_config import SaverConfig, read_saver_config

    config = SaverConfig() if file is None else read_saver_config(file)
    teaching = replace(config.teaching, **_without_none(given))
    return replace(config, teaching=teaching, **_without_none(own))


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _view(record: SaverFolder) -> Group:
    found = record.training
    corrupt = f", {found.corrupt} corrupt left out" if found.corrupt else ""
    title = (
        f"{found.samples:,} images ({found.held_out:,} more held out{corrupt}), "
        f"{found.seconds:,.0f} s"
    )
    rows = (
        (
            pair.little,
            percent(pair.accuracy),
            pair.large,
            percent(pair.large_accuracy),
            percent(pair.saving),
        )
        for pair in found.pairs
    )
    heads = ("little", "held-out\naccuracy", "large", "held-out\naccuracy", "pair\nsaves")
    little, large = (cost_text(macs, "MACs") for macs in found.macs)
    return group_of(
        table_of(title, heads, rows),
        note_of(
            f"{little} of {large} MACs; savings are certified at "
            f"{found.config.max_drop:g} points, on draws from the images held out"
        ),
        note_of(
            f"score it as {shlex.quote(record.spec)}, beside {shlex.quote(record.large)}, on other "
            "data"
        ),
    )
