"""import: a score table from predictions that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.app.cli import options, terminal

_RECORD = typer.Option(
    "--dyce-record",
    "--macs",
    hidden=True,
    is_eager=True,
    callback=options.moved("understudy import-exits RECORD --macs FILE --into TABLE"),
)


def import_predictions(
    table: Annotated[Path, options.argument("TABLE", "The table to write.")],
    labels: Annotated[
        Path, options.option("FILE", "CSV, JSON or Parquet: the samples and their true classes.")
    ],
    key: Annotated[str, options.option("COL", "The column that rows are joined by.")],
    exit: Annotated[list[str], options.option("NAME=FILE", "A model's predictions. Repeat it.")],
    cost: Annotated[
        list[str] | None,
        options.option(
            "NAME=NUMBER",
            "Cost of a model per sample. Repeat it. [dim]Default: the calls of the most accurate "
            "model are counted.[/]",
        ),
    ] = None,
    label: Annotated[
        str | None,
        options.option(
            "COL",
            "The column of true classes; lists where samples have several. [dim]Default: the "
            "reference's predictions.[/]",
        ),
    ] = None,
    prediction: Annotated[
        str, options.option("COL", "Column of predicted classes; may contain {exit}.")
    ] = "prediction",
    confidence: Annotated[
        str, options.option("COL", "Column of confidences; may contain {exit}.")
    ] = "confidence",
    unit: Annotated[str, options.option("UNIT", "The unit of the costs.")] = "MACs",
    group: Annotated[
        str | None, options.option("COL", "Samples of one group share a split.")
    ] = None,
    split_col: Annotated[
        str | None, options.option("COL", "A column of splits: tune, certify or test.")
    ] = None,
    split: options.SplitShares = None,
    as_json: options.Json = False,
    _: Annotated[str | None, _RECORD] = None,
) -> None:
    """Make a score table from predictions that were made elsewhere: one file per model."""
    from understudy.import_predictions import LabelFile
    from understudy.import_predictions import import_predictions as import_files
    from understudy.store import check_target, save_table

    if split is not None and split_col is not None:
        raise terminal.UsageError(
            "the split comes from --split or from --split-col, found both: drop one"
        )
    check_target(table)
    scores = import_files(
        LabelFile(labels, key, label, group, split_col),
        options.named_values(exit, "--exit"),
        costs=options.named_numbers(cost or (), "--cost"),
        unit=unit,
        prediction=prediction,
        confidence=confidence,
        split=options.split_shares(split, into=table),
    )
    save_table(scores, table)
    left_out = scores.provenance["left_out"]
    done = f"{left_out:,} samples without a right answer left out; " if left_out else ""
    terminal.answer_table(
        scores, table, as_json=as_json, done=f"{done}written to", left_out=left_out
    )
