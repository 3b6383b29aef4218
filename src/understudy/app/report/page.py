"""The report as a page: the template, its filters, and the file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from understudy.app.bench_result import Bench
from understudy.app.report.record import Report
from understudy.display import cost_text, interval_text, least_percent, percent
from understudy.files import replacing
from understudy.intervals import Interval
from understudy.result import DECIDED, Result

WIDE, NARROW = 760.0, 330.0


def render(result: Result, bench: Bench | None = None) -> str:
    """The page as HTML: whole in itself, the same text for the same result.

    Nothing in it is loaded from anywhere, and it needs no script. Names and texts of the result are
    escaped. With a benchmark of the cascade it also shows how fast that ran.
    """
    from understudy.app.report import drawing

    report = Report(result)
    template = _environment(report).get_template("page.html.j2")
    page = template.render(
        report=report,
        result=result,
        unit=result.unit,
        bench=bench,
        charts=_charts(report, bench),
        colours=drawing.colours(list(report.singles)),
        palette=drawing,
        decided=DECIDED,
    )
    return page + "\n"


def write_report(result: Result, path: str | Path, *, bench: Bench | None = None) -> int:
    """Write the page, atomically; the number of bytes.

    Raises:
        UnderstudyError: the path cannot be written.
    """
    page = render(result, bench).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def _charts(report: Report, bench: Bench | None) -> dict[str, list[tuple[str, Markup]]]:
    """Every chart twice, drawn for wide and for narrow screens."""
    from understudy.app.report import charts

    draws = {"tradeoff": partial(charts.tradeoff, report, height=340)}
    if report.saves:
        draws["against"] = partial(charts.against, report)
    if charts.needs_closeup(report):
        draws["closeup"] = partial(charts.closeup, report, height=340)
    if report.result.difficulty is not None:
        draws["by_tenth"] = partial(charts.by_tenth, report, height=320)
    if bench is not None:
        draws["speed"] = partial(charts.speed, bench)
    return {
        name: [("wide", Markup(draw(width=WIDE))), ("narrow", Markup(draw(width=NARROW)))]
        for name, draw in draws.items()
    }


def _environment(report: Report) -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "cost": partial(cost_text, unit=report.result.unit),
        "percent": percent,
        "least": least_percent,
        "interval": _interval,
        "points": lambda drop: _minus(f"{drop:+.2f}"),
        "number": lambda value: _minus(f"{value:g}"),
        "gain": lambda value: _minus(f"{value:+.0f}" if abs(value) >= 10 else f"{value:+.2g}"),
        "count": lambda value: f"{value:,}",
        "p": lambda value: "–" if value is None else f"{value:.3g}",
    }
    made.filters.update(filters)
    return made


def _interval(interval: Interval) -> str:
    return "by definition" if interval[0] == interval[1] else _minus(interval_text(interval))


def _minus(text: str) -> str:
    """A number with a minus sign in place of the hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")
