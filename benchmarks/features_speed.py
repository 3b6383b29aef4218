"""What making features costs beyond the forward pass that they come from.

    python benchmarks/features_speed.py [--json] [--device cuda] [--images 500] [--rounds 7]

A ResNet-50 with random weights at 224 x 224, tapped as `train-exits` does by default, with linear
heads. Each round runs, in turns and in changing order:

- the extractor of features beside the plain forward pass of the same batches in inference mode,
  in the memory format that the extractor takes; and
- caching the features of JPEG files (`FeatureCache.fill`: decoding, views, forward, writing) beside
  decoding and forward alone.

Ratios of medians; images per second beside them. What is not the network, by kind, is in "beyond":
seconds of copies and checks of the features, and of writing them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image

import harness
from understudy.early_exit.network import ExitNetwork, attach
from understudy.early_exit.taps import even_taps, list_taps
from understudy.malloc import keep_freed_memory
from understudy.nn.stage import Preprocess, Stage
from understudy.training import feature_cache, features
from understudy.training.api import USUAL_TAPS
from understudy.training.backbone import channels_last
from understudy.training.feature_cache import CacheRows, FeatureCache, kinds_of
from understudy.training.features import FeatureExtractor, TrainingImages
from understudy.training.sampling import Augmentation, hold_out
from understudy.zoo.batches import batches
from understudy.zoo.data import DataSet, open_data

LEAST = 0.95
BATCH = 64
SIDE = 224


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)


def network_on(device: str) -> ExitNetwork:
    import torchvision

    torch.manual_seed(0)
    preprocess = Preprocess(
        size=(SIDE, SIDE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    stage = Stage(torchvision.models.resnet50(weights=None), preprocess=preprocess)
    taps = even_taps(list_taps(stage, torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)), USUAL_TAPS)
    return attach(stage, {tap.path: "linear" for tap in taps}).to(device)


def write_photographs(folder: Path, count: int) -> DataSet:
    """JPEG files of smooth noise, 500 x 375, in two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        file = folder / "images" / str(number % 2) / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(256, size=(24, 32, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)
    return open_data(f"folder:{folder / 'images'}")


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start


class Plain:
    """The forward pass alone, in the parts, the precision and the format of an extractor."""

    def __init__(self, extract: FeatureExtractor) -> None:
        self.stage = extract._backbone.stage
        self.settings = extract._settings
        self.size = min(self.settings.part, BATCH)

    def __call__(self, images: Any) -> None:
        with self.settings.running():
            for start in range(0, len(images), self.size):
                part = images[start : start + self.size]
                self.stage.model(channels_last(self.stage.prepare(part)))


class Stopwatch:
    """Adds up the seconds of some functions of a module, which it wraps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def timed(*args: Any, **more: Any) -> Any:
            start = perf_counter()
            try:
                return plain(*args, **more)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

        setattr(owner, name, timed)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    network = network_on(arguments.device)
    extract = FeatureExtractor(network, classifier=None, logits=True)
    plain, device = Plain(extract), extract.device
    count = min(2 * BATCH, arguments.images)
    ready = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as name:
        data = write_photographs(Path(name), arguments.images)
        images = TrainingImages(data, Augmentation(0.125, True, 0), extract, None)
        parts = hold_out(data, share=0.05, seed=0)
        rows = CacheRows(parts, images=len(data), views=1)
        kinds = kinds_of(extract(ready[:2]))
        folders = iter(Path(name) / f"cache{number}" for number in range(10**6))

        def cached() -> None:
            FeatureCache(next(folders), kinds, rows).fill(images, on_progress=lambda *_: None)

        def decoded() -> None:
            for batch in batches(data, size=feature_cache.BATCH):
                plain(batch.images)

        ways = {
            "features": lambda: [extract(part) for part in ready.split(BATCH)],
            "forward": lambda: [plain(part) for part in ready.split(BATCH)],
            "cached": cached,
            "decoded and forward": decoded,
        }
        found = rounds_of(ways, arguments.rounds, device)
        beyond = time_beyond(cached)
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = {
        "features": medians["forward"] / medians["features"],
        "cached": medians["decoded and forward"] / medians["cached"],
    }
    counts = {"features": len(ready), "forward": len(ready)}
    return {
        "taps": [tap.path for tap in network.taps],
        "images_per_second": {
            name: counts.get(name, arguments.images) / value for name, value in medians.items()
        },
        "times_as_fast_as_plain": ratios,
        "beyond": {name: value / medians["cached"] for name, value in beyond.items()},
        "met": min(ratios.values()) >= LEAST,
    }


def rounds_of(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every way by round; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else list(reversed(ways)):
            took = seconds(ways[name], device)
            if number:
                found[name].append(took)
    return found


def time_beyond(cached: Callable[[], None]) -> dict[str, float]:
    """Seconds of what is not the network, in one run."""
    watch = Stopwatch()
    watch.wrap(features, "_stored")
    watch.wrap(features, "_apart")
    watch.wrap(FeatureCache, "_write_note")
    watch.wrap(feature_cache, "_new_array")
    cached()
    return watch.seconds


if __name__ == "__main__":
    harness.main(
        measure,
        claim=f"features of a ResNet-50 are made at {LEAST:g} of the speed of its forward pass and "
        "more, from tensors and from JPEG files",
        options=options,
    )
