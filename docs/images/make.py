"""Draw the pictures of the README from a search on published ImageNet predictions.

    python docs/images/make.py

It reads imagenet_zoo/predictions.parquet from the folder of real data (../shared/data, or
$UNDERSTUDY_SHARED/data), searches, and writes figures.json, frontier-*.svg and report-*.svg next to
this file. The charts are those of `understudy report`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from understudy import Result, ScoreTable, chart_layout, search
from understudy.app.report import drawing
from understudy.app.report.charts import closeup, tradeoff
from understudy.app.report.record import Report
from understudy.app.report.words import minus
from understudy.display import cost_text, interval_text, percent
from understudy.outcome import points
from understudy.result import Choice
from understudy.searching.chains import search_chains

CSS = (Path(drawing.__file__).parent / "page.css").read_text(encoding="utf-8")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REFERENCE, MAX_DROPS = "resnet152", (0.5, 1.0, 2.0)
DRAWN_STAGES = 3  # models before the reference in the cascades whose frontier is drawn
# The drops, in points, at which the frontier is drawn: finely where cascades are used.
DRAWN = [step / 20 for step in range(-20, 60)] + [step / 10 for step in range(30, 240)]
# Billions of MACs per image at 224 x 224 (inception_v3: 299 x 299), on torchvision's definitions.
GMACS = {
    "squeezenet1_1": 0.35,
    "alexnet": 0.71,
    "squeezenet1_0": 0.82,
    "resnet18": 1.81,
    "densenet121": 2.83,
    "densenet169": 3.36,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "densenet201": 4.29,
    "inception_v3": 5.71,
    "vgg11_bn": 7.61,
    "vgg11": 7.61,
    "densenet161": 7.73,
    "resnet101": 7.80,
    "vgg13_bn": 11.31,
    "vgg13": 11.31,
    "resnet152": 11.51,
    "vgg16_bn": 15.47,
    "vgg16": 15.47,
    "vgg19_bn": 19.63,
    "vgg19": 19.63,
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
WIDTH, MARGIN, GAP = 880, 32, 16


def imagenet() -> ScoreTable:
    """21 networks on the 50,000 images of the ImageNet validation set."""
    shared = Path(os.environ.get("UNDERSTUDY_SHARED", ROOT.parent / "shared"))
    rows = pl.read_parquet(shared / "data/imagenet_zoo/predictions.parquet")
    return ScoreTable.from_predictions(
        {n: (rows[f"{n}_prediction"], {"max_softmax": rows[f"{n}_confidence"]}) for n in GMACS},
        rows["label"],
        costs={"MACs": {name: 1e9 * cost for name, cost in GMACS.items()}},
        ids=rows["file_name"].to_list(),
    )


def figures(result: Result, plain: Result) -> dict[str, Any]:
    """What the pictures show, as plain JSON; `plain` has thresholds on the max softmax."""
    return {
        "data": "predictions of 21 torchvision networks on the ImageNet validation set "
        "(cgnorthcutt/benchmarking-keras-pytorch, MIT)",
        "command": "python docs/images/make.py",
        "reference": REFERENCE,
        "samples": dict(result.table["samples"]),
        "policies_found": len(result.frontier),
        "certified": [
            {
                "max_drop": choice.max_drop,
                "exits": list(choice.policy.exits),
                "saving": round(choice.outcome.saving["MACs"], 4),
                "drop": round(choice.outcome.drop, 3),
                "drop_interval": [round(edge, 3) for edge in choice.outcome.drop_interval],
                "p_value": choice.certificate and round(choice.certificate.p_value or 0, 4),
            }
            for choice in result.choices
        ],
        "three_stages": three_stages(plain.choice()),
    }


def three_stages(choice: Choice) -> dict[str, Any]:
    """A plan with its certificate, the example of the pages on concepts and certificates."""
    outcome, certificate = choice.outcome, choice.certificate
    assert certificate
    return {
        "search": f'search(table, reference="{REFERENCE}", max_drop={choice.max_drop:g}, '
        'confidence="max_softmax", at_most_stages=3)',
        "stages": [
            {
                "exit": stage.exit,
                "threshold": None if stage.threshold is None else round(stage.threshold, 3),
                "share": round(outcome.shares[stage.exit], 4),
                "gmacs": GMACS[stage.exit],
            }
            for stage in choice.policy.stages
        ],
        "max_drop": choice.max_drop,
        "accuracy": round(outcome.accuracy, 4),
        "reference_accuracy": round(outcome.reference_accuracy, 4),
        "saving": round(outcome.saving["MACs"], 4),
        "drop": round(outcome.drop, 3),
        "drop_interval": [round(edge, 3) for edge in outcome.drop_interval],
        "certificate": {
            "samples": certificate.samples,
            "losses": certificate.losses,
            "gains": certificate.gains,
            "p_value": round(certificate.p_value or 0, 4),
            "delta": certificate.delta,
            "saving": round(certificate.saving_bounds["MACs"], 4),
        },
    }


def variables(theme: str) -> dict[str, str]:
    """The colours of the page's style sheet in a theme."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", CSS)
    return {name: light if theme == "light" else dark for name, light, dark in pairs}


