"""The project's own networks for CIFAR-10 as JPEG: ``py:jpeg_nets:large?checkpoint=FILE``.

A residual network in the manner of ResNet-9 (fixed whitening patches first, after Page 2018 and
Jordan, arXiv 2404.00498), at three widths. `train_zoo.py` trains them; `zoo/` has the weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Group(nn.Module):
    """A convolution that doubles the view, then two more with a shortcut around them."""

    def __init__(self, planes_in: int, planes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(planes_in, planes), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _conv(planes, planes), nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.relu(x + self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))


class JpegNet(nn.Module):
    """Whitening patches, three groups, a linear layer on the strongest response of each plane."""

    input_size = (32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    scale = 255.0

    def __init__(self, planes: tuple[int, int, int], *, classes: int = 10) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.group1 = Group(24, planes[0])
        self.group2 = Group(planes[0], planes[1])
        self.group3 = Group(planes[1], planes[2])
        self.linear = nn.Linear(planes[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.whiten(x))
        x = self.group3(self.group2(self.group1(x)))
        return self.linear(x.amax((2, 3)))


def _conv(planes_in: int, planes: int) -> nn.Conv2d:
    return nn.Conv2d(planes_in, planes, 3, padding=1, bias=False)


def small() -> JpegNet:
    """Planes 16, 32, 64."""
    return JpegNet((16, 32, 64))


def medium() -> JpegNet:
    """Planes 32, 64, 128."""
    return JpegNet((32, 64, 128))


def large() -> JpegNet:
    """Planes 64, 128, 256."""
    return JpegNet((64, 128, 256))
