"""`understudy report`: the record, the page, the verb."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import date
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from typer.testing import CliRunner

from understudy import display
from understudy.app.bench_result import EXECUTOR, IDEAL, LARGE, LITTLE, NAIVE, Bench, ClientLoad
from understudy.app.cli import report as report_verb
from understudy.app.report.page import render, write_report
from understudy.app.report.path_steps import budget_paths
from understudy.app.report.record import DRAWN_POINTS, Report
from understudy.app.report.slider import Slider
from understudy.app.report.words import minus
from understudy.chart_layout import Axis, Mark, place, spread, text_width, wrapped
from understudy.errors import TableError, UnderstudyError
from understudy.outcome import Outcome
from understudy.result import Choice, Result
from understudy.scores import ScoreTable
from understudy.searching.search import search, search_in_sample
from understudy.split import SHARES_OF_FEW, SHARES_OF_MANY
from understudy.store import save_table

GOLD = Path(__file__).parent.parent / "gold"
HOSTILE = '<b>&"x'
VOID = {"meta", "link", "br", "wbr", "path", "circle", "line", "rect", "input"}


def random_table(
    exits: int = 3,
    samples: int = 1500,
    *,
    labels: bool = True,
    first: str = "exit0",
    split: Mapping[str, float] = SHARES_OF_MANY,
) -> ScoreTable:
    """Exits that are the better the dearer, with confidences that know something."""
    rng = np.random.default_rng(exits)
    truth, hard = rng.integers(0, 5, samples), rng.random(samples)
    rows, costs = {}, {}
    for number in range(exits):
        sure = np.clip(1.3 - hard * (1.2 - 0.7 * number / exits), 0.05, 1.0)
        right = rng.random(samples) < sure
        name = first if number == 0 else f"exit{number}"
        noisy = np.clip(sure + rng.normal(0, 0.05, samples), 0, 1)
        rows[name] = (np.where(right, truth, (truth + 1) % 5), noisy)
        costs[name] = 1e6 * 3.0 ** (8 * number / exits)
    return ScoreTable.from_predictions(rows, truth if labels else None, costs=costs, split=split)


@pytest.fixture(scope="module")
def result() -> Result:
    return search(random_table(first=HOSTILE), max_drop=[2.0, 5.0])


@pytest.fixture(scope="module")
def page(result: Result) -> str:
    return render(Report(result))


class Page(HTMLParser):
    """What a page is made of; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.setdefault(tag, []).append("")
        if tag not in VOID or self.open[-1:] == ["g"]:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        for tag in self.open:
            self.inside[tag][-1] += data

    def text_of(self, tag: str) -> list[str]:
        """The text in each element of a kind, as it is copied."""
        return self.inside.get(tag, [])

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_speed_is_told_where_it_was_measured(result: Result) -> None:
    names = (LARGE, LITTLE, NAIVE, EXECUTOR, IDEAL)
    seconds = {name: (2.0 + number, 1.0 + number) for number, name in enumerate(names)}
    load = ClientLoad(7, 100, (1.0,), {"p50": 1.0, "p95": 2.0, "p99": 3.25})
    right, memory = dict.fromkeys((LARGE, LITTLE, EXECUTOR), 0.875), {EXECUTOR: 3 * 2**30}
    bench = Bench(
        1234,
        64,
        seconds,
        {"tiny": 1234, HOSTILE: 9},
        HOSTILE,
        {EXECUTOR: load},
        (1.0,),
        right,
        memory,
    )
    page = render(Report(result), bench)
    words = Page(page).words()
    assert "1,234 images in batches of 64" in words
    assert "executor, 7" in words
    assert "3.2 ms" in words
    assert "87.5 %" in words
    assert "3,072 MiB" in words
    assert f"use {HOSTILE} alone" in words
    assert page.count(">How fast it runs</h2>") == 1
    assert "How fast it runs" not in render(Report(result))


