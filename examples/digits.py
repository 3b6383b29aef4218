"""Data and networks of the examples: scikit-learn's 8 x 8 digits, and small residual networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Preprocess, Stage
from understudy.zoo.data import open_data

TRAINING, HELD_OUT = open_data("digits:train"), open_data("digits:heldout")
PREPROCESS = Preprocess(size=(8, 8), mean=(0.3,), std=(0.37,))


class Block(nn.Module):
    """A convolution with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def network(width: int, blocks: int) -> nn.Module:
    """A residual network; exits can be attached at `blocks.0`, `blocks.1`, ..."""
    torch.manual_seed(0)
    layers = {
        "stem": nn.Conv2d(1, width, 3, padding=1),
        "blocks": nn.Sequential(*(Block(width) for _ in range(blocks))),
        "pool": nn.AdaptiveAvgPool2d(2),
        "flat": nn.Flatten(),
        "linear": nn.Linear(4 * width, 10),
    }
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def trained(model: nn.Module, epochs: int = 15) -> Stage:
    """The model trained on the training digits, as a stage that takes raw images."""
    torch.manual_seed(0)
    images = PREPROCESS(torch.stack([TRAINING.image(i) for i in range(len(TRAINING))]))
    labels = torch.from_numpy(TRAINING.labels)
    steps = epochs * -(-len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return Stage(model, preprocess=PREPROCESS)


def held_out() -> list[tuple[Tensor, Tensor]]:
    """The digits that are not used for training, in batches of raw images and labels."""
    images = torch.stack([HELD_OUT.image(i) for i in range(len(HELD_OUT))])
    return list(zip(images.split(256), torch.from_numpy(HELD_OUT.labels).split(256), strict=True))
