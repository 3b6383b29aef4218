"""import and score: how a score table comes to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from understudy.app.cli.options import Device, Json
from understudy.app.cli.terminal import (
    UsageError,
    answer,
    counts,
    note,
    number,
    pairs,
    progress,
    shares,
)
from understudy.display import cost_text, percent, table_of
from understudy.errors import listed
from understudy.import_exits import import_record
from understudy.import_predictions import LabelFile, import_predictions
from understudy.scores import ScoreTable
from understudy.split import DEFAULT_SHARES, SPLITS
from understudy.store import check_target, save_table

Split = Annotated[
    str | None,
    typer.Option(
        metavar="SHARES", help="Shares of the splits. [dim]Default: tune=.2,certify=.6,test=.2[/]"
    ),
]


def register(app: typer.Typer) -> None:
    app.command("import", rich_help_panel="Make a table")(import_)
    app.command(rich_help_panel="Make a table")(score)


def import_(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="The table to write.", show_default=False)
    ],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet: the samples and what is true of them."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="COL", help="The column that rows are joined by.")
    ] = None,
    exit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A model's predictions. Repeat it."),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="What a model costs per sample. Repeat it."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COL", help="The column of true classes. Without: the reference's answers."
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
        str | None, typer.Option(metavar="COL", help="A column that says tune, certify or test.")
    ] = None,
    split: Split = None,
    dyce_record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="A record of DyCE or TinySaver, instead of the options above."
        ),
    ] = None,
    macs: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="The MACs that belong to the record.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a score table from predictions that were made elsewhere: a file per model, or the record
    of a multi-exit network."""
    if split is not None and split_col is not None:
        raise UsageError("the split comes from --split or from --split-col, found both: drop one")
    by_split = DEFAULT_SHARES if split is None else shares(split)
    files = {"--labels": labels, "--key": key, "--exit": exit, "--cost": cost}
    beside = {"--label": label, "--group": group, "--split-col": split_col}
    changed = {
        "--prediction": prediction != "prediction",
        "--confidence": confidence != "confidence",
        "--unit": unit != "MACs",
    }
    check_target(table)
    if dyce_record is not None or macs is not None:
        _refuse_beside_record({**files, **beside, **changed})
        if dyce_record is None or macs is None:
            raise UsageError("a record is imported with both --dyce-record and --macs: add one")
        scores = import_record(dyce_record, macs, split=by_split)
    elif labels is None or key is None or not exit or not cost:
        missing = [name for name, given in files.items() if not given]
        raise UsageError(
            f"an import takes --labels, --key, --exit and --cost, found no {listed(missing)}: add "
            "them, or give --dyce-record and --macs"
        )
    else:
        scores = import_predictions(
            LabelFile(labels, key, label, group, split_col),
            pairs(exit, "--exit"),
            costs={name: number(text, "--cost") for name, text in pairs(cost, "--cost").items()},
            unit=unit,
            prediction=prediction,
            confidence=confidence,
            split=by_split,
        )
    save_table(scores, table)
    _answer(scores, table, as_json=as_json)


def _refuse_beside_record(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"--dyce-record and --macs say all, {given[0]} belongs to an import of a file per "
            "model: drop one of the two"
        )


def score(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="timm:NAME, torchvision:NAME or py:module:factory, each with ?checkpoint=FILE; "
            "NAME=SPEC names the exit.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="folder:DIR (one folder per class), parquet:FILE or digits:"
        ),
    ],
    into: Annotated[Path, typer.Option(metavar="TABLE", help="The table to write or to add to.")],
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 256,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BATCHES",
            help="Measure ms per sample at these batches: 1,16,64,256. [dim]Default: --batch[/]",
        ),
    ] = None,
    device: Device = None,
    keep_logits: Annotated[
        bool, typer.Option("--keep-logits", help="Keep all logits (float16), for averaging exits.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A corrupt image is an error, not a skipped sample.")
    ] = False,
    split: Split = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 2,
    as_json: Json = False,
) -> None:
    """Run models over labelled images and keep what each said about each image.

    Interrupt it when you like: the same command goes on where it stopped.
    """
    from understudy.scoring.on_disk import score_into
    from understudy.zoo.models import named_models

    with progress("images") as advance:
        scores = score_into(
            into,
            named_models(models),
            data,
            batch=batch,
            measure_batches=counts(measure, "--measure") if measure else (batch,),
            keep_logits=keep_logits,
            strict=strict,
            workers=workers,
            split=DEFAULT_SHARES if split is None else shares(split),
            device=device,
            on_progress=advance,
        )
    _note_gaps(scores)
    _answer(scores, into, as_json=as_json)


def _note_gaps(scores: ScoreTable) -> None:
    """Say what a reader of the table should know: corrupt images, operators that were not
    counted."""
    corrupt = scores.provenance.get("corrupt", {"count": 0, "ids": []})
    if corrupt["count"]:
        what = "image was" if corrupt["count"] == 1 else "images were"
        note(f"{corrupt['count']} corrupt {what} left out: {escape(listed(corrupt['ids']))}")
    for exit in scores.exits:
        uncounted = exit.origin.get("uncounted", ())
        if uncounted:
            note(f"MACs of {exit.name} leave out the operators {listed(uncounted)}")


def _answer(scores: ScoreTable, path: Path, *, as_json: bool) -> None:
    data: dict[str, Any] = {
        "table": str(path),
        "samples": len(scores),
        "exits": list(scores.names),
        "units": list(scores.units),
        "confidences": list(scores.confidence),
        "hash": scores.hash,
    }
    view = Group(table_view(scores), Text(f"  written to {path}"))
    answer(view, data, as_json=as_json)


def table_view(scores: ScoreTable) -> Table:
    """A score table: its exits with accuracy and costs."""
    splits = ", ".join(
        f"{name} {int((scores.split == code).sum()):,}" for code, name in enumerate(SPLITS)
    )
    head = ["exit", *([] if scores.label is None else ["accuracy"]), *scores.units]
    rows = []
    for row, name in enumerate(scores.names):
        right = scores.prediction[row] == scores.label
        accuracy = [] if scores.label is None else [percent(float(right.mean()))]
        costs = [cost_text(scores.cost_of([name], unit), unit) for unit in scores.units]
        rows.append([name, *accuracy, *costs])
    return table_of(f"{len(scores):,} samples ({splits})", head, rows)
