"""A reproduction for a terminal: what it takes, and what is published beside what is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from understudy.display import (
    budget_text,
    cost_text,
    group_of,
    interval_text,
    least_percent,
    note_of,
    percent,
    plan_text,
    signed,
    table_of,
    warning_of,
)
from understudy.reproduction.papers import Paper, PublishedFigure, load_papers
from understudy.reproduction.record import (
    AS_PUBLISHED,
    CERTIFIED,
    Finding,
    Reproduction,
    RowFindings,
)
from understudy.reproduction.workload import RowWorkload, Workload
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

MEANINGLESS = (
    "RANDOM WEIGHTS: the models were not the published ones but untrained; every figure below is "
    "meaningless and shows only that the run works."
)
BEST, SHOWN_WEIGHTS = 5, 11  # of a ranking; of a curve


def workload_view(found: Workload, paper: Paper) -> Group:
    """What every row downloads, computes and takes, and the assumptions behind it."""
    table = table_of(
        f"{found.paper}: {paper.title} (arXiv {paper.arxiv})",
        (
            *("row", "models", "download", "images\nscored", "epochs ×\ntrain images"),
            *("10¹⁵\nMACs", "time"),
        ),
        [_workload_cells(found, row) for row in found.rows if not row.missing],
    )
    total = f"{total_words(found)} {_rate_words(found)}"
    missing = [note_of(row.missing, heading=f"{row.name}: ") for row in found.rows if row.missing]
    unknown = sorted({spec for row in found.rows for spec in row.unknown})
    lacking = [f"Not in the catalogue, so not counted: {', '.join(unknown)}."] if unknown else []
    return group_of(table, note_of(total + "\n"), *missing, *map(note_of, lacking))


def total_words(found: Workload) -> str:
    """What all rows download, compute and take."""
    time = "" if found.hours is None else f", about {hours_text(found.hours)}"
    return (
        f"To download in all: {_bytes_text(found.bytes)}. To compute: "
        f"{macs_text(found.macs)} MACs{time}."
    )


def reproduction_view(record: Reproduction, paper: Paper, rows: Sequence[RowFindings]) -> Group:
    """Rows with what is published beside what is measured, and where either is optimistic."""
    warning = [warning_of(MEANINGLESS)] if record.meaningless else []
    return group_of(
        *warning,
        *(view for row in rows for view in _row_views(row, marked=record.meaningless)),
        *(note_of(why, heading=f"{name} was not run: ") for name, why in record.left_out.items()),
        note_of(
            f"{paper.optimism} Such lines are marked in-sample: they show what the procedure "
            "claims, not what it gives.\n",
            heading="In-sample: ",
        ),
        note_of(" ".join(paper.differences), heading="Differences: "),
    )


def published_words(figure: PublishedFigure) -> str:
    """Where a published figure comes from."""
    version = f", {figure.version}" if figure.version else ""
    return f"published ({figure.source}{version})"


def title_of(row: RowFindings) -> str:
    """A row in a line: its base as measured, and as published where that is known."""
    known = next((one for one in row.row.figures if one.base_top1), None)
    costs = next((one for one in row.row.figures if one.base_gmacs), None)
    base = f"{row.row.reference} {percent(row.base_accuracy)}"
    if known is not None:
        base += f" (published {known.base_top1:.2f} %)"
    base += f", {cost_text(row.base_cost[row.unit], row.unit)} {row.unit}"
    if costs is not None:
        base += f" (published {costs.base_gmacs:g} G)"
    return f"{row.row.name}: {base}, {row.samples:,} images"


def optimism_words(row: RowFindings) -> str:
    """What the paper's way of choosing promises too much, by budget."""
    if not row.optimism:
        return ""
    found = "; ".join(
        f"claimed {signed(one.claimed, 3)}, given {signed(one.given, 3)} at a budget of "
        f"{budget_text(one.max_drop)}"
        for one in row.optimism
    )
    return (
        f"Chosen as the paper does on a random half of the images, and measured on the other "
        f"({row.optimism[0].halves} halves), drops in points: {found}."
    )


def chosen_words(row: RowFindings) -> str:
    """Which samples each way chose on."""
    ways = {one.way: one.chosen_on for one in row.findings}
    return "; ".join(f"{way}, on {chosen}" for way, chosen in ways.items())


def times_unit(row: RowFindings) -> str | None:
    """The unit of time that all findings have; None where none was measured."""
    outcomes = [one.outcome for one in row.findings if one.outcome is not None]
    units = set.intersection(*(set(one.cost) for one in outcomes)) if outcomes else set[str]()
    return min((unit for unit in units if unit.startswith("ms@")), default=None)


def finding_cells(one: Finding, row: RowFindings) -> tuple[str, ...]:
    """One way in a line: name, drop, interval, savings, where it was measured, plan."""
    name = f"{one.way}, in-sample" if one.way == AS_PUBLISHED else one.way
    if one.outcome is None or one.policy is None:
        return name, *(["–"] * 4), one.measured_on, "not defined"
    outcome, unit = one.outcome, times_unit(row)
    saving = outcome.saving_text(row.unit)
    if one.certified_saving is not None:
        saving += f"\n≥ {least_percent(one.certified_saving)}"
    return (
        name if one.way != CERTIFIED or one.certified_saving is not None else "nothing certified",
        signed(outcome.drop),
        interval_text(outcome.drop_interval),
        saving,
        "–" if unit is None else outcome.saving_text(unit),
        one.measured_on,
        plan_text(outcome.shares),
    )


