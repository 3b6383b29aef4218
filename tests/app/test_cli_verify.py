"""verify, and the searches beside the plain one, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tables import synthetic
from understudy import load_table, save_table
from understudy.app.cli import app

run = CliRunner().invoke


@pytest.fixture
def table(tmp_path: Path) -> Path:
    save_table(synthetic(4000), tmp_path / "table")
    return tmp_path / "table"


def search(table: Path, *options: str) -> dict[str, object]:
    ran = run(app, ["search", str(table), *options, "--json"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    data: dict[str, object] = json.loads(ran.stdout)
    return data


@pytest.mark.parametrize("budget", [("--max-drop", "1,5"), ("--max-cost", "50")])
def test_a_result_verifies_and_a_forged_one_does_not(table: Path, budget: tuple[str, ...]) -> None:
    result = table.parent / "result.json"
    search(table, *budget, "--out", str(result))
    ran = run(app, ["verify", str(result), str(table), "--json"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["holds"]
    data = json.loads(result.read_text())
    data["results"][-1]["certificate"]["losses"] += 1
    result.write_text(json.dumps(data))
    ran = run(app, ["verify", str(result), str(table), "--json"], catch_exceptions=False)
    assert ran.exit_code == 1
    wrong = [check["claim"] for check in json.loads(ran.stdout)["checks"] if not check["holds"]]
    assert wrong == ["same losses and gains"]


def test_another_table_does_not_verify(table: Path) -> None:
    result = table.parent / "result.json"
    search(table, "--max-drop", "5", "--out", str(result))
    other = table.parent / "other"
    whole = load_table(table)
    save_table(whole.rows(np.arange(len(whole) // 2)), other)
    ran = run(app, ["verify", str(result), str(other)], catch_exceptions=False)
    assert ran.exit_code == 1
    assert "NO" in ran.stdout


def test_joint_budgets_share_the_level(table: Path) -> None:
    assert search(table, "--max-drop", "1,5", "--jointly")["delta"] == 0.025


def test_a_named_class_keeps_its_own_budget(table: Path) -> None:
    (plain,) = search(table, "--max-drop", "5")["results"]  # type: ignore[misc]
    (strict,) = search(table, "--max-drop", "5", "--class-drop", "1=1")["results"]  # type: ignore[misc]
    assert strict["certificate"]["classes"]["1"]["budget"] == 1.0
    assert strict["on"]["tune"]["cost"]["MACs"] >= plain["on"]["tune"]["cost"]["MACs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "a search has a budget"),
        (("--max-drop", "1", "--class-drop", "cat=1"), "no class 'cat'"),
        (("--max-drop", "1", "--class-drop", "0"), "NAME=VALUE"),
        (("--max-cost", "0.0001"), "the cheapest costs"),
    ],
)
def test_what_cannot_be_searched_is_said(
    table: Path, options: tuple[str, ...], message: str
) -> None:
    ran = run(app, ["search", str(table), *options])
    assert message in str(ran.exception)
    assert not (table / "looks.jsonl").exists()
