"""train-exits: train heads inside a network that answer early."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli import options, terminal
from understudy.display import group_of, note_of, percent, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.early_exit.serialization import ExitFolder


ESN = "esn"
"""The beginning of the kind that sets the size of an Exit Sequence Network."""


def train_exits(
    model: Annotated[
        str,
        options.argument(
            "MODEL",
            "timm:NAME, torchvision:NAME, hf:NAME or py:module:factory; NAME=SPEC names it.",
        ),
    ],
    data: Annotated[
        str,
        options.option(
            "DATA", "folder:DIR, parquet:FILE or digits:train. Score the exits on other data!"
        ),
    ],
    into: Annotated[Path, options.option("DIR", "The folder of exits to write.")],
    taps: Annotated[
        str | None,
        options.option(
            "PATHS",
            "Module paths, joined by commas, how many places, or all. [dim]Default: 6[/]",
        ),
    ] = None,
    heads: Annotated[
        str | None,
        options.option(
            "KINDS",
            "Kinds of heads at every tap, joined by commas: linear, mlp3x500, conv64; with a "
            "saver also esnLxD, the size of its Exit Sequence Network. "
            "[dim]Default: linear, esn2x128[/]",
        ),
    ] = None,
    saver: Annotated[
        str | None,
        options.option(
            "MODEL", "A small model that answers first; an exit at every tap refines its answer."
        ),
    ] = None,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="First train the network's own last layer anew.")
    ] = False,
    config: Annotated[
        str | None,
        options.option(
            "NAME",
            "tinysaver or dyce, as in the papers, or a TOML file of settings; other options "
            "override it.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="The most epochs. [dim]Default: 12[/]")
    ] = None,
    batch: options.TrainingBatch = None,
    lr: Annotated[
        float | None, options.option("RATE", "The highest learning rate. [dim]Default: .002[/]")
    ] = None,
    seed: options.TrainingSeed = None,
    cache_gb: options.CacheGb = 8.0,
    workers: options.Workers = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Train exits inside a network and write them to a folder.

    The network's own weights stay as they are, unless the settings have a backbone_lr above 0.

    It can be interrupted at any time: the same command resumes where it stopped. Then score the
    exits as exits:DIR, on data that they were not trained on.
    """
    from understudy.zoo.model_specs import check_found, named_specs

    for text in filter(None, (model, saver)):  # seen before PyTorch is imported
        for spec in named_specs([text]).values():
            check_found(spec)
    kinds, size = (None, None) if heads is None else _kinds_and_size(heads, saver)
    settings = {"epochs": epochs, "batch": batch, "lr": lr, "seed": seed}
    given: dict[str, Any] = {name: own for name, own in settings.items() if own is not None}
    with terminal.progress("steps") as advance:
        from understudy.early_exit.exit_sequence import SEQUENCE, SequenceSize
        from understudy.early_exit.serialization import ExitFolder
        from understudy.training.api import train_exits as train
        from understudy.training.config import TrainingConfig
        from understudy.training.named_config import NamedConfig, parse_taps, read_config

        named = NamedConfig(TrainingConfig()) if config is None else read_config(config)
        if kinds is None:
            kinds = ["linear"] if named.heads is None else [*named.heads]
        train(
            model,
            data,
            into,
            taps=named.taps if taps is None else parse_taps(taps),
            heads=kinds,
            saver=saver,
            sequence=SequenceSize.parse(size) if size else named.sequence or SEQUENCE,
            classifier=classifier,
            config=replace(named.training, **given),
            cache_gb=cache_gb,
            workers=workers,
            device=device,
            on_progress=advance,
            on_note=terminal.note,
        )
    folder = ExitFolder.read(into)
    terminal.answer(
        _view(folder.training, _advice(folder, into, model, saver)),
        {"folder": str(into), "spec": f"exits:{into}", "name": folder.name, **folder.training},
        as_json=as_json,
    )


def _kinds_and_size(heads: str, saver: str | None) -> tuple[list[str], str | None]:
    """The kinds of heads, and the size of the Exit Sequence Network where they name one.

    Raises:
        UsageError: several sizes, or one without a saver.
    """
    listed = options.listed_values(heads)
    sizes = [kind.removeprefix(ESN) for kind in listed if kind.startswith(ESN)]
    if len(sizes) > 1 or (sizes and saver is None):
        raise terminal.UsageError(
            "a saver has one Exit Sequence Network, --heads names "
            f"{len(sizes)} and --saver {'none' if saver is None else 'one'}: "
            f"{'give --saver MODEL' if saver is None else 'name one size'}"
        )
    return [kind for kind in listed if not kind.startswith(ESN)], next(iter(sizes), None)


def spec_words(folder: Path, specs: Iterable[str]) -> str:
    """What `score` needs to score a folder of exits: its spec, and the modules behind it."""
    from understudy.zoo.model_specs import modules_of

    allowed = [f"--allow-code {module}" for module in sorted(modules_of(specs))]
    return " ".join([f"exits:{folder}", *allowed])


def _advice(folder: ExitFolder, into: Path, model: str, saver: str | None) -> str:
    """How to score the exits; beside the network as it was, where that was tuned with them."""
    from understudy.zoo.model_specs import named_specs

    words = spec_words(into, filter(None, (model, saver)))
    if not folder.backbone:
        return f"score it as {words}, on other data"
    (before,) = named_specs([model]).values()
    return (
        "its own answer has changed too: score it beside the network as it was, "
        f"{shlex.quote(f'old={before.text}')} {words}, on other data, and search with "
        "--reference old"
    )


def _view(training: Mapping[str, Any], advice: str) -> Group:
    corrupt = f", {training['corrupt']} corrupt left out" if training["corrupt"] else ""
    title = (
        f"{training['samples']:,} images ({training['held_out']:,} more held out{corrupt}), "
        f"{training['seconds']:,.0f} s"
    )
    rows = (
        (name, percent(score["accuracy"]), f"{score['loss']:.4f}", str(score["epoch"]))
        for name, score in training["exits"].items()
    )
    return group_of(
        table_of(title, ("exit", "held-out\naccuracy", "loss", "best\nepoch"), rows),
        note_of(advice),
    )
