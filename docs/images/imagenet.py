"""Draw the pictures of docs/imagenet.md from benchmarks/results/imagenet_zoo.json.

    python docs/images/imagenet.py

It writes imagenet/savings-*.svg, imagenet/difficulty-*.svg and imagenet/pairs-*.svg, with the
drawing code of `understudy report`, and prints the rows of the page's tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from make import GMACS, HERE, ROOT, box, picture, placed, size, text, variables

from understudy import chart_layout
from understudy.app.report import drawing
from understudy.app.report.drawing import Scale, chart, element, label_svg, path, point
from understudy.app.report.words import minus
from understudy.chart_layout import Axis, Label

RECORD = ROOT / "benchmarks" / "results" / "imagenet_zoo.json"
INTO = HERE / "imagenet"
BUDGET, WIDTH, ROW, CELL = 0.5, 820.0, 24.0, 32.0
LEVELS = 10  # shades of the heat map
SAVINGS = (
    ("square", "c-single", "best saver, chosen and measured on all images"),
    ("dot", "c-best", "best saver, certified, measured on test"),
    ("diamond", "c-plan", "plan by default, certified, measured on test"),
)


def framed(inside: str, theme: str, below: Sequence[str] = ()) -> str:
    """A chart on the card of the report's page, with lines of legend below it."""
    width, height = size(inside)
    colours, foot = variables(theme), 26.0 * len(below)

    def parts() -> Iterator[str]:
        edges = width + 31, height + 31 + foot
        yield box(0.5, 0.5, *edges, colours["card"], rx=10, stroke=colours["rule"])
        yield placed(inside, 16, 16)
        for number, line in enumerate(below):
            at = f"translate(40 {height + 30 + 26 * number:g})"
            yield f'<g transform="{at}">{line}</g>'

    return picture(width + 32, height + 32 + foot, theme, parts())


