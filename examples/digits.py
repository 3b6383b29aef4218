"""Scikit-learn's 8 x 8 digits and small networks for them, which the three examples share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Preprocess, Stage
from understudy.zoo.data import open_data

SEEN, UNSEEN = open_data("digits:train"), open_data("digits:heldout")
READY = Preprocess(size=(8, 8), mean=(0.3,), std=(0.37,))


class Block(nn.Module):
    """A convolution with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def network(width: int, blocks: int) -> nn.Module:
    """A residual network; `blocks.0`, `blocks.1`... are good places for exits."""
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
    """The model trained on the digits that no search sees, as a stage for raw images."""
    torch.manual_seed(0)
    images = READY(torch.stack([SEEN.image(i) for i in range(len(SEEN))]))
    labels = torch.from_numpy(SEEN.labels)
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
    return Stage(model, preprocess=READY)


def unseen() -> list[tuple[Tensor, Tensor]]:
    """The digits that nothing was trained on, in batches of raw images and labels."""
    images = torch.stack([UNSEEN.image(i) for i in range(len(UNSEEN))])
    return list(zip(images.split(256), torch.from_numpy(UNSEEN.labels).split(256), strict=True))
