"""What the report draws of tables, splits and units, against the functions of their figures."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import Run
from tables import synthetic
from understudy.app.report.page import render
from understudy.app.report.pairs_map import SHADES, pairs_map
from understudy.app.report.record import Report
from understudy.app.report.table_findings import MOST_MODELS, TableFindings
from understudy.app.report.unit_charts import compared_units, costs_of_exits
from understudy.app.report.words import minus, typeset
from understudy.deferral import with_deferral
from understudy.display import percent, signed
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.deferral_curves import deferral_curves
from understudy.searching.pair_savings import PairSavings, pair_savings
from understudy.searching.reliability import reliability, right_ranking
from understudy.searching.search import search, search_in_sample
from understudy.sitting import Sitting
from understudy.store import save_table

GOLD = Path(__file__).parent.parent / "gold" / "report_table.json"
NEW = ("h-pairs", "h-deferral", "h-reliability")
ONE = "max_softmax"


def with_confidences(table: ScoreTable, **further: Any) -> ScoreTable:
    return replace(table, confidence={**table.confidence, **further})


@cache
def scored() -> ScoreTable:
    """Three exits with two confidences: a probability, and one that is none and knows less."""
    table = synthetic(2000)
    noise = np.random.default_rng(1).normal(0, 0.2, table.prediction.shape)
    return with_confidences(table, odd=(5 * (table.scores(ONE) + noise)).round(2))


@cache
def found() -> Result:
    return search(scored(), max_drop=[0.0, 2.0, 4.0], confidence=ONE)


def sections(page: str) -> dict[str, str]:
    """The sections of a page by the id of their heading."""
    parts = re.findall(r'<section aria-labelledby="([\w-]+)".*?</section>', page, re.DOTALL)
    texts = re.findall(r"<section .*?</section>", page, re.DOTALL)
    return dict(zip(parts, texts, strict=True))


def words(markup: str) -> str:
    """What is read, with the charts for wide screens alone."""
    markup = re.sub(r'<div class="narrow">.*?</svg></div>', "", markup, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup.replace("<wbr>", ""))).split())


def shown(result: Result, table: ScoreTable | None) -> dict[str, str]:
    fitted = None if table is None else result.with_fitted(table)
    return sections(render(Report(result), table=fitted))


def rows_of(markup: str, after: str) -> list[list[str]]:
    """The cells of the table that a heading or a summary stands before."""
    start = markup.index(f'aria-labelledby="{after}"')
    table = markup[markup.index("<table", start) : markup.index("</table>", start)]
    body = table[table.index("<tbody>") :]
    return [
        [words(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    ]


def test_the_new_sections_are_as_they_were(tmp_path: Path) -> None:
    page = shown(found(), scored())
    now = {name: words(page[name]) for name in (*NEW, "h-optimism")}
    text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    (tmp_path / GOLD.name).write_text(text, encoding="utf-8")
    expected = GOLD.read_text(encoding="utf-8")
    assert text == expected, f"if the change is meant, copy {tmp_path / GOLD.name} to {GOLD}"


def test_without_the_table_its_sections_are_absent_and_the_page_says_how_to_get_them() -> None:
    page = render(Report(found()))
    assert not {*NEW} & set(sections(page))
    assert page.count("<code>--table TABLE</code>") == 1
    assert "<code>--table TABLE</code>" not in render(Report(found()), table=scored())


def test_the_map_has_the_savings_of_all_pairs_on_tune() -> None:
    tune = scored().on("tune")
    savings = pair_savings(tune, max_drop=2.0)
    section = shown(found(), scored())["h-pairs"]
    assert "at a drop of at most 2 points against that big one" in words(section)
    assert f"the tune samples, on which the plans were chosen ({len(tune):,})" in words(section)
    wide = section[: section.index('<div class="narrow">')]
    cells = [int(text) for text in re.findall(r'class="on\d"[^>]*>(\d+)<', wide)]
    whole = [round(100 * one) for one in savings.saving[~np.isnan(savings.saving)].tolist()]
    assert sorted(cells) == sorted(one for one in whole if one)
    rows = rows_of(section, "h-all-pairs")
    assert [row[0] for row in rows] == list(savings.names[1:])
    for big, row in enumerate(rows, 1):
        for little, text in enumerate(row[1:]):
            saving = savings.saving[little, big]
            assert text == ("" if np.isnan(saving) else f"{100 * saving:.1f}")
    for name, best, saved, answered in rows_of(section, "h-best-pairs"):
        column = savings.saving[:, savings.names.index(name)]
        assert savings.names[int(np.nanargmax(column))] == best
        at = savings.names.index(best), savings.names.index(name)
        assert saved == words(typeset(percent(savings.saving[at])))
        assert answered == words(typeset(percent(savings.answered[at])))


def cells_of(svg: str) -> dict[str, int]:
    """How many cells each class of a map has."""
    paths = re.findall(r'<path class="(c-[\w ]+)" d="([^"]*)"', svg)
    return {kind: outline.count("M") for kind, outline in paths}


def test_every_cell_of_a_map_has_the_shade_of_its_figure() -> None:
    values = [0.0, 0.004, 0.006, 0.204, 0.206, 0.6, 0.61, 0.81, 1.0, np.nan]
    saving = np.full((5, 5), np.nan)
    saving[np.triu_indices(5, 1)] = values
    names = tuple("abcde")
    svg = pairs_map(PairSavings(names, "MACs", 1.0, saving, saving * 0), width=880)
    counts = cells_of(svg)
    assert counts == {
        "c-heat0": 2, "c-heat1": 2, "c-heat2": 1, "c-heat3": 1, "c-heat4": 1, "c-heat5": 2,
        "c-card halo": 3, "c-ink bar": 3,
    }  # fmt: skip
    labels = re.findall(r'class="on(\d)"[^>]*>(\d+)<', svg)
    assert len(labels) == 7
    for shade, figure in labels:
        low, high = SHADES[int(shade)]
        assert low <= int(figure) <= high
    assert [high + 1 for _, high in SHADES[:-1]] == [low for low, _ in SHADES[1:]]


def test_a_crowded_map_is_small_and_says_which_models_it_leaves_out() -> None:
    many = synthetic(600, exits=MOST_MODELS + 12)
    costs = {"MACs": {name: 1.0 + row for row, name in enumerate(many.names)}}
    table = replace(many, costs=costs)
    result = search_in_sample(table, max_drop=1.0, without=("ensembles", "chains"))
    findings = TableFindings.of(Report(result), table)
    assert findings.pairs is not None
    assert len(findings.pairs.names) == MOST_MODELS
    assert {result.reference, *Report(result).planned} <= set(findings.pairs.names)
    every = pair_savings(table, max_drop=1.0)
    little, big = np.unravel_index(np.nanargmax(every.saving), every.saving.shape)
    assert {every.names[little], every.names[big]} <= set(findings.pairs.names)
    for row, name in enumerate(findings.pairs.names):
        for column, other in enumerate(findings.pairs.names):
            at = every.names.index(name), every.names.index(other)
            assert np.array_equal(
                findings.pairs.saving[row, column], every.saving[at], equal_nan=True
            )
    section = shown(result, table)["h-pairs"]
    assert f"{MOST_MODELS} of {MOST_MODELS + 12} models: the reference" in words(section)
    assert "all samples, on which the plans were chosen and measured" in words(section)
    assert 'aria-labelledby="h-all-pairs"' not in section
    assert len(section) < 120_000


def test_the_curves_and_areas_are_those_of_the_table() -> None:
    tune = scored().on("tune")
    result = found()
    little = next(c.policy.exits[0] for c in result.choices if len(c.policy.exits) > 1)
    curves = deferral_curves(tune, little=little, big=result.reference)
    section = shown(result, scored())["h-deferral"]
    assert f"From left to right {little} hands more samples to {result.reference}" in words(section)
    rows = {row[0]: row[1:] for row in rows_of(section, "h-deferral")}
    assert list(rows) == [*curves.gains, "oracle", "at random"]
    for name, gain in curves.gains.items():
        area = curves.by_confidence[name].area
        share = gain / curves.oracle_gain
        expected = [percent(area), signed(gain), percent(share)]
        assert rows[name] == [words(typeset(one)) for one in expected]
    wide = section[section.index('class="wide"') : section.index('class="narrow"')]
    assert len(re.findall(r'<path class="c-(?:best|line2|line3|single)', wide)) == 2
    assert "at random" in words(wide)
    assert f"{little} alone" in words(wide)


def test_reliability_and_ranking_are_those_of_the_table() -> None:
    tune, result = scored().on("tune"), found()
    section = shown(result, scored())["h-reliability"]
    rows = rows_of(section, "h-reliability")
    names = [row[0] for row in rows]
    assert names == [name for name in Report(result).singles if name in Report(result).planned]
    for name, *figures in rows:
        ranks = [right_ranking(tune, name, confidence=one) for one in (ONE, "odd")]
        assert figures == [
            text for one in ranks for text in (f"{one.auroc:.3f}", f"{100 * one.risk_area:.2f}")
        ]
        one = reliability(tune, name)
        assert f"{name} ECE {100 * one.calibration_error:.1f} points, claims" in words(section)
    assert len(re.findall("<figure>", section)) == len(names)
    assert "Better calibration is not better exits" in section


def test_learned_scores_are_shown_as_the_search_saw_them() -> None:
    table = scored()
    result = search(table, max_drop=4.0, without=("ensembles",))
    [choice] = result.choices
    assert "deferral" in choice.policy.describe()
    little = choice.policy.exits[0]
    findings = TableFindings.of(Report(result), result.with_fitted(table))
    fitted = with_deferral(table, result.reference).on("tune")
    expected = deferral_curves(fitted, little=little, big=result.reference)
    assert findings.curves is not None
    assert findings.curves.gains["deferral"] == pytest.approx(expected.gains["deferral"])
    assert "deferral" not in findings.rankings[result.reference]
    assert "is cross-fitted" in words(shown(result, table)["h-deferral"])


def test_without_labels_all_is_agreement() -> None:
    table = replace(scored(), label=None)
    result = search(table, max_drop=5.0, confidence=ONE)
    page = shown(result, table)
    tune = words(page["h-pairs"])
    count = f"{len(table.on('tune')):,}"
    assert f"by right answers, and {count} of {count} samples have no label" in tune
    assert "<svg" not in page["h-pairs"]
    assert "which knows who agrees with net2, is out of reach" in words(page["h-deferral"])
    ranked = [row[0] for row in rows_of(page["h-reliability"], "h-reliability")]
    assert result.reference not in ranked
    assert ranked
    assert "agreement, %" in words(page["h-reliability"])


def test_partly_labelled_tables_say_so() -> None:
    full = scored()
    assert full.label is not None
    table = replace(full, label=np.where(np.arange(len(full)) % 3, full.label, -1))
    result = search(table, max_drop=5.0, confidence=ONE)
    page = shown(result, table)
    missing = int((~table.on("tune").labelled).sum())
    assert f"{missing:,} samples have no label: the answer of net2" in words(page["h-reliability"])
    assert f"and {missing:,} of" in words(page["h-pairs"])


def test_a_confidence_that_is_no_probability_is_ranked_alone() -> None:
    table = replace(scored(), confidence={"odd": scored().scores("odd")})
    result = search(table, max_drop=5.0, confidence="odd")
    page = shown(result, table)
    assert "<figure>" not in page["h-reliability"]
    assert "AUROC" in page["h-reliability"]
    assert "Every pair has its best threshold on odd" in words(page["h-pairs"])
    outside = replace(scored(), confidence={ONE: scored().scores("odd")})
    result = search(outside, max_drop=5.0, confidence=ONE)
    assert "<figure>" not in shown(result, outside)["h-reliability"]


def test_two_exits_that_answer_alike_with_one_confidence() -> None:
    """Nothing to save, no curve above random, no ranking: all the same, and all right."""
    answers = np.zeros(400, int)
    table = ScoreTable.from_predictions(
        {name: (answers, np.full(400, 0.5)) for name in ("tiny", "big")},
        answers,
        costs={"tiny": 1, "big": 9},
    )
    result = search_in_sample(table, reference="big", max_drop=0.0)
    page = shown(result, table)
    assert "–" in words(page["h-reliability"])
    assert rows_of(page["h-deferral"], "h-deferral")[0] == [ONE, "100.0 %", "0.00", "–"]
    assert [row[0] for row in rows_of(page["h-pairs"], "h-best-pairs")] == ["big"]


def test_a_reference_that_is_the_cheapest_has_no_curve() -> None:
    table = scored()
    result = search(table, reference="net0", max_drop=5.0, confidence=ONE)
    page = shown(result, table)
    assert "h-deferral" not in page
    assert "h-pairs" in page


def test_at_most_four_curves_among_them_max_softmax() -> None:
    rng = np.random.default_rng(0)
    further = {
        f"better{row}": np.where(scored().right("net2"), 1.0, 0.0)
        + 0.3 * row * rng.random((3, 2000))
        for row in range(1, 6)
    }
    table = with_confidences(scored(), blind=-scored().scores("odd"), **further)
    findings = TableFindings.of(Report(found()), table)
    assert findings.curves is not None
    best = list(findings.curves.gains)
    assert findings.drawn == (*best[:3], ONE)
    assert "blind" not in findings.drawn
    assert findings.curves.gains["blind"] < 0


@cache
def timed() -> tuple[Result, ScoreTable]:
    """Times that are known to 10 %, in which net0 saves less than in MACs."""
    median = {"net0": 2.0, "net1": 4.0, "net2": 8.0}
    ends = [{name: scale * time for name, time in median.items()} for scale in (0.9, 1.1)]
    sitting = Sitting("ms@8", "2026-01-01T00:00:00", "cpu", 2, 2, 0.0, 1.0, 9, median, *ends)
    table = replace(scored(), times={"ms@8": median}, sittings=(sitting,))
    return search(table, max_drop=[2.0, 4.0], unit="MACs", confidence=ONE), table


def numbers(pattern: str, text: str) -> list[float]:
    return [float(one) for one in re.findall(pattern, text)]


def test_savings_stand_side_by_side_with_the_noise_of_times() -> None:
    result, _ = timed()
    section = shown(result, None)["h-units"]
    wide = section[section.index('class="wide"') : section.index('class="narrow"')]
    outcomes = [plan.outcome for plan in result.choices if len(plan.policy.exits) > 1]
    bars = re.findall(r'class="(c-plan|c-best) thick" d="M([\d.]+) [\d.]+L([\d.]+)', wide)
    savings = [one.saving[unit] for one in outcomes for unit in ("MACs", "ms@8")]
    assert [kind for kind, *_ in bars] == ["c-plan", "c-best"] * len(outcomes)
    lengths = [float(end) - float(start) for _, start, end in bars]
    scale = lengths[0] / savings[0]
    assert lengths == pytest.approx([scale * one for one in savings], abs=0.2)
    zero = float(bars[0][1])
    noise = re.findall(r'class="c-ink bar" d="M([\d.]+) [\d.]+L([\d.]+)', wide)
    for ends, outcome in zip(noise, outcomes, strict=True):
        places = [(float(end) - zero) / scale for end in ends]
        assert places == pytest.approx(outcome.saving_interval("ms@8"), abs=0.001)


def test_exits_are_compared_in_two_units() -> None:
    result, table = timed()
    report = Report(result)
    assert compared_units(report) == ["ms@8"]
    assert costs_of_exits(report, "ms@8") == {
        name: (table.cost_of([name], "MACs"), table.cost_of([name], "ms@8")) for name in table.names
    }
    section = shown(result, None)["h-units"]
    assert rows_of(section, "h-exits-by-unit")[0][1:] == ["1", "2", "25.00 ×"]
    assert rows_of(section, "h-exits-by-unit")[-1][1:] == ["100", "8", "1.00 ×"]
    assert "h-units" not in shown(found(), None)


def test_drops_by_split_are_drawn_with_their_budgets() -> None:
    result = found()
    section = shown(result, None)["h-optimism"]
    wide = section[section.index('class="wide"') : section.index('class="narrow"')]
    outcomes = [
        (outcome, plan.max_drop)
        for plan in result.choices
        if len(plan.policy.exits) > 1
        for outcome in plan.on.values()
    ]
    bars = re.findall(r'class="c-\w+ bar" d="M([-\d.]+) [\d.]+L([-\d.]+)', wide)
    budgets = numbers(r'class="c-budget dashed" d="M([-\d.]+)', wide)
    at = {value: place for (one, value), place in zip(outcomes, budgets, strict=True)}
    scale = (at[4.0] - at[2.0]) / 2
    for (outcome, budget), ends in zip(outcomes, bars, strict=True):
        places = [budget + (float(end) - at[budget]) / scale for end in ends]
        assert places == pytest.approx(outcome.drop_interval, abs=0.01)
    assert "≤ 2, tune" in words(wide)
    assert "h-optimism" not in shown(search_in_sample(scored(), max_drop=2.0), scored())


def test_the_verb_takes_the_table(run: Run, tmp_path: Path) -> None:
    save_table(scored(), tmp_path / "table")
    found().save(tmp_path / "result.json")
    out = tmp_path / "report.html"
    done = run("report", tmp_path / "result.json", "--table", tmp_path / "table", "--out", out)
    assert done.exit_code == 0, done
    assert {*NEW} <= set(sections(out.read_text(encoding="utf-8")))


def test_hostile_names_are_escaped() -> None:
    table = scored()
    hostile = '<b>&"x'
    exits = [replace(one, name=hostile, parts=one.parts) for one in table.exits[:1]]
    table = replace(
        with_confidences(table, **{"<i>": table.scores("odd")}), exits=(*exits, *table.exits[1:])
    )
    result = search(table, max_drop=4.0, confidence=ONE)
    page = render(Report(result), table=table)
    assert "<b>" not in page
    assert "<i>" not in page
    assert minus(hostile) in words(sections(page)["h-pairs"])


@pytest.mark.slow
def test_the_page_of_21_networks_is_small(shared: Path) -> None:
    """21 networks of ImageNet; the benchmark has its table."""
    import imagenet_zoo

    table = imagenet_zoo.zoo()
    few: Mapping[str, Any] = {"confidence": ONE, "without": ("ensembles", "chains")}
    result = search(table, reference="resnet152", max_drop=0.5, **few)
    page = render(Report(result), table=result.with_fitted(table))
    assert len(page.encode()) < 1_500_000
    assert "densenet169" in sections(page)["h-pairs"]
