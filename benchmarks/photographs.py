"""Peak memory of `understudy score` and `understudy run` on photographs of 24 megapixels, at the
default batch; and whether the cascade answers them as its table says.

    python benchmarks/photographs.py [--photographs 256] [--record]

The photographs are JPEGs with structure at every scale, a few of them under many names; the two
networks are small ones of timm with random weights, whose activations are small too: the same
networks on images of a few kilobytes need what is named `without photographs`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import harness
from understudy import Policy, load_table, save_cascade
from understudy.nn.cascade import Cascade
from understudy.outcome import decide
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.zoo.models import load_stages

WIDTH, HEIGHT, DIFFERENT, CLASSES = 6000, 4000, 8, 4
NETWORKS = {"small": "test_vit", "large": "test_vit2"}
BOUND = 2.0  # GB, of the whole process


def photograph(number: int) -> Image.Image:
    """Smooth colours, and grain."""
    draw = np.random.default_rng(number)
    colours = draw.integers(0, 256, (HEIGHT // 125, WIDTH // 125, 3), dtype=np.uint8)
    smooth = Image.fromarray(colours).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = draw.integers(0, 12, (HEIGHT // 8, WIDTH // 8, 1), dtype=np.uint8)
    return Image.fromarray(np.asarray(smooth) // 2 + np.tile(grain, (8, 8, 1)))


def make_folders(root: Path, count: int) -> None:
    """The photographs, and the same in small."""
    for number in range(count):
        source = number % DIFFERENT
        for kind, size in (("photographs", (WIDTH, HEIGHT)), ("small", (240, 160))):
            first = root / f"first {kind} {source}.jpg"
            if not first.exists():
                photograph(source).resize(size).save(first, quality=90)
            folder = root / kind / f"class {number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(first, folder / f"{number:04}.jpg")


def model_specs(root: Path) -> dict[str, str]:
    """Model specs by exit; the weights lie in files."""
    specs = {}
    for name, network in NETWORKS.items():
        torch.manual_seed(0)
        weights = root / f"{name}.safetensors"
        save_file(timm.create_model(network, num_classes=CLASSES).state_dict(), weights)
        specs[name] = f"timm:{network}?classes={CLASSES}&checkpoint={weights}"
    return specs


def understudy(*arguments: str) -> dict[str, float]:
    """Seconds and peak memory in GB of a command as a process."""
    start = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "understudy", *arguments, "--json"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"understudy {arguments[0]} ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return {"seconds": perf_counter() - start, "peak GB": usage.ru_maxrss / unit}


def built(root: Path, specs: dict[str, str]) -> Policy:
    """A cascade of both networks, half of the photographs for each."""
    table = load_table(root / "table")
    threshold = float(np.median(table.confidence[DEFAULT_CONFIDENCE][table.names.index("small")]))
    policy = Policy.pair("small", "large", threshold)
    stages = {name: load_stages(spec, name)[name] for name, spec in specs.items()}
    save_cascade(Cascade(stages, policy), root / "cascade")
    return policy


def same_answers(root: Path, policy: Policy) -> bool:
    """Whether the cascade gave the predictions that the table says, sample by sample."""
    answers = pl.read_parquet(root / "answers.parquet")
    expected = decide(load_table(root / "table"), policy)
    exits = [policy.exits[number] for number in expected.stage.tolist()]
    same = answers["prediction"].to_numpy() == expected.prediction
    return bool(same.all()) and answers["exit"].to_list() == exits


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_folders(root, arguments.photographs)
        specs = model_specs(root)
        data = f"folder:{root / 'photographs'}"
        models = [f"{exit}={spec}" for exit, spec in specs.items()]
        small = ["--data", f"folder:{root / 'small'}", "--into", str(root / "small table")]
        without = understudy("score", *models, *small)
        scored = understudy("score", *models, "--data", data, "--into", str(root / "table"))
        policy = built(root, specs)
        out = str(root / "answers.parquet")
        ran = understudy("run", str(root / "cascade"), "--data", data, "--out", out)
        same = same_answers(root, policy)
    peak = max(scored["peak GB"], ran["peak GB"])
    return {
        "photographs": arguments.photographs,
        "megapixels": WIDTH * HEIGHT / 1e6,
        "score": scored,
        "score without photographs": without,
        "run": ran,
        "answers as the table says": same,
        "met": peak <= BOUND and same,
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photographs", type=int, default=256)


if __name__ == "__main__":
    harness.main(
        measure,
        claim=f"256 photographs of 24 megapixels are scored and answered in {BOUND} GB",
        options=options,
    )
