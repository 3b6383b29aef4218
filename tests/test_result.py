"""Results: the way to a file and back, and a choice by its budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bit_flips import bit_flips
from tables import synthetic
from understudy.documents import write_document
from understudy.errors import PolicyError
from understudy.exit import Exit
from understudy.files import write_json
from understudy.result import Result
from understudy.searching.search import search, search_in_sample


@pytest.fixture(scope="module")
def result() -> Result:
    return search(synthetic(4000), max_drop=[0.1, 2.0])


def test_a_result_survives_a_file(result: Result, tmp_path: Path) -> None:
    for number, one in enumerate((result, search_in_sample(synthetic(200), max_drop=2.0))):
        path = tmp_path / f"{number}.json"
        one.save(path)
        found = Result.load(path)
        assert found == one
        found.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_flipped_bits_are_refused(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "r.json")
    for flip in bit_flips(tmp_path, 60):
        with pytest.raises(PolicyError) as raised:
            Result.load(tmp_path / "r.json")
        assert "\n" not in str(raised.value), flip


def test_a_choice_is_found_by_its_budget(result: Result) -> None:
    assert result.choice() is result.choices[0]
    assert result.choice(2) is result.choices[1]
    with pytest.raises(PolicyError, match=r"drop of 1 points in this result; it has 0\.1, 2"):
        result.choice(1.0)


def test_headline_figures_are_those_of_test(result: Result) -> None:
    for choice, data in zip(result.choices, result.to_dict()["results"], strict=True):
        test = choice.on["test"]
        assert choice.outcome is test
        assert (data["cost"], data["saving"]) == (test.cost["MACs"], test.saving["MACs"])
        assert (data["drop"], data["shares"]) == (test.drop, test.shares)
        assert set(data["on"]) == {"tune", "certify", "test"}


def test_it_prints_as_a_table(result: Result) -> None:
    text = str(result)
    for word in ("net0", "reference", "p = 0.", "2 points:"):
        assert word in text
    assert "IN-SAMPLE" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 3}, "reads up to 2: upgrade"),
        ({"format": "understudy.table"}, "is no understudy.result file"),
        ({"results": [{}]}, r"the field 'max_drop' at \$.results\[0\], found none: search again"),
        ({"results": None}, r"a list at \$.results, found None"),
        ({"difficulty": {"little": "x"}}, r"the field 'reference' at \$.difficulty"),
        ({"frontier": {}}, r"the field 'points' at \$.frontier"),
    ],
)
def test_a_wrong_file_is_a_sentence(
    result: Result, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_document(tmp_path / "r.json", result.to_dict() | changes)
    with pytest.raises(PolicyError, match=words) as raised:
        Result.load(tmp_path / "r.json")
    assert "\n" not in str(raised.value)


def test_a_damaged_path_is_a_sentence(result: Result, tmp_path: Path) -> None:
    data = result.to_dict()
    data["results"][1]["certificate"]["path"][0]["thresholds"][0] = []
    write_document(tmp_path / "r.json", data)
    with pytest.raises(PolicyError, match="damaged"):
        Result.load(tmp_path / "r.json")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda choice: choice["policy"]["stages"][0].update(threshold=0.75), r"found net\d when "),
        (
            lambda choice: choice["policy"]["stages"].pop(0),
            "found net1 when .* where net0",
        ),
        (lambda choice: choice.update(max_drop=3.0), "found 3 points where 2 were proved"),
        (
            lambda choice: choice["certificate"]["policy"]["stages"][0].update(threshold=0.75),
            "found net0 when deferral >= 0.75, else .* where net0 when",
        ),
    ],
)
def test_a_policy_is_that_of_its_certificate(
    result: Result,
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], object],
    words: str,
    version: int,
) -> None:
    """Whatever the hash of the file: version 1 had none."""
    data = result.to_dict() | {"version": version}
    edit(data["results"][1])
    write = write_document if version > 1 else write_json
    write(tmp_path / "r.json", data)
    with pytest.raises(PolicyError, match=f"{words}.*: search again") as raised:
        Result.load(tmp_path / "r.json")
    assert "\n" not in str(raised.value)


def test_the_first_line_names_the_reference() -> None:
    table = synthetic(1500)
    by_default, named = search(table, max_drop=1.0), search(table, reference="net1", max_drop=1.0)
    best = max(by_default.singles, key=lambda one: one.on["tune"].accuracy)
    share = f"{100 * best.on['tune'].accuracy:.1f} %"
    words = f"reference net2: the most accurate on tune ({share})"
    assert str(by_default).splitlines()[0].strip() == words == table.reference_words()
    assert str(named).splitlines()[0].strip() == named.reference_words()
    assert f"on tune, where net2 has {share}" in named.reference_words()
    bare = search(replace(table, label=None), max_drop=1.0)
    assert " ".join(str(bare).split()).startswith(
        "reference net2: no sample has a label, so all figures are agreement with its answers "
    )
    assert Result.from_dict(by_default.to_dict()).reference_words() == words


def test_an_exit_that_is_better_than_its_network_is_named() -> None:
    """The network stays the default reference; its untrained head is not called the best."""
    table = synthetic(1500, exits=2)
    exits = (
        Exit("net/2", ("net0",), {"root": "net"}),
        Exit("net", ("net0", "net1"), {"root": "net"}),
    )
    table = replace(table, exits=exits, prediction=table.prediction[::-1])
    found = search(table, max_drop=1.0)
    right = {one.name: f"{100 * one.on['tune'].accuracy:.1f} %" for one in found.singles}
    assert found.reference_words() == table.reference_words()
    assert table.reference_words() == (
        f"reference net: the network whose exits these are; {right['net']} on tune, "
        f"where net/2 has {right['net/2']}"
    )
    (choice,) = found.choices
    assert "net/2, an exit inside net, was right at least as often on tune" in choice.verdict
    assert "--reference" not in choice.verdict


def test_a_reference_that_costs_least_leaves_nothing_to_save() -> None:
    (choice,) = search(synthetic(1500), reference="net0", max_drop=1.0).choices
    assert choice.verdict == (
        "A cascade does not pay here: use net0. It costs least of all exits, so there is nothing "
        "to save."
    )


def test_without_labels_no_share_is_below_0_and_no_exit_is_right() -> None:
    """A small model that answers as the reference does: no label tells which of them is right."""
    table = synthetic(1500)
    answers = np.tile(table.prediction[-1], (len(table.exits), 1))
    found = search(replace(table, prediction=answers, label=None), max_drop=2.0)
    (choice,) = found.choices
    assert choice.outcome.drop_interval[0] < 0
    text = str(found)
    assert "[0.00, " in text
    assert "[−" not in text
    assert "right at least as often" not in choice.verdict
    labelled = search(replace(table, prediction=answers), reference="net2", max_drop=2.0)
    assert "right at least as often" in labelled.choices[0].verdict


def test_where_every_budget_fell_back_nothing_is_called_certified() -> None:
    text = " ".join(str(search(synthetic(1500), max_drop=[-60.0, -50.0])).split())
    assert text.count("fell back") == 2
    assert "Nothing cheaper than net2 is certified. " in text
    assert "is certified with probability" not in text


@pytest.mark.parametrize("labelled", [True, False])
def test_more_than_the_budget_on_test_has_a_word(labelled: bool) -> None:
    """A cascade is proved on certify; test shows more by chance, or is of another kind."""
    table = synthetic(4000)
    wanted = table.label if labelled else table.prediction[-1]
    assert wanted is not None
    right = np.flatnonzero((table.split == 2) & (table.prediction[-1] == wanted))
    table = table if labelled else replace(table, label=None)

    def verdict(count: int) -> str:
        answers = np.tile(table.prediction[-1], (3, 1))
        answers[:2, right[:count]] ^= 1
        changed = replace(table, prediction=answers)
        return search(changed, reference="net2", max_drop=1.0).choices[0].verdict

    unit = ")" if labelled else " %)"
    plus = "+" if labelled else ""
    assert "the budget" not in verdict(0)
    chance = f", more than the budget, as chance allows (95 % interval from {plus}0.45{unit};"
    assert chance in verdict(10)
    other = f", more than the budget, which chance hardly explains (95 % interval from {plus}1.02"
    assert f"{other}{unit};" in verdict(16)


def test_levels_are_printed_with_three_digits() -> None:
    """A level that is divided among three budgets; what is stated is never more than was proved."""
    found = search(synthetic(4000), max_drop=[2.0, 5.0], delta=0.025 / 3)
    text = str(found)
    assert "δ = 0.00834" in text
    assert "with probability 0.99166" in text
    assert not any(digits in text for digits in ("0.008333", "0.991667"))
    assert "certified at 0.00834" in repr(found)


def test_without_labels_a_certificate_counts_no_gains() -> None:
    (choice,) = search(replace(synthetic(4000), label=None), max_drop=20.0).choices
    assert choice.certificate is not None
    assert "answered otherwise, p = " in choice.certificate.words()
    assert not any(word in choice.certificate.words() for word in ("losses", "gains", "loses"))
