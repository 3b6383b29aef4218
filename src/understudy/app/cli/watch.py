"""watch: what a server's watch decided, and whether it follows from what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli.options import Json, argument
from understudy.app.cli.terminal import answer
from understudy.display import group_of, note_of, table_of
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.monitoring.decisions import Decision
    from understudy.monitoring.history import Replay
    from understudy.text_table import TextTable


def watch(
    history: Annotated[Path, argument("HISTORY", "The file in which `serve` keeps its watch.")],
    as_json: Json = False,
) -> None:
    """Replay what a server's watch has seen and show its decisions; exit code 1 if they differ.

    The server may be running. Decisions that are older than the events that are kept are not shown.
    """
    from understudy.monitoring.history import replay

    found = replay(history)
    data = {"same": found.same, "decisions": [one.to_dict() for one in found.stored]}
    answer(_view(found), data, as_json=as_json)
    if not found.same:
        raise typer.Exit(1)


def _view(found: Replay) -> Group:
    verdict = (
        "They follow from the events in the file, to the last bit.\n"
        if found.same
        else "They do NOT follow from the events in the file: these give "
        f"{len(found.decisions):,} decisions, and others.\n"
    )
    return group_of(_decisions(found.stored), note_of(verdict))


def _decisions(decisions: Sequence[Decision]) -> TextTable:
    columns = [
        *(Column(head, "name") for head in ("time", "decision", "from", "to")),
        Column("requests"),
        Column("reason", "words"),
    ]
    rows = [
        (
            datetime.fromtimestamp(one.time).isoformat(" ", "seconds"),
            one.kind,
            one.before,
            one.after,
            f"{one.requests:,}",
            one.reason,
        )
        for one in decisions
    ]
    title = "1 decision" if len(decisions) == 1 else f"{len(decisions):,} decisions"
    return table_of(title, columns, rows)
