"""build and run: a chosen plan becomes a cascade that answers images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from understudy.app.cli.options import Data, Device, Dialled, Folder, Json, StageBatch
from understudy.app.cli.terminal import answer, answer_alone, note, pairs, progress
from understudy.display import cost_text, percent, shares_text
from understudy.result import Result


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Run")(build)
    app.command(rich_help_panel="Run")(run)


def build(
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT", help="What `search --out` wrote.", show_default=False),
    ],
    into: Annotated[Path, typer.Option(metavar="CASCADE", help="The folder to write.")],
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="The budget whose plan is built. [dim]Default: the first.[/]"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SPEC", help="A model that the table knows by name only. Repeat it."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a cascade that runs: policy, frontier and weights in one folder."""
    found, specs = Result.load(result), pairs(model or (), "--model")
    with answer_alone():
        from understudy.app.running import build_cascade

        cascade, choice = build_cascade(found, into, max_drop=max_drop, specs=specs)
    data = {
        "cascade": str(into),
        "policy": choice.policy.to_dict(),
        "frontier": [setting.to_dict() for setting in cascade.operating_points],
        "stages": {name: dict(stage.origin) for name, stage in cascade.stages.items()},
    }
    others = [s for s in cascade.operating_points if s.policy != choice.policy]
    lines = [f"  {choice.policy.describe()}", f"  written to {into}"]
    if others:
        offers = ", ".join(
            f"{s.max_drop:g} points at {cost_text(s.cost, s.unit)} {s.unit}" for s in others
        )
        lines.insert(1, f"  can also be dialled to {offers}")
    view = Text("\n".join(lines))
    answer(view, data, as_json=as_json)


def run(
    cascade: Folder,
    data: Data,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the answers go: .parquet or .csv.")
    ] = Path("answers.parquet"),
    max_drop: Dialled = None,
    batch: StageBatch = 256,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Answer images with a cascade: prediction, confidence, and which exit answered."""
    from understudy.app.running import load_runnable, run_cascade, scored_elsewhere
    from understudy.zoo.data import open_data

    with progress("images") as advance:
        loaded = load_runnable(cascade, device)
        if max_drop is not None:
            loaded.set_operating_point(max_drop=max_drop)
        done = run_cascade(
            loaded,
            open_data(data),
            out,
            batch=batch,
            workers=workers,
            on_progress=advance,
        )
    elsewhere = scored_elsewhere(cascade, loaded)
    for message in (*elsewhere, *done.corrupt[:5], *_told(done.failed, most=5)):
        note(escape(message))
    lines = [
        f"  {done.samples:,} images in {done.seconds:.2f} s ({done.rate:,.0f} images/s); "
        f"answered by {shares_text(done.shares)}",
        f"  written to {out}",
    ]
    if done.accuracy is not None:
        lines.insert(1, f"  accuracy {percent(done.accuracy)}")
    answer(Text("\n".join(lines)), done.to_dict(), as_json=as_json)


def _told(failed: Mapping[str, str], *, most: int) -> list[str]:
    """Why some images have no answer."""
    shown = [f"{image}: {cause}" for image, cause in list(failed.items())[:most]]
    more = len(failed) - len(shown)
    return [*shown, f"and {more:,} more have no answer"] if more else shown