def measured(split: str, outcome: Outcome, unit: str) -> dict[str, Any]:
    return {
        "split": split,
        "samples": outcome.samples,
        "cost": outcome.cost[unit],
        "saving": outcome.saving[unit],
        "accuracy": outcome.accuracy,
        "drop": outcome.drop,
        "interval": list(outcome.drop_interval),
    }


def plan_figures(choice: Choice, result: Result) -> dict[str, Any]:
    proof = choice.certificate
    assert proof is not None
    names = ("kind", "falls_back", "samples", "losses", "gains", "p_value", "delta")
    return {
        "max_drop": choice.max_drop,
        "exits": list(choice.policy.exits),
        "words": choice.policy.describe(),
        "verdict": choice.verdict,
        "main": measured(result.measured_on, choice.outcome, result.unit),
        "on": [measured(split, outcome, result.unit) for split, outcome in choice.on.items()],
        "shares": choice.outcome.shares,
        "baselines": asdict(choice.baselines),
        "proof": {
            "words": proof.words(),
            **{name: getattr(proof, name) for name in names},
            "proved": len(proof.path),
            **{name: getattr(proof, name) for name in ("steps", "samples_needed", "looks")},
        },
    }


def figures(report: Report) -> dict[str, Any]:
    """Everything that the page shows."""
    result, split = report.result, report.result.measured_on
    names = ("unit", "reference", "delta", "in_sample", "searched_on", "measured_on")
    return {
        **{name: getattr(report, name) for name in ("title", "lead", "measure")},
        **{name: getattr(result, name) for name in names},
        "plans": [plan_figures(choice, result) for choice in result.choices],
        "singles": [
            {
                "name": one.name,
                "main": measured(split, one.on[split], result.unit),
                "planned": one.name in report.planned,
                "on_frontier": one.name in report.on_frontier,
                "origin": report.origins.get(one.name, {}),
            }
            for one in result.singles
        ],
        "frontier": report.frontier,
        "found": len(result.frontier),
        "difficulty": None if result.difficulty is None else asdict(result.difficulty),
        "gain_step": report.gain_step,
        "published": [
            {
                "rule": one.rule,
                "max_drop": one.max_drop,
                "exits": list(one.policy.exits),
                "main": measured(split, one.outcome, result.unit),
            }
            for one in result.published
        ],
        "worst": [
            {
                "max_drop": choice.max_drop,
                "name": gap.name,
                "samples": gap.samples,
                "drop": gap.drop,
                "interval": gap.interval,
            }
            for choice, gap in report.worst_classes
        ],
        "provenance": report.provenance,
        "version": "scrubbed",
    }


def test_the_report_agrees_with_the_result(result: Result, page: str) -> None:
    report = Report(result)
    assert [choice.max_drop for choice in result.choices] == [2.0, 5.0]
    assert result.measured_on == "test"
    text = Page(page).words()
    for choice in result.choices:
        assert f"{choice.outcome.drop:+.2f}".replace("-", "\N{MINUS SIGN}") in text
        assert f"{100 * choice.outcome.saving['MACs']:.1f} %" in text
        assert list(choice.on) == ["tune", "certify", "test"]
        assert choice.certificate is not None
        assert choice.certificate.words() in text
    assert list(report.singles) == [single.name for single in result.singles]
    assert report.by_importance[0] == result.reference
    assert result.singles[-1].on["test"].drop_interval == (0.0, 0.0)
    assert dict(report.provenance)["table hash"] == result.table["hash"]


def test_the_frontier_is_thinned_for_drawing_and_keeps_its_ends(result: Result) -> None:
    points = tuple(result.frontier.points[0:1] * 1000) + tuple(result.frontier.points[-1:])
    report = Report(replace(result, frontier=replace(result.frontier, points=points)))
    assert len(report.frontier) == DRAWN_POINTS
    assert len(report.result.frontier) == 1001
    assert report.frontier[-1] == (points[-1].cost, points[-1].drop)


