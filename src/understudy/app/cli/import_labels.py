"""import-labels: labels for samples of a score table that have none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from understudy.app.cli import options, terminal
from understudy.display import group_of, note_of

if TYPE_CHECKING:
    from understudy.import_predictions import LabelFile


def import_labels(
    labels: Annotated[
        Path, options.argument("FILE", "CSV, JSON or Parquet: ids and true classes.")
    ],
    into: Annotated[Path, options.option("TABLE", "The table that gets the labels.")],
    key: Annotated[str, options.option("COL", "The column of sample ids.")] = "id",
    label: Annotated[
        str,
        options.option("COL", "The column of true classes; lists where samples have several."),
    ] = "label",
    of: Annotated[
        Path | None,
        options.option(
            "TABLE",
            "Judge this table by the labels, in place of its own: --into is a new table of the "
            "samples that have one.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Add labels to a score table, such as those that `ask` lists; empty ones are left out.

    With --of, judge the predictions of another table by them, such as those on ImageNet by ReaL.
    """
    from understudy.files import only_writer
    from understudy.import_predictions import LabelFile, read_labels
    from understudy.split import SPLITS
    from understudy.store import load_table, save_labels

    file = LabelFile(labels, key, label)
    if of is not None:
        _judge_by(file, of, into, as_json=as_json)
        return
    read = read_labels(file, load_table(into).classes)
    with only_writer(into):  # labels that others added meanwhile stay
        older = load_table(into)
        scores = older.with_labels(read)
        save_labels(into, scores)
    added = int(scores.labelled.sum() - older.labelled.sum())
    samples = {name: int((scores.split == code).sum()) for code, name in enumerate(SPLITS)}
    counts = scores.label_counts()
    missing = ", ".join(f"{samples[name] - counts[name]:,} of {name}" for name in SPLITS)
    view = group_of(
        note_of(
            f"Added {added:,} label{'s' * (added != 1)} to {into}. Samples without a label: "
            f"{missing}."
        )
    )
    data = {"table": str(into), "added": added, "labels": counts, "samples": samples}
    terminal.answer(view, data | {"hash": scores.hash}, as_json=as_json)


def _judge_by(labels: LabelFile, of: Path, into: Path, *, as_json: bool) -> None:
    """Write the samples of a table that have other labels as a new table, with its looks."""
    from understudy.import_predictions import read_labels
    from understudy.looks import keep_looks
    from understudy.store import check_target, load_table, save_table

    check_target(into)
    if into.is_dir() and any(into.iterdir()):
        raise terminal.UsageError(
            f"--of writes a new table, {str(into)!r} is one already: choose another name"
        )
    older = load_table(of)
    scores = older.relabelled(read_labels(labels, older.classes))
    left_out = len(older) - len(scores)
    save_table(scores, into)
    keep_looks(of, into)
    done = f"{left_out:,} samples without such a label left out; written to"
    terminal.answer_table(scores, into, as_json=as_json, done=done, left_out=left_out)
