"""optimism: the drop that a policy claims on the samples it was tuned on, and its real drop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal
from understudy.display import budget_text, group_of, note_of, percent, signed, table_of
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.searching.optimism import Optimism, Tuning


def optimism(
    table: options.TablePath,
    max_drop: options.Budgets,
    resamples: Annotated[
        int,
        typer.Option(
            min=1,
            max=options.MOST_ROUNDS,
            metavar="N",
            help="How often the splits are drawn anew.",
        ),
    ] = 400,
    reference: options.Reference = None,
    delta: Annotated[
        float,
        options.option("DELTA", "The probability, per budget, that a proved bound is wrong."),
    ] = 0.05,
    unit: options.Unit = None,
    confidence: options.ThresholdsOn = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the random draws.", callback=options.seed)
    ] = 0,
    as_json: options.Json = False,
) -> None:
    """Compare the claimed drop of a policy with its real one: tuned in-sample, held-out, certified.

    The splits are drawn again and again from the whole table. This counts as a look at all of its
    samples.
    """
    from understudy.looks import log_look
    from understudy.searching.optimism import optimism as measure
    from understudy.store import load_table

    drops = options.budgets(max_drop)
    scores = load_table(table)
    terminal.note_missing_labels(scores)
    with terminal.progress("resamples") as advance:
        found = measure(
            scores,
            max_drop=drops,
            reference=reference,
            unit=unit,
            confidence=confidence,
            delta=delta,
            resamples=resamples,
            seed=seed,
            on_progress=advance,
        )
    log_look(table, scores.ids, why=f"optimism {drops}")
    view = group_of(
        terminal.reference_line(scores, reference, unit),
        optimism_view(found, labelled=scores.label is not None),
    )
    terminal.answer(view, found.to_dict(), as_json=as_json)


def optimism_view(found: Optimism, *, labelled: bool = True) -> Group:
    """The drop that each way of tuning claims, and the drop on all samples."""
    gap = "drop" if labelled else "disagreement"
    sizes = ", ".join(f"{count:,} {name}" for name, count in found.samples.items())
    rows = (
        (
            budget_text(one.max_drop),
            one.way,
            signed(one.claimed.mean),
            signed(one.given.mean),
            f"{signed(one.given.low)} to {signed(one.given.high)}",
            percent(one.saving.mean),
            f"{percent(one.saving.low)} to {percent(one.saving.high)}",
            f"{percent(one.broken)} ({_ends(one)})",
        )
        for one in found.tunings
    )
    table = table_of(
        f"{found.resamples} resamples ({sizes}) against {found.reference}, {gap}s in points",
        (
            *("max\ndrop" if labelled else "budget", Column("tuned", "name"), "claimed"),
            *("really\ngiven", "5–95 %"),
            *("saving", "5–95 %", "broken"),
        ),
        rows,
    )
    words = (
        f"Claimed: the {gap} on the samples that the choice was made on. Really given: on all "
        "samples of the table, from which the splits were drawn. Broken: how often that exceeds "
        f"the budget, with the 95 % interval that {found.resamples} resamples leave; a certificate "
        f"allows {percent(found.delta)}.{_verdict(found)}"
    )
    return group_of(table, note_of(words))


def _ends(tuning: Tuning) -> str:
    low, high = (100 * end for end in tuning.broken_interval)
    return f"{low:.1f} to {high:.1f}"


def _verdict(found: Optimism) -> str:
    """What the share of broken certificates says about their level."""
    certified = [one for one in found.tunings if one.way == "certified"]
    if any(one.broken_interval[0] > found.delta for one in certified):
        return " That of a certified choice lies above it, beyond chance."
    if any(one.broken > found.delta for one in certified):
        return " Where a certified choice shows more, chance explains it: draw more (--resamples)."
    return ""
