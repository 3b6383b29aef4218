"""savers: the best saver of every model of a table, all certified at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from understudy.app.cli.options import Confidence, Json, Ray, TablePath, Unit, budgets, option
from understudy.app.cli.terminal import UsageError, answer, note_missing_labels, progress, waiting
from understudy.display import (
    budget_text,
    group_of,
    interval_text,
    note_of,
    percent,
    share_interval_text,
    signed,
    table_of,
)
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.searching.best_savers import Saver, Savers
    from understudy.searching.saver_lines import Workers
    from understudy.searching.saver_ranking import SaverChoice


def savers(
    table: TablePath,
    max_drop: Annotated[
        list[str] | None,
        option("POINTS", "Budget(s) for the drop in accuracy: 0.5, or 0.25,0.5,1. Required."),
    ] = None,
    delta: Annotated[
        float, option("DELTA", "The probability that any of the proved bounds is wrong.")
    ] = 0.05,
    unit: Unit = None,
    confidence: Confidence = "max_softmax",
    rule: Annotated[
        str | None,
        option(
            "tinysaver",
            "Choose as TinySaver does, by delta C at the first crossing: without a budget, and "
            "nothing is certified.",
        ),
    ] = None,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Find the best saver for every model that has a cheaper one, all certified at once.

    Savers are chosen on the tune split, certified on the certify split so that all of them hold
    together, and measured on the test split.
    """
    from understudy.looks import count_looks, log_look, looking
    from understudy.searching.best_savers import best_savers
    from understudy.store import open_table

    if rule is not None or not max_drop:
        _check_rule(rule, max_drop, ray)
        _ranked(table, unit, confidence, as_json=as_json)
        return
    drops = budgets(max_drop)
    scores = open_table(table)
    read = scores.first.on("certify").ids
    with looking(table):
        looks = count_looks(table, read) + 1
        with saver_workers(table, ray) as workers, progress("models") as advance:
            found = best_savers(
                scores,
                drops,
                unit=unit,
                confidence=confidence,
                delta=delta,
                looks=looks,
                workers=workers,
                advance=advance,
            )
        log_look(table, read, why=f"savers {drops}")
    note_missing_labels(scores.first)
    answer(savers_view(found), found.to_dict(), as_json=as_json)


@contextmanager
def saver_workers(table: Path, ray: str | None) -> Iterator[Workers]:
    """Who does the steps: the threads of this process, or actors on Ray while the block runs."""
    if ray is None:
        from understudy.searching.saver_lines import in_threads

        yield in_threads
        return
    from understudy.cluster.connection import connected

    with ExitStack() as stack:
        with waiting("connecting to Ray"):
            stack.enter_context(connected(ray or None))
        from understudy.cluster.savers import savers_on_ray

        yield partial(savers_on_ray, table)


def _check_rule(rule: str | None, max_drop: list[str] | None, ray: str | None) -> None:
    """Refuse an unknown rule, one with a budget or on Ray, and neither rule nor budget.

    Raises:
        UsageError: the message has what is missing or too much.
    """
    if rule is None:
        raise UsageError(
            "savers have a budget or a published rule, found neither: add --max-drop POINTS, or "
            "--rule tinysaver"
        )
    if rule != "tinysaver":
        raise UsageError(f"the published rule for savers is tinysaver, found {rule!r}: correct it")
    if max_drop:
        raise UsageError(
            f"TinySaver's rule has no budget, found --max-drop {','.join(max_drop)}: drop one of "
            "the two options"
        )
    if ray is not None:
        raise UsageError("TinySaver's rule takes one process, found --ray: drop it")


def _ranked(table: Path, unit: str | None, confidence: str, *, as_json: bool) -> None:
    """Answer with TinySaver's choices; a look where they are measured on certify samples."""
    from understudy.looks import log_look
    from understudy.searching.saver_ranking import choose_savers
    from understudy.split import headline_split
    from understudy.store import load_table

    scores = load_table(table)
    unit = scores.unit(unit)
    found = choose_savers(scores, unit=unit, confidence=confidence)
    measured_on = headline_split(scores.splits)
    if measured_on == "certify":
        log_look(table, scores.on("certify").ids, why="savers by delta C")
    note_missing_labels(scores)
    data = {
        "rule": "tinysaver",
        "unit": unit,
        "confidence": confidence,
        "certified": False,
        "chosen_on": "tune",
        "measured_on": measured_on,
        "savers": [
            one.to_dict() | {"delta_c": [saver.delta_c for saver in one.ranking]} for one in found
        ],
    }
    answer(ranking_view(found, unit, measured_on), data, as_json=as_json)


def ranking_view(found: Sequence[SaverChoice], unit: str, measured_on: str) -> Group:
    """TinySaver's saver of every large model, chosen on tune and measured elsewhere."""
    table = table_of(
        f"the saver of every model by ΔC on tune, measured on {measured_on}; nothing is certified",
        (
            *("model", Column("saver", "name"), "threshold", "answers r", "ΔC"),
            *("saving", "drop", "95 %\ninterval"),
        ),
        (_ranking_cells(one, unit) for one in found),
    )
    words = (
        "ΔC = c − r: the saver's cost as a share of the model's, minus the share that it answers "
        "at its first crossing, the first threshold from 1 down at which it is less accurate there "
        "than the model (TinySaver, arXiv 2403.17726). The rule has no budget: the drop on new "
        "samples is what it happens to be. `--max-drop POINTS` certifies one."
    )
    return group_of(table, note_of(words))


def _ranking_cells(one: SaverChoice, unit: str) -> tuple[str, ...]:
    best = one.ranking[0]
    if best.delta_c >= 0:
        return one.big, "none pays", "–", "–", signed(best.delta_c, 3), "–", "–", "–"
    return (
        one.big,
        best.saver,
        f"{best.threshold:.3f}",
        percent(best.share),
        signed(best.delta_c, 3),
        one.outcome.saving_text(unit),
        signed(one.outcome.drop),
        interval_text(one.outcome.drop_interval),
    )


def savers_view(found: Savers) -> Group:
    """The best saver of every large model, with its proof."""
    kind = found.rows[0].certificate.kind
    gap, unit = ("drop", "points") if kind == "gap" else ("disagreement", "% of the samples")
    table = table_of(
        f"the best saver of every model, {gap}s in {unit}, measured on {found.measured_on}",
        (
            *("model", "max\ndrop" if kind == "gap" else "budget", Column("saver", "name")),
            *("threshold", "answers"),
            *("saving", gap, "95 %\ninterval", "proof:\np ≤ level"),
        ),
        (_cells(row, found.unit) for row in found),
    )
    return group_of(table, note_of(found.words()))


def _gap_cells(row: Saver) -> tuple[str, str]:
    """The drop with its interval, or a disagreement, which has no sign."""
    drop, interval = row.outcome.drop, row.outcome.drop_interval
    if row.certificate.kind == "disagreement":
        return f"{drop:.2f}", share_interval_text(interval)
    return signed(drop), interval_text(interval)


def _cells(row: Saver, unit: str) -> tuple[str, ...]:
    """One line of the table."""
    proof, outcome = row.certificate, row.outcome
    head = row.big, budget_text(row.max_drop)
    if row.little is None:
        return *head, "alone", *(["–"] * 5), "nothing proved"
    return (
        *head,
        row.little,
        f"{row.threshold:.4g}",
        percent(row.share),
        outcome.saving_text(unit),
        *_gap_cells(row),
        f"{proof.p_value:.2g} ≤ {proof.delta:.2g}",
    )
