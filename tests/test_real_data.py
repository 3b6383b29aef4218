"""Published figures on real tables: ImageNet (two models) and commercial APIs for emotions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from understudy.import_predictions import LabelFile, import_predictions
from understudy.outcome import evaluate
from understudy.scores import ScoreTable
from understudy.searching.pairs import search_pairs
from understudy.searching.search import search, search_in_sample
from understudy.store import load_table, save_table

SHARES = {0.0: 0.903, 0.1: 0.910, 0.25: 0.916, 0.5: 0.932, 1.0: 0.961}


@pytest.fixture(scope="module")
def imagenet(shared: Path) -> ScoreTable:
    folder = shared / "imagenet"
    return import_predictions(
        LabelFile(folder / "labels.parquet", "file_name", "label"),
        {name: folder / f"{name}.parquet" for name in ("ResNet50", "ViT")},
        costs={"ResNet50": 4.11e9, "ViT": 17.58e9},
    )


@pytest.fixture(scope="module")
def rafdb(shared: Path) -> ScoreTable:
    file = shared / "apis" / "rafdb.parquet"
    prices = {"github_cnn": 0.01, "facepp": 5.0, "microsoft": 10.0, "google": 15.0}
    return import_predictions(
        LabelFile(file, "sample_id", "label"),
        dict.fromkeys(prices, file),
        costs=prices,
        unit="USD",
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )


def test_imagenet_accuracies(imagenet: ScoreTable) -> None:
    found = {
        name: float((row == imagenet.label).mean())
        for name, row in zip(imagenet.names, imagenet.prediction, strict=True)
    }
    assert found == pytest.approx({"ResNet50": 0.7613, "ViT": 0.7801}, abs=5e-5)


def test_imagenet_shares_in_sample(imagenet: ScoreTable) -> None:
    result = search_in_sample(imagenet, max_drop=list(SHARES))
    for choice in result.choices:
        assert choice.policy.exits == ("ResNet50", "ViT")
        assert choice.outcome.shares["ResNet50"] == pytest.approx(SHARES[choice.max_drop], abs=5e-4)
        assert choice.outcome.drop <= choice.max_drop + 1e-9


def test_imagenet_frontier_is_what_evaluate_says(imagenet: ScoreTable) -> None:
    frontier = search_pairs(imagenet)
    assert len(frontier) > 100
    for point in frontier.points[:: len(frontier) // 20]:
        outcome = evaluate(imagenet, point.policy)
        assert (point.cost, point.drop, point.shares) == (
            outcome.cost["MACs"],
            outcome.drop,
            outcome.shares,
        )


def test_imagenet_certified(imagenet: ScoreTable, tmp_path: Path) -> None:
    save_table(imagenet, tmp_path / "imagenet")
    result = search(load_table(tmp_path / "imagenet"), max_drop=[0.25, 0.5, 1.0])
    certified = []
    for choice in result.choices:
        assert choice.certificate is not None
        assert choice.certificate.samples == len(imagenet.on("certify"))
        assert choice.outcome.drop_interval[0] <= choice.max_drop
        certified.append(choice.outcome.shares.get("ResNet50", 0.0))
    assert certified == sorted(certified)
    assert certified[-1] > 0.85
    assert certified[-1] < SHARES[1.0] + 0.01


def test_rafdb_saves_half_the_price(rafdb: ScoreTable, shared: Path) -> None:
    """CNN to Microsoft in-sample at no drop; the prices are those of the file."""
    frame = pl.read_parquet(shared / "apis" / "rafdb.parquet")
    prices = {n: float(frame[f"{n}_cost"].mean()) for n in ("github_cnn", "microsoft")}  # type: ignore[arg-type]
    table = import_predictions(
        LabelFile(shared / "apis" / "rafdb.parquet", "sample_id", "label"),
        dict.fromkeys(prices, shared / "apis" / "rafdb.parquet"),
        costs=prices,
        unit="USD",
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )
    (choice,) = search_in_sample(table, max_drop=0.0, reference="microsoft").choices
    assert choice.policy.exits == ("github_cnn", "microsoft")
    assert choice.outcome.saving["USD"] == pytest.approx(0.487, abs=5e-4)


def test_googles_five_levels_are_ties(rafdb: ScoreTable) -> None:
    google = rafdb.names.index("google")
    assert len(np.unique(rafdb.confidence["max_softmax"][google])) == 5
    frontier = search_pairs(rafdb, reference="google")
    assert frontier.measured_on(rafdb) == frontier


def test_rafdb_certified(rafdb: ScoreTable) -> None:
    result = search(rafdb, max_drop=[1.0, 2.0], reference="microsoft")
    for choice in result.choices:
        assert choice.policy.exits[-1] in {"microsoft", "github_cnn", "facepp"}
        assert choice.certificate is not None
