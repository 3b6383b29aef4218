"""The demo's zoo for 8 x 8 digits, from a linear model to a residual network about 8,000 times its
cost, and its training: seconds per network, the same weights for the same seed and machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.files import replacing
from understudy.zoo.data import DataSet

EPOCHS = 30
BATCH = 64


class Digits(nn.Module):
    """A body for (N, 1, 8, 8) inputs, with the input that it expects."""

    input_size = (8, 8)
    mean = (0.3,)
    std = (0.37,)
    scale = 255.0

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def linear() -> Digits:
    """One linear layer."""
    return Digits(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def mlp() -> Digits:
    """One hidden layer of 64."""
    return Digits(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))


def cnn_tiny() -> Digits:
    """Two narrow convolutions."""
    return Digits(nn.Sequential(_conv(1, 8), nn.MaxPool2d(2), _conv(8, 16), *_head(16)))


def cnn_small() -> Digits:
    """Three convolutions."""
    return Digits(
        nn.Sequential(_conv(1, 16), _conv(16, 16), nn.MaxPool2d(2), _conv(16, 32), *_head(32))
    )


def resnet_medium() -> Digits:
    """Two residual blocks, 24 and 48 wide."""
    return _resnet(24, 1)


def resnet_large() -> Digits:
    """Four residual blocks, 32 and 64 wide."""
    return _resnet(32, 2)


ZOO = {
    factory.__name__: factory
    for factory in (linear, mlp, cnn_tiny, cnn_small, resnet_medium, resnet_large)
}


def train_zoo(
    data: DataSet, folder: Path, *, on_progress: Callable[[str, int, int], None]
) -> dict[str, Path]:
    """Train every network of the zoo on labelled digits.

    Returns:
        Name -> the file of its weights, in `folder`.
    """
    assert data.labels is not None
    images = torch.stack([data.image(i) for i in range(len(data))])
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    files = {}
    with _one_thread():
        for name, factory in ZOO.items():
            torch.manual_seed(0)
            net = factory()
            epochs = partial(on_progress, f"train {name}")
            _train(net, images, labels, on_epoch=epochs)
            files[name] = folder / f"{name}.safetensors"
            with replacing(files[name]) as temporary:
                save_file(net.state_dict(), temporary)
    return files


def _resnet(width: int, blocks: int) -> Digits:
    return Digits(
        nn.Sequential(
            _conv(1, width),
            *(_Residual(width) for _ in range(blocks)),
            _conv(width, 2 * width, stride=2),
            *(_Residual(2 * width) for _ in range(blocks)),
            *_head(2 * width),
        )
    )


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, 10)]


def _train(
    net: Digits, images: Tensor, labels: Tensor, *, on_epoch: Callable[[int, int], None]
) -> None:
    """AdamW under a one-cycle schedule; leaves the net in eval mode."""
    inputs = (images.float() / net.scale - net.mean[0]) / net.std[0]
    steps = EPOCHS * -(-len(inputs) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=steps)
    net.train()
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(inputs)), BATCH):
            loss = F.cross_entropy(net(inputs[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        on_epoch(epoch + 1, EPOCHS)
    net.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: networks this small are faster without a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
