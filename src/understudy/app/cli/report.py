"""report: a result as one static page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from understudy.app.cli.apply import applied, tables_at
from understudy.app.cli.options import Json, ResultPath, option
from understudy.app.cli.terminal import answer
from understudy.written_places import check_result


def report(
    result: ResultPath,
    out: Annotated[Path, option("FILE", "The page to write.")] = Path("report.html"),
    bench: Annotated[
        Path | None, option("FILE", "What `bench --out` wrote about its cascade.")
    ] = None,
    on: Annotated[
        list[str] | None,
        option(
            "TABLE",
            "Show the policies on this table too, as `apply` does; or NAME=TABLE. Repeat it.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        option("TABLE", "The table that RESULT was searched on: what the result does not hold."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a result as one static HTML page: policies, proof, baselines, difficulty, provenance.

    The page is self-contained: it loads nothing from the network and needs no script.
    """
    check_result(result)
    from understudy.app.bench_result import Bench
    from understudy.app.report.page import write_report
    from understudy.app.searched_table import searched_table
    from understudy.result import Result

    speed = None if bench is None else Bench.load(bench)
    found = Result.load(result)
    shift = None if not on else applied(found.policy_set, tables_at(on), why=f"report {result}")
    scores = None if table is None else searched_table(found, table)
    size = write_report(found, out, bench=speed, shift=shift, table=scores, source=result)
    view = f"written to {out} ({size / 1000:,.0f} kB)"
    answer(view, {"report": str(out), "bytes": size}, as_json=as_json)
