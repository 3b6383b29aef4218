"""report: a result as one static page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from understudy.app.cli.apply import applied, tables_at
from understudy.app.cli.options import Json, OptionalData, ResultPath, option
from understudy.app.cli.terminal import UsageError, answer, progress
from understudy.errors import MissingExtra
from understudy.extras import installed
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
    data: OptionalData = None,
    as_json: Json = False,
) -> None:
    """Write a result as one static HTML page: policies, proof, baselines, difficulty, provenance.

    The page is self-contained: it loads nothing from the network and needs no script. With
    `--table` it has a slider over all policies from safe to cheap, with `--data` it shows images
    that the plans answer early, defer, rescue and lose.
    """
    if data is not None and table is None:
        raise UsageError(
            f"images are found by the ids of the table's samples, found --data {data} without the "
            "table: add --table TABLE"
        )
    if data is not None and not installed("PIL"):
        raise MissingExtra("`understudy report --data`", "torch")
    check_result(result)
    from understudy.app.bench_result import Bench
    from understudy.app.report.page import write_report
    from understudy.result import Result
    from understudy.store import load_table

    speed = None if bench is None else Bench.load(bench)
    found = Result.load(result)
    shift = None if not on else applied(found.policy_set, tables_at(on), why=f"report {result}")
    scores = None if table is None else found.searched(load_table(table), name=repr(str(table)))
    with progress("images") as advance:
        size = write_report(
            found,
            out,
            bench=speed,
            shift=shift,
            table=scores,
            images=data,
            advance=advance,
            source=result,
        )
    view = f"written to {out} ({size / 1000:,.0f} kB)"
    answer(view, {"report": str(out), "bytes": size}, as_json=as_json)
