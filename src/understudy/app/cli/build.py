"""build: a chosen policy becomes a cascade on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.app.cli.terminal import Json, ResultPath, answer, named_values, stdout_to_stderr
from understudy.display import cost_text


def build(
    result: ResultPath,
    into: Annotated[Path, typer.Option(metavar="CASCADE", help="The folder to write.")],
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Build the policy of this budget alone. [dim]Default: those of all budgets, set "
            "to the first.[/]",
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
    """Make a cascade that runs: policy, certified operating points and weights in one folder."""
    specs = named_values(model or (), "--model")
    with stdout_to_stderr():
        from understudy.app.build import build_cascade
        from understudy.result import Result

        cascade, choice = build_cascade(Result.load(result), into, max_drop=max_drop, specs=specs)
    data = {
        "cascade": str(into),
        "policy": choice.policy.to_dict(),
        "frontier": [point.to_dict() for point in cascade.operating_points],
        "stages": {name: dict(stage.origin) for name, stage in cascade.stages.items()},
    }
    others = ", ".join(
        f"{point.max_drop:g} points at {cost_text(point.cost, point.unit)} {point.unit}"
        for point in cascade.operating_points
        if point.policy != choice.policy
    )
    lines = [
        f"  {choice.policy.describe()}",
        *([f"  other operating points: {others}"] if others else []),
        f"  written to {into}",
    ]
    answer("\n".join(lines), data, as_json=as_json)
