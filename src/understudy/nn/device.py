"""Devices, and batches of images on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.errors import ModelError

Images = Tensor | Sequence[Tensor]
"""A batch with the samples first, or a list of single samples, which may differ in size."""


def on_device(images: Images, device: torch.device) -> Images:
    """The images on a device; those that are there already are not copied.

    Arrays are accepted as well. Only uploads to CUDA are asynchronous.

    >>> on_device([torch.zeros(1)], torch.device("cpu"))
    [tensor([0.])]
    """
    if hasattr(images, "shape"):
        return _moved(images, device)
    return [_moved(image, device) for image in images]


def select(images: Images, rows: Tensor) -> Images:
    """Some of the images, copied once where they are one tensor.

    >>> select([torch.zeros(1), torch.ones(1)], torch.tensor([1]))
    [tensor([1.])]
    """
    if isinstance(images, Tensor):
        return images.index_select(0, rows.to(images.device))
    return [images[row] for row in rows.tolist()]


def usable_device(name: str | None) -> str:
    """The device, as torch names it; by default an NVIDIA GPU if there is one, else the CPU.

    >>> usable_device("cpu")
    'cpu'

    Raises:
        ModelError: it cannot be used on this machine.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {chosen!r} cannot be used ({str(error).splitlines()[0]}): try 'cpu'"
        ) from error
    return chosen


def _moved(image: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(image).to(device, non_blocking=device.type == "cuda")
