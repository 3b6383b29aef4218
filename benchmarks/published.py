"""The exact search reproduces the best two-stage cascades on published predictions, in-sample."""

from __future__ import annotations

import argparse
from typing import Any

import harness
from understudy.import_predictions import LabelFile, import_predictions
from understudy.searching.search import search_in_sample

DROPS = (0.0, 0.1, 0.25, 0.5, 1.0)
EXPECTED = (0.903, 0.910, 0.916, 0.932, 0.961)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    imagenet, apis = harness.shared() / "imagenet", harness.shared() / "apis" / "rafdb.parquet"
    vision = import_predictions(
        LabelFile(imagenet / "labels.parquet", "file_name", "label"),
        {name: imagenet / f"{name}.parquet" for name in ("ResNet50", "ViT")},
        costs={"ResNet50": 4.11e9, "ViT": 17.58e9},
    )
    found = search_in_sample(vision, max_drop=DROPS)
    shares = [choice.outcome.shares.get("ResNet50", 0.0) for choice in found.choices]
    names = ("github_cnn", "facepp", "google", "microsoft")
    prices = import_predictions(
        LabelFile(apis, "sample_id", "label"),
        dict.fromkeys(names, apis),
        costs={"github_cnn": 0.01, "facepp": 5.0, "google": 15.0, "microsoft": 10.0},
        unit="USD per 10,000",
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )
    pair = search_in_sample(
        prices.only(["github_cnn", "microsoft"]), max_drop=0.0, reference="microsoft"
    )
    saving = pair.choices[0].outcome.saving[pair.unit]
    return {
        "imagenet": {
            "samples": len(vision),
            "max_drop": DROPS,
            "ResNet50_share": [round(share, 5) for share in shares],
            "expected": EXPECTED,
        },
        "rafdb": {
            "samples": len(prices),
            "CNN_to_Microsoft_saving": round(saving, 4),
            "expected": 0.487,
        },
        "met": all(abs(a - b) < 6e-4 for a, b in zip(shares, EXPECTED, strict=True))
        and abs(saving - 0.487) < 1e-3,
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="ResNet50 answers .903/.910/.916/.932/.961 of ImageNet before ViT at "
        "0/0.1/0.25/0.5/1 points; CNN to Microsoft saves 48.7 % of the price on RAFDB at 0 points "
        "(in-sample)",
    )
