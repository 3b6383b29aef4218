"""Antialiased resizing of pixels to a fixed size as two matrix products, exact to the last bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.float64]

_MOST_BITS, _LIMIT = 22, 1 << 15  # of the fixed-point weights that PyTorch resizes uint8 with
_EXACT = 1 << 24  # integers up to here are exact in float32


class Resize(nn.Module):
    """Resizes uint8-valued pixels (N, C, H, W) and cuts a box out, as torchvision does.

    PyTorch resizes uint8 in fixed point, first along the width and then along the height, and
    rounds after each. Sums of integers are exact in floating point as long as they stay small, so
    two matrix products and two roundings do the same.

    Args:
        before: (height, width) of the images.
        covering: what they are resized to.
        box: (top, left, height, width), what is cut out of that.
        interpolation: bilinear, bicubic or nearest.
    """

    def __init__(
        self,
        before: tuple[int, int],
        covering: tuple[int, int],
        box: tuple[int, int, int, int],
        *,
        interpolation: str,
    ) -> None:
        super().__init__()
        top, left, height, width = box
        self.down = _Along(before[0], covering[0], slice(top, top + height), interpolation)
        self.across = _Along(before[1], covering[1], slice(left, left + width), interpolation)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) with values 0 to 255 -> the same, (N, C, height, width) float32."""
        across = self.across(pixels)
        resized: Tensor = self.down(across.transpose(2, 3)).transpose(2, 3)
        return resized


class _Along(nn.Module):
    """Resizing along the last dimension; `part` of the result is made."""

    weights: Tensor

    def __init__(self, before: int, after: int, part: slice, interpolation: str) -> None:
        super().__init__()
        weights, self.bits = _fixed(_weights(before, after, interpolation))
        largest = 255 * np.abs(weights).sum(1).max() + (1 << self.bits)
        exact = torch.float32 if largest < _EXACT else torch.float64
        kept = torch.from_numpy(weights[part].T.copy()).to(exact)
        self.register_buffer("weights", kept)

    def forward(self, pixels: Tensor) -> Tensor:
        total = pixels.to(self.weights.dtype) @ self.weights
        rounded = torch.floor((total * 2.0**-self.bits) + 0.5)
        return rounded.clamp(0, 255).float()


def _fixed(weights: Array) -> tuple[Array, int]:
    """Weights times a power of 2, rounded to integers of 16 bits, and the exponent."""
    most, bits = float(weights.max()), 0
    while bits < _MOST_BITS and int(0.5 + most * (1 << (bits + 1))) < _LIMIT:
        bits += 1
    scaled = weights * (1 << bits)
    return np.trunc(scaled + np.copysign(0.5, scaled)), bits


def _weights(before: int, after: int, interpolation: str) -> Array:
    """How much each of `before` pixels counts for each of `after`, (after, before)."""
    weights = np.zeros((after, before))
    scale = before / after
    if interpolation == "nearest":
        source = np.floor(np.arange(after, dtype=np.float32) * np.float32(scale))
        weights[np.arange(after), np.minimum(source.astype(int), before - 1)] = 1
        return weights
    reach, kernel = (1, _triangle) if interpolation == "bilinear" else (2, _cubic)
    stretch = max(scale, 1.0)
    support = reach * stretch
    for place in range(after):
        centre = scale * (place + 0.5)
        start = max(int(centre - support + 0.5), 0)
        stop = min(int(centre + support + 0.5), before)
        row = np.array([kernel((j - centre + 0.5) / stretch) for j in range(start, stop)])
        weights[place, start:stop] = row / row.sum()
    return weights


def _triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _cubic(x: float) -> float:
    """Keys' kernel with a = -0.5, which antialiased resizing uses."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def centre(covering: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box in the centre.

    >>> centre((32, 16), (14, 14))
    (9, 1, 14, 14)
    """
    top, left = (round((c - s) / 2) for c, s in zip(covering, size, strict=True))
    return (top, left, *size)
