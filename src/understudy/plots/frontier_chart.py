"""frontier: cost against accuracy of all that a search found, chose and certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from understudy.chart_layout import Axis, Box, Mark, place
from understudy.choice import Choice
from understudy.display import budget_text, percent
from understudy.plots.layers import (
    HEIGHT,
    PLAIN,
    WIDTH,
    Frame,
    Rows,
    cost_format,
    data_of,
    framed,
    kinds,
)
from understudy.plots.palette import Palette
from understudy.result import Result

CLOSE_FROM = 2.0  # times the height of what lies around the budgets: there is a second panel
_SHORT = 300.0  # pixels, the height of the second panel


def frontier(result: Result, *, dark: bool = False) -> Any:
    """Cost against accuracy: the Pareto frontier, single exits, the reference, certified policies.

    Accuracy is the paired difference to the reference in points, so that what was found on tune
    and what was measured on test can be compared; without labels it is the agreement with it, in
    percent. Policies that were certified have 95 % intervals. Where the budgets take a small part
    of the range a second panel shows what is around them.

    Args:
        result: what a search found.
        dark: on dark ground.

    Returns:
        An Altair chart. Rows of its data have a `kind`, `cost` (mean per sample, in the result's
        unit) and `level` (points, or percent), and `low` and `high` where there is an interval.

    >>> import numpy as np
    >>> from understudy import ScoreTable, search
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, 0 * right)},
    ...     0 * right, costs={"tiny": 1, "big": 9})
    >>> chart = frontier(search(table, max_drop=2.0))
    >>> sorted({row["kind"] for rows in chart.to_dict()["datasets"].values()
    ...         for row in rows if "kind" in row})[0]
    'Pareto frontier of the policies found, on tune'
    """
    palette, points = Palette.of(dark=dark), _Points.of(result)
    whole, near = points.whole(), points.near()
    panels = [points.panel(whole, palette, close=near is None)]
    if near is not None:
        panels.append(points.panel(near, palette, close=True))
    chart = panels[0] if near is None else alt.vconcat(*panels, spacing=28)
    return framed(
        chart,
        palette,
        title=f"Cost against {points.measure}, reference {result.reference}",
        subtitle=points.subtitle(close=near is not None),
    )


@dataclass(frozen=True)
class _Points:
    """The rows of the chart, by layer."""

    result: Result
    line: Rows
    singles: Rows
    chosen: Rows

    @staticmethod
    def of(result: Result) -> _Points:
        unit, on = result.unit, result.measured_on

        def level(drop: float) -> float:
            return -drop if result.labelled else 100 - max(drop, 0.0)

        names = _kinds(result)
        line = [
            {
                "kind": names[0],
                "policy": point.policy.describe(),
                "cost": point.cost,
                "level": level(point.drop),
                "accuracy": point.accuracy,
            }
            for point in result.frontier
        ]
        singles = [
            {
                "kind": names[2] if one.name == result.reference else names[1],
                "name": one.name,
                "cost": one.on[on].cost[unit],
                "level": level(one.on[on].drop),
                "accuracy": one.on[on].accuracy,
            }
            for one in result.singles
        ]
        chosen = [
            {
                "kind": names[3],
                "name": _name(choice, result),
                "policy": choice.policy.describe(),
                "cost": choice.outcome.cost[unit],
                "level": level(choice.outcome.drop),
                "low": level(choice.outcome.drop_interval[1]),
                "high": level(choice.outcome.drop_interval[0]),
                "accuracy": choice.outcome.accuracy,
                "saving": choice.outcome.saving[unit],
                "budget": level(choice.max_drop),
            }
            for choice in result.choices
            if choice.policy.exits != (result.reference,)
        ]
        return _Points(result, line, singles, chosen)

    @property
    def measure(self) -> str:
        return "accuracy" if self.result.labelled else "agreement"

    def subtitle(self, *, close: bool) -> list[str]:
        """How many samples, and what the second panel shows."""
        counts = self.result.table.get("samples", {})
        samples = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        below = "; below, around the budgets" if close else ""
        return [f"{samples} samples{below}"] if samples else []

    def whole(self) -> Frame:
        """The frame that holds everything."""
        rows = [*self.line, *self.singles, *self.chosen]
        levels = [row["level"] for row in rows] + self._edges()
        y = Axis.around(levels, length=HEIGHT)
        return self._frame([row["cost"] for row in rows], y)

    def near(self) -> Frame | None:
        """The frame around the budgets; None where the whole shows them well enough."""
        if not self.chosen:
            return None
        top = max(row["level"] for row in self.line) if self.line else 0.0
        full = 0.0 if self.result.labelled else 100.0
        budgets = [row["budget"] for row in self.chosen]
        y = Axis.around([full, top, *budgets, *self._edges()], length=_SHORT, margin=0.12)
        whole = self.whole().y
        if whole.high - whole.low <= CLOSE_FROM * (y.high - y.low):
            return None
        costs = [row["cost"] for row in self.chosen]
        costs += [row["cost"] for row in [*self.line, *self.singles] if y.holds(row["level"])]
        return self._frame(costs, y)

    def _edges(self) -> list[float]:
        return [row[edge] for row in self.chosen for edge in ("low", "high")]

    def _frame(self, costs: Sequence[float], y: Axis) -> Frame:
        result = self.result
        title = f"agreement with {result.reference}, %"
        if result.labelled:
            own = next(row["accuracy"] for row in self.singles if row["name"] == result.reference)
            title = f"accuracy above {result.reference} ({percent(own)}), points"
        return Frame(
            x=Axis.of_costs(costs, length=WIDTH),
            y=y,
            fields=("cost", "level"),
            titles=(f"mean cost per sample, {result.unit}", title),
            formats=(cost_format(result.unit), f"+{PLAIN}" if result.labelled else PLAIN),
        )

    def panel(self, frame: Frame, palette: Palette, *, close: bool) -> Any:
        """The layers within a frame; with the budgets and their names in a close one."""
        names = _kinds(self.result)
        look = kinds(
            names,
            (palette.best, palette.single, palette.ink, palette.plan),
            ("stroke", "circle", "square", "diamond"),
        )
        colour, place_of = {"color": look["color"]}, {"x": frame.across(), "y": frame.up()}
        chosen = alt.Chart(data_of(self.chosen))
        layers = [
            alt.Chart(data_of(self.line))
            .mark_line(interpolate="step-after", strokeWidth=2.2, clip=True)
            .encode(**place_of, **colour),
            alt.Chart(data_of(self.singles))
            .mark_point(filled=True, size=55, opacity=1, clip=True)
            .encode(**place_of, **look, tooltip=["name:N", "cost:Q", "level:Q", "accuracy:Q"]),
            chosen.mark_rule(strokeWidth=2.2, clip=True).encode(
                x=frame.across(), y=frame.up("low"), y2="high:Q", **colour
            ),
            chosen.mark_point(filled=True, size=110, opacity=1, clip=True).encode(
                **place_of, **look, tooltip=["policy:N", "cost:Q", "level:Q", "saving:Q"]
            ),
        ]
        if close:
            layers.insert(
                0,
                chosen.mark_rule(strokeDash=[4, 3], color=palette.budget, clip=True).encode(
                    y=frame.up("budget")
                ),
            )
        layers += frame.texts(self._labels(frame, close=close), palette)
        return alt.layer(*layers).properties(width=frame.x.length, height=frame.y.length)

    def _labels(self, frame: Frame, *, close: bool) -> Any:
        """The names of what is chosen, where it is close, and of single exits, most of them."""
        held = [row for row in self.singles if frame.holds(row["cost"], row["level"])]
        first = {self.result.reference, *(n for c in self.result.choices for n in c.policy.exits)}
        held.sort(key=lambda row: row["name"] not in first)
        plans = [row for row in self.chosen if close]
        marks = [Mark(r["name"], *frame.at(r["cost"], r["level"])) for r in [*plans, *held]]
        steps = [frame.at(row["cost"], row["level"]) for row in self.line]
        return place(
            marks,
            width=frame.x.length,
            height=frame.y.length,
            avoid=[*self._bars(frame), *self._dots(frame, held)],
            beside=[
                (a[0], min(a[1], b[1]) - 1, b[0], max(a[1], b[1]) + 1) for a, b in pairwise(steps)
            ],
        )

    def _bars(self, frame: Frame) -> list[Box]:
        """The room that intervals take."""
        bars = []
        for row in self.chosen:
            x, top = frame.at(row["cost"], row["high"])
            _, bottom = frame.at(row["cost"], row["low"])
            bars.append((x - 4, top, x + 4, bottom))
        return bars

    def _dots(self, frame: Frame, held: Rows) -> list[Box]:
        """The room that single exits take."""
        dots = [frame.at(row["cost"], row["level"]) for row in held]
        return [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]


def _name(choice: Choice, result: Result) -> str:
    """A budget in words."""
    if not result.labelled or choice.max_drop >= 0:
        return f"≤ {budget_text(choice.max_drop)}"
    return f"≥ +{budget_text(-choice.max_drop)}"


def _kinds(result: Result) -> tuple[str, str, str, str]:
    """The words of the legend."""
    on, found = result.measured_on, result.searched_on
    where = "in-sample" if result.in_sample else f"on {on}"
    chosen = "chosen" if result.in_sample else "certified"
    if result.in_sample:
        found = "all samples"
    return (
        f"Pareto frontier of the policies found, on {found}",
        f"single models and exits, {where}",
        f"reference {result.reference}",
        f"{chosen} for a budget, 95 % interval, {where}",
    )
