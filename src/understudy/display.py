"""How the nouns look in a terminal: Rich tables, and the same as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from understudy.outcome import points
from understudy.split import SPLITS

if TYPE_CHECKING:
    from understudy.deciles import Bin, Difficulty
    from understudy.result import Choice, Result, Single
    from understudy.scores import ScoreTable
    from understudy.searching.optimism import Optimism
    from understudy.searching.savers import Savers
    from understudy.searching.verify import Check


def plain(view: RenderableType, *, width: int = 110) -> str:
    """A view as plain text, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False)
    console.print(view)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def result_view(result: Result) -> Group:
    """A result: every exit by itself, the choice per budget, the verdicts."""
    parts: list[RenderableType] = []
    if result.in_sample:
        parts.append(
            Text(
                "IN-SAMPLE: chosen and measured on the same samples. These figures promise too "
                "much; nothing is certified.",
                style="bold red",
            )
        )
    parts += [_singles_table(result), _choices_table(result)]
    parts.append(_baselines_table(result))
    if result.published:
        parts.append(_published_table(result))
    for choice in result.choices:
        words = Text.assemble(
            (f"{points(choice.max_drop)}: ", "bold"), choice.verdict, _worst_class(choice)
        )
        parts.append(Padding(words, (0, 2)))
    return Group(*parts)


def _worst_class(choice: Choice) -> str:
    if len(choice.classes) < 2:
        return ""
    gap = choice.classes[0]
    return (
        f" The class that loses most is {gap.name}: {gap.drop:+.2f} {interval_text(gap.interval)}, "
        f"an estimate from {gap.samples:,} samples."
    )


def difficulty_view(found: Difficulty) -> Group:
    """Accuracy of every exit by difficulty, what each further unit of cost buys, and the moral."""
    return Group(
        _bins_table(
            found, found.by_confidence, title=f"by tenths, {found.little} surest of 1", head="tenth"
        ),
        _bins_table(found, found.by_agreement, title="by how many exits are right", head="samples"),
        _gains_table(found),
        Padding(Text(found.words()), (0, 2)),
    )


def checks_view(checks: Iterable[Check]) -> Table:
    """What was checked of a result's certificates."""
    table = _table("certificates, checked again", ("max drop", "claim", "found", "holds"))
    for check in checks:
        holds = "[green]yes[/]" if check.holds else "[bold red]NO[/]"
        table.add_row(f"{check.max_drop:g}", escape(check.claim), escape(check.found), holds)
    return table


def optimism_view(found: Optimism) -> Group:
    """What each way of tuning claims, and what it really gives."""
    sizes = ", ".join(f"{count:,} {name}" for name, count in found.samples.items())
    table = _table(
        f"{found.resamples} resamples ({sizes}) against {found.reference}, drops in points",
        ("budget", "tuned", "claimed", "really given", "5-95 %", "saving", "5-95 %", "broken"),
    )
    for one in found.tunings:
        table.add_row(
            f"{one.max_drop:g}",
            one.way,
            f"{one.claimed.mean:+.2f}",
            f"{one.given.mean:+.2f}",
            f"{one.given.low:+.2f} to {one.given.high:+.2f}",
            percent(one.saving.mean),
            f"{percent(one.saving.low)} to {percent(one.saving.high)}",
            percent(one.broken),
        )
    words = (
        "Claimed: the drop on the samples that the choice was made on. Really given: on all "
        "samples of the table, from which the splits were drawn. Broken: how often that exceeds "
        f"the budget; a certificate allows {percent(found.delta)}."
    )
    return Group(table, Padding(Text(words), (0, 2)))


def savers_view(found: Savers) -> Group:
    """The best saver of every large model."""
    table = _table(
        "the best saver of every model, measured on test",
        ("model", "budget", "plan: saver", "threshold", "answers", "saving", "drop", "95 %"),
    )
    for row in found:
        test = row.on["test"]
        table.add_row(
            escape(row.big),
            f"{row.max_drop:g}",
            escape(row.little or "none"),
            f"{row.threshold:.4g}",
            percent(row.share("test")),
            percent(test.saving[found.unit]),
            f"{test.drop:+.2f}",
            interval_text(test.drop_interval),
        )
    words = (
        "Chosen on tune, measured on test; nothing is certified here: search that pair for a proof."
    )
    return Group(table, Padding(Text(words), (0, 2)))


def cost_text(cost: float, unit: str) -> str:
    """A cost with a prefix where it is a count of operations.

    >>> cost_text(40_551_000, "MACs"), cost_text(0.25, "ms@64")
    ('40.6 M', '0.25')
    """
    if unit == "MACs":
        for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(cost) >= size:
                return f"{cost / size:.3g} {prefix}"
    return f"{cost:.4g}"


