"""savers: the best saver of every model of a table, all certified at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from understudy.app.cli.options import Budgets, Confidence, Json, TablePath, Unit, budgets, option
from understudy.app.cli.terminal import answer, note_missing_labels
from understudy.display import (
    budget_text,
    group_of,
    interval_text,
    note_of,
    percent,
    share_interval_text,
    signed,
    table_of,
)
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.searching.best_savers import Saver, Savers


def savers(
    table: TablePath,
    max_drop: Budgets,
    delta: Annotated[
        float, option("DELTA", "The probability that any of the proved bounds is wrong.")
    ] = 0.05,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    as_json: Json = False,
) -> None:
    """Find the best saver for every model that has a cheaper one, all certified at once.

    Savers are chosen on the tune split, certified on the certify split so that all of them hold
    together, and measured on the test split.
    """
    from understudy.looks import count_looks, log_look, looking
    from understudy.searching.best_savers import best_savers
    from understudy.store import load_table

    drops = budgets(max_drop)
    scores = load_table(table)
    read = scores.on("certify").ids
    with looking(table):
        looks = count_looks(table, read) + 1
        found = best_savers(
            scores, drops, unit=unit, confidence=confidence, delta=delta, looks=looks
        )
        log_look(table, read, why=f"savers {drops}")
    note_missing_labels(scores)
    answer(savers_view(found), found.to_dict(), as_json=as_json)


def savers_view(found: Savers) -> Group:
    """The best saver of every large model, with its proof."""
    kind = found.rows[0].certificate.kind
    gap, unit = ("drop", "points") if kind == "gap" else ("disagreement", "% of the samples")
    table = table_of(
        f"the best saver of every model, {gap}s in {unit}, measured on {found.measured_on}",
        (
            *("model", "max\ndrop" if kind == "gap" else "budget", Column("saver", "name")),
            *("threshold", "answers"),
            *("saving", gap, "95 %\ninterval", "proof:\np ≤ level"),
        ),
        (_cells(row, found.unit) for row in found),
    )
    return group_of(table, note_of(found.words()))


def _gap_cells(row: Saver) -> tuple[str, str]:
    """The drop with its interval, or a disagreement, which has no sign."""
    drop, interval = row.outcome.drop, row.outcome.drop_interval
    if row.certificate.kind == "disagreement":
        return f"{drop:.2f}", share_interval_text(interval)
    return signed(drop), interval_text(interval)


def _cells(row: Saver, unit: str) -> tuple[str, ...]:
    """One line of the table."""
    proof, outcome = row.certificate, row.outcome
    head = row.big, budget_text(row.max_drop)
    if row.little is None:
        return *head, "alone", *(["–"] * 5), "nothing proved"
    return (
        *head,
        row.little,
        f"{row.threshold:.4g}",
        percent(row.share),
        outcome.saving_text(unit),
        *_gap_cells(row),
        f"{proof.p_value:.2g} ≤ {proof.delta:.2g}",
    )
