"""Real tables that benchmarks take as populations: what is true is read off the whole table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import harness
from understudy import ScoreTable, load_table
from understudy.import_predictions import LabelFile, import_predictions
from understudy.searching.optimism import resampled

# Billions of MACs per image at 224 x 224 (inception_v3: 299 x 299), on torchvision's definitions.
GMACS = {
    "squeezenet1_1": 0.35,
    "alexnet": 0.71,
    "squeezenet1_0": 0.82,
    "resnet18": 1.81,
    "densenet121": 2.83,
    "densenet169": 3.36,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "densenet201": 4.29,
    "inception_v3": 5.71,
    "vgg11_bn": 7.61,
    "vgg11": 7.61,
    "densenet161": 7.73,
    "resnet101": 7.80,
    "vgg13_bn": 11.31,
    "vgg13": 11.31,
    "resnet152": 11.51,
    "vgg16_bn": 15.47,
    "vgg16": 15.47,
    "vgg19_bn": 19.63,
    "vgg19": 19.63,
}
PRICES = {"github_cnn": 0.01, "facepp": 5.0, "google": 15.0, "microsoft": 10.0}
SHARES = (0.2, 0.6, 0.2)  # of tune, certify, test


def imagenet_zoo() -> tuple[ScoreTable, str]:
    """21 torchvision networks on the 50,000 ImageNet validation images, and the costliest."""
    file = harness.shared() / "imagenet_zoo" / "predictions.parquet"
    table = import_predictions(
        LabelFile(file, "file_name", "label"),
        dict.fromkeys(GMACS, file),
        costs={name: 1e9 * cost for name, cost in GMACS.items()},
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )
    return table, "vgg19"


def imagenet() -> tuple[ScoreTable, str]:
    """ResNet-50 and ViT-B/16 on the ImageNet validation images, and ViT, the reference."""
    folder = harness.shared() / "imagenet"
    table = import_predictions(
        LabelFile(folder / "labels.parquet", "file_name", "label"),
        {name: folder / f"{name}.parquet" for name in ("ResNet50", "ViT")},
        costs={"ResNet50": 4.11e9, "ViT": 17.58e9},
    )
    return table, "ViT"


def rafdb() -> tuple[ScoreTable, str]:
    """A small network and three commercial APIs on RAF-DB, with Microsoft's as the reference."""
    file = harness.shared() / "apis" / "rafdb.parquet"
    table = import_predictions(
        LabelFile(file, "sample_id", "label"),
        dict.fromkeys(PRICES, file),
        costs=PRICES,
        unit="USD per 10,000",
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )
    return table, "microsoft"


def cifar10(cache: Path) -> tuple[ScoreTable, str]:
    """Five networks on CIFAR-10, scored once into a folder in `cache`, and resnet56."""
    folder = cache / "cifar10"
    if not (folder / "table.json").is_file():
        from cifar10 import scored

        cache.mkdir(parents=True, exist_ok=True)
        scored(folder, harness.shared())
    return load_table(folder), "resnet56"


def tables(cache: Path | None) -> dict[str, tuple[ScoreTable, str]]:
    """Populations by name, each with its reference; CIFAR-10 where there is a folder for it."""
    found = {"imagenet": imagenet(), "rafdb": rafdb()}
    return found if cache is None else found | {"cifar10": cifar10(cache)}


def drawn(table: ScoreTable, rows: np.ndarray, shares: tuple[float, ...] = SHARES) -> ScoreTable:
    """The table of some samples, repeats allowed, split in order by the shares."""
    ends = np.round(np.cumsum(shares)[:-1] * len(rows))
    codes = np.searchsorted(ends, np.arange(len(rows)), side="right").astype(np.uint8)
    return resampled(table, rows, codes)
