"""Stand-ins for a user's own module: two networks on digits, trained here, and a DataLoader.

The loader yields normalised floats, as most training code has it: the networks take them as they
are, and nothing else of this file is known to understudy.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

MEAN, STD = 0.3, 0.37
TRAINING = 897  # of 1,797 digits; the others are held out
torch.manual_seed(0)  # the same networks in every run


def small() -> nn.Module:
    """A linear model."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def large() -> nn.Module:
    """A network of three convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def trained(model: nn.Module, epochs: int = 12) -> nn.Module:
    """The model, trained on the training digits in about a second."""
    torch.manual_seed(0)
    images, labels = (part[:TRAINING] for part in digits())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINING).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def val_loader() -> DataLoader[tuple[Tensor, ...]]:
    """The held-out digits in batches: normalised floats (N, 1, 8, 8), and class numbers."""
    return DataLoader(TensorDataset(*(part[TRAINING:] for part in digits())), batch_size=128)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All digits, normalised, and their labels."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images.astype(np.float32)).view(-1, 1, 8, 8) / 16
    return (pixels - MEAN) / STD, torch.from_numpy(labels)
