"""The README of a cascade's folder says what its certificate says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from understudy.display import least_percent, percent
from understudy.model_card import ModelCard
from understudy.operating_point import OperatingPoint, operating_points_of
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.search import search


@pytest.fixture(scope="module")
def result() -> Result:
    right = np.arange(6000) % 10 < 9
    table = ScoreTable.from_predictions(
        {"tiny_|1|": (1 - right, np.where(right, 0.9, 0.6)), "big": (0 * right, 0.5 + 0 * right)},
        np.zeros(6000, int),
        costs={"tiny_|1|": 1, "big": 9},
    )
    return search(table, max_drop=[0.5, 1.0])


def card_of(result: Result) -> ModelCard:
    return ModelCard(
        result.choices[0].policy,
        operating_points_of(result),
        {"tiny_|1|": "timm:tiny", "big": "timm:big"},
        ("load()", "run"),
        classes=2,
        table=result.table,
    )


def test_savings_bounds_and_certificates_are_those_of_the_result(result: Result) -> None:
    text = card_of(result).markdown
    for point in operating_points_of(result):
        proof = point.certificate
        if proof is None:
            continue
        assert f"`{point.name}`" in text
        assert f"| {percent(1 - point.cost / 9)} |" in text
        assert f"| {least_percent(proof.saving_bounds['MACs'])} |" in text
        assert f"{proof.samples:,} certify samples" in text
    counts = result.table["samples"]
    assert f"{counts['tune']:,} tune, {counts['certify']:,} certify" in text
    assert "hold all at once" in text
    assert "2 classes." in text


def test_names_cannot_break_the_table(result: Result) -> None:
    rows = [line for line in card_of(result).markdown.splitlines() if line.startswith("| `drop")]
    assert rows
    assert all("tiny\\_\\|1\\|" in row for row in rows)


def test_nothing_certified_is_said() -> None:
    card = ModelCard(Policy.single("big"), (), {"big": "timm:big"}, ("load()", "run"))
    assert "Nothing: no policy of this folder was proved" in card.markdown
    assert "big answers all samples" in card.markdown
    assert "What it saves" not in card.markdown


def test_the_point_that_is_set_is_marked() -> None:
    whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    card = ModelCard(whole.policy, (whole,), {"big": "timm:big"}, ("load()", "run"))
    assert "`reference` (set)" in card.markdown


def test_the_card_is_the_same_whenever_it_is_written(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")
    assert card_of(again).markdown == card_of(result).markdown