def published_cells(figure: PublishedFigure) -> tuple[str, ...]:
    """A published figure in a line, in the same columns."""
    drop = "–" if figure.drop is None else signed(figure.drop)
    saving = "not known" if figure.saving is None else percent(figure.saving)
    return published_words(figure), drop, "–", saving, "–", "val", _published_plan(figure)


def _published_plan(figure: PublishedFigure) -> str:
    """What else is published of a figure, in place of its plan."""
    known = [f"top-1 {figure.top1:.2f} %"] if figure.top1 is not None else []
    known += [f"{figure.gmacs:g} G MACs"] if figure.gmacs is not None else []
    return ", ".join(known) or "its plan is not known"


def all_published(row: RowFindings, max_drop: float) -> list[tuple[str, ...]]:
    """What is published for a budget, in lines; one that says so where nothing is known."""
    found = [published_cells(figure) for figure in row.published(max_drop)]
    return found or [("published", "–", "–", "not known", "–", "–", "nothing is known of it")]


HEADS = ("drop", "95 %\ninterval", "MACs\nsaved", "time\nsaved")


def _row_views(row: RowFindings, *, marked: bool) -> Iterator[RenderableType]:
    unit = times_unit(row)
    yield table_of(
        f"{'MEANINGLESS ' * marked}{title_of(row)}",
        (
            "max\ndrop",
            Column("figure", "name"),
            *HEADS[:3],
            f"{unit}\nsaved" if unit else HEADS[3],
            "measured\non",
            Column("plan, share per stage", "plan"),
        ),
        _cells(row),
    )
    remarks = dict.fromkeys(one.remark for one in row.findings if one.policy is None)
    for remark in remarks:
        yield note_of(remark, heading="Not defined: ")
    if row.ranking:
        yield _ranking_table(row)
    if row.curve:
        yield _curve_table(row)
    yield note_of(chosen_words(row) + ".", heading="Chosen: ")
    if words := optimism_words(row):
        yield note_of(words, heading="Optimism: ")
    yield note_of(row.row.note + "\n")


def _cells(row: RowFindings) -> Iterator[tuple[str, ...]]:
    for drop in row.row.budgets:
        yield from ((budget_text(drop), *cells) for cells in all_published(row, drop))
        for one in row.at(drop):
            yield budget_text(drop), *finding_cells(one, row)


def _ranking_table(row: RowFindings) -> RenderableType:
    best = row.ranking[:BEST]
    return table_of(
        f"savers by ΔC on {row.ranked_on}, the best {len(best)} of {len(row.ranking)}",
        ("saver", "threshold", "answers r", "cost c", "ΔC = c − r"),
        (
            (
                one.saver,
                f"{one.threshold:.3f}",
                percent(one.share),
                percent(one.relative_cost),
                signed(one.delta_c, 3),
            )
            for one in best
        ),
    )


def _curve_table(row: RowFindings) -> RenderableType:
    step = max(1, (len(row.curve) - 1) // (SHOWN_WEIGHTS - 1))
    shown = row.curve[::step]
    return table_of(
        f"`onepass` by λ, searched on {row.ranked_on}, measured on all images "
        f"({len(shown)} of {len(row.curve)})",
        ("λ", "drop", "MACs saved", "exits on"),
        (
            (
                f"{one.weight:g}",
                signed(one.outcome.drop),
                percent(one.outcome.saving[row.unit]),
                str(len(one.policy.exits) - 1),
            )
            for one in shown
        ),
    )


def _workload_cells(found: Workload, row: RowWorkload) -> tuple[str, ...]:
    macs = row.scoring_macs + row.training_macs
    hours = None if row.unknown else found.hours_of(macs)
    scored = f"{row.images:,}" + (f" + {row.records:,}" if row.records else "")
    return (
        row.name,
        str(len(row.models)),
        "not known" if row.unknown else _bytes_text(row.bytes if found.downloads else 0),
        scored,
        f"{row.epochs} × {row.trained:,}" if row.trained else "–",
        "not known" if row.unknown else f"{macs / 1e15:,.3g}",
        "–" if hours is None else hours_text(hours),
    )


def hours_text(hours: float) -> str:
    """Some hours in the unit that reads best.

    >>> hours_text(0.01), hours_text(0.5), hours_text(7.25), hours_text(240)
    ('1 min', '30 min', '7.2 h', '10 days')
    """
    if hours < 1:
        return f"{max(60 * hours, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.0f} days"


def macs_text(macs: float) -> str:
    """MACs of a whole run.

    >>> macs_text(5.3e10), macs_text(1.45e16)
    ('0.053 × 10¹²', '14.5 × 10¹⁵')
    """
    power, size = ("10¹⁵", 1e15) if macs >= 1e14 else ("10¹²", 1e12)
    return f"{macs / size:,.3g} × {power}"


def _bytes_text(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB" if size else "none"


def _rate_words(found: Workload) -> str:
    if found.rate is None:
        return ""
    speed = found.rate.macs_per_second / 1e9
    return (
        f"The time assumes {speed:,.4g} × 10⁹ MACs per second ({found.rate.source}); networks of "
        "depthwise convolutions or attention reach less. Not counted: decoding images (about 10 ms "
        "each and core), measuring times, the heads themselves. Training counts the large model "
        "once per epoch: less where the features fit into --cache-gb."
    )


def sources_words() -> str:
    """What the names of sources stand for."""
    return "; ".join(f"{name}: {words}" for name, words in load_papers().sources.items())
