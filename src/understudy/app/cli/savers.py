"""savers: the best saver of every model of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.app.cli.terminal import Budgets, Confidence, Json, TablePath, Unit, answer, numbers
from understudy.display import group_of, interval_text, note_of, percent, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.searching.best_savers import Savers


def savers(
    table: TablePath,
    max_drop: Budgets,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    as_json: Json = False,
) -> None:
    """Find the best saver for every model that has a cheaper one.

    Savers are chosen on the tune split and measured on the test split; without one on the certify
    split, which counts as a look at it. Nothing is certified: search one of the pairs for a
    certificate.
    """
    from understudy.looks import log_look
    from understudy.searching.best_savers import best_savers
    from understudy.store import load_table

    drops = numbers(max_drop, "--max-drop")
    scores = load_table(table)
    found = best_savers(scores, drops, unit=unit, confidence=confidence)
    if found.rows[0].measured_on == "certify":
        log_look(table, scores.on("certify").ids, why=f"savers {drops}")
    answer(savers_view(found), found.to_dict(), as_json=as_json)


def savers_view(found: Savers) -> Group:
    """The best saver of every large model."""
    rows = (
        (
            row.big,
            f"{row.max_drop:g}",
            row.little or "none",
            f"{row.threshold:.4g}",
            percent(row.share(row.measured_on)),
            percent(row.on[row.measured_on].saving[found.unit]),
            f"{row.on[row.measured_on].drop:+.2f}",
            interval_text(row.on[row.measured_on].drop_interval),
        )
        for row in found
    )
    measured_on = found.rows[0].measured_on
    table = table_of(
        f"the best saver of every model, measured on {measured_on}",
        ("model", "budget", "plan: saver", "threshold", "answers", "saving", "drop", "95 %"),
        rows,
    )
    words = (
        f"Chosen on tune, measured on {measured_on}; nothing is certified here: search that pair "
        "for a proof."
    )
    return group_of(table, note_of(words))
