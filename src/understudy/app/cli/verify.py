"""verify: check the certificates of a result again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from understudy.app.cli.terminal import Json, ResultPath, TablePath, answer
from understudy.display import table_of

if TYPE_CHECKING:
    from rich.table import Table

    from understudy.searching.verify import Check


def verify(result: ResultPath, table: TablePath, as_json: Json = False) -> None:
    """Check every certificate of a result again from scratch; exit code 1 if one does not hold.

    The policy is searched again on the tune split; losses, gains and p-values are computed again on
    the certify split. This counts as no look: nothing can be chosen by it.
    """
    from understudy.result import Result
    from understudy.searching.verify import verify as check_certificates
    from understudy.store import load_table

    checks = check_certificates(Result.load(result), load_table(table))
    holds = all(check.holds for check in checks)
    data = {"holds": holds, "checks": [check.to_dict() for check in checks]}
    answer(checks_view(checks), data, as_json=as_json)
    if not holds:
        raise typer.Exit(1)


def checks_view(checks: Iterable[Check]) -> Table:
    """The checks of a result's certificates."""
    from rich.text import Text

    rows = (
        (
            f"{check.max_drop:g}",
            check.claim,
            check.found,
            Text("yes", "green") if check.holds else Text("NO", "bold red"),
        )
        for check in checks
    )
    table = table_of("certificates, checked again", ("max drop", "claim", "found", "holds"), rows)
    for column in table.columns[1:3]:
        column.justify = "left"
    return table
