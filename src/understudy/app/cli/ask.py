"""ask: which samples need a label for a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal
from understudy.display import group_of, note_of

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.searching.labels_needed import LabelsNeeded

SHOWN = 10


def ask(
    table: options.TablePath,
    max_drop: options.Budgets,
    reference: options.Reference = None,
    delta: Annotated[
        float,
        options.option("DELTA", "The probability, per budget, that the proved bound is wrong."),
    ] = 0.05,
    jointly: Annotated[
        bool,
        typer.Option("--jointly", help="All budgets hold at once: each is proved at delta / k."),
    ] = False,
    at_most_stages: options.AtMostStages = None,
    without: options.Without = None,
    unit: options.Unit = None,
    confidence: options.ThresholdsOn = None,
    out: Annotated[
        Path | None,
        options.option("FILE", "Write the samples (CSV: id, split and an empty label)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the samples whose labels a certificate needs next: only some where models disagree.

    Label them, add the labels with `import-labels`, and repeat until none is needed: then `search`,
    with the same options, ends as it would with all labels.
    """
    from understudy.files import is_stream
    from understudy.searching.labels_needed import labels_needed
    from understudy.store import load_table

    if out is not None and out.exists() and not is_stream(out):
        raise terminal.UsageError(
            f"samples are listed in a new file, {str(out)!r} exists: choose another name, so that "
            "no labels are lost"
        )
    drops = options.budgets(max_drop)
    scores = load_table(table)
    needed = labels_needed(
        scores,
        max_drop=drops,
        reference=reference,
        unit=unit,
        confidence=confidence,
        at_most_stages=at_most_stages,
        without=[name for text in without or () for name in options.listed_values(text)],
        delta=delta / len(drops) if jointly else delta,
    )
    if out is not None and needed.ids:
        from understudy.answer_files import save_answers

        count = len(needed.ids)
        columns = {"id": needed.ids, "split": [needed.split] * count, "label": [None] * count}
        save_answers(out, columns)
    first = terminal.reference_line(scores, reference, unit)
    terminal.answer(group_of(first, _view(needed, table, out)), needed.to_dict(), as_json=as_json)


def _view(needed: LabelsNeeded, table: Path, out: Path | None) -> Group:
    """What is needed, the first ids, and where all of them are."""
    from understudy.errors import listed

    lines, steps = [needed.words()], list[str]()
    if needed.ids:
        lines.append(f"They are {listed(needed.ids, SHOWN)}.")
        lines.append("Write them to a file with --out FILE.csv.")
    if needed.ids and out:
        lines[-1] = f"Written to {out}: fill in the column label.\n"
        into = f"--into {terminal.quoted(table)}"
        steps = [f"understudy import-labels {terminal.quoted(out)} {into}"]
    return group_of(*map(note_of, lines), terminal.next_steps(*steps))
