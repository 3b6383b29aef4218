"""search: from a score table to the cheapest certified policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli import options, terminal
from understudy.display import group_of

if TYPE_CHECKING:
    from understudy.result import Result
    from understudy.scores import ScoreTable

JSON_KEYS = ("unit", "reference", "delta", "searched_on", "measured_on", "results", "singles")


def search(
    table: options.TablePath,
    max_drop: Annotated[
        list[str] | None,
        options.option(
            "POINTS",
            "Budget(s) for the drop in accuracy: 0.5, or 0.25,0.5,1. A negative one requires "
            "a gain.",
        ),
    ] = None,
    reference: options.Reference = None,
    max_cost: Annotated[
        str | None,
        options.option(
            "COST",
            "The highest mean cost per sample. Without --max-drop: find the most accurate "
            "policy within it.",
        ),
    ] = None,
    delta: Annotated[
        float,
        options.option("DELTA", "The probability, per budget, that the proved bound is wrong."),
    ] = 0.05,
    total_delta: Annotated[
        float | None,
        options.option(
            "DELTA",
            "The same for all looks at these samples together: look k is tested at "
            "DELTA / (k (k + 1)), whatever --delta is.",
        ),
    ] = None,
    jointly: Annotated[
        bool,
        typer.Option("--jointly", help="All budgets hold at once: each is proved at delta / k."),
    ] = False,
    class_drop: Annotated[
        list[str] | None,
        options.option("CLASS=POINTS", "A budget for one class, proved as well. Repeat it."),
    ] = None,
    at_most_stages: options.AtMostStages = None,
    without: options.Without = None,
    unit: options.Unit = None,
    confidence: options.ThresholdsOn = None,
    in_sample: Annotated[
        bool,
        typer.Option(
            "--in-sample", help="Choose and measure on all samples; nothing is certified."
        ),
    ] = False,
    out: Annotated[Path | None, options.option("FILE", "Write the result (JSON).")] = None,
    frontier: Annotated[
        Path | None, options.option("FILE", "Write every non-dominated point (JSON).")
    ] = None,
    as_json: options.Json = False,
    _: Annotated[
        bool,
        typer.Option(
            "--all",
            hidden=True,
            is_eager=True,
            callback=options.moved("understudy savers TABLE --max-drop POINTS"),
        ),
    ] = False,
) -> None:
    """Find the cheapest policy whose drop in accuracy is certified to lie within a budget.

    Pairs, cascades of more exits and ensembles with the reference, with thresholds on a learned
    score, are all compared on the tune split; --at-most-stages, --without and --confidence limit
    that. The policy is certified on the certify split and measured once on the test split, or on
    the certify split where the table has no test split.
    """
    from understudy.files import write_json
    from understudy.looks import count_looks, delta_of_look, log_look, looking
    from understudy.store import load_table

    drops = options.budgets(max_drop or ())
    most = None if max_cost is None else options.number(max_cost, "--max-cost")
    by_class = options.named_numbers(class_drop or (), "--class-drop")
    _check_budgets(drops, most, by_class, jointly=jointly, in_sample=in_sample)
    spec: dict[str, Any] = {
        "reference": reference,
        "unit": unit,
        "max_cost": most,
        "confidence": confidence,
        "at_most_stages": at_most_stages,
        "without": [name for text in without or () for name in options.listed_values(text)],
    }
    scores = load_table(table)
    read = scores.ids if in_sample else scores.on("certify").ids
    with looking(table):
        looks = count_looks(table, read) + 1
        level = delta if total_delta is None else delta_of_look(total_delta, looks)
        proof = {"delta": level, "looks": looks, "class_drops": by_class}
        result = _searched(scores, drops, spec, proof, jointly=jointly, in_sample=in_sample)
        log_look(table, read, why=f"search {drops or most}", search=result.search_record)
    if out is not None:
        result.save(out)
    if frontier is not None:
        write_json(frontier, [point.to_dict() for point in result.frontier])
    view = group_of(result.view(), terminal.next_steps(*_next_steps(result, table, out)))
    terminal.answer(view, _shown(result), as_json=as_json)


def _check_budgets(
    drops: list[float],
    max_cost: float | None,
    by_class: Mapping[str, float],
    *,
    jointly: bool,
    in_sample: bool,
) -> None:
    """Refuse options that void each other.

    Raises:
        UsageError: the message has both.
    """
    if (jointly or by_class) and (in_sample or not drops):
        option = "--jointly" if jointly else "--class-drop"
        found = "--in-sample" if in_sample else "no budget"
        raise terminal.UsageError(
            f"certified budgets take {option}, found {found}: "
            f"add --max-drop POINTS without --in-sample, or drop {option}"
        )
    if not drops and (in_sample or max_cost is None):
        raise terminal.UsageError(
            "a search has a budget, found none: add --max-drop POINTS, or --max-cost COST alone"
        )


def _searched(
    scores: ScoreTable,
    drops: list[float],
    spec: dict[str, Any],
    proof: dict[str, Any],
    *,
    jointly: bool,
    in_sample: bool,
) -> Result:
    """The result of the search that fits the budgets; `proof` is what only certificates need."""
    from understudy.searching import search as searches

    if in_sample:
        terminal.note(
            "in-sample: chosen and measured on the same samples; nothing certified", style="red"
        )
        return searches.search_in_sample(scores, max_drop=drops, **spec)
    if not drops:
        delta, looks = proof["delta"], proof["looks"]
        return searches.search_within_cost(scores, delta=delta, looks=looks, **spec)
    verb = searches.search_jointly if jointly else searches.search
    return verb(scores, max_drop=drops, **proof, **spec)


def _next_steps(result: Result, table: Path, out: Path | None) -> list[str]:
    """The commands that make something of the result."""
    if out is None:
        return []
    file, page = map(terminal.quoted, (out, out.with_suffix(".html")))
    searched = terminal.quoted(table)
    report = f"understudy report {file} --table {searched} --out {page}"
    from understudy.app.next_commands import build_command

    if result.in_sample:
        return [report]
    verify = f"understudy verify {file} {searched}"
    return [build_command(result, str(out), result.choices), report, verify]


def _shown(result: Result) -> dict[str, Any]:
    """What is printed as JSON: the result without its frontier, which may be long."""
    data = replace(result, frontier=replace(result.frontier, points=())).to_dict()
    return {key: data[key] for key in JSON_KEYS} | {
        key: data["table"][key] for key in ("samples", "labels")
    }
