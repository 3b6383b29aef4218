"""optimism: how much a plan promises, by where its thresholds were tuned."""

from __future__ import annotations

from typing import Annotated

import typer

from understudy.app.cli.choosing import Confidence, Reference, TablePath, Unit
from understudy.app.cli.options import Json
from understudy.app.cli.terminal import answer, numbers, progress
from understudy.display import optimism_view
from understudy.store import load_table


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Choose")(optimism)


def optimism(
    table: TablePath,
    max_drop: Annotated[
        list[str],
        typer.Option(
            metavar="POINTS", help="Budget(s) for the drop in accuracy: 0.5, or 0.25,0.5,1."
        ),
    ],
    resamples: Annotated[
        int, typer.Option(min=1, metavar="N", help="How often the splits are drawn anew.")
    ] = 100,
    reference: Reference = None,
    delta: Annotated[
        float, typer.Option(help="The chance, per budget, that a proved bound is wrong.")
    ] = 0.05,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    seed: Annotated[int, typer.Option(min=0, help="Of the random draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Show the drop that a plan promises and the drop that it really gives: tuned in-sample,
    held-out, and certified.

    The splits are drawn again and again from the whole table. The certify split is not looked at
    for any plan in use, so nothing is counted against it.
    """
    from understudy.searching.optimism import optimism as measure

    drops = numbers(max_drop, "--max-drop")
    with progress("resamples") as advance:
        found = measure(
            load_table(table),
            max_drop=drops,
            reference=reference,
            unit=unit,
            confidence=confidence,
            delta=delta,
            resamples=resamples,
            seed=seed,
            on_progress=advance,
        )
    answer(optimism_view(found), found.to_dict(), as_json=as_json)
