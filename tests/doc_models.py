"""Small models and data that take the place of real ones in the examples of the documentation.

The factories are model specifications too, ``py:nets:small``: `nets` is this module.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from understudy import Preprocess, ScoreTable, Stage, build, save_cascade, score, search
from understudy.zoo.data import open_data

PREPROCESS = Preprocess(size=(8, 8), mean=(0.3,), std=(0.37,))
BATCH = 300
Loader = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """A convolution with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class Net(nn.Module):
    """Three layers at which an exit can be attached, and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layer1, self.layer2, self.layer3 = Block(width), Block(width), Block(width)
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        out: Tensor = self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return out


def small() -> Stage:
    """A linear model."""
    return Stage(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), preprocess=PREPROCESS)


def large() -> Stage:
    """A small residual network."""
    return Stage(Net(16), preprocess=PREPROCESS)


def digits(name: str) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, 1, 8, 8), and labels of ``digits:NAME``."""
    data = open_data(f"digits:{name}")
    images = torch.stack([data.image(row) for row in range(len(data))])
    return images, torch.from_numpy(data.labels)


def trained(stage: Stage, spec: str, *, epochs: int) -> Stage:
    """A stage trained on the training digits, always with the same weights."""
    images, labels = digits("train")
    ready = PREPROCESS(images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in stage.model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
        optimizer = torch.optim.AdamW(stage.model.parameters(), lr=5e-3)
        stage.model.train()
        for _ in range(epochs):
            order = torch.randperm(len(labels)).tolist()
            for start in range(0, len(order), 64):
                rows = order[start : start + 64]
                optimizer.zero_grad()
                loss = F.cross_entropy(stage.model(ready[rows]), labels[rows])
                loss.backward()
                optimizer.step()
    stage.origin = {"spec": spec}
    return stage.eval()


@cache
def scored_models() -> tuple[dict[str, Stage], Loader, ScoreTable]:
    """Two trained models, the held-out digits in batches, and the table of both."""
    models = {
        "small": trained(small(), "py:nets:small", epochs=4),
        "large": trained(large(), "py:nets:large", epochs=4),
    }
    loader = list(DataLoader(TensorDataset(*digits("heldout")), batch_size=BATCH))
    return models, loader, score(models, loader)


def namespace(folder: Path) -> dict[str, Any]:
    """The names that the examples use, and the cascade that they load, as `folder`/cascade."""
    models, loader, table = scored_models()
    images = torch.cat([batch for batch, _ in loader])
    cascade = build(search(table, reference="large", max_drop=[2.0, 4.0]), models)
    save_cascade(cascade, folder / "cascade")
    sys.modules["nets"] = sys.modules[__name__]
    with torch.no_grad():
        probabilities = {n: model(images).softmax(1).double() for n, model in models.items()}
    return {
        **models,
        "tiny": models["small"],
        "big": models["large"],
        "backbone": models["large"],
        "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        "training_images": open_data("digits:train"),
        "loader": loader,
        "batches": [batch for batch, _ in loader],
        "images": images[:7],
        "image": images[0],
        "labels": np.concatenate([labels for _, labels in loader]),
        "small_probabilities": probabilities["small"].numpy(),
        "large_probabilities": probabilities["large"].numpy(),
        "table": table,
        "cascade": cascade,
        "stream": [np.zeros(100), np.array([1, -1, 0, 0])],
    }
