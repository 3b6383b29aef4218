"""How far an ONNX model is from the PyTorch module it was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[Any]
_TINY = float(np.finfo(np.float32).tiny)


def random_rows(image: Tensor, rows: int) -> Tensor:
    """Random images like one: pixels for uint8, normal numbers for floats."""
    generator = torch.Generator().manual_seed(rows)
    shape = (rows, *image.shape)
    if image.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=image.dtype)
    return torch.randint(256, shape, generator=generator).to(image.dtype)


@torch.no_grad()
def run_module(module: nn.Module, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a module gives for values where its parameters are; on the CPU."""
    first = next(module.parameters(), torch.empty(0))
    made: tuple[Tensor, ...] = module(*(value.to(first.device) for value in values))
    return tuple(value.cpu() for value in made)


def distance(found: Array, truth: Array) -> float:
    """The largest difference, as a share of the largest value; infinite where shapes differ.

    >>> distance(np.array([2.0, 4.0]), np.array([2.0, 5.0])), distance(np.zeros(2), np.zeros(2))
    (0.2, 0.0)
    """
    if found.shape != truth.shape or not np.isfinite(found).all():
        return math.inf
    off = float(np.abs(found - truth).max(initial=0))
    return off / max(float(np.abs(truth).max(initial=0)), _TINY) if off else 0.0
