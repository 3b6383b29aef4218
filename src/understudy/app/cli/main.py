"""The command line: verbs over the Python API, each in a file of its own.

A verb imports what it needs when it runs, so that help and shell completion start fast.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from understudy.app.cli import (
    ask,
    bench,
    build,
    demo,
    difficulty,
    export,
    import_exits,
    import_labels,
    import_predictions,
    measure,
    optimism,
    report,
    run,
    savers,
    score,
    search,
    taps,
    train_exits,
    verify,
)
from understudy.app.cli.failures import INTERRUPTED, one_sentence
from understudy.app.cli.terminal import UsageError
from understudy.errors import is_text

app = typer.Typer(
    name="understudy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"understudy {version('understudy')}")
        raise typer.Exit


def _reflowed(docstring: str) -> str:
    """A docstring without line breaks inside its paragraphs, which Rich would keep."""
    return "\n\n".join(" ".join(lines.split()) for lines in docstring.split("\n\n"))


@app.callback()
def understudy(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make any classifier cheaper: a tiny model answers the easy inputs, the large one the rest,
    and held-out data proves that accuracy holds."""


for name, verb, panel in (
    ("demo", demo.demo, "Start here"),
    ("taps", taps.taps, "Make exits"),
    ("train-exits", train_exits.train_exits, "Make exits"),
    ("score", score.score, "Make a table"),
    ("measure", measure.measure, "Make a table"),
    ("import", import_predictions.import_predictions, "Make a table"),
    ("import-exits", import_exits.import_exits, "Make a table"),
    ("import-labels", import_labels.import_labels, "Make a table"),
    ("ask", ask.ask, "Choose"),
    ("search", search.search, "Choose"),
    ("verify", verify.verify, "Choose"),
    ("savers", savers.savers, "Choose"),
    ("difficulty", difficulty.difficulty, "Choose"),
    ("optimism", optimism.optimism, "Choose"),
    ("build", build.build, "Run"),
    ("run", run.run, "Run"),
    ("bench", bench.bench, "Run"),
    ("export", export.export, "Run"),
    ("report", report.report, "Show"),
):
    app.command(name, help=_reflowed(verb.__doc__ or ""), rich_help_panel=panel)(verb)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2, never a traceback."""
    from understudy.malloc import keep_freed_memory

    keep_freed_memory()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about images that it reads all the same
    with one_sentence():
        _check_words(sys.argv[1:])
        try:
            app()
        except SystemExit as end:
            if end.code == INTERRUPTED:
                raise KeyboardInterrupt from end
            sys.stdout.flush()
            raise


def _check_words(words: Sequence[str]) -> None:
    """Refuse what is no text in the system's encoding: tables and results could not hold it.

    Raises:
        UsageError: the message has the first such word.
    """
    for word in words:
        if not is_text(word):
            raise UsageError(f"names are UTF-8 text, found {word!r}: rename the file or folder")
