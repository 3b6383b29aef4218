"""Draw the pictures of docs/concepts.md from docs/images/figures.json.

    python docs/images/concepts.py

It writes concepts/steps-*.svg, concepts/cascade-*.svg and concepts/splits-*.svg.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from make import HERE, box, picture, text, variables

from understudy.app.report.words import minus

RECORD = HERE / "figures.json"
INTO = HERE / "concepts"
WIDTH, EDGE = 820.0, 20.0
SIZE, SMALL = 14, 12.5
Colours = Mapping[str, str]


def card(x: float, y: float, width: float, height: float, colours: Colours) -> str:
    """A box of a diagram."""
    return box(x, y, width, height, colours["ground"], rx=8, stroke=colours["axis"])


def lines(x: float, y: float, words: Sequence[str], colours: Colours, **style: Any) -> str:
    """A heading and lines below it."""
    first, *others = words
    head = {"font_size": SIZE, "font_weight": 600, "fill": colours["ink"]} | style
    below = {"font_size": SMALL, "fill": colours["soft"]} | style
    return text(x, y, first, **head) + "".join(
        text(x, y + 19 * number, line, **below) for number, line in enumerate(others, 1)
    )


def arrow(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    """A line with a head; it runs to the right or down."""
    head = (
        f"M{to_x - 7:g} {to_y - 4.5:g}L{to_x:g} {to_y:g}L{to_x - 7:g} {to_y + 4.5:g}z"
        if to_x > x
        else f"M{to_x - 4.5:g} {to_y - 7:g}L{to_x:g} {to_y:g}L{to_x + 4.5:g} {to_y - 7:g}z"
    )
    end = (to_x - 6, to_y) if to_x > x else (to_x, to_y - 6)
    return (
        f'<path d="M{x:g} {y:g}L{end[0]:g} {end[1]:g}" stroke="{colour}" stroke-width="1.6"/>'
        f'<path d="{head}" fill="{colour}"/>'
    )


def drawn(height: float, theme: str, parts: Callable[[Colours], Iterator[str]]) -> str:
    """Parts on the card of the report's page."""
    colours = variables(theme)

    def framed() -> Iterator[str]:
        edges = WIDTH - 1, height - 1
        yield box(0.5, 0.5, *edges, colours["card"], rx=10, stroke=colours["rule"])
        yield from parts(colours)

    return picture(WIDTH, height, theme, framed())


def steps(record: Mapping[str, Any], theme: str) -> str:
    """From models to answers: the files, and the verbs that make one from another."""
    samples = sum(record["samples"].values())
    stages = record["three_stages"]["stages"]
    places = (
        ("models", "your modules,", "timm, estimators;", "labelled images"),
        ("score table", f"for {samples:,} images", "per model: answer,", "confidence, cost"),
        ("result", "the cheapest plan,", "certified for a", "budget"),
        ("cascade", f"{len(stages)} models and the", "thresholds", "between them"),
        ("answers", "prediction,", "confidence, exit", "that answered"),
    )
    verbs = ("score", "search", "build", "run, serve")
    wide, gap, top = 137.0, 23.75, 44.0

    def parts(colours: Colours) -> Iterator[str]:
        for number, (name, *words) in enumerate(places):
            x = EDGE + number * (wide + gap)
            yield card(x, top, wide, 96, colours)
            yield lines(x + 8, top + 24, (name, *words), colours)
        for number, verb in enumerate(verbs):
            x = EDGE + wide + number * (wide + gap)
            middle = {"font_size": SIZE, "font_weight": 600, "text_anchor": "middle"}
            yield arrow(x + 2, top + 48, x + gap - 2, top + 48, colours["best"])
            yield text(x + gap / 2, top - 14, verb, fill=colours["best"], **middle)

    return drawn(top + 96 + EDGE, theme, parts)


def cascade(record: Mapping[str, Any], theme: str) -> str:
    """A certified cascade of three networks: thresholds, shares, costs."""
    plan = record["three_stages"]
    stages, wide, gap, top = plan["stages"], 200.0, 90.0, 62.0
    left = (WIDTH - len(stages) * wide - (len(stages) - 1) * gap) / 2

    def parts(colours: Colours) -> Iterator[str]:
        middle = {"text_anchor": "middle"}
        yield arrow(left + wide / 2, 34, left + wide / 2, top - 4, colours["axis"])
        yield text(
            left + wide / 2, 24, "all images", font_size=SMALL, fill=colours["soft"], **middle
        )
        reached = 1.0
        for number, stage in enumerate(stages):
            x = left + number * (wide + gap)
            threshold = stage["threshold"]
            rule = (
                "accepts what is left"
                if threshold is None
                else f"accepts where p ≥ {threshold:.3f}"
            )
            cost = f"{stage['gmacs']:g} GMACs, runs on {percent(reached)}"
            yield card(x, top, wide, 78, colours)
            yield lines(x + wide / 2, top + 25, (stage["exit"], cost, rule), colours, **middle)
            yield arrow(x + wide / 2, top + 82, x + wide / 2, top + 118, colours["plan"])
            answered = (f"answers {percent(stage['share'])}",)
            yield lines(x + wide / 2, top + 137, answered, colours, fill=colours["plan"], **middle)
            reached -= stage["share"]
            if threshold is not None:
                yield arrow(x + wide + 4, top + 39, x + wide + gap - 4, top + 39, colours["best"])
                at = x + wide + gap / 2
                style = {"font_size": SMALL, "fill": colours["best"]}
                yield text(at, top + 12, "deferred:", **style, **middle)
                yield text(at, top + 28, percent(reached), **style, **middle)
        large = record["reference"]
        words = (
            f"{percent(plan['saving'])} of the MACs of {large} are saved. Accuracy on test: "
            f"{percent(plan['accuracy'])}, {large} alone {percent(plan['reference_accuracy'])}."
        )
        yield text(
            WIDTH / 2, top + 172, minus(words), font_size=SIZE, fill=colours["ink"], **middle
        )

    return drawn(top + 192, theme, parts)


def splits(record: Mapping[str, Any], theme: str) -> str:
    """What each of the three splits is for, as wide as it has samples."""
    counts = record["samples"]
    uses = {
        "tune": ("chooses models and", "thresholds; read as", "often as you like"),
        "certify": ("proves the bound, once: it is counted how often", "the chosen plan loses", ""),
        "test": ("measures the plan", "once; chooses and", "proves nothing"),
    }
    inner, gap, top = WIDTH - 2 * EDGE, 8.0, 24.0
    total = sum(counts[name] for name in uses)
    fills = {"tune": "best", "certify": "plan", "test": "single"}

    def parts(colours: Colours) -> Iterator[str]:
        x = EDGE
        for name, words in uses.items():
            wide = (inner - gap * (len(uses) - 1)) * counts[name] / total
            yield box(x, top, wide, 30, colours[fills[name]], rx=6)
            share = f"{counts[name]:,} images"
            yield lines(x, top + 52, (name, share, *words), colours)
            x += wide + gap

    return drawn(top + 52 + 4 * 19 + EDGE, theme, parts)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    INTO.mkdir(exist_ok=True)
    for draw in (steps, cascade, splits):
        for theme in ("light", "dark"):
            file = INTO / f"{draw.__name__}-{theme}.svg"
            file.write_text(draw(record, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
