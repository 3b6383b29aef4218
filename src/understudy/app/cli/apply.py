"""apply: the policies of a result or a cascade on other tables, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from understudy.app.cli import options, terminal
from understudy.display import group_of

if TYPE_CHECKING:
    from understudy.policy_set import PolicySet
    from understudy.scores import ScoreTable
    from understudy.shift import ShiftCard


def apply(
    policies: Annotated[
        Path, options.argument("RESULT|CASCADE", "What `search --out`, `build` or `export` wrote.")
    ],
    tables: Annotated[
        list[str],
        options.argument("TABLE...", "Score tables of the same models, or NAME=TABLE."),
    ],
    split: Annotated[
        str | None,
        options.option(
            "NAME",
            "The samples to measure: tune, certify, test or all. [dim]Default: all; of the samples "
            "that were searched those of the headline figures.[/]",
        ),
    ] = None,
    out: Annotated[Path | None, options.option("FILE", "Write the card as JSON.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure certified policies on other tables: another data set, other labels, newer samples.

    Nothing is chosen there. A certificate holds for samples like those it was proved on; on other
    tables the card says what is measured, and whether the budget is kept there, with its noise.
    This counts as a look at the samples that are measured.
    """
    from understudy.app.policies_at import policies_at

    named = tables_at(tables)
    card = applied(policies_at(policies), named, split=split, why=f"apply {policies}")
    if out is not None:
        card.save(out)
    words = ["understudy", "report", str(policies), *(w for one in tables for w in ("--on", one))]
    report = [] if policies.is_dir() else [" ".join(map(terminal.quoted, words))]
    terminal.answer(
        group_of(card.view(), terminal.next_steps(*report)), card.to_dict(), as_json=as_json
    )


def applied(
    policies: PolicySet,
    named: Mapping[str, tuple[Path, ScoreTable]],
    *,
    why: str,
    split: str | None = None,
) -> ShiftCard:
    """The policies on tables (`tables_at`); the look at their samples is noted."""
    from understudy.looks import log_look

    card = policies.apply({name: table for name, (_, table) in named.items()}, split=split)
    for (place, table), one in zip(named.values(), card.tables, strict=True):
        log_look(place, table.on(one.split).ids, why=why)
    return card


def tables_at(words: Sequence[str]) -> dict[str, tuple[Path, ScoreTable]]:
    """Tables by name, with their places: TABLE is called as its folder, NAME=TABLE by that name.

    Raises:
        UsageError: two of one name.
        TableError: a place that holds no table.
    """
    from understudy.store import load_table

    found: dict[str, tuple[Path, ScoreTable]] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or Path(word).exists():
            name, place = Path(word).resolve().name, word
        if name in found:
            raise terminal.UsageError(
                f"tables have names of their own, {name!r} repeats: write NAME={place}"
            )
        found[name] = Path(place), load_table(place)
    return found
