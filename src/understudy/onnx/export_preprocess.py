"""Preprocessing as a module for images of one size; resizing is exact to the last bit."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from understudy.errors import DataError, MissingExtra, ModelError
from understudy.nn.processor import ProcessorPreprocess
from understudy.nn.stage import Preprocess, Stage

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-3
_PROBES = 4
_MOST_BITS, _LIMIT = 22, 1 << 15  # of the fixed-point weights that PyTorch resizes uint8 with
_EXACT = 1 << 24  # integers up to here are exact in float32


class Pixels(nn.Module):
    """From uint8 images (N, C, H, W) of one size to a model's input: resize, crop, normalise."""

    gain: Tensor
    offset: Tensor

    def __init__(self, preprocess: Preprocess, size: tuple[int, int], dtype: torch.dtype) -> None:
        super().__init__()
        mean = torch.tensor(preprocess.mean, dtype=torch.float64).view(-1, 1, 1)
        std = torch.tensor(preprocess.std, dtype=torch.float64).view(-1, 1, 1)
        self.register_buffer("gain", (1 / (preprocess.scale * std)).float())
        self.register_buffer("offset", (-mean / std).float())
        self.dtype = dtype
        self.resize: nn.Module = nn.Identity()
        self.box: tuple[int, int, int, int] | None = None
        resizing = preprocess.resizing
        if resizing is not None and (resizing.crop != 1.0 or size != resizing.size):
            covering = resizing.covering(*size)
            box = resizing.box(covering)
            if covering == size:
                self.box = box
            else:
                kind = preprocess.interpolation
                self.resize = Resize(size, covering, box, interpolation=kind)

    def forward(self, pixels: Tensor) -> Tensor:
        """Ready input (N, C, height, width) in the model's dtype."""
        if self.box is not None:
            top, left, height, width = self.box
            pixels = pixels[:, :, top : top + height, left : left + width]
        values: Tensor = self.resize(pixels).float()
        return (values * self.gain + self.offset).to(self.dtype)


def pixels_of(stage: Stage, image: Tensor, name: str) -> nn.Module:
    """A stage's preprocessing as a module, validated on random images and on smooth ones.

    Args:
        stage: with or without preprocessing.
        image: one image as the cascade takes it.
        name: the name of the stage, for messages.

    Raises:
        ModelError: for images of that size the result differs from the stage's own preprocessing.
    """
    if stage.preprocess is None:
        return nn.Identity()
    if isinstance(stage.preprocess, ProcessorPreprocess):
        raise ModelError(
            f"preprocessing becomes part of a graph, {name!r} is prepared by "
            f"{stage.preprocess.name} of transformers, which cannot: leave that stage to PyTorch"
        )
    pixels = Pixels(stage.preprocess, (image.shape[-2], image.shape[-1]), stage.dtype)
    pixels.to(stage.device)
    probes = _probes(image).to(stage.device)
    try:
        expected = stage.prepare(probes)
    except (DataError, MissingExtra) as error:
        raise ModelError(f"{name!r} cannot take images {tuple(image.shape)}: {error}") from error
    with torch.no_grad():
        found = pixels(probes)
    off = _distance(found, expected)
    if not off <= TOLERANCE:
        raise ModelError(
            f"images must come in the size that {name!r} takes, {stage.preprocess.size}, where "
            f"resizing inside ONNX is not exact: from {tuple(image.shape[-2:])} it is off by "
            f"{off:.1e} ({TOLERANCE:g} is allowed); export with --size for that size"
        )
    return pixels


def _distance(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    return float((found.double() - expected.double()).abs().max())


def _probes(image: Tensor) -> Tensor:
    """Noise, and a gradient from black to white."""
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBES, *image.shape)
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    slope = torch.linspace(0, 255, image.shape[-1]).to(torch.uint8).expand(1, *image.shape)
    return torch.cat([noise, slope])


class Resize(nn.Module):
    """Resizes pixels (N, C, H, W) with uint8 values and crops a box, as torchvision does.

    PyTorch resizes uint8 in fixed point, first along the width and then along the height, and
    rounds after each. Sums of integers are exact in floating point as long as they stay small, so
    two matrix products and two roundings do the same.

    Args:
        before: (height, width) of the images.
        covering: (height, width) after resizing.
        box: (top, left, height, width) of the crop.
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
        rows = self.across(pixels)
        resized: Tensor = self.down(rows.transpose(2, 3)).transpose(2, 3)
        return resized


class _Along(nn.Module):
    """Resizing along the last dimension; only `part` of the result is computed."""

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
    """The weights of `before` pixels in each of `after`, (after, before)."""
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