def test_the_figures_are_as_they_were(tmp_path: Path) -> None:
    report = Report(Result.load(GOLD / "report_result.json"))
    assert report.version
    found = json.dumps(figures(report), indent=1, ensure_ascii=False) + "\n"
    (tmp_path / "report.json").write_text(found, encoding="utf-8")
    expected = (GOLD / "report.json").read_text(encoding="utf-8")
    assert found == expected, f"if the change is meant, copy {tmp_path / 'report.json'} to {GOLD}"


def test_the_steps_are_as_they_were(tmp_path: Path) -> None:
    table = random_table()
    result = search(table, max_drop=[2.0, 5.0], confidence="max_softmax")
    slider = Slider(Report(result), budget_paths(result, table))
    shown = [[slider.budget(p), [s.number for s in slider.few(p)]] for p in slider.paths]
    steps = [
        [
            [budget["steps"][step.number][key] for key in ("texts", "classes")]
            for step in slider.few(path)
        ]
        for path, budget in zip(slider.paths, slider.budgets, strict=True)
    ]
    found = json.dumps({"few": shown, "steps": steps}, indent=1, ensure_ascii=False) + "\n"
    (tmp_path / "report_steps.json").write_text(found, encoding="utf-8")
    expected = (GOLD / "report_steps.json").read_text(encoding="utf-8")
    assert found == expected, f"if meant, copy {tmp_path / 'report_steps.json'} to {GOLD}"


def test_the_page_nests_and_can_be_read_aloud(page: str) -> None:
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("h1") == 1
    assert tags.count("main") == 1
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
        if tag == "th":
            assert attributes.get("scope") in {"row", "col", "colgroup"}
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
    assert tags.count("svg") > 8


def test_every_header_has_words_and_lists_are_folded(page: str) -> None:
    assert not re.findall(r"<(th|h\d|dt|dd|li|a|summary)\b[^>]*>\s*</", page)
    folded = page[page.index("<details") : page.rindex("</details>")]
    assert "table hash" in folded
    assert "open" not in re.findall(r"<details[^>]*>", page)[0]


def test_the_contents_list_every_section(page: str) -> None:
    headings = re.findall(r'<h2 id="([\w-]+)">(.+?)</h2>', page)
    assert re.findall(r'<li><a href="#([\w-]+)">(.+?)</a></li>', page) == headings
    assert len(headings) > 5


def test_all_is_in_landmarks_that_differ(page: str) -> None:
    """axe's rules region, landmark-unique, svg-img-alt and scrollable-region-focusable."""
    parsed = Page(page).tags
    body = page[page.index("<body>") + 6 : page.index("</body>")].strip()
    assert re.fullmatch(r"<header>.*</header>\s*<main>.*</main>\s*<footer>.*</footer>", body, re.S)
    names = [a["aria-labelledby"] for tag, a in parsed if tag == "section"]
    assert len(names) == len(set(names)) > 5
    assert {a.get("role") for _, a in parsed} <= {None, "img", "group"}
    for tag, attributes in parsed:
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes["aria-hidden"] == "true"
            assert attributes.get("aria-label") or "role" not in attributes
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"


def test_cards_have_the_figures_and_what_comes_next(result: Result, page: str) -> None:
    cards = re.findall(r"<article.*?</article>", page, re.S)
    for choice, card in zip(result.choices, cards, strict=True):
        words, outcome = Page(card).words(), choice.outcome
        assert f"accuracy {display.percent(outcome.accuracy)} reference " in words
        assert f"reference {display.percent(outcome.reference_accuracy)}" in words
        assert f"at most {choice.max_drop:g} points of accuracy lost" in words
        assert f"next build(result, models, max_drop={choice.max_drop:g})" in words


def test_the_time_saved_is_on_the_card() -> None:
    table = random_table()
    timed = replace(table, times={"ms@8": {name: 1.0 + n for n, name in enumerate(table.names)}})
    result = search(timed, max_drop=5.0)
    saved = display.percent(result.choices[0].outcome.saving["ms@8"])
    assert minus(f"time saved {saved} ms@8") in Page(render(Report(result))).words()


