"""Are the savers that the catalogue suggests the right ones?

    python benchmarks/suggestions.py [--record]

On the pairs of 21 ImageNet networks whose predictions are known: how well accuracies alone tell the
share of deferred images and so the saving, and whether the best saver of each large model is
suggested. For the large models of the papers: which of the savers that their rows are reproduced
with are suggested, of all models.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import harness
from understudy.catalogue import find_model, load_catalogue
from understudy.catalogue.models import CatalogueModel
from understudy.catalogue.published import join_published, read_published
from understudy.catalogue.suggestions import (
    DROP,
    PER_ERROR,
    PER_GAP,
    expected_saving,
    suggest,
)
from understudy.reproduction.papers import PaperRow, load_papers

ENOUGH = 5  # suggestions that have to contain a saver whose saving is near the best
NEAR = 0.05  # of the large model's MACs
TIMES = "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"


class Pair(NamedTuple):
    """A saver in front of a large model."""

    big: str
    little: str
    error: float
    gap: float
    cost: float
    deferred: float

    @property
    def saving(self) -> float:
        return 1 - self.cost - self.deferred


def pairs(models: dict[str, CatalogueModel]) -> list[Pair]:
    """All pairs of a more accurate, dearer network and another, with the share that goes on at the
    lowest threshold that keeps the budget on all images."""
    table = pl.read_parquet(harness.shared() / "imagenet_zoo" / "predictions.parquet")
    label = table["label"].to_numpy()
    right = {name: table[f"{name}_prediction"].to_numpy() == label for name in models}
    sure = {name: np.argsort(-table[f"{name}_confidence"].to_numpy()) for name in models}
    return [
        Pair(
            big,
            little,
            1 - float(right[little].mean()),
            float(right[big].mean() - right[little].mean()),
            models[little].macs / models[big].macs,
            deferred(right[big], right[little], sure[little]),
        )
        for big in models
        for little in models
        if models[little].macs < models[big].macs and right[little].mean() < right[big].mean()
    ]


def deferred(big: NDArray[np.bool_], little: NDArray[np.bool_], order: NDArray[np.intp]) -> float:
    """The least share of images that the large model answers within the budget."""
    gained = np.cumsum(little[order].astype(int) - big[order])
    kept = np.flatnonzero(gained >= -DROP / 100 * len(order))
    return 1 - (int(kept[-1]) + 1) / len(order) if len(kept) else 1.0


def fitted(rows: list[Pair]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients of error and gap, and the residuals of pairs of large models left out."""
    features = np.array([(one.error, one.gap) for one in rows])
    target = np.array([one.deferred for one in rows])
    bigs = np.array([one.big for one in rows])
    residuals = np.empty(len(rows))
    for big in set(bigs):
        out = bigs == big
        found = np.linalg.lstsq(features[~out], target[~out], rcond=None)[0]
        residuals[out] = target[out] - features[out] @ found
    return np.linalg.lstsq(features, target, rcond=None)[0], residuals


def chosen(models: dict[str, CatalogueModel], rows: list[Pair]) -> dict[str, Any]:
    """Per large model: the best saver by its predictions, and what is suggested by accuracies."""
    found = {}
    for big, model in models.items():
        savings = {one.little: one.saving for one in rows if one.big == big}
        if not savings or max(savings.values()) <= 0:
            continue
        suggested = suggest(model, models.values(), within=100, most=ENOUGH).savers
        names = [one.model.architecture for one in suggested]
        best = max(savings, key=savings.__getitem__)
        reached = max((savings.get(name, 0.0) for name in names), default=0.0)
        found[big] = {
            "best": best,
            "saving": round(savings[best], 3),
            "suggested": names,
            "best of the suggested": round(reached, 3),
            "contained": best in names,
            "near": savings[best] - reached <= NEAR,
        }
    return found


def of_papers() -> dict[str, Any]:
    """For the papers' large models: which of the savers that their rows are reproduced with are
    suggested among all models, and which models are, in published time and in MACs."""
    folder = harness.shared() / "timm"
    files = [folder / "results-imagenet.csv", folder / TIMES]
    rows = [row for paper in load_papers().papers.values() for row in paper.rows if row.savers]
    return {
        f"{row.name}, by {unit}": of_row(row, join_published(load_catalogue(), published))
        for unit, published in (
            ("MACs", read_published(files[:1])),
            ("time", read_published(files)),
        )
        for row in rows
    }


def of_row(row: PaperRow, models: Sequence[CatalogueModel]) -> dict[str, Any]:
    """What is suggested for the large model of a row."""
    big = find_model(row.big, models)
    found = suggest(big, models)
    own = {find_model(spec, models).architecture for spec in row.savers}
    families = {find_model(spec, models).family for spec in row.savers}
    ranks = {
        one.model.spec: rank
        for rank, one in enumerate(found.savers, 1)
        if one.model.architecture in own
    }
    rest = Counter(one.model.family in families for one in found.savers)[True]
    best = max((s for s in map(partial(estimate, big, models, found.unit), row.savers)), default=0)
    return {
        "big": big.spec,
        "unit": found.unit,
        "suggested savers of the row, by rank": ranks,
        "suggestions of the row's families": rest,
        "estimated saving, best of the row": round(best, 3),
        "suggestions": {one.model.spec: round(one.saving or 0, 3) for one in found.savers},
    }


def estimate(big: CatalogueModel, models: Sequence[CatalogueModel], unit: Any, spec: str) -> float:
    """The estimated saving of a saver; 0 where an accuracy or a time is not known."""
    little = find_model(spec, models)
    known = little.top1 is not None and (unit == "MACs" or little.ms)
    return (expected_saving(big, little, unit) or 0.0) if known else 0.0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    catalogue = load_catalogue()
    table = pl.read_parquet_schema(harness.shared() / "imagenet_zoo" / "predictions.parquet")
    names = [name.removesuffix("_prediction") for name in table if name.endswith("_prediction")]
    models = {name: find_model(f"torchvision:{name}.IMAGENET1K_V1", catalogue) for name in names}
    rows = pairs(models)
    (per_error, per_gap), residuals = fitted(rows)
    best = chosen(models, rows)
    near = sum(one["near"] for one in best.values())
    return {
        "met": near >= 0.9 * len(best),
        "pairs": len(rows),
        "deferred per error and gap": [round(float(per_error), 3), round(float(per_gap), 3)],
        "in the code": [PER_ERROR, PER_GAP],
        "residual, large models left out": round(float(np.sqrt(np.mean(residuals**2))), 3),
        "large models": len(best),
        "best saver suggested": sum(one["contained"] for one in best.values()),
        "suggested within 5 % of the MACs of the best": near,
        "savers": best,
        "papers": of_papers(),
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="of 21 networks, for 90 % of the large ones a saver within 5 % of the MACs of the "
        "best is among five suggestions by published accuracy alone",
    )
