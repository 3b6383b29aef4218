"""import-labels: labels for samples of a score table that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from understudy.app.cli import options, terminal
from understudy.display import group_of, note_of


def import_labels(
    labels: Annotated[Path, options.argument("FILE", "CSV or Parquet: ids and true classes.")],
    into: Annotated[Path, options.option("TABLE", "The table that gets the labels.")],
    key: Annotated[str, options.option("COL", "The column of sample ids.")] = "id",
    label: Annotated[str, options.option("COL", "The column of true classes.")] = "label",
    as_json: options.Json = False,
) -> None:
    """Add labels to a score table, such as those that `ask` lists; empty ones are left out."""
    from understudy.files import only_writer
    from understudy.import_predictions import LabelFile, read_labels
    from understudy.split import SPLITS
    from understudy.store import load_table, save_labels

    read = read_labels(LabelFile(labels, key, label), load_table(into).classes)
    with only_writer(into):  # labels that others added meanwhile stay
        older = load_table(into)
        scores = older.with_labels(read)
        save_labels(into, scores)
    added = int(scores.labelled.sum() - older.labelled.sum())
    samples = {name: int((scores.split == code).sum()) for code, name in enumerate(SPLITS)}
    counts = scores.label_counts()
    missing = ", ".join(f"{samples[name] - counts[name]:,} of {name}" for name in SPLITS)
    view = group_of(
        note_of(f"Added {added:,} labels to {into}. Samples without a label: {missing}.")
    )
    data = {"table": str(into), "added": added, "labels": counts, "samples": samples}
    terminal.answer(view, data | {"hash": scores.hash}, as_json=as_json)
