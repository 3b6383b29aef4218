"""import: a score table from predictions that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.app.cli.terminal import (
    Json,
    SplitShares,
    UsageError,
    answer_table,
    moved,
    named_numbers,
    named_values,
    split_shares,
)

_RECORD = typer.Option(
    "--dyce-record",
    "--macs",
    hidden=True,
    is_eager=True,
    callback=moved("understudy import-exits RECORD --macs FILE --into TABLE"),
)


def import_predictions(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="The table to write.", show_default=False)
    ],
    labels: Annotated[
        Path,
        typer.Option(metavar="FILE", help="CSV or Parquet: the samples and their true classes."),
    ],
    key: Annotated[str, typer.Option(metavar="COL", help="The column that rows are joined by.")],
    exit: Annotated[
        list[str], typer.Option(metavar="NAME=FILE", help="A model's predictions. Repeat it.")
    ],
    cost: Annotated[
        list[str],
        typer.Option(metavar="NAME=NUMBER", help="Cost of a model per sample. Repeat it."),
    ],
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COL",
            help="The column of true classes. [dim]Default: the reference's predictions.[/]",
        ),
    ] = None,
    prediction: Annotated[
        str, typer.Option(metavar="COL", help="Column of predicted classes; may contain {exit}.")
    ] = "prediction",
    confidence: Annotated[
        str, typer.Option(metavar="COL", help="Column of confidences; may contain {exit}.")
    ] = "confidence",
    unit: Annotated[str, typer.Option(metavar="UNIT", help="The unit of the costs.")] = "MACs",
    group: Annotated[
        str | None, typer.Option(metavar="COL", help="Samples of one group share a split.")
    ] = None,
    split_col: Annotated[
        str | None, typer.Option(metavar="COL", help="A column of splits: tune, certify or test.")
    ] = None,
    split: SplitShares = None,
    as_json: Json = False,
    _: Annotated[str | None, _RECORD] = None,
) -> None:
    """Make a score table from predictions that were made elsewhere: one file per model."""
    from understudy.import_predictions import LabelFile
    from understudy.import_predictions import import_predictions as import_files
    from understudy.store import check_target, save_table

    if split is not None and split_col is not None:
        raise UsageError("the split comes from --split or from --split-col, found both: drop one")
    check_target(table)
    scores = import_files(
        LabelFile(labels, key, label, group, split_col),
        named_values(exit, "--exit"),
        costs=named_numbers(cost, "--cost"),
        unit=unit,
        prediction=prediction,
        confidence=confidence,
        split=split_shares(split),
    )
    save_table(scores, table)
    answer_table(scores, table, as_json=as_json)
