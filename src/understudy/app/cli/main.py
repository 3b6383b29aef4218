"""The command line: verbs over the Python API, each in a file of its own.

A verb imports what it needs when it runs, so that help and shell completion start fast.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from understudy.app.cli import (
    apply,
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
    plot,
    report,
    reproduce,
    run,
    savers,
    score,
    search,
    serve,
    taps,
    train_exits,
    train_saver,
    verify,
    watch,
    zoo,
)
from understudy.app.cli.failures import INTERRUPTED, one_sentence
from understudy.app.cli.options import with_ray_address
from understudy.app.cli.terminal import UsageError
from understudy.errors import is_text
from understudy.extras import needing


class _Command(TyperCommand):
    """A verb whose help shows flags without a type: they take no value.

    What follows `--ray` is its value only where it reads as an address.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_ray_address(args))

    def get_params(self, ctx: Any) -> list[Any]:
        return _flags_without_type(super().get_params(ctx))


class _Group(TyperGroup):
    """The verbs together; flags as in `_Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _flags_without_type(super().get_params(ctx))


def _flags_without_type(options: list[Any]) -> list[Any]:
    for option in options:
        if isinstance(option, TyperOption) and option.is_flag:
            option.metavar = ""
    return options


app = typer.Typer(
    cls=_Group,
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
    """A docstring without line breaks inside its paragraphs, which Rich would keep; lists, whose
    lines are indented, stay as they are."""
    paragraphs = cleandoc(docstring).split("\n\n")
    return "\n\n".join(text if "\n  " in text else " ".join(text.split()) for text in paragraphs)


@app.callback()
def understudy(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make any classifier cheaper: a tiny model answers the easy inputs, the large one the rest,
    and held-out data proves that accuracy holds."""


_WITHOUT_INSTALLING = {"demo": "uvx --from 'understudy[torch]' understudy demo"}


def _needing(name: str, verb: Callable[..., None], extra: str | None) -> Callable[..., None]:
    """A verb that names the extra that it needs where that is not installed."""

    @wraps(verb)
    def run(**options: Any) -> None:
        whole = _extra_of_specs(str(options)) if extra == "torch" else extra
        otherwise = _WITHOUT_INSTALLING.get(name, "")
        with needing(f"`understudy {name}`", extra=whole, otherwise=otherwise):
            verb(**options)

    return run


def _extra_of_specs(options: str) -> str:
    """The extra that the models and data of a command need as a whole."""
    needed = [
        own for own, scheme in (("zoo", r"\btimm:"), ("hf", r"\bhf:")) if re.search(scheme, options)
    ]
    return "all" if len(needed) > 1 else (*needed, "torch")[0]


for name, verb, panel, extra in (
    ("demo", demo.demo, "Start here", "torch"),
    ("reproduce", reproduce.reproduce, "Start here", "zoo"),
    ("taps", taps.taps, "Train", "torch"),
    ("train-exits", train_exits.train_exits, "Train", "torch"),
    ("train-saver", train_saver.train_saver, "Train", "torch"),
    ("score", score.score, "Make a table", "torch"),
    ("measure", measure.measure, "Make a table", "torch"),
    ("import", import_predictions.import_predictions, "Make a table", "search"),
    ("import-exits", import_exits.import_exits, "Make a table", "search"),
    ("import-labels", import_labels.import_labels, "Make a table", "search"),
    ("ask", ask.ask, "Choose", "search"),
    ("search", search.search, "Choose", "search"),
    ("verify", verify.verify, "Choose", "search"),
    ("apply", apply.apply, "Choose", "search"),
    ("savers", savers.savers, "Choose", "search"),
    ("difficulty", difficulty.difficulty, "Choose", "search"),
    ("optimism", optimism.optimism, "Choose", "search"),
    ("build", build.build, "Run", "torch"),
    ("run", run.run, "Run", None),  # what was exported needs less than what was built
    ("serve", serve.serve, "Run", "serve"),
    ("watch", watch.watch, "Run", None),
    ("bench", bench.bench, "Run", None),
    ("export", export.export, "Run", "export"),
    ("report", report.report, "Show", "search"),
    ("plot", plot.plot, "Show", "plot"),
):
    command = app.command(
        name, cls=_Command, help=_reflowed(verb.__doc__ or ""), rich_help_panel=panel
    )
    command(_needing(name, verb, extra))

zoo_verbs = typer.Typer(cls=_Group)
zoo_verbs.callback(invoke_without_command=True, help=_reflowed(zoo.zoo.__doc__ or ""))(zoo.zoo)
zoo_verbs.command("suggest", cls=_Command, help=_reflowed(zoo.suggest.__doc__ or ""))(zoo.suggest)
app.add_typer(zoo_verbs, name="zoo", rich_help_panel="Start here")


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
