"""The slider of the report in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import browser
from browser import Page
from understudy import Result, ScoreTable, search
from understudy.chart_layout import Axis
from understudy.searching.search import search_in_sample
from understudy.split import SHARES_OF_FEW, SHARES_OF_MANY

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='hacked'\">" + 60 * "x"
SHOWN = """(() => {
  const fields = [...document.querySelectorAll('#steps [data-text]')];
  return {
    texts: Object.fromEntries(fields.map(one => [one.dataset.text, one.textContent])),
    spoken: document.querySelector('#step').getAttribute('aria-valuetext'),
    stages: [...document.querySelectorAll('.stages li')].map(
      one => ['.exit', '.rule', 'strong'].map(part => one.querySelector(part).textContent)),
    widths: [...document.querySelectorAll('#steps .stack i')].map(
      one => Number(one.style.flexGrow)),
    classes: [...document.querySelectorAll('.lost li')].map(
      one => [one.querySelector('span').textContent, one.querySelector('strong').textContent]),
    lost: document.querySelector('.lost')?.checkVisibility({visibilityProperty: true}) ?? false,
    markers: [...document.querySelectorAll('svg[data-x]')].map(chart => {
      const mark = chart.querySelector('g.here'), inside = chart.querySelector('g.here .core');
      return [chart.dataset.x, chart.dataset.y, mark.style.display, mark.getAttribute('transform'),
        inside.style.display]; }),
  }; })()"""


def table(first: str = "tiny", **options: Any) -> ScoreTable:
    """Exits over a wide range of costs; the dearer the better."""
    rng = np.random.default_rng(7)
    names = [first, "small", "middle", "vit_large_patch16_clip_384.laion2b_ft_in12k_in1k"]
    truth, hard = rng.integers(0, 5, 2000), rng.random(2000)
    rows = {}
    for number, name in enumerate(names):
        sure = np.clip(1.3 - hard * (1.1 - 0.25 * number), 0.05, 1.0)
        rows[name] = (np.where(rng.random(2000) < sure, truth, (truth + 1) % 5), sure)
    costs = {name: 1e6 * 8.0**number for number, name in enumerate(names)}
    return ScoreTable.from_predictions(
        rows, options.pop("labels", truth), costs=costs, split=options.pop("split", SHARES_OF_MANY)
    )


def searched(case: str) -> tuple[Result, ScoreTable]:
    if case == "in-sample":
        return search_in_sample(table(), max_drop=[1.0, 3.0], at_most_stages=2), table()
    if case == "one budget":
        few = table(split=SHARES_OF_FEW)
        return search(few, max_drop=3.0), few
    if case == "no labels":
        bare = table(labels=None)
        return search(bare, max_drop=9.0), bare
    hostile = table(HOSTILE)
    return search(hostile, max_drop=[1.0, 3.0, 6.0]), hostile


CASES = ("three budgets", "one budget", "in-sample", "no labels")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for case in CASES:
        result, scores = searched(case)
        found[case] = result.report(folder / f"{case}.html", table=scores)
    return found


def data_of(file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    [found] = re.findall(r'id="steps-data">(.*?)</script>', text, re.S)
    data: dict[str, Any] = json.loads(found)
    return data


def axis_of(text: str) -> Axis:
    low, high, length, *scale = text.split(" ")
    return Axis(float(low), float(high), float(length), scale == ["log"])


def move_to(page: Page, step: int) -> None:
    page.run(
        f"(() => {{ const one = document.querySelector('#step'); one.value = {step};"
        "one.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def check_shown(page: Page, data: dict[str, Any], budget: int, number: int) -> None:
    """All that is shown is the step of the data; the marker is where its cost and drop are."""
    step, shown = data["budgets"][budget]["steps"][number], page.run(SHOWN)
    assert shown["texts"] == {k: v for k, v in step["texts"].items() if k != "spoken"}
    assert shown["spoken"] == step["texts"]["spoken"]
    assert shown["stages"] == [
        [data["exits"][exit]["name"], rule, percent] for exit, rule, _, percent in step["stages"]
    ]
    assert shown["widths"] == pytest.approx([share for _, _, share, _ in step["stages"]], rel=1e-4)
    assert shown["classes"] == [[f"{one[0]} {one[1]}", one[2]] for one in step["classes"]]
    assert shown["lost"] is bool(step["classes"])
    assert len(shown["markers"]) >= 2
    for across, up, display, transform, core in shown["markers"]:
        x, y = axis_of(across), axis_of(up)
        inside = x.holds(step["cost"]) and y.holds(-step["drop"])
        assert (display == "") == inside
        assert (core == "") == step["proved"]
        left, top = (float(one) for one in re.findall(r"[-\d.]+", transform))
        assert left == pytest.approx(x.pixel(step["cost"]), abs=0.06)
        assert top == pytest.approx(y.length - y.pixel(-step["drop"]), abs=0.06)


@pytest.mark.parametrize("case", CASES)
def test_every_position_shows_its_step(page: Page, files: dict[str, Path], case: str) -> None:
    data = data_of(files[case])
    page.errors.clear()
    page.open(files[case].as_uri())
    for budget, path in enumerate(data["budgets"]):
        if len(data["budgets"]) > 1:
            page.run(f"document.querySelectorAll('[name=budget]')[{budget}].click()")
        assert page.run("document.querySelector('#step').valueAsNumber") == path["start"]
        last = len(path["steps"]) - 1
        assert page.run("Number(document.querySelector('#step').max)") == last
        check_shown(page, data, budget, path["start"])
        for number in sorted({0, last // 3, min(path["start"] + 1, last), last}):
            move_to(page, number)
            check_shown(page, data, budget, number)
    assert "hacked" not in page.run("document.title")
    assert page.errors == []


def test_keys_move_the_slider_and_choose_the_budget(page: Page, files: dict[str, Path]) -> None:
    data = data_of(files["three budgets"])
    page.open(files["three budgets"].as_uri())
    page.run("document.querySelector('#step').focus()")
    start, last = data["budgets"][0]["start"], len(data["budgets"][0]["steps"]) - 1
    for key, number in (
        ("ArrowRight", start + 1),
        ("ArrowLeft", start),
        ("End", last),
        ("Home", 0),
    ):
        page.key(key)
        check_shown(page, data, 0, number)
    page.run("document.querySelector('[name=budget]').focus()")
    page.key("ArrowRight")
    check_shown(page, data, 1, data["budgets"][1]["start"])


def test_only_a_change_of_the_proof_is_announced(page: Page, files: dict[str, Path]) -> None:
    data = data_of(files["three budgets"])["budgets"][0]
    page.open(files["three budgets"].as_uri())
    page.run(
        "window.changes = 0; new MutationObserver(all => window.changes += all.length)"
        ".observe(document.querySelector('#step-news'), {childList: true, subtree: true})"
    )
    rest = "new Promise(done => setTimeout(done, 900))"
    for number in (data["start"], len(data["steps"]) - 2, len(data["steps"]) - 1):
        move_to(page, number)
    page.run(rest)
    assert page.run("window.changes") == 1
    move_to(page, len(data["steps"]) - 2)
    page.run(rest)
    assert page.run("window.changes") == 1
    assert page.text("#step-news").startswith("not certified")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(
    page: Page, files: dict[str, Path], case: str, dark: bool
) -> None:
    page.open(files[case].as_uri(), width=375, dark=dark)
    steps = len(data_of(files[case])["budgets"][0]["steps"])
    for number in (0, steps - 1):
        move_to(page, number)
        sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.run(sideways) <= 0
        cut = page.run(
            "[...document.querySelectorAll('.slider *')].filter(one => one.clientWidth && "
            "!one.closest('.unseen') && one.scrollWidth > one.clientWidth + 1)"
            ".map(one => one.outerHTML)"
        )
        assert cut == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_nothing(
    page: Page, files: dict[str, Path], axe: str, case: str, width: int
) -> None:
    page.send("Page.setBypassCSP", enabled=True)
    page.open(files[case].as_uri(), width=width, dark=width == 375)
    try:
        move_to(page, 0)
        assert page.violations(axe) == []
    finally:
        page.send("Page.setBypassCSP", enabled=False)


@pytest.mark.parametrize("case", CASES)
def test_without_script_a_table_takes_its_place(
    page: Page, files: dict[str, Path], case: str
) -> None:
    seen = (
        "['.slider', '.few table', 'li.here'].map("
        "one => document.querySelector(one).getClientRects().length > 0)"
    )
    page.open(files[case].as_uri())
    assert page.run(seen) == [True, False, True]
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.run(seen) == [False, True, False]
    page.send("Emulation.setEmulatedMedia", media="")
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(files[case].as_uri())
        assert page.run(seen) == [False, True, False]
        assert 4 <= page.run("document.querySelectorAll('.few tbody tr').length") <= 3 * 14
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
