"""difficulty: accuracy of exits and cascades on easy and on hard samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from understudy.chart_layout import LEADING, Axis, Label, shades, spread
from understudy.deciles import Difficulty
from understudy.plots.layers import HEIGHT, PLAIN, WIDTH, Frame, data_of, framed
from understudy.plots.palette import Palette
from understudy.text_table import short_names

MOST_NAMED = 8
_NAME = 28  # characters of a name at the end of its line
_DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (3, 3), (1, 3))  # of several cascades
_ROOM = 22.0  # pixels between the end of a line and its name


def difficulty(
    found: Difficulty,
    *,
    cascades: Mapping[str, Sequence[float]] | None = None,
    named: Sequence[str] = (),
    dark: bool = False,
) -> Any:
    """Accuracy by tenth of difficulty, from the samples that the little model is surest of.

    Args:
        found: of `deciles.difficulty`, or `result.difficulty`.
        cascades: what to draw beside the exits: a name and the accuracy in each tenth, fractions,
            as `deciles.policy_by_tenth` finds them.
        named: exits whose lines have colours and names, of more than eight; others are faint. By
            default the cheapest, the reference and some between.
        dark: on dark ground.

    Returns:
        An Altair chart. Rows of its data have `name`, `tenth` (1 to 10) and `accuracy` in percent.

    >>> from understudy import ScoreTable
    >>> from understudy.deciles import difficulty as by_difficulty
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> chart = difficulty(by_difficulty(table, reference="big"))
    >>> rows = [row for rows in chart.to_dict()["datasets"].values() for row in rows]
    >>> [row["accuracy"] for row in rows if row.get("name") == "tiny"]
    [100.0, 100.0, 100.0, 0.0]
    """
    palette = Palette.of(dark=dark)
    order = sorted(found.costs, key=lambda name: found.costs[name])
    coloured = _coloured(found, order, named)
    lines = {name: [one.accuracy[name] for one in found.by_confidence] for name in order}
    plans = {name: list(values) for name, values in (cascades or {}).items()}
    tints = [pair[dark] for pair in shades(len(coloured))]
    faint = [name for name in order if name not in coloured]
    colours = {
        **dict.fromkeys(faint, palette.faint),
        **dict(zip(coloured, tints, strict=True)),
        **dict.fromkeys(plans, palette.plan),
    }
    frame = _frame(found, [*lines.values(), *plans.values()])
    layers = [
        *([_lines({name: lines[name] for name in faint}, frame, colours, 1.4)] if faint else []),
        _lines({name: lines[name] for name in coloured}, frame, colours, 2.2),
        *(
            _lines({name: values}, frame, colours, 3.2, _DASHES[number % len(_DASHES)])
            for number, (name, values) in enumerate(plans.items())
        ),
        *_named_ends({**{n: lines[n] for n in coloured}, **plans}, frame, colours, palette),
    ]
    samples = sum(one.samples for one in found.by_confidence)
    others = f"; {len(faint)} further exits are faint" if faint else ""
    return framed(
        alt.layer(*layers).properties(width=frame.x.length, height=frame.y.length),
        palette,
        title=f"{_measure(found).capitalize()} by difficulty",
        subtitle=[f"{samples:,} samples{others}"],
    )


def _measure(found: Difficulty) -> str:
    return f"agreement with {found.reference}" if found.unlabelled else "accuracy"


def _coloured(found: Difficulty, order: Sequence[str], named: Sequence[str]) -> list[str]:
    """The exits with colours and names, cheapest first."""
    if len(order) <= MOST_NAMED:
        return list(order)
    first = list(dict.fromkeys([found.little, found.reference, *named]))
    if not named:
        rows = np.linspace(0, len(order) - 1, MOST_NAMED - 2).round().astype(int).tolist()
        first = list(dict.fromkeys([*first, *(order[row] for row in rows)]))
    return [name for name in order if name in first[:MOST_NAMED]]


def _frame(found: Difficulty, lines: Sequence[Sequence[float]]) -> Frame:
    values = [100 * value for line in lines for value in line]
    around = Axis.around(values, length=HEIGHT)
    return Frame(
        x=Axis(0.7, len(found.by_confidence) + 0.3, WIDTH),
        y=Axis(max(around.low, -1.0), min(around.high, 101.0), HEIGHT),
        fields=("tenth", "accuracy"),
        titles=(
            f"tenth of the samples, from those that {found.little} is surest of",
            f"{_measure(found)}, %",
        ),
        formats=(PLAIN, PLAIN),
    )


def _lines(
    lines: Mapping[str, Sequence[float]],
    frame: Frame,
    colours: Mapping[str, str],
    width: float,
    dash: Sequence[float] = (),
) -> alt.Chart:
    """A layer with a line per name; those with names at their ends have dots."""
    rows = [
        {"name": name, "tenth": tenth, "accuracy": 100 * value}
        for name, values in lines.items()
        for tenth, value in enumerate(values, 1)
    ]
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    dots = {"filled": True, "size": 14 * width} if width > 2 else False
    look: dict[str, Any] = {"strokeDash": list(dash)} if dash else {}
    chart: alt.Chart = alt.Chart(data_of(rows)).mark_line(strokeWidth=width, point=dots, **look)
    return chart.encode(
        x=frame.across(), y=frame.up(), color=alt.Color("name:N", scale=scale, legend=None)
    )


def _named_ends(
    lines: Mapping[str, Sequence[float]],
    frame: Frame,
    colours: Mapping[str, str],
    palette: Palette,
) -> list[alt.Chart]:
    """The names of lines behind their ends, apart from one another, with lines that lead there."""
    called = short_names(lines, _NAME)
    last = len(next(iter(lines.values())))
    ends = [frame.at(last, 100 * values[-1]) for values in lines.values()]
    apart = spread(
        [y for _, y in ends], gap=LEADING + 1, low=LEADING / 2, high=frame.y.length - LEADING / 2
    )
    layers = []
    for name, (x, y), moved in zip(lines, ends, apart, strict=True):
        way = [
            {"tenth": frame.x.value(a), "accuracy": frame.y.value(frame.y.length - b)}
            for a, b in ((x + 4, y), (x + _ROOM, moved))
        ]
        layers.append(
            alt.Chart(data_of(way))
            .mark_line(color=colours[name], strokeWidth=1.2)
            .encode(x=frame.across(), y=frame.up())
        )
    names = [
        Label((called[name],), ends[row][0] + _ROOM + 4, apart[row], "start")
        for row, name in enumerate(lines)
    ]
    return [*layers, *frame.texts(names, palette)]
