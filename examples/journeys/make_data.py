"""Makes what a user brings: folders of images, weights of two networks, predictions as CSV.

    python make_data.py FOLDER

scikit-learn's digits, of which 897 train the networks of timm and 900 are held out:

    train/CLASS/*.png, val/CLASS/*.png   images with labels
    unlabelled/*.png, new/*.png          those of val without, and a fifth of them
    small.safetensors, large.safetensors weights of timm's test_byobnet and test_resnet
    labels.csv, small.csv, large.csv     names of classes, and the predictions of two estimators
    truth.csv                            the labels of unlabelled/, for whoever labels
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_model
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from torch.nn import functional as F

TRAINING, SIDE = 897, 160  # digits to train on; pixels of the networks' input
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def picture(digit: np.ndarray, tiles: int) -> np.ndarray:
    """A digit, 32 pixels wide, repeated in rows and columns: (H, W, 3) bytes."""
    tile = Image.fromarray((digit * 15.9).astype(np.uint8)).resize(
        (32, 32), Image.Resampling.BILINEAR
    )
    return np.tile(np.asarray(tile)[:, :, None], (tiles, tiles, 3))


def write_images(folder: Path) -> None:
    """The four folders of images, and truth.csv."""
    digits, labels = load_digits(return_X_y=True)
    for number, (digit, label) in enumerate(zip(digits.reshape(-1, 8, 8), labels, strict=True)):
        image = Image.fromarray(picture(digit, SIDE // 32))
        split = "train" if number < TRAINING else "val"
        places = [folder / split / NAMES[label]]
        if split == "val":
            places += [folder / "unlabelled"] + [folder / "new"] * (number % 5 == 0)
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number:04}.png", compress_level=1)
    order = sorted(range(10), key=NAMES.__getitem__)  # classes are numbered by name
    rows = [(f"{n:04}.png", order.index(labels[n])) for n in range(TRAINING, len(labels))]
    write_csv(folder / "truth.csv", ("id", "label"), rows)


def write_weights(folder: Path) -> None:
    """Weights of two networks of timm, trained on smaller pictures with the same digits."""
    digits, labels = load_digits(return_X_y=True)
    pixels = np.stack([picture(digit.reshape(8, 8), 2) for digit in digits[:TRAINING]])
    order = sorted(range(10), key=NAMES.__getitem__)
    targets = torch.tensor([order.index(label) for label in labels[:TRAINING]])
    for name, model, rate in (("small", "test_byobnet", 6e-3), ("large", "test_resnet", 3e-3)):
        torch.manual_seed(0)
        network = timm.create_model(model, num_classes=10)
        mean, std = (torch.tensor(network.default_cfg[key]) for key in ("mean", "std"))
        images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
        images = F.interpolate(images, (67, 67), mode="bicubic", antialias=True)  # as run: / 0.95
        train(network, images, targets, rate=rate, epochs=6)
        save_model(network, str(folder / f"{name}.safetensors"))


def train(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    rate: float,
    epochs: int,
) -> None:
    """Train a network in about ten seconds."""
    optimizer = torch.optim.AdamW(network.parameters())
    steps = epochs * -(-len(images) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(32):
            top, left = torch.randint(0, images.shape[-1] - 63, (2,)).tolist()
            crop = images[rows][:, :, top : top + 64, left : left + 64]
            F.cross_entropy(network(crop), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def write_predictions(folder: Path) -> None:
    """Predictions of two estimators for all digits, none of which they were fitted to."""
    rows, labels = load_digits(return_X_y=True)
    names = np.array(NAMES)[labels]
    estimators: dict[str, tuple[ClassifierMixin, Any]] = {
        "small": (LogisticRegression(max_iter=2000), rows[:, ::2]),
        "large": (RandomForestClassifier(200, random_state=0), rows),
    }
    ids = [f"digit{number}" for number in range(len(rows))]
    write_csv(folder / "labels.csv", ("id", "class"), zip(ids, names, strict=True))
    for name, (estimator, features) in estimators.items():
        found = cross_val_predict(estimator, features, names, cv=3, method="predict_proba")
        answers = np.unique(names)[found.argmax(1)]
        columns = zip(ids, answers, found.max(1), strict=True)
        write_csv(folder / f"{name}.csv", ("id", "prediction", "confidence"), columns)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file with a head."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def main(folder: Path) -> None:
    """Fill the folder; takes about half a minute."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    write_images(folder)
    write_predictions(folder)
    write_weights(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
