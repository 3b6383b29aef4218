"""difficulty: accuracy of every model on easy and on hard samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from understudy.app.cli.terminal import (
    Json,
    Reference,
    TablePath,
    Unit,
    answer,
    note_missing_labels,
    note_reference,
    option,
)
from understudy.display import group_of, note_of, percent, table_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from understudy.deciles import Bin, Difficulty


def difficulty(
    table: TablePath,
    little: Annotated[
        str | None,
        option("EXIT", "The exit whose confidence orders the samples. [dim]The cheapest.[/]"),
    ] = None,
    reference: Reference = None,
    unit: Unit = None,
    confidence: Annotated[
        str,
        option("NAME", "The confidence that orders the samples; `deferral` learns one on tune."),
    ] = "max_softmax",
    as_json: Json = False,
) -> None:
    """Show the accuracy of every model on easy and on hard samples, and what more cost buys there.

    Samples are grouped into tenths by the little model's confidence, and by how many models are
    right. This counts as a look at all of them.
    """
    from understudy.deciles import difficulty as by_difficulty
    from understudy.looks import log_look
    from understudy.store import load_table

    scores = load_table(table)
    note_missing_labels(scores)
    note_reference(scores, reference, unit)
    found = by_difficulty(
        scores, little=little, reference=reference, unit=unit, confidence=confidence
    )
    log_look(table, scores.ids, why="difficulty")
    answer(difficulty_view(found), found.to_dict(), as_json=as_json)


def difficulty_view(found: Difficulty) -> Group:
    """Accuracy of every exit by difficulty, what each further unit of cost buys, and a summary."""
    return group_of(
        _bins_table(
            found,
            found.by_confidence,
            title=f"by tenths of {found.little}'s confidence",
            head="tenth",
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
