"""What views that are drawn anew cost: milliseconds of one core per image, for each setting.

    python benchmarks/augmentation_cost.py [--json]

Images of 32 x 32 pixels, as of CIFAR-10, and photographs of 500 x 375 for a model that takes
224 x 224; all made up. Beside the settings: decoding a JPEG, one pass of ResNet-56 (CIFAR) and of
ResNet-50, and reading the cached features of seven taps. Times are processor time of one thread,
the least of several rounds, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet50

import harness
from cifar_nets import CifarResNet
from understudy.nn.preprocess import Resizing
from understudy.training.augmentation import Augmentation, FreshAugmentation
from understudy.training.config import TrainingConfig
from understudy.zoo.decoding import decode_image

SETTINGS: dict[str, dict[str, Any]] = {
    "crop": {"crop": 0.08},
    "crop, autoaugment": {"crop": 0.08, "auto_augment": "autoaugment"},
    "crop, randaugment": {"crop": 0.08, "auto_augment": "randaugment"},
    "erase": {"erase": 0.25},
}
SIZES = {"32": ((32, 32), (32, 32), 1.0), "224": ((375, 500), (224, 224), 0.875)}
BATCH, ROUNDS, WIDTHS = 64, 5, (16, 16, 32, 32, 64, 64, 64)


def milliseconds(work: Callable[[], Any], images: int) -> float:
    """Processor time per image, the least of several rounds."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = process_time()
        work()
        times.append(process_time() - start)
    return round(1000 * min(times) / images, 4)


def photograph(height: int, width: int) -> torch.Tensor:
    """Smooth, with some noise, as photographs are."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.normal(128, 60, (1, 3, 8, 8)))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    noisy = smooth + torch.from_numpy(random.normal(0, 4, (3, height, width)))
    return noisy.clamp(0, 255).to(torch.uint8)


def costs(native: tuple[int, int], size: tuple[int, int], crop: float) -> dict[str, float]:
    """Milliseconds per image of every setting."""
    from PIL import Image

    image = photograph(*native)
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG")
    how = Resizing(size, crop=crop, interpolation="bicubic")
    found = {
        "decode": milliseconds(lambda: [decode_image(buffer.getvalue()) for _ in range(8)], 8),
        "resize alone": milliseconds(lambda: [how(image) for _ in range(8)], 8),
    }
    for name, settings in SETTINGS.items():
        fresh = FreshAugmentation(TrainingConfig(**settings), (how,), (127.0,))
        found[name] = milliseconds(
            lambda fresh=fresh: [fresh.image(image, str(n), view=1) for n in range(BATCH)], BATCH
        )
    batch = torch.stack([how(image)] * BATCH)
    names, views = [str(n) for n in range(BATCH)], np.ones(BATCH, int)
    moved = Augmentation(shift=0.125, flip=True, seed=0)
    found["shift, flip"] = milliseconds(lambda: moved.apply(batch, names, views), BATCH)
    for name in ("mixup", "cutmix"):
        fresh = FreshAugmentation(TrainingConfig(**{name: 1.0}), (how,), (127.0,))
        found[name] = milliseconds(lambda fresh=fresh: fresh.batch(batch, view=1, number=0), BATCH)
    return found


@torch.inference_mode()
def passes() -> dict[str, float]:
    """One pass of a backbone, which streaming pays in every epoch."""
    nets = {"ResNet-56 at 32": (CifarResNet(56), 32), "ResNet-50 at 224": (resnet50(), 224)}
    found = {}
    for name, (net, side) in nets.items():
        rows = 64 if side == 32 else 8
        batch = torch.zeros(rows, 3, side, side)
        net.eval()
        found[name] = milliseconds(lambda net=net, batch=batch: net(batch), rows)
    return found


def cached() -> float:
    """Reading seven maps of 8 x 8, as `conv64` takes them, from a file of features."""
    count, random = 4096, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        arrays = [
            np.lib.format.open_memmap(
                Path(folder) / f"{number}.npy", "w+", np.float16, (count, width, 8, 8)
            )
            for number, width in enumerate(WIDTHS)
        ]
        rows = np.sort(random.permutation(count)[:1024])
        return milliseconds(lambda: [np.asarray(array[rows]) for array in arrays], len(rows))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    per_image = {name: costs(*sizes) for name, sizes in SIZES.items()}
    backbone = passes()
    return {
        "milliseconds_per_image": per_image,
        "backbone_milliseconds_per_image": backbone,
        "cached_features_milliseconds_per_image": cached(),
        "met": per_image["224"]["crop, autoaugment"] < backbone["ResNet-50 at 224"],
    }


if __name__ == "__main__":
    harness.main(
        measure,
        claim="augmenting a photograph anew costs less than the backbone's pass over it that "
        "streaming pays as well",
    )