def at_budget(plans: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(plan for plan in plans if plan["max_drop"] == BUDGET)


def savings(record: Mapping[str, Any], theme: str) -> str:
    """What every large model saves at the budget, in-sample and certified."""
    models = record["models"]
    names = {float(row): f"{one['big']}, {one['gmacs']:g} G" for row, one in enumerate(models)}
    y = Scale(Axis(len(models) - 0.5, -0.5, ROW * len(models)), names, "large model, MACs")
    axis = Axis(0.0, 1.0, drawing.inner_width(WIDTH, y))
    x = Scale.of(
        axis, f"MACs saved at a budget of {BUDGET:g} points", lambda value: f"{100 * value:g} %"
    )
    marks = []
    for row, model in enumerate(models):
        values = [
            at_budget(model[kind][way])["saving"]
            for kind, way in (
                ("in_sample", "saver"),
                ("certified", "saver"),
                ("certified", "default"),
            )
        ]
        at = y.axis.length - y.axis.pixel(row)
        places = [axis.pixel(value) for value in values]
        marks.append(path([(min(places), at), (max(places), at)], "c-faint"))
        marks += [
            point(shape, place, at, kind)
            for (shape, kind, _), place in zip(SAVINGS, places, strict=True)
        ]
    about = f"The MACs saved by the best saver and the plan by default at {BUDGET:g} points."
    ink = variables(theme)["ink"]
    legend = [
        point(shape, 0, 0, kind) + text(16, 4.5, words, font_size=13, fill=ink)
        for shape, kind, words in SAVINGS
    ]
    return framed(chart(marks, x, y, about=about), theme, legend)


def difficulty(record: Mapping[str, Any], theme: str) -> str:
    """The accuracy of a ladder of networks by tenth of difficulty, by both kinds of labels."""
    found, height = record["difficulty"], 380.0
    names = list(found["label"][0]["accuracy"])
    right = max(map(chart_layout.text_width, names)) + 30
    y = Scale.of(Axis(0.0, 102.0, height), "right answers, %", "{:g}".format, upright=True)
    x = Scale(
        Axis(0.75, 10.25, drawing.inner_width(WIDTH, y, right)),
        {float(tenth): f"{tenth}" for tenth in range(1, 11)},
        f"tenth of the images, from those that {names[0]} is surest of",
    )
    marks, colours = [], chart_layout.shades(len(names))
    ends = chart_layout.spread(
        [height - y.axis.pixel(100 * found["label"][-1]["accuracy"][name]) for name in names],
        gap=18,
        low=9,
        high=height - 9,
    )
    for name, shade, end in zip(names, colours, ends, strict=True):
        lines = {
            kind: [
                (
                    x.axis.pixel(row["tenth"]),
                    height - y.axis.pixel(100 * row["accuracy"][name]),
                )
                for row in found[kind]
            ]
            for kind in ("label", "real")
        }
        dots = [point("dot", *at, "") for at in lines["label"]]
        last = lines["label"][-1]
        lead = path([last, (last[0] + 14, end)], "")
        parts = [path(lines["label"], "bar"), path(lines["real"], "dashed"), lead, *dots]
        marks.append(element("g", *parts, color=shade[theme == "dark"]))
        marks.append(label_svg(Label((name,), last[0] + 18, end, "start")))
    ink = variables(theme)["ink"]
    legend = [
        path([(-8, 0), (18, 0)], kind) + text(28, 4.5, words, font_size=13, fill=ink)
        for kind, words in (
            ("c-single bar", "by the labels of ImageNet"),
            ("c-single dashed", "by ReaL: any of several labels, images without one left out"),
        )
    ]
    about = "Accuracy of five networks by tenth of difficulty, by ImageNet's labels and by ReaL's."
    return framed(chart(marks, x, y, about=about, right=right), theme, legend)


def pairs(record: Mapping[str, Any], theme: str) -> str:
    """The saving of every pair: one path per shade, one text per row."""
    found, colours = record["pairs"], variables(theme)
    names, saving = found["models"], found["saving"]
    littles = [name for name, row in zip(names, saving, strict=True) if any(row)]
    bigs = names[:0:-1]
    left, top = 170.0, 118.0
    cells: dict[int, list[str]] = {}
    rows = []
    for row, big in enumerate(bigs):
        base, spans = top + CELL * row, []
        for column, little in enumerate(littles):
            value = saving[names.index(little)][names.index(big)]
            if value is None:
                continue
            x = left + CELL * column
            level = min(int(value * LEVELS), LEVELS - 1)
            cells.setdefault(level, []).append(
                f"M{x:g} {base:g}h{CELL - 1:g}v{CELL - 1:g}h{1 - CELL:g}z"
            )
            alone = abs(value - (1 - GMACS[little] / GMACS[big])) < 1e-3
            weight = ' font-weight="700"' if alone else ""
            spans.append(f'<tspan x="{x + CELL / 2:g}"{weight}>{100 * value:.0f}</tspan>')
        y = base + CELL / 2 + 4.5
        style = f'font-size="12.5" fill="{colours["ink"]}"'
        share = 100 * found["accuracy"][names.index(big)]
        rows.append(f'<text y="{y:g}" {style}><tspan x="16">{big}, {share:.1f} %</tspan></text>')
        rows.append(f'<text y="{y:g}" text-anchor="middle" {style}>{"".join(spans)}</text>')
    width, height = left + CELL * len(littles) + 60, top + CELL * len(bigs) + 60

    def parts() -> Iterator[str]:
        yield box(0.5, 0.5, width - 1, height - 1, colours["card"], rx=10, stroke=colours["rule"])
        for level, squares in sorted(cells.items()):
            shade = 0.06 + 0.56 * level / (LEVELS - 1)
            fill = f'fill="{colours["best"]}" fill-opacity="{shade:.2f}"'
            yield f'<path d="{"".join(squares)}" {fill}/>'
        yield from rows
        for column, little in enumerate(littles):
            x = left + CELL * (column + 0.6)
            at = f"translate({x:g} {top - 8:g}) rotate(-50)"
            yield text(0, 0, little, font_size=12.5, fill=colours["ink"], transform=at)
        words = (
            f"% of the large model's MACs saved by each pair at {found['max_drop']:g} points, on "
            "all images; bold: the saver alone"
        )
        yield text(16, height - 22, words, font_size=13, fill=colours["soft"])

    return picture(width, height, theme, parts())


def models_table(record: Mapping[str, Any]) -> Iterator[str]:
    """The rows of the page's table of large models at the budget."""
    accuracy = dict(zip(record["pairs"]["models"], record["pairs"]["accuracy"], strict=True))
    for model in record["models"]:
        saver, chain = (at_budget(model["in_sample"][way]) for way in ("saver", "chain"))
        plans = {way: at_budget(plan) for way, plan in model["certified"].items()}
        default = plans["default"]
        real = at_budget(model["real"]["default"])["by_real"]
        low, high = default["drop_interval"]
        cells = (
            f"{model['big']}",
            f"{100 * accuracy[model['big']]:.1f}",
            f"{saver['exits'][0]} {percent(saver)}",
            percent(chain),
            f"{plans['saver']['exits'][0]} {percent(plans['saver'])}",
            percent(plans["chain"]),
            f"**{percent(default)}**",
            minus(f"{default['drop']:+.2f} ({low:+.2f} to {high:+.2f})"),
            minus(f"{real['drop']:+.2f}"),
        )
        yield f"| {' | '.join(cells)} |"


def tinysaver_table(record: Mapping[str, Any]) -> Iterator[str]:
    """The rows of the page's table of TinySaver's choices."""
    for model in record["models"]:
        found = model["tinysaver"]
        exact = next(plan for plan in model["in_sample"]["saver"] if plan["max_drop"] == 0)
        low, high = found["drop_interval"]
        cells = (
            model["big"],
            found["saver"] or "none",
            minus(f"{found['delta_c']:.3f}"),
            percent(found),
            minus(f"{found['drop']:+.2f} ({low:+.2f} to {high:+.2f})"),
            f"{exact['exits'][0]} {percent(exact)}",
        )
        yield f"| {' | '.join(cells)} |"


def percent(plan: Mapping[str, Any]) -> str:
    """The saving of a plan, in percent."""
    return minus(f"{100 * plan['saving']:.1f}")


def main() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    rows = [*models_table(record), "", *tinysaver_table(record), ""]
    sys.stdout.write("\n".join(rows))
    INTO.mkdir(exist_ok=True)
    for draw in (savings, difficulty, pairs):
        for theme in ("light", "dark"):
            file = INTO / f"{draw.__name__}-{theme}.svg"
            file.write_text(draw(record, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
