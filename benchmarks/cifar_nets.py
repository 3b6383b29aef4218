"""ResNets for CIFAR-10, for the benchmarks: ``py:cifar_nets:resnet20?checkpoint=FILE``.

`resnet20` to `resnet56` are those of He et al. (arXiv 1512.03385, section 4.2) with parameter-free
shortcuts (option A); `resnet8` is the network of MLPerf Tiny (arXiv 2106.07597).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that subsamples and pads with zero channels."""

    def __init__(self, planes_in: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.padding = stride, (planes - planes_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *2 * [self.padding]))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers for 32x32 images."""

    input_size = (32, 32)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    scale = 255.0

    def __init__(self, depth: int, *, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(16, 16, blocks, stride=1)
        self.layer2 = _layer(16, 32, blocks, stride=2)
        self.layer3 = _layer(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class TinyBlock(nn.Module):
    """Two 3x3 convolutions with bias; a stride of 2 pads right and bottom alone."""

    def __init__(self, planes_in: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=2 - stride)
        self.bn1 = nn.BatchNorm2d(planes, eps=1e-3)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(planes, eps=1e-3)
        self.shortcut = nn.Conv2d(planes_in, planes, 1, stride=stride) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        padded = x if self.shortcut is None else F.pad(x, (0, 1, 0, 1))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(padded)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class TinyResNet(nn.Module):
    """The ResNet-8 of MLPerf Tiny; takes raw pixels, 0 to 255."""

    input_size = (32, 32)
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    scale = 1.0

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16, eps=1e-3)
        self.block1 = TinyBlock(16, 16, stride=1)
        self.block2 = TinyBlock(16, 32, stride=2)
        self.block3 = TinyBlock(32, 64, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.linear(x.mean((2, 3)))


def _layer(planes_in: int, planes: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(planes_in, planes, stride=stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, stride=1) for _ in range(blocks - 1)))


def resnet8() -> TinyResNet:
    """78 thousand parameters, 12.5 MMACs."""
    return TinyResNet()


def resnet20() -> CifarResNet:
    """0.27 million parameters, 40.6 MMACs."""
    return CifarResNet(20)


def resnet32() -> CifarResNet:
    """0.46 million parameters, 68.9 MMACs."""
    return CifarResNet(32)


def resnet44() -> CifarResNet:
    """0.66 million parameters, 97.2 MMACs."""
    return CifarResNet(44)


def resnet56() -> CifarResNet:
    """0.85 million parameters, 125.5 MMACs."""
    return CifarResNet(56)