def style(theme: str) -> str:
    """The rules of the page's style sheet for charts, with the colours of a theme."""
    rules = " ".join(re.findall(r"^\.(?:c-|bar|dashed|chart ).*", CSS, re.MULTILINE))
    colours = variables(theme)
    return f"<style>{re.sub(r'var.--(.+?).;', lambda name: colours[name[1]] + ';', rules)}</style>"


def text(x: float, y: float, words: str, **style: Any) -> str:
    look = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" {look}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, **style: Any) -> str:
    look = " ".join(f'{name}="{value}"' for name, value in style.items())
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" {look}/>'


def placed(chart: str, x: float, y: float) -> str:
    """A chart at a place within another picture."""
    width, height = size(chart)
    at = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return chart.replace("<svg ", f"<svg {at} ", 1)


def size(chart: str) -> tuple[float, float]:
    found = re.search(r'<svg [^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
    assert found
    return float(found[1]), float(found[2])


def picture(width: float, height: float, theme: str, parts: Iterator[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="{FONT}">'
        f"{style(theme)}{''.join(parts)}</svg>\n"
    )


def frontier(result: Result, table: ScoreTable, theme: str) -> str:
    """The chart of cost against accuracy over the whole range, with many points of the frontier."""
    tune = table.on("tune")
    chains = search_chains(tune, reference=REFERENCE, stages=DRAWN_STAGES, max_drops=DRAWN)
    report = Report(replace(result, frontier=chains))
    chart = tradeoff(report, width=830, height=420)
    width, height = size(chart)
    colours = variables(theme)

    def parts() -> Iterator[str]:
        yield box(0.5, 0.5, width + 31, height + 79, colours["card"], rx=10, stroke=colours["rule"])
        yield placed(chart, 16, 16)
        yield from legend(result, 64, height + 40, variables(theme)["ink"])

    return picture(width + 32, height + 80, theme, parts())


def legend(result: Result, x: float, y: float, ink: str) -> Iterator[str]:
    """What the marks mean, in two columns."""
    entries = (
        (
            drawing.path([(0, 4), (8, 4), (8, 0), (16, 0), (16, -4), (22, -4)], "c-best bar"),
            f"Pareto frontier of the cascades, on {result.searched_on}",
        ),
        (
            drawing.point("dot", 11, 0, "c-single"),
            f"the {len(result.singles)} networks alone, on {result.measured_on}",
        ),
        (
            drawing.path([(11, -9), (11, 9)], "c-plan bar")
            + drawing.point("diamond", 11, 0, "c-plan"),
            f"cascades certified for {listed_drops(result)} points, on {result.measured_on}, "
            "95 % intervals",
        ),
    )
    for number, (mark, words) in enumerate(entries):
        left, base = x + 380 * (number % 2), y + 24 * (number // 2)
        yield f'<g transform="translate({left:g} {base - 4:g})">{mark}</g>'
        yield text(left + 30, base, words, font_size=13, fill=ink)


def listed_drops(result: Result) -> str:
    *first, last = (f"{choice.max_drop:g}" for choice in result.choices)
    return f"{', '.join(first)} and {last}"


def page(result: Result, theme: str) -> str:
    """The head of the report: headline figures of every budget, and the chart."""
    report, choices = Report(result), result.choices
    colours, both = variables(theme), chart_layout.shades(len(report.singles))
    shades = {name: pair[theme == "dark"] for name, pair in zip(report.singles, both, strict=True)}
    inner = WIDTH - 2 * MARGIN
    chart = closeup(report, width=inner - 28, height=300)
    _, chart_height = size(chart)
    wide = (inner - GAP * (len(choices) - 1)) / len(choices)
    top = 150
    below = top + 398
    height = below + 50 + chart_height + 24 + MARGIN

    def parts() -> Iterator[str]:
        soft, ink = colours["soft"], colours["ink"]
        yield box(0.5, 0.5, WIDTH - 1, height - 1, colours["ground"], rx=10, stroke=colours["rule"])
        style = {"font_size": 15, "font_weight": 600}
        yield text(MARGIN, 48, "understudy report", fill=colours["accent"], **style)
        yield text(MARGIN, 86, report.title, font_size=32, font_weight=700, fill=ink)
        yield text(MARGIN, 116, report.lead, font_size=15, fill=soft)
        for number, choice in enumerate(choices):
            yield from card(
                choice,
                MARGIN + number * (wide + GAP),
                top,
                wide,
                colours=colours,
                shades=shades,
            )
        yield text(
            MARGIN, below + 26, "Cost against accuracy", font_size=21, font_weight=700, fill=ink
        )
        yield box(
            MARGIN,
            below + 44,
            inner,
            chart_height + 24,
            colours["card"],
            rx=10,
            stroke=colours["rule"],
        )
        yield placed(chart, MARGIN + 14, below + 56)

    return picture(WIDTH, height, theme, parts())


def card(
    choice: Choice,
    x: float,
    y: float,
    width: float,
    *,
    colours: Mapping[str, str],
    shades: Mapping[str, str],
) -> Iterator[str]:
    """The headline figures of one budget, as the report shows them."""
    outcome = choice.outcome
    soft, ink, line = colours["soft"], colours["ink"], colours["rule"]
    left, right = x + 18, x + width - 18
    yield box(x, y, width, 372, colours["card"], rx=10, stroke=line)
    yield f'<path d="M{x:g} {y + 8:g}a8 8 0 0 1 8 -8h{width - 16:g}a8 8 0 0 1 8 8v-4h-{width:g}z" fill="{colours["plan"]}"/>'  # noqa: E501
    head = f"at most {points(choice.max_drop)} lost"
    yield text(left, y + 34, head, font_size=15, font_weight=600, fill=soft)
    big = {"font_size": 42, "font_weight": 700, "letter_spacing": "-0.02em"}
    yield text(left, y + 82, percent(outcome.saving["MACs"]), fill=ink, **big)
    yield text(left, y + 106, "of MACs saved", font_size=15, fill=soft)
    at, wide = left, right - left
    yield f'<clipPath id="bar{choice.max_drop:g}">{box(left, y + 120, wide, 11, "#000", rx=5.5)}</clipPath>'  # noqa: E501
    yield f'<g clip-path="url(#bar{choice.max_drop:g})">'
    for name, share in outcome.shares.items():
        yield box(at, y + 120, wide * share, 11, shades[name])
        at += wide * share
    yield "</g>"
    for number, (name, share) in enumerate(outcome.shares.items()):
        base = y + 154 + 20 * number
        yield f'<circle cx="{left + 5:g}" cy="{base - 4.5:g}" r="4.5" fill="{shades[name]}" stroke="{soft}"/>'  # noqa: E501
        yield text(left + 17, base, name, font_size=13, fill=soft)
        yield text(right, base, percent(share), font_size=13, fill=soft, text_anchor="end")
    full = cost_text(outcome.cost["MACs"] / (1 - outcome.saving["MACs"]), "MACs")
    facts = (
        ("accuracy", percent(outcome.accuracy), f"against {percent(outcome.reference_accuracy)}"),
        ("drop", f"{outcome.drop:+.2f}", interval_text(outcome.drop_interval)),
        ("certified", f"drop ≤ {choice.max_drop:g}", f"p = {choice.certificate.p_value:.3f}"),
        ("MACs", cost_text(outcome.cost["MACs"], "MACs"), f"against {full}"),
    )
    for number, (name, value, small) in enumerate(facts):
        base = y + 258 + 30 * number
        yield f'<path d="M{left:g} {base - 20:g}h{wide:g}" stroke="{line}"/>'
        yield text(left, base, name, font_size=14.5, fill=soft)
        yield (
            f'<text x="{right:g}" y="{base:g}" text-anchor="end" font-size="14.5" '
            f'font-weight="600" fill="{ink}">{minus(value)} <tspan font-size="12.5" '
            f'font-weight="400" fill="{soft}">{minus(small)}</tspan></text>'
        )


def main() -> None:
    table = imagenet()
    result = search(table, reference=REFERENCE, max_drop=MAX_DROPS)
    plain = search(
        table, reference=REFERENCE, max_drop=0.5, confidence="max_softmax", at_most_stages=3
    )
    record = json.dumps(figures(result, plain), indent=1, ensure_ascii=False)
    (HERE / "figures.json").write_text(record + "\n", encoding="utf-8")
    for theme in ("light", "dark"):
        (HERE / f"frontier-{theme}.svg").write_text(
            frontier(result, table, theme), encoding="utf-8"
        )
        (HERE / f"report-{theme}.svg").write_text(page(result, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
