"""Worked examples of costs: published times of a GPU, and constants of `cluster_costs.py`."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import harness
from cost_model import Costs, Searching
from understudy.reproduction.workload import TRAIN_IMAGES as IMAGES
from understudy.scoring.measuring import MEMORY
from understudy.zoo.batches import batches
from understudy.zoo.data import open_data

TIMES = "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"
RESNET152 = 11.5e9
"""MACs of an image."""
SHARD, BATCH, DECODED = 2_048, 64, 192
LEVEL = 0.7
"""The share of its cores that a server is planned to use."""


def examples(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Worked examples: published times of GPUs, and the constants of this machine.

    Args:
        kept: the other parts as they were recorded.
    """
    decoding = decoding_seconds()
    search = Costs(kept["searching"]["constants"])
    request, rate = (
        kept["serving"]["constants"]["request"],
        1e9 * kept["scoring"]["GMACs_per_core_second"],
    )
    models = sorted(published_models(), key=lambda one: one.seconds)
    certified = json.loads((harness.ROOT / "docs/images/figures.json").read_text())["certified"][0]
    per_image = RESNET152 * (1 - certified["saving"]) / rate
    return {
        "decoded 500 x 375 JPEG, core ms": round(1e3 * decoding, 2),
        "scoring ImageNet's train images": {
            "source": f"{TIMES}: RTX 4090, AMP, channels last",
            "images": IMAGES,
            **{
                name: scoring_hours(some, decoding)
                for name, some in (
                    ("the 1,000 fastest models", models[:1000]),
                    (f"all {len(models):,} models", models),
                )
            },
        },
        "all pairs of 1,500 models on ImageNet's train images, core minutes": round(
            search.of(Searching(1_500, IMAGES)) / 60, 1
        ),
        "a million requests a day": {
            "cascade": "before ResNet-152, certified for 0.5 points",
            "saving": certified["saving"],
            "core_ms_per_request": round(1e3 * (request + per_image), 1),
            "core_ms_without_the_cascade": round(1e3 * (request + RESNET152 / rate), 1),
            "cores": {
                name: round(factor * 1e6 / 86_400 * (request + cost) / LEVEL, 1)
                for name, factor, cost in (
                    ("mean rate", 1, per_image),
                    ("four times the mean", 4, per_image),
                    ("four times the mean, without the cascade", 4, RESNET152 / rate),
                )
            },
            "level": LEVEL,
        },
        "met": True,
    }


class Published(NamedTuple):
    """A model in timm's file of times: seconds of an image on the GPU, bytes of its weights."""

    seconds: float
    bytes: float


def published_models() -> list[Published]:
    with (harness.shared() / "timm" / TIMES).open(newline="") as lines:
        return [
            Published(1 / float(row["infer_samples_per_sec"]), 4e6 * float(row["param_count"]))
            for row in csv.DictReader(lines)
        ]


def scoring_hours(models: Sequence[Published], decoding: float) -> dict[str, Any]:
    """GPU hours of models over the train images, and core hours of decoding these beside it."""
    groups = -(-sum(one.bytes for one in models) // MEMORY)
    hours = IMAGES * sum(one.seconds for one in models) / 3600
    return {
        "gpu_hours": round(hours),
        "hours_on_gpus": {str(gpus): round(hours / gpus, 1) for gpus in (1, 8, 64)},
        "groups": int(groups),
        "decoding_core_hours": round(IMAGES * groups * decoding / 3600),
        "cores_per_gpu": round(IMAGES * groups * decoding / 3600 / hours, 1),
        "gpu_seconds_of_a_shard": round(SHARD * sum(one.seconds for one in models) / groups, 1),
    }


def decoding_seconds() -> float:
    """The processor seconds in which one thread decodes a made-up photograph of 500 x 375."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "class").mkdir()
        for number in range(DECODED):
            layers = [
                Image.fromarray(draw.normal(128, spread, (side, side, 3)).clip(0, 255).astype("u1"))
                for side, spread in ((6, 60), (60, 40), (375, 25))
            ]
            pixels = np.mean([np.asarray(one.resize((500, 375))) for one in layers], axis=0)
            Image.fromarray(pixels.astype("u1")).save(
                Path(folder, "class", f"{number}.jpg"), quality=95
            )
        data, found = open_data(f"folder:{folder}"), []
        for _ in range(3):
            start = process_time()
            for _ in batches(data, size=BATCH, workers=1):
                pass
            found.append((process_time() - start) / DECODED)
    return min(found)
