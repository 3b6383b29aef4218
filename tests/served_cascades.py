"""Cascades of small networks for tests of the server: two operating points with baselines."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from digit_nets import PIXEL, more_pixels, pixels
from understudy.baseline import baseline_of
from understudy.nn.cascade import Cascade
from understudy.nn.stage import Stage
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.scores import Array, ScoreTable
from understudy.zoo.saved_cascades import save_cascade

CLASSES = ("cat", "dog", "horse")
COSTS = {"MACs": {"tiny": 1.0, "big": 9.0}, "ms": {"tiny": 0.5, "big": 2.0}}


def random_images(count: int, seed: int = 0, side: int = 4) -> Array:
    """Random pixels (N, 3, side, side)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


def stages() -> dict[str, Stage]:
    """Two networks that take images of any size."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = {"tiny": (pixels(), "pixels"), "big": (more_pixels(), "more_pixels")}
    return {
        name: Stage(stage.model, preprocess=PIXEL, origin={"spec": f"py:digit_nets:{factory}"})
        for name, (stage, factory) in made.items()
    }


def served_cascade() -> Cascade:
    """A cascade whose first stage answers about half of random images."""
    models = stages()
    images = torch.from_numpy(random_images(2000, seed=1))
    outputs = {}
    for name, stage in models.items():
        shares = torch.softmax(stage(images), 1)
        outputs[name] = (shares.argmax(1).numpy(), shares.max(1).values.numpy())
    table = ScoreTable.from_predictions(outputs, outputs["big"][0], costs=COSTS)
    loose, tight = np.quantile(outputs["tiny"][1], [0.5, 0.8]).tolist()
    points = []
    for policy, drop, delta in (
        (Policy.pair("tiny", "big", loose), 1.0, 0.05),
        (Policy.pair("tiny", "big", tight), 0.5, 0.05),
        (Policy.single("big"), 0.0, 0.0),
    ):
        half = table.rows(slice(1000)), table.rows(slice(1000, None))
        baseline = baseline_of(*half, policy, reference="big")
        share = np.mean(outputs["tiny"][1] >= (policy.stages[0].threshold or 0))
        cost = 9.0 if delta == 0 else 10.0 - 9.0 * float(share)
        points.append(OperatingPoint(policy, drop, delta, cost, "MACs", baseline=baseline))
    return Cascade(models, points[0].policy, operating_points=points, classes=CLASSES)


def saved_cascade(folder: Path) -> None:
    """The same in a folder."""
    save_cascade(served_cascade(), folder)


def png(pixels: Array) -> bytes:
    """Pixels (3, H, W) as a file."""
    buffer = BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()