def percent(share: float) -> str:
    """A fraction as percent.

    >>> percent(0.875)
    '87.5 %'
    """
    return f"{100 * share:.1f} %"


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a drop in points."""
    return f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


def _table(title: str, columns: Iterable[str]) -> Table:
    heading = Text(title, style="bold", no_wrap=True, overflow="ignore")  # wider than some tables
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        justify: JustifyMethod = "left" if number == 0 or "plan" in column else "right"
        table.add_column(escape(column), justify=justify)
    return table


def _singles_table(result: Result) -> Table:
    split = "all" if result.in_sample else "test"
    table = _table(
        f"single exits, measured on {split}",
        (
            "exit",
            result.unit,
            "accuracy" if result.table["labelled"] else "agreement",
            "drop",
            "saving",
        ),
    )
    for single in result.singles:
        table.add_row(*map(escape, _single_row(single, result, split)))
    return table


def _single_row(single: Single, result: Result, split: str) -> list[str]:
    outcome = single.on[split]
    mark = " (reference)" if single.name == result.reference else ""
    return [
        single.name + mark,
        cost_text(outcome.cost[result.unit], result.unit),
        percent(outcome.accuracy),
        f"{outcome.drop:+.2f}",
        percent(outcome.saving[result.unit]),
    ]


def _choices_table(result: Result) -> Table:
    split = "all" if result.in_sample else "test"
    proof = "proof" if result.in_sample else f"proof (δ = {result.delta:g})"
    table = _table(
        f"the cheapest plan per budget, measured on {split}",
        (
            *("max drop", "plan, and who answers", result.unit, "saving"),
            *(f"saving {unit}" for unit in _other_units(result)),
            *("drop", "95 %", proof),
        ),
    )
    for choice in result.choices:
        table.add_row(*map(escape, _choice_row(choice, result.unit, _other_units(result))))
    return table


def _baselines_table(result: Result) -> Table:
    split = "all" if result.in_sample else "test"
    table = _table(
        f"drops that the plans must beat at no more cost, measured on {split}",
        ("max drop", "plan", "best single exit", "deferring at random", "by an oracle"),
    )
    for choice in result.choices:
        beside = choice.baselines
        single = (
            "all cost more"
            if beside.single is None or beside.single_drop is None
            else f"{beside.single} {beside.single_drop:+.2f}"
        )
        cells = (
            f"{choice.max_drop:g}",
            f"{choice.outcome.drop:+.2f}",
            single,
            f"{beside.random_drop:+.2f}",
            f"{beside.oracle_drop:+.2f}",
        )
        table.add_row(*map(escape, cells))
    return table


def _published_table(result: Result) -> Table:
    split = "all" if result.in_sample else "test"
    table = _table(
        f"what published rules choose, measured on {split}; nothing is proved",
        ("max drop", "plan, and who answers", "rule", result.unit, "saving", "drop"),
    )
    for one in result.published:
        cells = (
            f"{one.max_drop:g}",
            plan_text(one.outcome.shares),
            one.rule,
            cost_text(one.outcome.cost[result.unit], result.unit),
            percent(one.outcome.saving[result.unit]),
            f"{one.outcome.drop:+.2f}",
        )
        table.add_row(*map(escape, cells))
    return table


def _other_units(result: Result) -> list[str]:
    """The units beside the one that was minimised, where every choice is priced in them."""
    costs = [set(choice.outcome.cost) for choice in result.choices]
    return sorted(set.intersection(*costs) - {result.unit})


def _choice_row(choice: Choice, unit: str, others: list[str]) -> list[str]:
    outcome, certificate = choice.outcome, choice.certificate
    if certificate is None:
        proof = "none"
    elif certificate.falls_back:
        proof = "fell back"
    else:
        proof = f"p = {certificate.p_value:.3f}"
    return [
        f"{choice.max_drop:g}",
        plan_text(outcome.shares),
        cost_text(outcome.cost[unit], unit),
        percent(outcome.saving[unit]),
        *(percent(outcome.saving[other]) for other in others),
        f"{outcome.drop:+.2f}",
        interval_text(outcome.drop_interval),
        proof,
    ]


def plan_text(shares: Mapping[str, float]) -> str:
    """The stages in order, with what each answers.

    >>> plan_text({"tiny": 0.9, "big": 0.1})
    'tiny 90.0% → big 10.0%'
    """
    return " → ".join(f"{name} {100 * share:.1f}%" for name, share in shares.items())


def shares_text(shares: Mapping[str, float]) -> str:
    """Who answers how much.

    >>> shares_text({"tiny": 0.9, "big": 0.1})
    'tiny 90.0 %, big 10.0 %'
    """
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items())


def _bins_table(found: Difficulty, bins: Iterable[Bin], *, title: str, head: str) -> Table:
    names = sorted(found.costs, key=lambda name: found.costs[name])
    table = _table(f"accuracy {title}", (head, "samples", *names))
    for row in bins:
        accuracies = (percent(row.accuracy[name]) for name in names)
        table.add_row(row.name, f"{row.samples:,}", *accuracies)
    return table


def _gains_table(found: Difficulty) -> Table:
    first = found.by_confidence[0].gain_per_cost
    scale, unit = (1e6, "M MACs") if found.unit == "MACs" else (1.0, found.unit)
    table = _table(
        f"points of accuracy that a further 1 {unit} buys over the next cheaper exit",
        ("tenth", *first),
    )
    for row in found.by_confidence:
        table.add_row(row.name, *(f"{scale * row.gain_per_cost[name]:+.3g}" for name in first))
    return table


def table_view(scores: ScoreTable) -> Table:
    """A score table: its exits with accuracy and costs."""
    labelled = scores.label is not None
    splits = ", ".join(
        f"{name} {int((scores.split == code).sum()):,}" for code, name in enumerate(SPLITS)
    )
    table = _table(
        f"{len(scores):,} samples ({splits})",
        ("exit", *(["accuracy"] if labelled else []), *scores.units),
    )
    for row, name in enumerate(scores.names):
        right = (
            [percent(float((scores.prediction[row] == scores.label).mean()))] if labelled else []
        )
        costs = [cost_text(scores.cost_of([name], unit), unit) for unit in scores.units]
        table.add_row(escape(name), *right, *costs)
    return table
