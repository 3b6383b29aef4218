"""The report as a page: the template, its filters, and the file."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from understudy.app.bench_result import Bench
from understudy.app.report import charts, drawing, pairs_map, table_charts, unit_charts
from understudy.app.report.gallery import Gallery, gallery_of
from understudy.app.report.path_steps import budget_paths
from understudy.app.report.pictures import ScoredImages
from understudy.app.report.record import Report
from understudy.app.report.slider import Slider
from understudy.app.report.table_findings import MOST_WRITTEN, TableFindings
from understudy.app.report.templates import template_environment
from understudy.app.report.words import stage_rule, typeset
from understudy.chart_layout import shades
from understudy.choice import DECIDED
from understudy.display import cost_text, interval_text, least_percent, percent, shares_text, signed
from understudy.errors import UnderstudyError
from understudy.files import is_stream, replacing
from understudy.intervals import Interval
from understudy.progress_bars import Advance, no_bar
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.reliability import Reliability
from understudy.shift import ShiftCard
from understudy.zoo.data import DataSet

WIDE, NARROW = 880.0, 324.0
SUFFIXES = (".html", ".htm", "")
_BREAK = re.compile(r"(?<=_)(?=\w{3})|(?<=[./+:])(?=[A-Za-z]\w{2})|(?<=[^\s-]-)(?=[A-Za-z]\w{2})")


def render(
    report: Report,
    bench: Bench | None = None,
    shift: ShiftCard | None = None,
    table: ScoreTable | None = None,
    gallery: Gallery | None = None,
) -> str:
    """The page as HTML: whole in itself, the same text for the same report.

    Nothing in it is loaded from anywhere, and it needs no script: with one, the policies between
    safe and cheap are gone through by a slider. Names and texts of the result are escaped. With a
    benchmark of the cascade it also shows how fast that ran, with a shift card what its policies do
    on other tables, with the table what the result does not hold itself, with a gallery what
    becomes of which images.
    """
    environment = _environment()
    findings = None if table is None else TableFindings.of(report, table)
    slider = None if table is None else Slider(report, budget_paths(report.result, table))
    scripts = [slider.script] if slider is not None and slider.paths else []
    values = {
        "report": report,
        "result": report.result,
        "unit": report.result.unit,
        "bench": bench,
        "shift": shift,
        "table": table,
        "gallery": gallery,
        "findings": findings,
        "shades_of_pairs": pairs_map.SHADES,
        "most_written": MOST_WRITTEN,
        "lines": table_charts.LINES,
        "panels": _panels(report, findings),
        "costs_of_exits": partial(unit_charts.costs_of_exits, report),
        "compared_units": unit_charts.compared_units(report),
        "charts": dict(_charts(report, shift, findings)),
        "slider": slider,
        "scripts": scripts,
        "script_hashes": [_hashed(script) for script in scripts],
        "shades": shades(len(report.singles)),
        "rates": {} if bench is None else {name: bench.rate(name) for name in bench.seconds},
        "shapes": drawing.SHAPES,
        "decided": DECIDED,
    }
    sections = environment.get_template("sections.html.j2").render(values)
    contents = [
        (id, Markup(title)) for id, title in re.findall(r'<h2 id="([\w-]+)">(.+?)</h2>', sections)
    ]
    page = environment.get_template("page.html.j2")
    return page.render(values, sections=Markup(sections), contents=contents) + "\n"


def write_report(
    result: Result,
    path: str | Path,
    *,
    bench: Bench | None = None,
    shift: ShiftCard | None = None,
    table: ScoreTable | None = None,
    images: DataSet | str | None = None,
    advance: Advance = no_bar,
    source: str | Path | None = None,
    made: date | None = None,
) -> int:
    """Write the page, atomically; the number of bytes.

    Args:
        result: what a search found.
        path: the file to write.
        bench: how fast its cascade ran.
        shift: its policies on other tables.
        table: that which was searched, with what the search fitted (`Result.with_fitted`).
        images: those that the table was scored on, or their spec, for a gallery; see `open_data`.
        advance: told of the images that are done.
        source: the file of the result, for the commands on the page.
        made: the day that the page states; by default today.

    Raises:
        UnderstudyError: the path has the ending of another format, or it cannot be written; there
            are images without the table, or images other than those that it was scored on.
    """
    if Path(path).suffix.lower() not in SUFFIXES and not is_stream(path):
        raise UnderstudyError(
            f"a report is an HTML page, found the path {str(path)!r}: name it .html, and print "
            "that page for a PDF"
        )
    report = Report(result, None if source is None else str(source), made or date.today())
    gallery = None if images is None else _gallery(result, table, images, advance)
    page = render(report, bench, shift, table, gallery).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def _gallery(
    result: Result, table: ScoreTable | None, images: DataSet | str, advance: Advance
) -> Gallery:
    """The gallery of the samples that the figures of a result are measured on."""
    if table is None:
        raise UnderstudyError(
            f"images are found by the ids of the table's samples, found the images "
            f"{images if isinstance(images, str) else images.spec!r} without the table that was "
            "searched: give it too"
        )
    measured = table.on(result.measured_on)
    return gallery_of(result, measured, ScoredImages.of(measured, images), advance)


def _hashed(script: str) -> str:
    """A script as the policy of the page names it: by its content."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def _charts(
    report: Report, shift: ShiftCard | None, findings: TableFindings | None
) -> Iterator[tuple[str, list[tuple[str, Markup]]]]:
    """Every chart twice, drawn for wide and for narrow screens."""
    draws: dict[str, Callable[..., str]] = {}
    draws["tradeoff"] = partial(charts.tradeoff, report, height=340)
    if report.saves:
        draws["against"] = partial(charts.against, report)
    if charts.needs_closeup(report):
        draws["closeup"] = partial(charts.closeup, report, height=340)
    if report.result.difficulty is not None:
        draws["by_tenth"] = partial(charts.by_tenth, report, height=320)
    if shift is not None and shift.has_cascade:
        draws["shift"] = partial(charts.shifted, report, shift)
    if report.saves and not report.result.in_sample:
        draws["optimism"] = partial(charts.optimism, report)
    draws |= _of_units(report) | _of_table(report, findings)
    for name, draw in draws.items():
        yield name, [("wide", Markup(draw(width=WIDE))), ("narrow", Markup(draw(width=NARROW)))]


