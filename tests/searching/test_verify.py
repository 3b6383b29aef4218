"""`verify` finds every change of a stored result."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import Run
from tables import pair_table, synthetic
from understudy.documents import write_document
from understudy.errors import PolicyError, UnderstudyError
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.search import search, search_in_sample, search_within_cost
from understudy.searching.verify import Check, differences, verify, verify_file
from understudy.store import save_table

Place = tuple[str | int, ...]


def coarse() -> ScoreTable:
    """A pair that can be proved, few levels of confidence, two classes: a short result."""
    hard = np.arange(240) % 12
    classes = (np.arange(240) // 12 % 2).tolist()
    little, sure = np.where(hard < 11, 1, 0), np.where(hard < 8, 0.9, np.where(hard < 10, 0.7, 0.5))
    table = pair_table(little, np.ones(240), sure)
    label = np.array(classes)
    prediction = np.where(table.prediction == 1, label, 1 - label)
    return replace(table, prediction=prediction, label=label)


def leaves(data: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every entry of plain JSON and its path, containers too."""
    yield path, data
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*path, key))


def changes(value: Any) -> list[Any]:
    """Other values of the same kind; for a container one less and, of an object, one more."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * (1 + 1e-6) if value else 1e-6]
    if isinstance(value, str):
        return [f"{value}x"]
    if value is None:
        return [1, "x"]
    if isinstance(value, list):
        return [value[:-1]] if value else [[0]]
    return [{**value, "more": 1}, *({k: v for k, v in value.items() if k != key} for key in value)]


def changed(data: Any) -> Iterator[tuple[Place, Any]]:
    """The data with one change at a time, and where."""
    for path, value in leaves(data):
        for other in changes(value):
            whole = copy.deepcopy(data)
            place = whole
            for key in path[:-1]:
                place = place[key]
            if path:
                place[path[-1]] = other
            yield path, whole if path else other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    save_table(coarse(), folder / "table")
    return folder


def searched(run: Run, folder: Path, *words: object) -> Any:
    """The file of a search in the folder, read."""
    file = folder / "result.json"
    assert run("search", folder / "table", *words, "--out", file).exit_code == 0
    return json.loads(file.read_text())


def checked(folder: Path, data: Any) -> list[Check]:
    """The checks that do not hold for a file with this content, and the hash of it."""
    file = folder / "changed.json"
    if isinstance(data, dict):
        write_document(file, data)
    else:
        file.write_text(json.dumps(data))
    return [check for check in verify_file(file, folder / "table") if not check.holds]


def found_out(folder: Path, data: Any) -> bool:
    """Whether `verify` names a change, or refuses the file in one sentence."""
    try:
        return bool(checked(folder, data))
    except UnderstudyError as error:
        return "\n" not in str(error)


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "words", [("--max-drop", 20, "--class-drop", "1=30"), ("--max-cost", 4, "--unit", "MACs")]
)
def test_every_change_of_a_file_is_found(
    run: Run, folder: Path, words: tuple[object, ...], step: int
) -> None:
    """One entry is changed, or left out, or added, at a time."""
    first, data = (searched(run, folder, *words) for _ in range(2))
    looks = [one["results"][0]["certificate"]["looks"] for one in (first, data)]
    assert looks[1] == looks[0] + 1
    assert len(data["results"][0]["certificate"]["path"]) > 0
    assert not found_out(folder, data)
    del data["content_hash"]  # written anew with each change
    tried = list(changed(data))
    assert len(tried) > 500
    assert [path for path, other in tried[::step] if not found_out(folder, other)] == []


def test_a_change_is_named_by_its_path_and_both_values(run: Run, folder: Path) -> None:
    data = searched(run, folder, "--max-drop", 20)
    data["results"][0]["on"]["test"]["drop"] = 0.5
    data["results"][0]["certificate"]["words"] += " Always."
    (drop, words) = checked(folder, data)
    assert (drop.max_drop, drop.claim) == (None, "results[0].on.test.drop")
    assert drop.found.startswith("stored 0.5, found ")
    assert words.claim == "results[0].certificate.words"
    assert "Always." in words.found
    assert len(words.found) < 100


def test_a_file_that_was_changed_is_named_with_what_was_changed(run: Run, folder: Path) -> None:
    data, file = searched(run, folder, "--max-drop", 20), folder / "result.json"
    data["results"][0]["certificate"]["losses"] += 1
    file.write_text(json.dumps(data))
    with pytest.raises(PolicyError, match=r"was changed \(its content hashes to .*search again"):
        Result.load(file)
    written, _, losses = (one for one in verify_file(file, folder / "table") if not one.holds)
    assert written.claim == "the file is as it was written"
    assert losses.claim == "results[0].certificate.losses"


def test_a_result_of_version_1_verifies(run: Run, folder: Path) -> None:
    """It had no hash."""
    data = searched(run, folder, "--max-drop", 20)
    del data["content_hash"]
    data["version"] = data["frontier"]["version"] = 1
    (folder / "old.json").write_text(json.dumps(data))
    assert all(check.holds for check in verify_file(folder / "old.json", folder / "table"))


def test_arguments_that_change_nothing_are_in_the_log(run: Run, folder: Path) -> None:
    data = searched(run, folder, "--max-drop", 20)
    look = data["asked"]["looks"]
    (check,) = checked(folder, data | {"asked": data["asked"] | {"at_most_stages": 9}})
    assert check.claim == f"look {look} in the table's log"
    assert check.found == "search.at_most_stages: stored 9, found null"
    for one in (data["asked"], data["results"][0]["certificate"]):
        one["looks"] = 999
    assert checked(folder, data)[-1].found.endswith("none of that number")


def test_without_a_log_and_with_one_of_before_a_result_verifies(run: Run, tmp_path: Path) -> None:
    save_table(coarse(), tmp_path / "table")
    data = searched(run, tmp_path, "--max-drop", 20)
    log = tmp_path / "table" / "looks.jsonl"
    log.write_text('{"look": 1, "why": "search [20.0]"}\n')
    assert checked(tmp_path, data) == []
    log.unlink()
    assert checked(tmp_path, data) == []


def test_an_unstored_result_verifies_and_a_forged_one_does_not() -> None:
    table = synthetic(1500)
    for result in (search(table, max_drop=[0.01, 3.0]), search_within_cost(table, max_cost=50)):
        assert all(check.holds for check in verify(result, table))
        (wrong,) = (one for one in verify(replace(result, unit="MACs", delta=0.06), table)[-1:])
        assert not wrong.holds
        fewer = [one for one in verify(replace(result, choices=()), table) if not one.holds]
        assert [one.claim for one in fewer] == ["results"]


def test_another_table_is_named(run: Run, tmp_path: Path) -> None:
    other = synthetic(1400)
    result = search(synthetic(1500), max_drop=3.0)
    claims = {check.claim for check in verify(result, other) if not check.holds}
    assert {"same certify samples", "table.hash", "table.samples.certify"} <= claims


def test_what_cannot_be_verified_is_a_sentence() -> None:
    table = coarse()
    result = search(table, max_drop=20)
    with pytest.raises(PolicyError, match="certifies nothing"):
        verify(search_in_sample(table, max_drop=20), table)
    for arguments, words in (
        ({}, "names its search function"),
        ({"by": "search"}, "max_drop"),
        ({**result.arguments, "max_drop": {"all": None}}, "search again"),
        ({**result.arguments, "more": 1}, "'more'"),
    ):
        with pytest.raises(PolicyError, match=words):
            verify(replace(result, arguments=arguments), table)


@pytest.mark.parametrize(
    ("stored", "found", "same"),
    [
        (1.0, 1, True),
        (0.3, 0.1 + 0.2, True),
        (1e9, 1e9 + 0.5, True),
        (1000000000000, 1000000000001, False),
        (0.0, 1e-13, True),
        (0.0, 1e-9, False),
        (1.0, 1.0 + 1e-8, False),
        (float("nan"), float("nan"), False),
        (True, 1, False),
        ("inf", "-inf", False),
        (None, 0, False),
        ([], {}, False),
        ({"a": None}, {}, False),
    ],
)
def test_the_tolerance(stored: Any, found: Any, same: bool) -> None:
    for pair in ((stored, found), (found, stored)):
        assert (not list(differences(*pair))) == same
