"""difficulty: accuracy of every model on easy and on hard samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from understudy.app.cli.options import Json, Reference, TablePath, Unit, option
from understudy.app.cli.terminal import answer, note_missing_labels, reference_line
from understudy.display import cost_text, group_of, note_of, signed, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.deciles import Bin, Difficulty
    from understudy.text_table import TextTable


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
    found = by_difficulty(
        scores, little=little, reference=reference, unit=unit, confidence=confidence
    )
    log_look(table, scores.ids, why="difficulty")
    view = group_of(reference_line(scores, reference, unit), difficulty_view(found))
    answer(view, found.to_dict(), as_json=as_json)


def difficulty_view(found: Difficulty) -> Group:
    """Accuracy of every exit by difficulty, what each further unit of cost buys, and a summary."""
    tenths = [row.name for row in found.by_confidence]
    rightly = [row.name.partition(" of ")[0] for row in found.by_agreement]
    return group_of(
        _accuracy_table(
            found,
            found.by_confidence,
            title=f"by tenths of {found.little}'s confidence, surest first",
            heads=tenths,
        ),
        _accuracy_table(
            found,
            found.by_agreement,
            title=f"by how many of the {len(found.costs)} exits "
            + (f"answer as {found.reference}" if found.unlabelled else "are right"),
            heads=rightly,
        ),
        _gains_table(found, tenths),
        note_of(found.words()),
    )


def _accuracy_table(
    found: Difficulty, bins: Sequence[Bin], *, title: str, heads: Iterable[str]
) -> TextTable:
    """One line per exit, cheapest first, one column per group of samples."""
    names = sorted(found.costs, key=lambda name: found.costs[name])
    rows = [(name, *(f"{100 * row.accuracy[name]:.1f}" for row in bins)) for name in names]
    counts = ("(samples)", *(f"{row.samples:,}" for row in bins))
    measure = f"agreement with {found.reference}" if found.unlabelled else "accuracy"
    return table_of(f"{measure} in %, {title}", ("exit", *heads), [*rows, counts])


def _gains_table(found: Difficulty, tenths: Iterable[str]) -> TextTable:
    """Points of accuracy per further cost, of about the cost from one exit to the next."""
    bins, costs = found.by_confidence, sorted(found.costs.values())
    names = bins[0].gain_per_cost
    steps = sorted(b - a for a, b in pairwise(costs) if b > a)
    scale = 10.0 ** math.floor(math.log10(steps[len(steps) // 2])) if steps else 1.0
    measure = "agreement" if found.unlabelled else "accuracy"
    return table_of(
        f"points of {measure} that a further {cost_text(scale, found.unit)} {found.unit} buys over "
        "the next cheaper exit, by the same tenths",
        ("exit", *tenths),
        [(name, *(signed(scale * row.gain_per_cost[name], 1) for row in bins)) for name in names],
    )
