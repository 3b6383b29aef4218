"""optimism: how much a plan promises, by where its thresholds were tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from understudy.app.cli.choosing import Confidence, Reference, TablePath, Unit
from understudy.app.cli.options import Json
from understudy.app.cli.terminal import answer, numbers, progress
from understudy.display import group_of, note_of, percent, table_of
from understudy.store import load_table

if TYPE_CHECKING:
    from understudy.searching.optimism import Optimism


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


def optimism_view(found: Optimism) -> Group:
    """The drop that each way of tuning claims, and the drop on all samples."""
    sizes = ", ".join(f"{count:,} {name}" for name, count in found.samples.items())
    rows = (
        (
            f"{one.max_drop:g}",
            one.way,
            f"{one.claimed.mean:+.2f}",
            f"{one.given.mean:+.2f}",
            f"{one.given.low:+.2f} to {one.given.high:+.2f}",
            percent(one.saving.mean),
            f"{percent(one.saving.low)} to {percent(one.saving.high)}",
            percent(one.broken),
        )
        for one in found.tunings
    )
    table = table_of(
        f"{found.resamples} resamples ({sizes}) against {found.reference}, drops in points",
        ("budget", "tuned", "claimed", "really given", "5-95 %", "saving", "5-95 %", "broken"),
        rows,
    )
    words = (
        "Claimed: the drop on the samples that the choice was made on. Really given: on all "
        "samples of the table, from which the splits were drawn. Broken: how often that exceeds "
        f"the budget; a certificate allows {percent(found.delta)}."
    )
    return group_of(table, note_of(words))
