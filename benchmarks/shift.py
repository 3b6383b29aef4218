"""Claim: no plan that was certified on ImageNet's labels exceeds its budget on ReaL labels by more
than the noise of the test images.

    python benchmarks/shift.py [--cache FOLDER --json --record]

ImageNet: 21 networks, searched against ResNet-152 on the original labels; the test images judged by
the ReaL labels (several right answers per image). For comparison, without a claim, CIFAR-10: five
networks, searched on the JPEG images by default; measured on 1,017 images with the exact pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from cifar10 import specs
from populations import cifar10, imagenet_zoo
from understudy import ScoreTable, search
from understudy.import_predictions import LabelFile, read_labels
from understudy.scoring.on_disk import score_into
from understudy.shift import NO, ShiftCard

DROPS = (0.5, 1.0, 2.0)


def real() -> ShiftCard:
    """The zoo's plans on ReaL labels."""
    table, _ = imagenet_zoo()
    labels = read_labels(
        LabelFile(harness.shared() / "imagenet" / "labels.parquet", "file_name", "real_labels")
    )
    found = search(table, reference="resnet152", max_drop=DROPS)
    return found.apply({"ReaL": table.relabelled(labels)})


def lossless(cache: Path) -> ShiftCard:
    """The plans of compressed CIFAR-10 images on lossless ones."""
    sys.path.insert(0, str(harness.ROOT / "benchmarks"))
    data = harness.shared()
    table, _ = cifar10(cache)
    with tempfile.TemporaryDirectory() as folder:
        exact: ScoreTable = score_into(
            Path(folder) / "table",
            specs(data),
            f"parquet:{data}/cifar10/test_lossless_1017.parquet",
            measure_batches=(),
        )
        return search(table, max_drop=DROPS).apply({"lossless": exact})


def figures(card: ShiftCard) -> list[dict[str, Any]]:
    """What was seen and what was measured, a row per plan."""
    (name,) = (table.name for table in card.tables)
    rows = []
    for plan in card.plans:
        one, seen = plan.on[name], plan.seen
        assert seen is not None
        assert one.drop_change_interval is not None
        rows.append(
            {
                "max_drop": plan.max_drop,
                "exits": list(plan.policy.exits),
                "samples": one.outcome.samples,
                "reference_accuracy": _rounded(seen.reference_accuracy)
                + _rounded(one.outcome.reference_accuracy),
                "drop": _rounded(seen.drop) + _rounded(one.outcome.drop),
                "interval": _rounded(*one.outcome.drop_interval),
                "within": one.within,
                "change": _rounded(one.drop_change, *one.drop_change_interval),
                "saving": _rounded(seen.saving["MACs"]) + _rounded(one.outcome.saving["MACs"]),
                "agreement": round(one.agreement, 4),
            }
        )
    return rows


def _rounded(*values: float | None) -> list[float]:
    return [round(value, 4) for value in values if value is not None]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    judged = figures(real())
    with tempfile.TemporaryDirectory() as folder:
        exact = figures(lossless(arguments.cache or Path(folder)))
    return {
        "pairs": "seen where searched, measured there",
        "real": judged,
        "lossless": exact,
        "met": all(row["within"] != NO for row in judged),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, help="a folder that keeps the table of CIFAR-10")


if __name__ == "__main__":
    harness.main(
        measure,
        claim="21 ImageNet networks: no plan that was certified on the original labels exceeds its "
        "budget on ReaL labels by more than the noise of the test images",
        options=options,
    )
