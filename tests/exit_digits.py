"""Networks of the digits for training exits, as ``py:exit_digits:NAME``."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.nn.stage import Preprocess, Stage
from understudy.zoo.data import open_data

DIGIT = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))


class Block(nn.Module):
    """A convolution, and an activation in place."""

    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(planes)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.norm(self.conv(x)))
        return activated


class DigitNet(nn.Module):
    """Three blocks and a linear layer on global averages."""

    def __init__(self, planes: int, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block(channels, planes, 1),
            Block(planes, 2 * planes, 2),
            Block(2 * planes, 4 * planes, 1),
        )
        self.linear = nn.Linear(4 * planes, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.blocks(x).mean((2, 3)))
        return logits


class Centred(DigitNet):
    """Its answer comes from no linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.mean(1, keepdim=True)


def big() -> Stage:
    return Stage(DigitNet(16), preprocess=DIGIT)


def small() -> Stage:
    return Stage(DigitNet(4), preprocess=DIGIT)


def seven() -> Stage:
    return Stage(DigitNet(4, classes=7), preprocess=DIGIT)


def centred() -> Stage:
    return Stage(Centred(4), preprocess=DIGIT)


def train(stage: Stage, file: Path, *, epochs: int, data: str = "digits:train") -> None:
    """Train a network on the digits and write its weights."""
    digits = open_data(data)
    images = stage.prepare([digits.image(n) for n in range(len(digits))])
    labels = torch.from_numpy(digits.labels)
    model = stage.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(labels), generator=generator), 64):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(images[rows]), labels[rows]))
            optimizer.step()
    save_file(model.state_dict(), file)
