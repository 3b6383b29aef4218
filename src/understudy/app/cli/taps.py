"""taps: where exits could stand inside a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from understudy.app.cli.options import Json
from understudy.app.cli.terminal import UsageError, answer, answer_alone
from understudy.display import cost_text, percent

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.early_exit.taps import Tap
    from understudy.nn.stage import Stage

BAR = 20  # characters


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Make exits")(taps)


def taps(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="timm:NAME, torchvision:NAME or py:module:factory; its weights do not matter.",
            show_default=False,
        ),
    ],
    count: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Mark so many, spread evenly over the cost."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="The size of images, where the model leaves it open."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the places inside a network where an exit can stand: wherever it passes through one
    tensor alone."""
    with answer_alone():
        from understudy.early_exit.taps import even_taps, list_taps
        from understudy.zoo.models import build_stage

        stage = build_stage(model)
        image = _image(stage, size, model)
        places = list_taps(stage, image)
    even = () if count is None else even_taps(places, count)
    data = {
        "model": model,
        "image": list(image.shape),
        "taps": [{**tap.to_dict(), "even": tap in even} for tap in places],
    }
    answer(_view(model, image, places, even), data, as_json=as_json)


def _image(stage: Stage, size: str | None, model: str) -> Tensor:
    """Random pixels (C, H, W) of the size that the model takes."""
    import torch

    if stage.preprocess is None:
        raise UsageError(
            f"taps are listed for models that say what images they take, {model!r} has no "
            "preprocessing: return Stage(model, preprocess=...)"
        )
    sides = stage.preprocess.size
    if (sides is None) == (size is None):
        found = f"the size {sides[0]}x{sides[1]} and --size {size}" if sides else "none"
        raise UsageError(
            f"the size of images comes from the model or else from --size HxW, for {model!r} "
            f"found {found}: {'drop' if sides else 'add'} the option"
        )
    if sides is None and size is not None:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
        if match is None:
            raise UsageError(f"--size reads HxW in pixels, found {size!r}: write it like 224x224")
        sides = (int(match[1]), int(match[2]))
    shape = (len(stage.preprocess.mean), *(sides or ()))
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _view(model: str, image: Tensor, places: Sequence[Tap], even: Sequence[Tap]) -> Group:
    sides = "x".join(map(str, image.shape[1:]))
    table = Table(
        title=Text(f"{model}, images of {sides}: {len(places)} places", style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("", "path", "shape", "layout", "MACs until there", "share", ""):
        table.add_column(column, justify="right" if column[:5] in {"MACs ", "share"} else "left")
    for tap in places:
        table.add_row(
            "●" if tap in even else "",
            escape(tap.path),
            " x ".join(map(str, tap.shape)),
            tap.layout,
            cost_text(tap.macs, "MACs"),
            percent(tap.share),
            "█" * round(BAR * tap.share),
            style="bold" if tap in even else None,
        )
    if not even:
        return Group(table)
    return Group(table, Text(f"  --taps {','.join(tap.path for tap in even)}"))
