"""search and difficulty: from a table to a certified plan, and why it is so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.app.cli.terminal import answer, note, numbers
from understudy.difficulty import difficulty as compute_difficulty
from understudy.files import write_json
from understudy.result import Result
from understudy.search import search as certified_search
from understudy.search import search_in_sample
from understudy.show import difficulty_view, result_view
from understudy.store import count_looks, load_table, log_look

TablePath = Annotated[
    Path, typer.Argument(metavar="TABLE", help="A score table.", show_default=False)
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="EXIT", help="The exit to keep up with. [dim]Default: the costliest.[/]"),
]
Unit = Annotated[
    str | None,
    typer.Option(metavar="UNIT", help="The unit of cost. [dim]Default: the table's first.[/]"),
]
Confidence = Annotated[
    str, typer.Option(metavar="NAME", help="The stored confidence that stages are judged by.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Choose")(search)
    app.command(rich_help_panel="Choose")(difficulty)


def search(
    table: TablePath,
    max_drop: Annotated[
        list[str],
        typer.Option(
            metavar="POINTS", help="Budget(s) for the drop in accuracy: 0.5, or 0.25,0.5,1."
        ),
    ],
    reference: Reference = None,
    max_cost: Annotated[
        float | None,
        typer.Option(metavar="COST", help="Say so when the plan costs more than this."),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="The chance, per budget, that the proved bound is wrong.")
    ] = 0.05,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    in_sample: Annotated[
        bool,
        typer.Option(
            "--in-sample", help="Choose and measure on all samples; nothing is certified."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result (JSON).")
    ] = None,
    frontier: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every non-dominated point (JSON).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the cheapest plan whose drop in accuracy is certified to lie within a budget.

    Every exit and every threshold is tried, exactly, on the tune split; the plan is certified on
    the certify split and measured once on the test split.
    """
    drops = numbers(max_drop, "--max-drop")
    scores = load_table(table)
    common: dict[str, Any] = {
        "max_drop": drops,
        "reference": reference,
        "max_cost": max_cost,
        "unit": unit,
        "confidence": confidence,
    }
    if in_sample:
        result = search_in_sample(scores, **common)
        note(
            "[bold red]in-sample[/]: chosen and measured on the same samples; nothing is certified"
        )
    else:
        looks = count_looks(table) + 1
        result = certified_search(scores, delta=delta, looks=looks, **common)
        log_look(table, why=f"search --max-drop {','.join(max_drop)}")
    if out is not None:
        result.save(out)
    if frontier is not None:
        write_json(frontier, [point.to_dict() for point in result.frontier])
    answer(result_view(result), _search_json(result), as_json=as_json)


def difficulty(
    table: TablePath,
    little: Annotated[
        str | None,
        typer.Option(
            metavar="EXIT", help="Whose confidence orders the samples. [dim]The cheapest.[/]"
        ),
    ] = None,
    reference: Reference = None,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    as_json: Json = False,
) -> None:
    """Show the accuracy of every model by difficulty, and what each further unit of cost buys
    there."""
    found = compute_difficulty(
        load_table(table), little=little, reference=reference, unit=unit, confidence=confidence
    )
    answer(difficulty_view(found), found.to_dict(), as_json=as_json)


def _search_json(result: Result) -> dict[str, Any]:
    data = result.to_dict()
    return {
        key: data[key]
        for key in ("unit", "reference", "delta", "searched_on", "results", "singles")
    }
