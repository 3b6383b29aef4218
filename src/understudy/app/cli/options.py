"""Options that several verbs take, each told once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Folder = Annotated[
    Path,
    typer.Argument(metavar="CASCADE", help="What `build` or `export` wrote.", show_default=False),
]
Data = Annotated[str, typer.Option(metavar="DATA", help="folder:DIR, parquet:FILE or digits:")]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where to compute, as torch names it: cpu, cuda, cuda:1. "
        "[dim]Default: an NVIDIA GPU if there is one, else the CPU; the CPU for what `export` "
        "wrote.[/]",
    ),
]
StageBatch = Annotated[int, typer.Option(min=1, help="Images per batch of every stage.")]
Dialled = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Dial to the cheapest certified plan within this drop. "
        "[dim]Default: as it was built.[/]",
    ),
]
