"""import-exits: a score table from the record of a multi-exit network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.app.cli.terminal import Json, SplitShares, answer_table, split_shares


def import_exits(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RECORD", help="A record of DyCE or TinySaver (.npz).", show_default=False
        ),
    ],
    macs: Annotated[
        Path, typer.Option(metavar="FILE", help="The MACs that belong to the record (.json).")
    ],
    into: Annotated[Path, typer.Option(metavar="TABLE", help="The table to write.")],
    split: SplitShares = None,
    as_json: Json = False,
) -> None:
    """Make a score table from the record of a multi-exit network (DyCE, TinySaver)."""
    from understudy.import_exits import import_record
    from understudy.store import check_target, save_table

    check_target(into)
    scores = import_record(record, macs, split=split_shares(split))
    save_table(scores, into)
    answer_table(scores, into, as_json=as_json)
