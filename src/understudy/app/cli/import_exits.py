"""import-exits: a score table from the record of a multi-exit network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from understudy.app.cli import options, terminal


def import_exits(
    record: Annotated[Path, options.argument("RECORD", "A record of DyCE or TinySaver (.npz).")],
    macs: Annotated[Path, options.option("FILE", "The MACs that belong to the record (.json).")],
    into: Annotated[Path, options.option("TABLE", "The table to write.")],
    split: options.SplitShares = None,
    as_json: options.Json = False,
) -> None:
    """Make a score table from the record of a multi-exit network (DyCE, TinySaver)."""
    from understudy.import_exits import import_record
    from understudy.store import check_target, save_table

    check_target(into)
    scores = import_record(record, macs, split=options.split_shares(split, into=into))
    save_table(scores, into)
    terminal.answer_table(scores, into, as_json=as_json)
