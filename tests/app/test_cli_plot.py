"""`understudy plot`: which file draws what, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from command_line import Run, refused
from tables import synthetic
from understudy import plots
from understudy.app.cli import plot as plot_verb
from understudy.deciles import policy_by_tenth
from understudy.looks import count_looks
from understudy.result import Result
from understudy.searching.search import search
from understudy.store import load_table, save_table


@cache
def searched() -> Result:
    return search(synthetic(4000), max_drop=[1.0, 3.0], confidence="max_softmax")


@pytest.fixture
def result(table: Path) -> Path:
    searched().save(table.parent / "result.json")
    return table.parent / "result.json"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The charts that the verb writes, which are not rendered here."""
    charts: list[Any] = []

    def kept(chart: Any, path: Path) -> int:
        charts.append(chart.to_dict())
        path.write_bytes(b"figure")
        return 6

    monkeypatch.setattr("understudy.plots.rendering.write_chart", kept)
    return charts


def test_a_figure_is_written(run: Run, result: Path, tmp_path: Path) -> None:
    out = tmp_path / "figure.svg"
    found = run("plot", result, "--kind", "frontier", "--out", out, "--json").json
    assert found == {"plot": str(out), "kind": "frontier", "bytes": out.stat().st_size}
    assert out.read_bytes().startswith(b"<svg")


def test_every_kind_is_the_chart_of_the_function(
    run: Run, result: Path, table: Path, drawn: list[Any]
) -> None:
    out, tune = table.parent / "figure.svg", load_table(table).on("tune")
    for words, chart in (
        ((result, "--kind", "frontier", "--dark"), plots.frontier(Result.load(result), dark=True)),
        ((table, "--kind", "pairs", "--max-drop", "1"), plots.pairs(tune, max_drop=1.0)),
        (
            (result, "--kind", "pairs", "--max-drop", "1", "--table", table),
            plots.pairs(tune, max_drop=1.0),
        ),
        (
            (table, "--kind", "deferral", "--little", "net1"),
            plots.deferral(tune, little="net1", reference="net2"),
        ),
    ):
        command = run("plot", *words, "--out", out)
        assert command.exit_code == 0, command.stderr
        assert "written to" in command.stdout
        assert drawn[-1]["datasets"] == chart.to_dict()["datasets"]
        assert drawn[-1]["background"] == chart.to_dict()["background"]
    assert count_looks(table, load_table(table).ids) == 0


def test_a_result_with_its_table_shows_the_cascades(
    run: Run, result: Path, table: Path, drawn: list[Any]
) -> None:
    words = ("plot", result, "--kind", "difficulty", "--out", table.parent / "figure.png")
    assert run(*words).exit_code == 0
    assert run(*words, "--table", table).exit_code == 0
    assert run(*words, "--table", table, "--max-drop", "3").exit_code == 0
    names = [
        {row.get("name") for rows in chart["datasets"].values() for row in rows} for chart in drawn
    ]
    exits = {None, "net0", "net1", "net2"}
    both = {"cascade ≤ 1", "cascade ≤ 3"}
    assert names == [exits, exits | both, exits | {"cascade ≤ 3"}]
    assert count_looks(table, load_table(table).ids) == 2


def test_cascades_have_the_tenths_of_the_result(run: Run, tmp_path: Path, drawn: list[Any]) -> None:
    """Samples are ordered by the confidence that was searched with, for exits and cascades."""
    plain = synthetic(2000)
    values = plain.scores("max_softmax")
    both = replace(plain, confidence={"max_softmax": values[:, ::-1], "margin": values})
    save_table(both, tmp_path / "table")
    found = search(load_table(tmp_path / "table"), max_drop=3.0, confidence="margin")
    found.save(tmp_path / "result.json")
    words = ("--kind", "difficulty", "--table", tmp_path / "table", "--out", tmp_path / "a.svg")
    assert run("plot", tmp_path / "result.json", *words).exit_code == 0
    survey = found.difficulty
    assert survey is not None
    expected = policy_by_tenth(
        both,
        found.choices[0].policy,
        little=survey.little,
        reference=survey.reference,
        confidence="margin",
    )
    rows = [row for rows in drawn[0]["datasets"].values() for row in rows]
    line = [row["accuracy"] for row in rows if row.get("name") == "cascade ≤ 3"]
    assert line == [100 * value for value in expected]
    assert line[0] > line[-1] + 20


def test_other_samples_are_a_look(run: Run, table: Path, drawn: list[Any]) -> None:
    out = table.parent / "figure.pdf"
    words = ("plot", table, "--kind", "difficulty", "--out", out)
    assert run(*words).exit_code == 0
    assert count_looks(table, load_table(table).ids) == 0
    assert run(*words, "--split", "certify").exit_code == 0
    assert count_looks(table, load_table(table).on("certify").ids) == 1


def test_a_learned_score_is_drawn_beside_the_stored_one(
    run: Run, table: Path, drawn: list[Any]
) -> None:
    words = ("plot", table, "--kind", "deferral", "--out", table.parent / "figure.svg")
    assert run(*words, "--confidence", "max_softmax", "--confidence", "deferral").exit_code == 0
    kinds = {row.get("kind") for rows in drawn[0]["datasets"].values() for row in rows}
    assert kinds >= {"max_softmax", "deferral", "oracle", "at random"}


def test_what_cannot_be_drawn_is_one_sentence(run: Run, result: Path, table: Path) -> None:
    out, left = table.parent / "figure.svg", {"table", "result.json"}
    save_table(synthetic(100), table.parent / "other")
    for words, message in (
        ((table, "--kind", "frontier"), "is a score table: `understudy search` it first"),
        ((result, "--kind", "pairs", "--max-drop", 1), "add --table TABLE to a search result"),
        ((result, "--kind", "deferral"), "is drawn from a table"),
        ((table, "--kind", "pairs"), "add --max-drop 0.5"),
        ((table, "--kind", "deferal"), "did you mean 'deferral'?"),
        ((table, "--kind", "deferral", "--max-drop", 1), "found --max-drop: drop it"),
        ((table, "--kind", "deferral", "--confidence", "entrop"), "no confidence 'entrop'"),
        ((result, "--kind", "frontier", "--unit", "MACs"), "found --unit: drop it"),
        ((result, "--kind", "difficulty", "--max-drop", 1), "add --table TABLE"),
        (
            (result, "--kind", "difficulty", "--table", table.parent / "other"),
            "has another hash",
        ),
        ((table, "--kind", "difficulty", "--little", "net7"), "no exit 'net7'"),
        ((table, "--kind", "difficulty", "--split", "tst"), "no split 'tst'"),
        ((table.parent / "none", "--kind", "pairs", "--max-drop", 1), "none"),
    ):
        refused(run("plot", *words, "--out", out), message, table.parent, {*left, "other"})
    refused(run("plot", table, "--kind", "deferral", "--out", "a.gif"), ".svg, .png or .pdf")


def test_every_kind_is_in_the_help(run: Run) -> None:
    page = run("plot", "--help").stdout
    assert all(kind in page for kind in plot_verb._DRAW)
