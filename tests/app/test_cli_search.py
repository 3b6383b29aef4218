"""The verb `search`: answers, JSON for machines, and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import Run, refused
from tables import synthetic
from understudy.frontier import Point
from understudy.result import Result
from understudy.searching.search import search, search_in_sample
from understudy.split import SHARES_OF_FEW
from understudy.store import load_table, save_table

KEYS = ["max_drop", "policy", "cost", "saving", "drop", "shares", "on", "certificate", "verdict"]


def as_json(data: Any) -> Any:
    """Data as they are after a way through JSON."""
    return json.loads(json.dumps(data))


def test_the_answer_in_json(run: Run, table: Path) -> None:
    data = run("search", table, "--max-drop", "0.1,2", "--max-drop", "4", "--json").json
    expected = search(synthetic(4000), max_drop=[0.1, 2, 4]).to_dict()
    assert data["results"] == as_json(expected["results"])
    assert [one["max_drop"] for one in data["results"]] == [0.1, 2, 4]
    for one in data["results"]:
        assert set(KEYS) <= set(one)
        for stage in one["policy"]["stages"]:
            assert set(stage) == {"exit", "confidence", "threshold"}
        assert set(one["on"]) == {"tune", "certify", "test"}
        assert sum(one["shares"].values()) == pytest.approx(1)


def test_without_a_test_split_json_says_where_figures_come_from(run: Run, tmp_path: Path) -> None:
    save_table(synthetic(3000, split=SHARES_OF_FEW), tmp_path / "few")
    data = run("search", tmp_path / "few", "--max-drop", 2, "--json").json
    assert data["measured_on"] == "certify"
    (choice,) = data["results"]
    assert set(choice["on"]) == {"tune", "certify"}
    assert choice["cost"] == choice["on"]["certify"]["cost"]["MACs"]
    assert choice["certificate"]["saving_bounds"]["MACs"] < choice["saving"]
    text = " ".join(run("search", tmp_path / "few", "--max-drop", "2,4").stdout.split())
    assert "measured on certify (the samples that decided: slightly optimistic)" in text
    assert "certified with probability 0.95 by itself; these are 2 guarantees" in text
    assert "≥" in text


def test_the_answer_for_people(run: Run, table: Path) -> None:
    command = run("search", table, "--max-drop", "2", "--max-cost", "0.5")
    assert (command.exit_code, command.stderr) == (0, "")
    for words in ("single exits, measured on test", "reference 0.0 %", "more than the 0.5"):
        assert words in " ".join(command.stdout.split())


def test_a_result_and_a_frontier_are_written(run: Run, table: Path, tmp_path: Path) -> None:
    out, frontier = tmp_path / "out" / "result.json", tmp_path / "frontier.json"
    command = run("search", table, "--max-drop", 2, "--out", out, "--frontier", frontier)
    assert command.exit_code == 0
    found = Result.load(out)
    assert found == search(synthetic(4000), max_drop=2.0)
    points = json.loads(frontier.read_text())
    assert all({"cost", "saving", "drop", "shares", "policy"} <= set(point) for point in points)
    assert tuple(map(Point.from_dict, points)) == found.frontier.points


def test_in_sample_is_marked(run: Run, table: Path) -> None:
    command = run("search", table, "--max-drop", "1", "--in-sample", "--json")
    assert "in-sample" in command.stderr
    expected = search_in_sample(synthetic(4000), max_drop=1.0).to_dict()
    assert command.json["results"] == as_json(expected["results"])
    assert command.json["searched_on"] == "all"
    assert "IN-SAMPLE" in run("search", table, "--max-drop", "1", "--in-sample").stdout


def test_looks_are_counted_and_quoted(run: Run, table: Path) -> None:
    words = ("search", table, "--max-drop", "2", "--json")
    for look in (1, 2):
        certificate = run(*words).json["results"][0]["certificate"]
        assert certificate["looks"] == look
    assert "This is look 2 at the certify samples" in certificate["words"]
    run(*words, "--in-sample")
    assert run(*words).json["results"][0]["certificate"]["looks"] == 4
    page = " ".join(run("search", table, "--max-drop", "2").stdout.split())
    for place in ("This is look 5 at the certify samples", "at most 2 points (look 5)"):
        assert place in page


def test_looks_are_paid_for(run: Run, table: Path) -> None:
    words = ("search", table, "--max-drop", "2", "--total-delta", "0.06", "--json")
    assert [run(*words).json["delta"] for _ in range(3)] == pytest.approx([0.03, 0.01, 0.005])
    jointly = run(*words, "--max-drop", "3", "--jointly").json["delta"]
    assert jointly == pytest.approx(0.06 / 20 / 2)


def test_a_budget_that_cannot_be_certified_is_no_error(run: Run, table: Path) -> None:
    words = ("--max-drop", "0.01", "--delta", "1e-12", "--json")
    (one,) = run("search", table, *words).json["results"]
    assert one["policy"]["stages"] == [
        {"exit": "net2", "confidence": "max_softmax", "threshold": None}
    ]
    assert (one["drop"], one["saving"]) == (0.0, 0.0)
    assert one["certificate"]["samples_needed"] > one["certificate"]["samples"]
    assert "certify samples would do" in one["verdict"]


def test_joint_budgets_share_the_level(run: Run, table: Path) -> None:
    assert run("search", table, "--max-drop", "1,5", "--jointly", "--json").json["delta"] == 0.025


def test_a_named_class_keeps_its_own_budget(run: Run, table: Path) -> None:
    words = ("search", table, "--max-drop", "5", "--json")
    (plain,) = run(*words).json["results"]
    (strict,) = run(*words, "--class-drop", "1=1").json["results"]
    assert strict["certificate"]["classes"]["1"]["budget"] == 1.0
    assert strict["on"]["tune"]["cost"]["MACs"] >= plain["on"]["tune"]["cost"]["MACs"]


WRONG = {
    "reference": (["--max-drop", "1", "--reference", "net22"], "did you mean 'net2'"),
    "unit": (["--max-drop", "1", "--unit", "MAC"], "did you mean 'MACs'"),
    "confidence": (["--max-drop", "1", "--confidence", "margin"], "no confidence 'margin'"),
    "text": (["--max-drop", "little"], "--max-drop takes a number, found 'little'"),
    "nan": (["--max-drop", "nan"], "found 'nan'"),
    "empty": (["--max-drop", ","], "a search has a budget"),
    "no budget": ([], "--max-drop"),
    "delta": (["--max-drop", "1", "--delta", "2"], "found 2"),
    "total delta": (["--max-drop", "1", "--total-delta", "1.5"], "found 1.5"),
    "class": (["--max-drop", "1", "--class-drop", "cat=1"], "no class 'cat'"),
    "class without points": (["--max-drop", "1", "--class-drop", "0"], "NAME=VALUE"),
    "jointly in-sample": (["--max-drop", "1", "--jointly", "--in-sample"], "found --in-sample"),
    "class without a budget": (["--max-cost", "9", "--class-drop", "0=1"], "found no budget"),
    "cost": (["--max-cost", "0.0001"], "the cheapest costs"),
    "all": (["--max-drop", "1", "--all"], "understudy savers TABLE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_search_is_one_sentence(run: Run, table: Path, case: str) -> None:
    options, message = WRONG[case]
    out = table.parent / "result.json"
    refused(run("search", table, *options, "--out", out), message, table.parent, {"table"})
    assert not (table / "looks.jsonl").exists()


def test_a_missing_table(run: Run, tmp_path: Path) -> None:
    command = run("search", tmp_path / "nowhere", "--max-drop", "1")
    refused(command, "understudy score", tmp_path)


def test_a_newer_table(run: Run, table: Path) -> None:
    head = json.loads((table / "table.json").read_text())
    (table / "table.json").write_text(json.dumps(head | {"version": 99}))
    refused(run("search", table, "--max-drop", "1"), "version 99", table.parent, {"table"})


def test_a_damaged_table(run: Run, table: Path) -> None:
    file = table / "exits" / "001.parquet"
    file.write_bytes(file.read_bytes()[:100])
    refused(run("search", table, "--max-drop", "1"), "damaged", table.parent, {"table"})


def test_a_table_without_the_reference(run: Run, table: Path) -> None:
    save_table(synthetic(4000).only(["net0", "net1"]), table)
    command = run("search", table, "--max-drop", "1", "--reference", "net2")
    refused(command, "no exit 'net2'", table.parent, {"table"})


def test_a_single_model(run: Run, table: Path) -> None:
    save_table(synthetic(4000).only(["net0"]), table)
    for verb in (["search", table, "--max-drop", "1"], ["difficulty", table]):
        refused(run(*verb), "'net0' alone", table.parent, {"table"})


def test_an_empty_split(run: Run, table: Path) -> None:
    save_table(synthetic(100, split={"tune": 0.5, "test": 0.5}), table)
    command = run("search", table, "--max-drop", "1")
    refused(command, "the split 'certify' is empty", table.parent, {"table"})
    assert run("search", table, "--max-drop", "1", "--in-sample").exit_code == 0


@pytest.mark.parametrize("option", ["--out", "--frontier"])
def test_a_path_that_cannot_be_written(run: Run, table: Path, option: str) -> None:
    (table.parent / "file").write_text("")
    command = run("search", table, "--max-drop", "1", option, table.parent / "file" / "r.json")
    refused(command, "cannot be written", table.parent, {"table", "file"})


def test_a_folder_in_the_way_of_the_result(run: Run, table: Path) -> None:
    command = run("search", table, "--max-drop", "1", "--out", table)
    refused(command, "cannot be written", table.parent, {"table"})
    assert len(load_table(table)) == 4000
