"""taps: the places inside a network where exits can be attached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal
from understudy.display import cost_text, group_of, note_of, percent, table_of
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group
    from torch import Tensor

    from understudy.early_exit.taps import Tap
    from understudy.nn.stage import Stage

BAR = 20  # characters


def taps(
    model: Annotated[
        str,
        options.argument(
            "MODEL",
            "timm:NAME, torchvision:NAME, hf:NAME or py:module:factory; its weights do not matter.",
        ),
    ],
    count: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**6, metavar="N", help="Mark N of them, spread evenly over the cost."
        ),
    ] = None,
    size: Annotated[
        str | None, options.option("HxW", "The size of images, for models that take any.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the places inside a network where an exit can be attached: where all of its data pass
    through a single tensor."""
    from understudy.zoo.model_specs import check_found, parse_model_spec

    check_found(parse_model_spec(model))  # what can be wrong is seen before PyTorch is imported
    with terminal.stdout_to_stderr():
        from understudy.early_exit.taps import even_taps, list_taps
        from understudy.zoo.models import build_stage, plain_and_mode

        stage = build_stage(plain_and_mode(model)[0])
        image = _image(stage, size, model)
        places = list_taps(stage, image)
    even = () if count is None else even_taps(places, count)
    data = {
        "model": model,
        "image": list(image.shape),
        "taps": [{**tap.to_dict(), "even": tap in even} for tap in places],
    }
    terminal.answer(_view(model, image, places, even), data, as_json=as_json)


def _image(stage: Stage, size: str | None, model: str) -> Tensor:
    """Random pixels (C, H, W) of the size that the model takes."""
    import torch

    if stage.preprocess is None:
        raise terminal.UsageError(
            f"taps are listed for models with a known input size, {model!r} has no "
            "preprocessing: return Stage(model, preprocess=...)"
        )
    sides = stage.preprocess.size
    if (sides is None) == (size is None):
        found = f"the size {sides[0]}x{sides[1]} and --size {size}" if sides else "none"
        raise terminal.UsageError(
            f"the size of images comes from the model or else from --size HxW, for {model!r} "
            f"found {found}: {'drop' if sides else 'add'} the option"
        )
    shape = (len(stage.preprocess.mean), *(sides or options.image_size(str(size))))
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _view(model: str, image: Tensor, places: Sequence[Tap], even: Sequence[Tap]) -> Group:
    from rich.text import Text

    rows = (
        [
            Text(cell, "bold" if tap in even else "")
            for cell in (
                f"{'●' if tap in even else ' '} {tap.path}",
                " x ".join(map(str, tap.shape)),
                tap.layout,
                cost_text(tap.macs, "MACs"),
                percent(tap.share),
                "█" * round(BAR * tap.share),
            )
        ]
        for tap in places
    )
    size = "x".join(map(str, image.shape[1:]))
    table = table_of(
        f"{model}, images of {size}: {len(places)} places",
        (
            *("path", Column("shape", "name"), Column("layout", "name")),
            *("MACs up\nto here", "share", Column("", "name")),
        ),
        rows,
    )
    if not even:
        return group_of(table)
    return group_of(table, note_of(f"--taps {','.join(tap.path for tap in even)}"))
