"""Preprocessing inside a graph, for images of one size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from understudy.errors import DataError, MissingExtra, ModelError
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage
from understudy.onnx.export.resize import Resize, centre

TOLERANCE = 1e-3
_PROBES = 4


class Pixels(nn.Module):
    """From uint8 images (N, C, H, W) of one size to what a model takes: resize, cut, normalise."""

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
        if preprocess.size is not None and (preprocess.crop != 1.0 or size != preprocess.size):
            covering = preprocess.covering(*size)
            box = centre(covering, preprocess.size)
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
    """A stage's preprocessing as a module, proved on random images and on smooth ones.

    Args:
        stage: whose preprocessing it is.
        image: one image as the cascade takes it.
        name: what the stage is called in messages.

    Raises:
        ModelError: images of that size come out otherwise than by the stage's own preprocessing.
    """
    if stage.preprocess is None:
        return nn.Identity()
    made = Pixels(stage.preprocess, (image.shape[-2], image.shape[-1]), stage.dtype)
    made.to(stage.device)
    probes = _probes(image).to(stage.device)
    try:
        truth = stage.prepare(probes)
    except (DataError, MissingExtra) as error:
        raise ModelError(f"{name!r} cannot take images {tuple(image.shape)}: {error}") from error
    with torch.no_grad():
        found = made(probes)
    off = _distance(found, truth)
    if not off <= TOLERANCE:
        raise ModelError(
            f"images must come in the size that {name!r} takes, {stage.preprocess.size}, where "
            f"resizing inside ONNX is not exact: from {tuple(image.shape[-2:])} it is off by "
            f"{off:.1e} ({TOLERANCE:g} is allowed); export with --size for that size"
        )
    return made


def _distance(found: Tensor, truth: Tensor) -> float:
    if found.shape != truth.shape:
        return math.inf
    return float((found.double() - truth.double()).abs().max())


def _probes(image: Tensor) -> Tensor:
    """Noise, which shows every rounding, and slopes from black to white."""
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBES, *image.shape)
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    slope = torch.linspace(0, 255, image.shape[-1]).to(torch.uint8).expand(1, *image.shape)
    return torch.cat([noise, slope])
