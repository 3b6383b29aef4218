"""Two small networks of random weights that resize images: what hostile requests meet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from understudy import Cascade, Policy, Preprocess, Stage, save_cascade

SHAPE = (3, 32, 32)


def little() -> Stage:
    """A linear model."""
    return _stage(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), "little")


def big() -> Stage:
    """A convolution and a linear model."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
    )
    return _stage(network, "big")


def _stage(network: nn.Module, name: str) -> Stage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
    stage = Stage(network, preprocess=Preprocess(size=SHAPE[1:], mean=(0.5,) * 3, std=(0.25,) * 3))
    stage.origin = {"spec": f"py:hostile_nets:{name}"}
    return stage.eval()


def save(folder: Path) -> None:
    """Write a cascade of the two."""
    save_cascade(
        Cascade({"little": little(), "big": big()}, Policy.pair("little", "big", 0.3)), folder
    )
