"""report: a result as one static page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from understudy.app.bench.result import Bench
from understudy.app.cli.terminal import answer
from understudy.result import Result


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Show")(report)


def report(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT", help="A result of `understudy search --out`.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `bench --out` wrote of its cascade."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write a result as one static HTML page: plans, proof, baselines, difficulty, provenance.

    The page is whole in itself: it loads nothing from the network and needs no script.
    """
    from understudy.app.report.page import write_report

    speed = None if bench is None else Bench.load(bench)
    size = write_report(Result.load(result), out, bench=speed)
    view = Text(f"  written to {out} ({size / 1000:,.0f} kB)")
    answer(view, {"report": str(out), "bytes": size}, as_json=as_json)
