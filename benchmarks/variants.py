"""Which execution modes are faster here, in turns: ``python benchmarks/variants.py [--json]``.

Weights are random. A mode is kept in the library if it is at least 5 % faster than the
plain model for one of the networks. Freed memory is kept by the process.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from time import perf_counter
from typing import Any

import timm
import torch
from torch import Tensor, nn

import cifar_nets
import harness
from understudy.malloc import keep_freed_memory
from understudy.nn.execution_mode import ExecutionMode, with_mode
from understudy.nn.stage import Stage

MODES = ("", "folded", "channels_last", "folded+channels_last", "bfloat16", "compiled")
ROUNDS, LEAST = 7, 1.05


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    made = {"resnet56 of CIFAR, 256 x 32²": (cifar_nets.resnet56(), torch.randn(256, 3, 32, 32))}
    for name, batch, side in (
        ("resnet50", 16, 224),
        ("mobilenetv3_small_100", 64, 224),
        ("vit_tiny_patch16_224", 32, 224),
        ("convnextv2_atto", 32, 224),
    ):
        images = torch.randn(batch, 3, side, side)
        made[f"{name}, {batch} x {side}²"] = (timm.create_model(name), images)
    return made


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    torch.set_num_threads(2)
    found = {name: _ratios(*made) for name, made in networks().items()}
    best = {mode: max(ratios["times"][mode] for ratios in found.values()) for mode in MODES if mode}
    return {
        "times_as_fast_as_plain": {name: one["times"] for name, one in found.items()},
        "ms_plain": {name: one["ms"] for name, one in found.items()},
        "best": best,
        "met": all(ratio >= LEAST for ratio in best.values()),
    }


def _ratios(model: nn.Module, images: Tensor) -> dict[str, Any]:
    model.eval()
    stages = {
        mode: with_mode(Stage(copy.deepcopy(model)), ExecutionMode.parse(mode))
        if mode
        else Stage(model)
        for mode in MODES
    }
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(ROUNDS + 1):
        for mode, stage in stages.items():
            start = perf_counter()
            stage(images)
            seconds[mode] += [perf_counter() - start] if number else []
    times = {
        mode: round(
            statistics.median(a / b for a, b in zip(seconds[""], seconds[mode], strict=True)), 3
        )
        for mode in MODES
        if mode
    }
    return {"times": times, "ms": round(1000 * statistics.median(seconds[""]), 2)}


if __name__ == "__main__":
    harness.main(
        measure,
        claim="every execution mode that the library keeps is at least 5 % faster than the "
        "plain one for some network",
    )
