"""The verbs `difficulty`, `optimism` and `savers`."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Run, refused
from tables import synthetic
from understudy.looks import count_looks
from understudy.outcome import evaluate
from understudy.searching.best_savers import best_savers
from understudy.searching.optimism import optimism
from understudy.searching.saver_ranking import choose_savers
from understudy.split import SHARES_OF_FEW
from understudy.store import load_table, save_table


def test_difficulty(run: Run, table: Path) -> None:
    data = run("difficulty", table, "--json").json
    assert (data["little"], data["reference"], len(data["by_confidence"])) == ("net0", "net2", 10)
    command = run("difficulty", table, "--little", "net1")
    assert command.exit_code == 0
    assert "by tenths of net1's confidence" in command.stdout
    assert count_looks(table, load_table(table).on("certify").ids) == 2
    refused(run("difficulty", table, "--little", "net7"), "no exit 'net7'", table.parent, {"table"})


def test_optimism_in_json_counts_a_look(run: Run, table: Path) -> None:
    words = ("optimism", table, "--max-drop", "1,2", "--resamples", 3, "--seed", 5)
    expected = optimism(load_table(table), max_drop=[1.0, 2.0], resamples=3, seed=5)
    assert run(*words, "--json").json == json.loads(json.dumps(expected.to_dict()))
    assert count_looks(table, load_table(table).ids) == 1


def test_optimism_for_people(run: Run, table: Path) -> None:
    command = run("optimism", table, "--max-drop", 1, "--resamples", 2)
    assert command.exit_code == 0
    assert "2 resamples" in command.stdout


def test_the_learned_score_is_surveyed_too(run: Run, table: Path) -> None:
    words = ("--confidence", "deferral", "--json")
    found = run("optimism", table, "--max-drop", 1, "--resamples", 1, *words).json
    assert found["confidence"] == "deferral"
    assert len(run("difficulty", table, *words).json["by_confidence"]) == 10


def test_a_wrong_optimism_is_one_sentence(run: Run, table: Path) -> None:
    refused(run("optimism", table, "--max-drop", "nan"), "found 'nan'")


def test_savers_of_every_model_count_a_look(run: Run, table: Path) -> None:
    command = run("savers", table, "--max-drop", "0.5,2", "--delta", 0.1, "--json")
    expected = best_savers(load_table(table), [0.5, 2.0], delta=0.1).to_dict()
    assert command.json == json.loads(json.dumps(expected))
    assert command.stderr == ""
    assert count_looks(table, load_table(table).on("certify").ids) == 1
    page = " ".join(run("savers", table, "--max-drop", "2").stdout.split())
    for words in (
        "the best saver of every model",
        "net2",
        "net1",
        "hold at once",
        "look 2 at the certify",
    ):
        assert words in page


def test_savers_without_a_test_split_look_at_certify(run: Run, tmp_path: Path) -> None:
    save_table(synthetic(600, split=SHARES_OF_FEW), tmp_path / "few")
    command = run("savers", tmp_path / "few", "--max-drop", 2, "--json")
    assert command.json["measured_on"] == "certify"
    assert count_looks(tmp_path / "few", synthetic(600).ids) == 1
    assert "measured on certify" in run("savers", tmp_path / "few", "--max-drop", 2).stdout


def test_savers_by_the_rule_of_tinysaver(run: Run, table: Path) -> None:
    command = run("savers", table, "--rule", "tinysaver", "--json")
    scores = load_table(table)
    chosen = choose_savers(scores)
    for line, one in zip(command.json["savers"], chosen, strict=True):
        assert (line["big"], line["policy"]) == (one.big, one.policy.to_dict())
        assert line["delta_c"][0] == one.ranking[0].delta_c
        assert one.outcome == evaluate(scores.on("test"), one.policy, reference=one.big)
    assert command.json["certified"] is False
    assert count_looks(table, scores.ids) == 0
    page = " ".join(run("savers", table, "--rule", "tinysaver").stdout.split())
    assert "measured on test; nothing is certified" in page
    refused(run("savers", table, "--rule", "dyce"), "is tinysaver, found 'dyce'")
    refused(run("savers", table, "--rule", "tinysaver", "--max-drop", 1), "has no budget")


def test_savers_need_a_budget(run: Run, table: Path) -> None:
    refused(run("savers", table, "--max-drop", ","), "at least one budget")
    command = run("savers", table)
    assert command.exit_code == 2
    assert "--max-drop" in command.stderr
    refused(run("savers", table, "--max-drop", 1, "--delta", 7), "between 1e-12 and 1, found 7")
    assert count_looks(table, load_table(table).ids) == 0
