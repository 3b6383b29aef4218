"""Every number that a verb takes: strange ones are refused before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.core import TyperCommand, TyperOption

from command_line import Run, refused
from understudy.app.cli.main import app

VERBS: dict[str, TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
COMMANDS = {**VERBS, "zoo suggest": VERBS["zoo"].commands["suggest"]}  # type: ignore[attr-defined]
NO_NUMBERS = ("nan", "inf", "-inf", "", "x")
WRONG = {float: NO_NUMBERS, int: (*NO_NUMBERS, "99999999999999999999", "-7", "1e3", "0.5")}


def numeric_options() -> Iterator[tuple[str, str, type]]:
    """Verb, option and type, of every option that takes a number."""
    for verb, command in COMMANDS.items():
        hints = get_type_hints(command.callback)
        for option in command.params:
            if isinstance(option, TyperOption) and option.name is not None:
                kind = next(iter(get_args(hints.get(option.name))), hints.get(option.name))
                if kind in WRONG:
                    yield verb, option.opts[0], kind


OPTIONS = list(numeric_options())


def test_the_options_are_found() -> None:
    assert {("score", "--batch", int), ("search", "--delta", float)} <= set(OPTIONS)
    assert ("train-exits", "--lr", float) in OPTIONS
    assert len(OPTIONS) > 20


@pytest.mark.parametrize(("verb", "option", "kind"), OPTIONS)
def test_strange_numbers_are_refused(verb: str, option: str, kind: type) -> None:
    for text in WRONG[kind]:
        with pytest.raises(typer.BadParameter) as raised:
            COMMANDS[verb].make_context(verb, [f"{option}={text}", "a"])
        assert option in raised.value.format_message(), text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "--max-drop", "nan"), "--max-drop takes a number, found 'nan'"),
        (("search", "--max-drop", "1e308"), "between -100 and 100 points"),
        (("search", "--max-drop", "1", "--class-drop", "1=nan"), "found 'nan'"),
        (("search", "--max-drop", "1", "--class-drop", "1=101"), "between -100 and 100 points"),
        (("search", "--max-drop", "1", "--delta", "1e-300"), "between 1e-12 and 1, found 1e-300"),
        (("search", "--max-drop", "1", "--total-delta", "1e-300"), "between 1e-12 and 1"),
        (("search", "--max-cost", "30 M"), "found '30 M': write it like 0.5 or 30e6"),
        (("search", "--max-cost", "-1"), "a cost to stay within is a number above 0"),
        (("ask", "--max-drop", "1", "--delta", "1e-300"), "between 1e-12 and 1"),
        (("savers", "--max-drop", "1", "--delta", "1e-300"), "between 1e-12 and 1"),
        (("optimism", "--max-drop", "1", "--delta", "0"), "between 1e-12 and 1"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(
    run: Run, table: Path, words: tuple[str, ...], message: str
) -> None:
    verb, *options = words
    refused(run(verb, table, *options), message)


def test_a_budget_that_may_be_a_fraction_has_a_note(run: Run, table: Path) -> None:
    """Budgets are points: 0.03 is not 3 %."""
    noted = run("savers", table, "--max-drop", "0.03,2")
    assert "--max-drop 0.03 is 0.03 percentage points; for 3 points write 3" in noted.stderr
    assert "--max-drop 2 is" not in noted.stderr
