"""The report as it looks: measured in a browser, and the contrast of its colours."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import browser
import chromium
from understudy import chart_layout
from understudy.app.report import drawing
from understudy.app.report.page import render
from understudy.app.report.pairs_map import SHADES
from understudy.app.report.record import Report
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.search import search, search_in_sample
from understudy.sitting import Sitting

GOLD = Path(__file__).parent.parent / "gold" / "report_result.json"
STYLES = ("page.css", "table.css")
CSS = "".join((Path(drawing.__file__).parent / name).read_text(encoding="utf-8") for name in STYLES)
SCHEMES = chromium.colour_schemes(CSS)
MANY_CONFIDENCES = ("margin", "energy", "a_confidence_with_a_long_name.of_ours")
LONG = "vit_{}_patch16_clip_384.laion2b_ft_in12k_in1k"
MEASURE = """
function measure(page) {
  const box = element => { const b = element.getBoundingClientRect();
    return [b.left, b.top, b.right, b.bottom]; };
  const shown = element => element.getClientRects().length > 0;
  const drawn = [...page.querySelectorAll('svg.chart')].filter(shown);
  return {
    sideways: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    charts: drawn.map(svg => ({
      about: svg.getAttribute('aria-label'), box: box(svg),
      scale: svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
      texts: [...svg.querySelectorAll('text')].map(text => [text.textContent, box(text)]),
      shapes: [...svg.querySelectorAll('path')].map(box),
    })),
    cards: [...page.querySelectorAll('.plan *, header *, nav *')].filter(
      one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth).map(one => one.outerHTML),
    tables: [...page.querySelectorAll('.scroll')].map(one => [
      one.scrollWidth > one.clientWidth,
      page.defaultView.getComputedStyle(one).backgroundAttachment]),
  };
}
"""


def table(names: list[str], *, labels: bool = True) -> ScoreTable:
    """Exits that are the better the dearer, many of them alike."""
    rng = np.random.default_rng(len(names))
    truth, hard = rng.integers(0, 5, 1500), rng.random(1500)
    rows, costs = {}, {}
    for number, name in enumerate(names):
        sure = np.clip(1.3 - hard * (1.2 - 0.9 * number / len(names)), 0.05, 1.0)
        right = rng.random(1500) < sure
        noisy = {name: sure + rng.normal(0, 0.2, 1500) for name in MANY_CONFIDENCES}
        rows[name] = (np.where(right, truth, (truth + 1) % 5), {"max_softmax": sure, **noisy})
        costs[name] = 1e6 * 3.0 ** (8 * number / len(names))
    return ScoreTable.from_predictions(rows, truth if labels else None, costs=costs)


def timed(names: list[str]) -> ScoreTable:
    """The same with times in two units, one of which hardly knows what is cheap."""
    plain = table(names)
    costs = plain.costs["MACs"]
    times = {"ms@1": {n: 1 + c**0.1 for n, c in costs.items()}, "ms@64": dict(costs)}
    sittings = [
        Sitting(
            unit, "2026-01-01T00:00:00", "cpu", 2, 2, 0.0, 1.0, 9, medians,
            *({n: scale * time for n, time in medians.items()} for scale in (0.8, 1.3)),
        )
        for unit, medians in times.items()
    ]  # fmt: skip
    return replace(plain, times=times, sittings=tuple(sittings))


def page_of(result: Result, scores: ScoreTable) -> str:
    return render(Report(result, "result.json"), table=result.with_fitted(scores))


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """One budget and five, many long names, none that is short, no labels, in-sample, times; a map
    of as many models as have names."""
    few = timed(["tiny", "middle", "big"])
    many = timed([LONG.format(number) for number in range(21)])
    odd = table(["a" * 60, "日本語のモデル", "W" * 30], labels=False)
    crowd = table([LONG.format(number) for number in range(62)])
    plain: dict[str, Any] = {"confidence": "max_softmax", "without": ("ensembles", "chains")}
    return [
        page_of(search(few, max_drop=2.0, unit="MACs"), few),
        page_of(search(many, max_drop=[-20.0, 0.5, 1.0, 2.0, 30.0], unit="MACs"), many),
        page_of(search(odd, max_drop=3.0), odd),
        page_of(search_in_sample(few, max_drop=[0.0, 5.0], unit="MACs"), few),
        page_of(search(crowd, max_drop=1.0, **plain), crowd),
        render(Report(search(few, max_drop=2.0, unit="MACs"), "result.json")),
    ]


def overlapping(boxes: list[Any]) -> list[tuple[str, str]]:
    """Texts that cover one another by more than a pixel."""
    return [
        (one, other)
        for number, (one, a) in enumerate(boxes)
        for other, b in boxes[:number]
        if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_labels_are_whole_and_apart_in_a_browser(
    pages: list[str], width: int, tmp_path: Path
) -> None:
    measurements = chromium.measured(pages, MEASURE, width=width, folder=tmp_path)
    for found in measurements:
        assert found["sideways"] <= 0
        assert len(found["charts"]) >= 2
        if found is not measurements[-1]:
            assert any("beside the diagonal" in drawn["about"] for drawn in found["charts"])
        for drawn in found["charts"]:
            left, top, right, bottom = drawn["box"]
            for what, box in (*drawn["texts"], *(("shape", box) for box in drawn["shapes"])):
                assert box[0] >= left - 1, what
                assert box[1] >= top - 1, what
                assert box[2] <= right + 1, what
                assert box[3] <= bottom + 1, what
            for text, box in drawn["texts"]:
                assert (box[2] - box[0]) / drawn["scale"] <= chart_layout.text_width(text) + 1, text
            assert not overlapping(drawn["texts"]), drawn["about"]
        assert not found["cards"]
        assert width > 375 or any(wide for wide, _ in found["tables"])
        assert all("local" in cue and "scroll" in cue for _, cue in found["tables"])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme: int) -> None:
    colours = {name: pair[scheme] for name, pair in SCHEMES.items()}
    for ground in ("ground", "card"):
        for text in ("ink", "soft", "accent"):
            assert chromium.contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for shape in (
        *("best", "plan", "single", "budget", "random", "oracle", "axis", "line2", "line3"),
    ):
        assert chromium.contrast(colours[shape], colours["card"]) >= 3, shape
    for pair in chart_layout.shades(21):
        assert chromium.contrast(pair[scheme], colours["card"]) >= 3, pair
    assert chromium.contrast("#ffffff", colours["alarm"]) >= 4.5
    for shade in range(1, len(SHADES)):
        cell = colours[f"heat{shade}"]
        assert chromium.contrast(colours[f"on{shade}"], cell) >= 4.5, shade
        assert chromium.contrast(cell, colours[f"heat{shade - 1}"]) >= 1.2, shade


def test_every_colour_follows_the_scheme() -> None:
    """Shapes have classes for colours; the style sheet has them all, for light and for dark."""
    assert set(re.findall(r"var\(--(\w+)\)", CSS)) <= set(SCHEMES)
    few = timed(["tiny", "middle", "big"])
    page = page_of(search(few, max_drop=30.0, unit="MACs", confidence="max_softmax"), few)
    style, body = page.split("<body>")
    assert not re.findall(r'"#[0-9a-f]{3,6}\b', body.replace('href="#', ""))
    classes = set(re.findall(r'class="(?:swatch )?(c-\w+|x\d+)', body))
    assert len(classes) > 16
    assert all(f".{name} {{ color: " in style for name in classes)


COPY = """
function measure(page) {
  const selection = page.defaultView.getSelection();
  return [...page.querySelectorAll('.next code')].map(code => {
    selection.selectAllChildren(code);
    const lines = [...code.children].map(word => word.getClientRects().length);
    const high = [...code.children].filter(word => word.clientHeight > 30);
    return [selection.toString(), lines, high.map(word => word.textContent)];
  });
}
"""


@pytest.mark.slow
def test_commands_are_broken_between_words_and_copied_whole(tmp_path: Path) -> None:
    path = "some/long-folder/with-hyphens/of-a-result/result.json"
    report = Report(search(table(["tiny", "middle", "big"]), max_drop=[2.0, 3.0, 5.0]), path)
    [found] = chromium.measured([render(report)], COPY, width=375, folder=tmp_path)
    assert [text for text, _, _ in found] == [
        report.next_step(choice) for choice in report.result.choices if report.next_step(choice)
    ]
    for _, lines, high in found:
        assert set(lines) == {1}
        assert set(high) <= {path}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(375, True), (1280, False)])
def test_axe_finds_nothing(
    pages: list[str], axe: str, width: int, dark: bool, tmp_path: Path
) -> None:
    with browser.chromium(tmp_path) as page:
        for number, text in enumerate(pages[:3]):
            file = tmp_path / f"{number}.html"
            file.write_text(text, encoding="utf-8")
            page.open(file.as_uri(), width=width, dark=dark)
            page.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            assert page.violations(axe) == []
        assert page.errors == []