def test_the_next_command_builds_from_the_file(result: Result) -> None:
    page = render(Report(result, "my -1 results.json"))
    words = Page(page).words()
    assert "understudy build 'my -1 results.json' --max-drop 5 --into cascade --model" in words
    assert f"--model '{HOSTILE}=SPEC'" in words
    singles = tuple(replace(one, origin={"spec": "py:nets:make"}) for one in result.singles)
    known = Page(render(Report(replace(result, singles=singles), "r.json"))).words()
    assert "understudy build r.json --max-drop 2 --into cascade --allow-code nets" in known
    assert "build(result" not in words + known


def test_there_is_one_kind_of_minus() -> None:
    page = render(Report(search(random_table(), max_drop=-5.0)))
    words = re.sub(r"<code>.*?</code>|<style>.*?</style>", "", page, flags=re.S)
    assert not re.findall(r"(?<![\w.)-])-\d[^<]{0,9}", " ".join(Page(words).text))
    assert "at least 5 points of accuracy gained" in Page(page).words()


def test_provenance_is_in_words(result: Result) -> None:
    runs = [{"exits": ["a"], "compiled": False, "libraries": {"torch": "2.6"}, "seed": None}]
    table = {**result.table, "provenance": {"runs": runs, "corrupt": {"count": 0, "ids": []}}}
    words = Page(render(Report(replace(result, table=table)))).words()
    assert "runs exits a, compiled no, libraries torch 2.6" in words
    assert not re.findall(r"\{'|\['|None|True|False", words)


def test_the_page_stands_alone(page: str) -> None:
    allowed = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) <= set(allowed)
    tags = {tag for tag, _ in Page(page).tags}
    assert not tags & {"script", "img", "iframe", "object", "image", "use"}
    assert "@import" not in page
    assert "url(" not in page
    assert len(page.encode()) < 300_000


def test_hostile_names_are_escaped(page: str) -> None:
    assert "<b>" not in page
    assert HOSTILE in Page(page).words()