def _of_units(report: Report) -> dict[str, Callable[..., str]]:
    """The charts of costs in several units, by name."""
    draws: dict[str, Callable[..., str]] = {}
    if report.saves and report.other_units:
        draws["saved_by_unit"] = partial(unit_charts.saved_by_unit, report)
    for unit in unit_charts.compared_units(report):
        draws[f"costs {unit}"] = partial(unit_charts.costs_in_two_units, report, unit, height=320)
    return draws


def _of_table(report: Report, findings: TableFindings | None) -> dict[str, Callable[..., str]]:
    """The charts that need the table, by name."""
    draws: dict[str, Callable[..., str]] = {}
    if findings is not None and findings.pairs is not None:
        draws["pairs"] = partial(pairs_map.pairs_map, findings.pairs)
    if findings is not None and findings.curves is not None:
        draws["deferral"] = partial(
            table_charts.deferral_chart, report, findings.curves, findings.drawn, height=320
        )
    return draws


def _panels(
    report: Report, findings: TableFindings | None
) -> list[tuple[str, Reliability, Markup]]:
    """Name, reliability and its chart of every exit that claims probabilities."""
    found = {} if findings is None else findings.reliabilities
    return [
        (
            name,
            one,
            Markup(table_charts.reliability_panel(name, one, report.tints[name], report.measure)),
        )
        for name, one in found.items()
    ]


@cache
def _environment() -> Environment:
    """The templates, compiled once for all pages; what depends on the report is in the context."""
    made = template_environment()
    filters: dict[str, Any] = {
        "cost": _cost,
        "percent": percent,
        "least": least_percent,
        "interval": _interval,
        "gap": _gap,
        "signed": signed,
        "rule": stage_rule,
        "shares": shares_text,
        "between": interval_text,
        "number": lambda value: f"{value:g}",
        "points": lambda value: f"{value:g} point{'' if value == 1 else 's'}",
        "gain": _gain,
        "breakable": _breakable,
        "command": _command,
        "count": lambda value: f"{value:,}",
        "p": lambda value: "–" if value is None else f"{value:.3g}",
    }
    made.filters.update(filters)
    return made


@pass_context
def _cost(context: Context, value: float) -> str:
    return cost_text(value, context["unit"])


@pass_context
def _interval(context: Context, value: Interval) -> str:
    text: str = context["report"].interval_text(value)
    return text


@pass_context
def _gap(context: Context, value: float) -> str:
    text: str = context["report"].gap_text(value)
    return text


def _breakable(text: str) -> Markup:
    """A text whose names may be broken after signs; options are not."""
    return Markup("<wbr>").join(_BREAK.split(typeset(text)))


def _command(text: str) -> Markup:
    """A command that is broken between its words alone, with the same characters when copied."""
    words = (Markup("<span>{}</span>").format(word) for word in text.split(" "))
    return Markup(" ").join(words)


def _gain(value: float) -> str:
    return "0" if not value else f"{value:+.0f}" if abs(value) >= 10 else f"{value:+.2g}"
