"""The command line: a thin skin on the Python API. Every verb takes `--json`."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from understudy.app.cli import (
    bench,
    choosing,
    demo,
    export,
    optimism,
    report,
    running,
    tables,
    taps,
    train_exits,
)
from understudy.app.cli.terminal import fail
from understudy.errors import UnderstudyError
from understudy.malloc import keep_freed_memory

INTERRUPTED = 130  # what Typer makes of Ctrl-C


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"understudy {installed_version('understudy')}")
        raise typer.Exit


app = typer.Typer(
    name="understudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def understudy(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make any classifier cheaper: a tiny model answers the easy inputs, the large one the rest,
    and held-out data proves that accuracy holds."""


for verbs in (
    demo,
    taps,
    train_exits,
    tables,
    choosing,
    optimism,
    running,
    bench,
    export,
    report,
):
    verbs.register(app)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2, never a traceback."""
    keep_freed_memory()
    try:
        app()
    except UnderstudyError as error:
        fail(str(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            fail("interrupted; what was finished is kept", code=INTERRUPTED)
        raise