def test_the_same_result_gives_the_same_bytes(result: Result, page: str) -> None:
    assert render(Report(result)) == page


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "result.json")
    code = (
        "import sys; from understudy.result import Result;"
        "from understudy.app.report.page import write_report;"
        "from datetime import date;"
        "write_report(Result.load(sys.argv[1]), sys.argv[2], made=date(2026, 1, 2))"
    )
    paths = [str(tmp_path / "result.json"), str(tmp_path / "report.html")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    written = Path(paths[1]).read_text(encoding="utf-8")
    assert written == render(Report(result, made=date(2026, 1, 2)))


def test_in_sample_is_said_loudly() -> None:
    words = Page(render(Report(search_in_sample(random_table(), max_drop=1.0)))).words()
    assert "In-sample. Chosen and measured on the same samples" in words
    assert "No certificate" in words


def test_a_fall_back_says_that_no_cascade_pays() -> None:
    result = search(random_table(), max_drop=-5.0)
    parsed = Page(render(Report(result)))
    assert f"A cascade does not pay here: use {result.reference}" in parsed.words()
    assert "h-against" not in {attributes.get("id") for _, attributes in parsed.tags}


def test_too_few_samples_are_no_fault_of_the_models() -> None:
    result = search(random_table(samples=60), reference="exit2", max_drop=0.1)
    words = Page(render(Report(result))).words()
    assert "Too few samples to certify a cascade for exit2" in words
    assert "A cascade does not pay" not in words


def test_without_a_test_split_it_says_where_figures_come_from() -> None:
    result = search(random_table(split=SHARES_OF_FEW), max_drop=[2.0, 5.0])
    words = Page(render(Report(result))).words()
    assert "measured on the same 1,208, the samples that decided: slightly optimistic." in words
    assert "measured on certify (the samples that decided: slightly optimistic)" in words
    assert "From tune to certify" in words
    assert "on test" not in words


def test_every_guarantee_has_its_probability(result: Result, page: str) -> None:
    words = Page(page).words()
    for choice in result.choices:
        assert choice.certificate is not None
        least = display.least_percent(choice.certificate.saving_bounds["MACs"])
        assert f"of MACs saved, certified: at least {least}" in words
        assert f"certified drop ≤ {choice.max_drop:g} with probability 0.95" in words
    assert "hese are 2 guarantees, which hold all at once with probability 0.9 at the" in words


def test_without_labels_it_speaks_of_agreement() -> None:
    result = search(random_table(labels=False), max_drop=[3.0, 20.0])
    assert result.choices[0].on["tune"].drop_interval[0] < 0
    words = Page(render(Report(result))).words().partition("understudy report")[2]
    assert "There were no labels: the answers of exit2 are taken as the truth" in words
    for part in (
        "at most 3 points of disagreement",
        "certified disagreement ≤ 20 with probability 0.95",
        "85 90 95 100 agreement with exit2, % mean MACs",
        "0 5 10 15 20 ≤ 3 ≤ 20 budget disagreement in points",
        "deferring by who agrees with exit2",
        "≤ 20, test budget, samples disagreement in points",
        "budget tune 292 samples certify 902 samples test 306 samples "
        "disagreement saving disagreement saving disagreement saving ≤ 3 1.37 [0.00, 3.47]",
        "By how many exits answer as exit2, % exits that agree 3 of 3",
    ):
        assert part in words
    assert not re.search(r"\bdrops?\b(?! \d)|[+−]\d+\.\d\d\b", without_commands(words))
    assert not re.search(r"\b(right|accuracy)\b", words)


def without_commands(words: str) -> str:
    """The words of a page less the names of options and what points per cost are."""
    gains = re.compile(r"Points of agreement that a further.*?By how many")
    return gains.sub("", words.replace("--max-drop", ""))


def test_a_disagreement_on_a_chart_is_never_below_nothing() -> None:
    result = search(random_table(labels=False), max_drop=[0.5, 3.0])
    for text in re.findall(r">([−+]\d[\d.]*|10[1-9]|100\.\d+)</text>", render(Report(result))):
        pytest.fail(f"a tick at {text}")


def test_commands_are_broken_between_their_words_alone(result: Result) -> None:
    report = Report(result, "r.json")
    page = render(report)
    for choice in result.choices:
        command = report.next_step(choice)
        assert command is not None
        words = (f"<span>{escape(word)}</span>" for word in command.split(" "))
        assert f"<code>{' '.join(words)}</code>" in page
        assert command in Page(page).text_of("code")
    assert "-<wbr>" not in re.sub(r"\w-<wbr>", "", page)


@pytest.mark.slow
def test_forty_exits_fit_on_a_page() -> None:
    page = render(Report(search(random_table(40, 400), max_drop=5.0)))
    Page(page)
    assert len(page.encode()) < 300_000


def test_a_sample_per_tenth_is_enough() -> None:
    result = search_in_sample(random_table(2, 10), max_drop=5.0)
    assert result.difficulty is not None
    assert {row.samples for row in result.difficulty.by_confidence} == {1}
    assert "exit1" in render(Report(result))


def test_a_result_without_difficulty_has_no_such_section(result: Result) -> None:
    assert "h-difficulty" not in render(Report(replace(result, difficulty=None)))


def test_the_verb_writes_the_page(result: Result, page: str, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_verb.report)
    result.save(tmp_path / "result.json")
    out = tmp_path / "new" / "report.html"
    called = CliRunner().invoke(app, [str(tmp_path / "result.json"), "--out", str(out), "--json"])
    assert called.exit_code == 0, called.output
    written = out.read_text(encoding="utf-8")
    assert json.loads(called.output) == {"report": str(out), "bytes": len(written.encode())}
    assert f'<time datetime="{date.today()}">' in written
    assert written == render(Report(result, str(tmp_path / "result.json"), date.today()))


def test_a_notebook_writes_the_page_from_the_result(result: Result, tmp_path: Path) -> None:
    path = result.report(tmp_path / "r.html")
    assert path == tmp_path / "r.html"
    assert path.read_text(encoding="utf-8") == render(Report(result, made=date.today()))


def test_a_table_adds_the_slider_and_another_one_is_refused(
    result: Result, page: str, tmp_path: Path
) -> None:
    table = random_table(first=HOSTILE)
    whole = result.report(tmp_path / "r.html", table=table).read_text(encoding="utf-8")
    assert 'id="h-steps"' in whole
    assert "h-steps" not in page
    assert "<script" not in page
    assert "With the table ( --table TABLE , in Python" in Page(page).words()
    assert "With the table ( --table" not in Page(whole).words()
    with pytest.raises(TableError, match="searched on, the table has another hash"):
        result.report(tmp_path / "r.html", table=random_table())


def test_the_verb_takes_the_table(result: Result, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_verb.report)
    result.save(tmp_path / "result.json")
    save_table(random_table(first=HOSTILE), tmp_path / "table")
    out = tmp_path / "report.html"
    words = [str(tmp_path / "result.json"), "--table", str(tmp_path / "table"), "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert 'id="h-steps"' in out.read_text(encoding="utf-8")


def test_only_its_own_script_may_run_on_the_page(result: Result, tmp_path: Path) -> None:
    table = random_table(first="</script><script>alert(1)</script>")
    found = search(table, max_drop=2.0)
    page = found.report(tmp_path / "r.html", table=table).read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    hashes = re.findall(r"'sha256-([^']+)'", page)
    digests = [b64encode(sha256(one.encode()).digest()).decode() for one in scripts]
    assert hashes == digests
    assert len(digests) == 1
    assert "'unsafe-inline'" not in page[page.index("script-src") :].partition('"')[0]
    assert not re.findall(r"\son\w+=", page)
    [data] = re.findall(r'<script type="application/json" id="steps-data">(.*?)</script>', page)
    assert json.loads(data)["exits"][0]["name"] == "</script><script>alert(1)</script>"
    Page(page)


def test_a_path_that_cannot_be_written_is_one_sentence(result: Result, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnderstudyError, match="cannot be written"):
        write_report(result, tmp_path / "file" / "report.html")


def test_the_verb_loads_no_charts_before_it_runs() -> None:
    code = "import sys, understudy.app.cli.report; print({'jinja2', 'torch'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=30))
def test_labels_lie_inside_and_never_on_each_other(places: list[tuple[float, float]]) -> None:
    marks = [Mark(f"exit{number}", x, y) for number, (x, y) in enumerate(places)]
    boxes = [label.box for label in place(marks, width=300, height=200)]
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert top >= 0
        assert right <= 300
        assert bottom <= 200
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_spread_keeps_order_and_distance(places: list[float]) -> None:
    moved = spread(places, gap=10, low=0, high=100)
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in moved)
    ordered = sorted(moved)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(ordered))


@given(st.floats(1e-3, 1e12), st.floats(1, 1e6), st.floats(5, 90))
def test_ticks_are_on_the_axis_and_apart(low: float, factor: float, room: float) -> None:
    axis = Axis.of_costs([low, low * factor], length=500)
    places = [axis.pixel(value) for value in axis.ticks(lambda _: room)]
    assert all(-1e-6 <= place <= 500 + 1e-6 for place in places)
    assert all(b - a >= room - 1e-6 for a, b in pairwise(places))


@given(st.text("abWM_-./日", max_size=60), st.floats(20, 200))
def test_wrapped_lines_are_the_text_and_fit(text: str, width: float) -> None:
    lines = wrapped(text, width)
    assert "".join(lines) == text
    assert all(text_width(line) <= width for line in lines)


@pytest.mark.parametrize("name", ["r.pdf", "r.html.txt"])
def test_a_page_is_named_as_one(result: Result, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnderstudyError, match=r"a report is an HTML page, found the path .*\.html"):
        result.report(tmp_path / name)
    assert not any(tmp_path.iterdir())
    assert result.report(tmp_path / "R.HTM").stat().st_size > 10_000
