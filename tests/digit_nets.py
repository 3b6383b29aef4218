"""Models of the digits for the tests, as ``py:digit_nets:NAME``; each is built for one trap."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from understudy.nn.stage import Preprocess, Stage

DIGIT = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
PIXEL = Preprocess(size=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)


class Poisoned(nn.Module):
    """Gives NaN for images whose first pixels are dark."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat[:, :10].where(flat[:, 20:21] > 0, torch.nan)


def _linear(classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def tiny() -> Stage:
    return Stage(_linear(), preprocess=DIGIT)


def big() -> Stage:
    layers = (nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Stage(nn.Sequential(*layers), preprocess=DIGIT)


def sluggish() -> Stage:
    time.sleep(1)
    return tiny()


def seven() -> Stage:
    return Stage(_linear(7), preprocess=DIGIT)


def restless() -> Stage:
    model = _linear()
    with torch.no_grad():
        model.get_parameter("1.bias").copy_(torch.rand(10, generator=_RESTLESS))
    return Stage(model, preprocess=DIGIT)


def poisoned() -> Stage:
    return Stage(Poisoned(), preprocess=DIGIT)


def pixels(classes: int = 3) -> Stage:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, classes))
    return Stage(nn.Sequential(*layers), preprocess=PIXEL)


def pixels_of_100_classes() -> Stage:
    return pixels(100)


def pixels_of_101_classes() -> Stage:
    return pixels(101)


def more_pixels() -> Stage:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    return Stage(nn.Sequential(*layers), preprocess=PIXEL)


_RESTLESS = torch.Generator().manual_seed(1)


class Jittered(nn.Module):
    """Shifts its input at random, as augmentation that was left on does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.roll(int(torch.randint(1, 8, ())), -1).flatten(1))
        return logits


def jittered() -> Stage:
    return Stage(Jittered(), preprocess=DIGIT)


class Standardised(nn.Module):
    """Normalises by the batch, as batch normalisation in training mode does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64, affine=False, track_running_stats=False)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        logits: Tensor = self.linear(self.norm(flat) if len(flat) > 1 else flat)
        return logits


def standardised() -> Stage:
    return Stage(Standardised(), preprocess=DIGIT)


class Greedy(nn.Module):
    """Needs more memory than any machine has for 32 images at once, and little for 16."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        torch.empty(2 ** min(7 * len(x) // 4, 60), dtype=torch.uint8)  # never written to
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def greedy() -> Stage:
    return Stage(Greedy(), preprocess=DIGIT)


class MockOfFullDevice(nn.Module):
    """Raises what PyTorch raises where a device is full, for more than 8 images, when it is."""

    full = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if MockOfFullDevice.full and len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def mock_of_full_device() -> Stage:
    return Stage(MockOfFullDevice(), preprocess=DIGIT)
