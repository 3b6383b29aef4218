"""verify: check the certificates of a result again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import typer

from understudy.app.cli.options import Json, ResultPath, TablePath
from understudy.app.cli.terminal import answer
from understudy.display import budget_text, table_of
from understudy.text_table import Column

if TYPE_CHECKING:
    from understudy.searching.verify import Check
    from understudy.text_table import TextTable

SHOWN = 20  # claims that do not hold


def verify(result: ResultPath, table: TablePath, as_json: Json = False) -> None:
    """Check all of a result again from scratch; exit code 1 if anything in it does not hold.

    Losses, gains and p-values are computed again on the certify split, and every entry of the file
    is compared with a second search. This counts as no look: nothing can be chosen by it.
    """
    from understudy.searching.verify import verify_file

    checks = verify_file(result, table)
    holds = all(check.holds for check in checks)
    data = {"holds": holds, "checks": [check.to_dict() for check in checks]}
    answer(checks_view(checks), data, as_json=as_json)
    if not holds:
        raise typer.Exit(1)


def checks_view(checks: Sequence[Check]) -> TextTable:
    """One line per certificate that holds, and one for the rest; every claim that does not."""
    from rich.text import Text

    rows = []
    for check in _in_short(checks):
        budget = "–" if check.max_drop is None else budget_text(check.max_drop)
        holds = Text("yes", "green") if check.holds else Text("NO", "bold red")
        rows.append((budget, check.claim, check.found, holds))
    columns = ("budget", Column("claim", "words"), Column("found", "words"), "holds")
    return table_of("the result, checked again", columns, rows)


def _in_short(checks: Sequence[Check]) -> Iterator[Check]:
    from understudy.searching.verify import Check

    for max_drop, group in groupby(checks, key=lambda check: check.max_drop):
        claims = list(group)
        wrong = [check for check in claims if not check.holds]
        if wrong:
            yield from wrong[:SHOWN]
            if len(wrong) > SHOWN:
                rest = len(wrong) - SHOWN
                yield Check(max_drop, f"{rest:,} more", False, "--json lists all")
        elif max_drop is None:
            yield from claims
        else:
            _samples, _policy, *proof = claims
            claim = ", ".join(check.claim for check in proof)
            yield Check(max_drop, claim, True, proof[-1].found)
