"""A reproduction as one static page: published figures beside measured ones, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from understudy.app.report.templates import template_environment
from understudy.app.report.words import facts
from understudy.app.reproduction_views import (
    MEANINGLESS,
    all_published,
    chosen_words,
    finding_cells,
    optimism_words,
    sources_words,
    times_unit,
    title_of,
)
from understudy.display import budget_text, percent, signed
from understudy.files import replacing
from understudy.reproduction.papers import Paper
from understudy.reproduction.record import Reproduction, RowFindings


def render_reproduction(record: Reproduction, paper: Paper, *, made: date | None = None) -> str:
    """The page as HTML: whole in itself but for links to the rows' own reports beside it."""
    page = template_environment().get_template("reproduction.html.j2")
    return page.render(
        record=record,
        paper=paper,
        rows=[_row(one) for one in record.rows],
        heads=(
            "figure",
            "drop",
            "95 % interval",
            "MACs saved",
            "time saved",
            "measured on",
            "plan",
        ),
        meaningless=MEANINGLESS.partition(": ")[2],
        sources=sources_words(),
        provenance=list(facts(record.provenance)),
        version=version("understudy"),
        made=made,
    )


def write_reproduction(
    record: Reproduction, paper: Paper, path: Path, *, made: date | None = None
) -> int:
    """Write the page, atomically; the number of bytes.

    Raises:
        UnderstudyError: it cannot be written.
    """
    page = render_reproduction(record, paper, made=made or date.today()).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def _row(row: RowFindings) -> dict[str, Any]:
    """What the template shows of a row, as texts."""
    unit = times_unit(row)
    return {
        "id": row.row.name,
        "name": row.row.name,
        "title": title_of(row).partition(": ")[2] + (f", time as {unit}" if unit else ""),
        "note": row.row.note,
        "budgets": [(budget_text(drop), list(_cells(row, drop))) for drop in row.row.budgets],
        "chosen": chosen_words(row),
        "optimism": optimism_words(row),
        "remarks": list(dict.fromkeys(one.remark for one in row.findings if not one.policy)),
        "ranked_on": row.ranked_on,
        "ranking": [
            (
                one.saver,
                f"{one.threshold:.3f}",
                percent(one.share),
                percent(one.relative_cost),
                signed(one.delta_c, 3),
            )
            for one in row.ranking
        ],
        "curve": [
            (
                f"{one.weight:g}",
                signed(one.outcome.drop),
                percent(one.outcome.saving[row.unit]),
                str(len(one.policy.exits) - 1),
            )
            for one in row.curve
        ],
        "link": row.result.replace("result.json", "report.html"),
    }


def _cells(row: RowFindings, drop: float) -> Iterator[tuple[str, ...]]:
    yield from all_published(row, drop)
    for one in row.at(drop):
        yield finding_cells(one, row)
