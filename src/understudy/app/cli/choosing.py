"""search and difficulty: from a table to a certified plan, and why it is so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from understudy.app.cli.options import Json
from understudy.app.cli.terminal import UsageError, answer, note, number, numbers, pairs
from understudy.deciles import Bin, Difficulty
from understudy.deciles import difficulty as compute_difficulty
from understudy.display import group_of, interval_text, note_of, percent, table_of
from understudy.files import write_json
from understudy.result import Result
from understudy.searching.savers import Savers, best_savers
from understudy.searching.search import search as certified_search
from understudy.searching.search import search_in_sample, search_jointly, search_within_cost
from understudy.searching.verify import Check
from understudy.searching.verify import verify as check_certificates
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
    typer.Option(
        "--unit",
        "--cost",
        metavar="UNIT",
        help="The cost that counts, such as ms@64. [dim]Default: the table's first.[/]",
    ),
]
Confidence = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The stored confidence that stages are judged by; `deferral` learns one on tune.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Choose")(search)
    app.command(rich_help_panel="Choose")(verify)
    app.command(rich_help_panel="Choose")(difficulty)


def search(
    table: TablePath,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINTS",
            help="Budget(s) for the drop in accuracy: 0.5, or 0.25,0.5,1. A negative one asks for "
            "a gain.",
        ),
    ] = None,
    reference: Reference = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            metavar="COST",
            help="The most that a sample may cost on average. Without --max-drop: find the most "
            "accurate plan within it.",
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="The chance, per budget, that the proved bound is wrong.")
    ] = 0.05,
    jointly: Annotated[
        bool,
        typer.Option("--jointly", help="All budgets hold at once: each is proved at delta / k."),
    ] = False,
    class_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=POINTS", help="A budget for one class, proved as well. Repeat it."
        ),
    ] = None,
    stages: Annotated[
        int,
        typer.Option(
            min=2, help="The most models in a chain; the reference may stand behind them."
        ),
    ] = 2,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    in_sample: Annotated[
        bool,
        typer.Option(
            "--in-sample", help="Choose and measure on all samples; nothing is certified."
        ),
    ] = False,
    every_model: Annotated[
        bool,
        typer.Option(
            "--all", help="The best saver for every model that has a cheaper one; not certified."
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
    scores = load_table(table)
    drops = numbers(max_drop or (), "--max-drop")
    if every_model:
        only_without_all = {
            "--reference": reference,
            "--max-cost": max_cost,
            "--class-drop": class_drop,
            "--jointly": jointly,
            "--in-sample": in_sample,
            "--out": out,
            "--frontier": frontier,
        }
        _refuse_with_all(only_without_all)
        savers = best_savers(scores, drops, unit=unit, confidence=confidence)
        answer(savers_view(savers), savers.to_dict(), as_json=as_json)
        return
    asked: dict[str, Any] = {
        "reference": reference,
        "unit": unit,
        "confidence": confidence,
        "stages": stages,
    }
    looks = count_looks(table) + 1
    if in_sample:
        note("[bold red]in-sample[/]: chosen and measured on the same samples; nothing certified")
        result = search_in_sample(scores, max_drop=drops, max_cost=max_cost, **asked)
    elif drops:
        asked |= {"class_drops": _class_drops(class_drop or ()), "max_cost": max_cost}
        verb = search_jointly if jointly else certified_search
        result = verb(scores, max_drop=drops, delta=delta, looks=looks, **asked)
    elif max_cost is not None:
        result = search_within_cost(scores, max_cost=max_cost, delta=delta, looks=looks, **asked)
    else:
        raise UsageError("a search has a budget: --max-drop POINTS, or --max-cost COST alone")
    if not in_sample:
        log_look(table, why=f"search {drops or max_cost}")
    if out is not None:
        result.save(out)
    if frontier is not None:
        write_json(frontier, [point.to_dict() for point in result.frontier])
    answer(result.view(), _search_json(result), as_json=as_json)


def verify(
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT", help="What `search --out` wrote.", show_default=False),
    ],
    table: TablePath,
    as_json: Json = False,
) -> None:
    """Check every certificate of a result again from scratch; exit code 1 if one does not hold.

    The plan is searched again on the tune split; losses, gains and p-values are computed again on
    the certify split. This is no new look: nothing can be chosen by it.
    """
    checks = check_certificates(Result.load(result), load_table(table))
    holds = all(check.holds for check in checks)
    data = {"holds": holds, "checks": [check.to_dict() for check in checks]}
    answer(checks_view(checks), data, as_json=as_json)
    if not holds:
        raise typer.Exit(1)


def _refuse_with_all(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"--all shows the best saver of every model on tune and test, {given[0]} belongs to a "
            "certified search of one: drop one of the two"
        )


def _class_drops(texts: Iterable[str]) -> dict[str, float]:
    return {
        name: number(value, "--class-drop") for name, value in pairs(texts, "--class-drop").items()
    }


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
    """Show how accurate every model is on easy and on hard samples, and what each cost buys there.

    Samples are parted into tenths by the little model's confidence, and by how many models are
    right.
    """
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


def checks_view(checks: Iterable[Check]) -> Table:
    """The checks of a result's certificates."""
    rows = (
        (
            f"{check.max_drop:g}",
            check.claim,
            check.found,
            Text("yes", "green") if check.holds else Text("NO", "bold red"),
        )
        for check in checks
    )
    return table_of("certificates, checked again", ("max drop", "claim", "found", "holds"), rows)


def savers_view(found: Savers) -> Group:
    """The best saver of every large model."""
    rows = (
        (
            row.big,
            f"{row.max_drop:g}",
            row.little or "none",
            f"{row.threshold:.4g}",
            percent(row.share("test")),
            percent(row.on["test"].saving[found.unit]),
            f"{row.on['test'].drop:+.2f}",
            interval_text(row.on["test"].drop_interval),
        )
        for row in found
    )
    table = table_of(
        "the best saver of every model, measured on test",
        ("model", "budget", "plan: saver", "threshold", "answers", "saving", "drop", "95 %"),
        rows,
    )
    words = (
        "Chosen on tune, measured on test; nothing is certified here: search that pair for a proof."
    )
    return group_of(table, note_of(words))


def difficulty_view(found: Difficulty) -> Group:
    """Accuracy of every exit by difficulty, what each further unit of cost buys, and a summary."""
    return group_of(
        _bins_table(
            found, found.by_confidence, title=f"by tenths, {found.little} surest of 1", head="tenth"
        ),
        _bins_table(found, found.by_agreement, title="by how many exits are right", head="samples"),
        _gains_table(found),
        note_of(found.words()),
    )


def _bins_table(found: Difficulty, bins: Iterable[Bin], *, title: str, head: str) -> Table:
    names = sorted(found.costs, key=lambda name: found.costs[name])
    rows = (
        (row.name, f"{row.samples:,}", *(percent(row.accuracy[name]) for name in names))
        for row in bins
    )
    return table_of(f"accuracy {title}", (head, "samples", *names), rows)


def _gains_table(found: Difficulty) -> Table:
    first = found.by_confidence[0].gain_per_cost
    scale, unit = (1e6, "M MACs") if found.unit == "MACs" else (1.0, found.unit)
    return table_of(
        f"points of accuracy that a further 1 {unit} buys over the next cheaper exit",
        ("tenth", *first),
        (
            (row.name, *(f"{scale * row.gain_per_cost[name]:+.3g}" for name in first))
            for row in found.by_confidence
        ),
    )
