"""A batch of images: one tensor, or a list of tensors that may differ in size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Images = Tensor | Sequence[Tensor]
"""A batch with the samples first, or a list of single samples, which may differ in size."""


def select(images: Images, rows: Tensor) -> Images:
    """Some of the images, copied once where they are one tensor.

    >>> select([torch.zeros(1), torch.ones(1)], torch.tensor([1]))
    [tensor([1.])]
    """
    if isinstance(images, Tensor):
        return images.index_select(0, rows.to(images.device))
    return [images[row] for row in rows.tolist()]


def on_device(images: Images, device: torch.device) -> Images:
    """The images on a device; those that are there already are not copied.

    Arrays are taken as well. Nothing waits for an upload to CUDA, which keeps what it is given
    until it is done; other devices and downloads are waited for.
    """
    if hasattr(images, "shape"):
        return _moved(images, device)
    return [_moved(image, device) for image in images]


def _moved(image: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(image).to(device, non_blocking=device.type == "cuda")
