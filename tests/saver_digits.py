"""Networks for teaching, as ``py:saver_digits:NAME``, and digits in files of several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from exit_digits import Centred, DigitNet
from understudy.nn.stage import Preprocess, Stage
from understudy.zoo.data import open_data

COLOUR = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


class Viewing(nn.Module):
    """Convolutions, and a view that fails on channels last."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, planes, 3, padding=1)
        self.second = nn.Conv2d(planes, planes, 3, padding=1)
        self.linear = nn.Linear(64 * planes, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.first(x).relu()).relu()
        logits: Tensor = self.linear(features.view(-1, self.linear.in_features))
        return logits


class Tied(nn.Module):
    """A network that has one matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 10)
        self.second = nn.Linear(192, 10)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        logits: Tensor = self.first(rows) + self.second(rows)
        return logits


class Exploding(DigitNet):
    """Its logits are not finite after 15 steps of training."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__(4, channels=3)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(x) / (self.steps <= 15)


def large() -> Stage:
    return Stage(DigitNet(12, channels=3), preprocess=COLOUR)


def little() -> Stage:
    return Stage(DigitNet(4, channels=3), preprocess=COLOUR)


def seven() -> Stage:
    return Stage(DigitNet(4, classes=7, channels=3), preprocess=COLOUR)


def seven_large() -> Stage:
    return Stage(DigitNet(8, classes=7, channels=3), preprocess=COLOUR)


def centred() -> Stage:
    return Stage(Centred(12, channels=3), preprocess=COLOUR)


def viewing() -> Stage:
    return Stage(Viewing(2), preprocess=COLOUR)


def tied() -> Stage:
    return Stage(Tied(), preprocess=COLOUR)


def exploding() -> Stage:
    return Stage(Exploding(), preprocess=COLOUR)


def broken() -> Stage:
    stage = little()
    nn.init.constant_(stage.model.get_parameter("linear.bias"), torch.nan)
    return stage


def half() -> Stage:
    return Stage(DigitNet(4, channels=3).half(), preprocess=COLOUR)


def name(stage: Stage, names: str) -> Stage:
    """The stage, its classes named by letters."""
    stage.model.class_names = tuple(names)  # type: ignore[assignment]
    return stage


def named() -> Stage:
    return name(large(), "0123456789")


def named_otherwise() -> Stage:
    return name(little(), "0132456789")


def no_weights() -> Stage:
    return Stage(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), preprocess=COLOUR)


def estimator() -> Any:
    """A function of images, which scikit-learn fitted."""
    data = open_data("digits:train")
    images = np.stack([np.repeat(np.asarray(data.image(n)), 3, 0) for n in range(300)])
    assert data.labels is not None
    model = LogisticRegression(max_iter=500).fit(images.reshape(300, -1) / 255, data.labels[:300])
    model.input_size, model.scale = (3, 8, 8), 255.0
    model.mean, model.std = (0.0,) * 3, (1.0,) * 3
    return model


def write_digits(root: Path, *, corrupt: bool = False) -> Path:
    """A third of the training digits in a folder per class, of two sizes; with `corrupt` some files
    are damaged, training images and images held out."""
    data = open_data("digits:train")
    assert data.labels is not None
    for number in range(0, len(data), 3):
        file = root / str(data.labels[number]) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.asarray(data.image(number))[0])
        sized = grey if number % 2 else grey.resize((12, 10), Image.Resampling.BILINEAR)
        sized.convert("RGB").save(file)
        if corrupt and number % 90 == 0:
            file.write_bytes(file.read_bytes()[:60])
    return root
