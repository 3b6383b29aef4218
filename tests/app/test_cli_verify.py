"""The verb `verify`: certificates are checked again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command_line import Run
from understudy.documents import write_document
from understudy.store import load_table, save_table


@pytest.mark.parametrize("budget", [("--max-drop", "1,5"), ("--max-cost", "50")])
def test_a_result_verifies_and_a_forged_one_does_not(
    run: Run, table: Path, budget: tuple[str, ...]
) -> None:
    result = table.parent / "result.json"
    assert run("search", table, *budget, "--out", result).exit_code == 0
    assert run("verify", result, table, "--json").json["holds"]
    data = json.loads(result.read_text())
    data["results"][-1]["certificate"]["losses"] += 1
    result.write_text(json.dumps(data))
    command = run("verify", result, table, "--json")
    assert command.exit_code == 1
    checks = json.loads(command.stdout)["checks"]
    wrong = [check["claim"] for check in checks if not check["holds"]]
    last = f"results[{len(data['results']) - 1}].certificate.losses"
    assert wrong == ["the file is as it was written", "same losses and gains", last]


def test_the_page_is_short(run: Run, table: Path) -> None:
    """One line per certificate, one for the rest, one for the look."""
    result = table.parent / "result.json"
    run("search", table, "--max-drop", "1,5", "--out", result)
    page = run("verify", result, table).stdout
    assert page.count("yes") == 4
    assert "everything is as searched" in page
    data = json.loads(result.read_text())
    for point in data["frontier"]["points"]:
        point.update(saving=0.99, accuracy=0.98, drop=97.0)
    write_document(result, data)
    page = run("verify", result, table).stdout
    assert page.count("NO") == 21
    assert "frontier.points[1].accuracy" in page
    assert "more " in page


def test_without_labels_disagreements_are_counted(
    run: Run, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # no cell is wrapped
    save_table(replace(load_table(table), label=None), table.parent / "bare")
    result = table.parent / "result.json"
    run("search", table.parent / "bare", "--max-drop", "30", "--out", result)
    page = " ".join(run("verify", result, table.parent / "bare").stdout.split())
    assert "same number of samples answered otherwise" in page
    assert not any(word in page for word in ("drop", "losses", "gains"))


def test_another_table_does_not_verify(run: Run, table: Path) -> None:
    result, other = table.parent / "result.json", table.parent / "other"
    assert run("search", table, "--max-drop", "5", "--out", result).exit_code == 0
    whole = load_table(table)
    save_table(whole.rows(np.arange(len(whole) // 2)), other)
    command = run("verify", result, other)
    assert command.exit_code == 1
    assert "NO" in command.stdout
