"""Preprocessing of uint8 images: resize, centre crop, scale, normalise; and images on devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from understudy.errors import DataError, ModelError, unknown
from understudy.extras import needing
from understudy.json_codec import Stored, stored

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")

MOST_PIXELS = 2**28
"""Of an image that is resized, before it is cropped: a strip of a few rows would become larger."""


@dataclass(frozen=True)
class Resizing:
    """How a model's preprocessing changes the size of images; see `Preprocess` for its fields.

    >>> Resizing((14, 14), crop=14 / 16).covering(64, 32)
    (32, 16)
    """

    size: tuple[int, int]
    crop: float = 1.0
    interpolation: str = "bilinear"
    squash: bool = False
    floor: bool = False

    def covering(self, height: int, width: int) -> tuple[int, int]:
        """The size to which images of a size are resized before they are cropped to `size`."""
        rows, columns = (math.floor(side / self.crop) for side in self.size)
        if self.squash:
            return rows, columns
        if rows * width >= columns * height:
            return rows, max(columns, rows * width // height)
        return max(rows, columns * height // width), columns

    def box(self, covering: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the centre of an image that has been resized.

        >>> Resizing((14, 14)).box((17, 15)), Resizing((14, 14), floor=True).box((17, 15))
        ((2, 0, 14, 14), (1, 0, 14, 14))
        """
        halves = [(c - s) / 2 for c, s in zip(covering, self.size, strict=True)]
        top, left = (math.floor(half) if self.floor else round(half) for half in halves)
        return top, left, *self.size

    def shrinks(self, height: int, width: int) -> bool:
        """Whether images of a size have fewer pixels afterwards."""
        return math.prod(self.size) < height * width

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (..., C, H, W), resized and cropped to `size`.

        Raises:
            MissingExtra: torchvision is not installed.
        """
        height, width = pixels.shape[-2:]
        if self.crop == 1.0 and (height, width) == self.size:
            return pixels
        functional, modes = _torchvision()
        covering = self.covering(height, width)
        resized: Tensor = functional.resize(
            pixels,
            list(covering),
            interpolation=modes(self.interpolation),
            antialias=True,
        )
        top, left, rows, columns = self.box(covering)
        return resized[..., top : top + rows, left : left + columns]


@dataclass(frozen=True, eq=False)
class ResizedImage:
    """An image in the sizes that some models take: what is left of a photograph of a data set.

    Attributes:
        shape: (C, H, W) of the image itself.
        sizes: how the image was resized -> the result, uint8 (C, h, w).
        pixels: the image itself, uint8 (C, H, W), where a model takes it as it is or larger.
    """

    shape: torch.Size
    sizes: Mapping[Resizing, Tensor]
    pixels: Tensor | None
    dtype = torch.uint8
    ndim = 3

    @property
    def nbytes(self) -> int:
        """The bytes that it holds."""
        return sum(one.nbytes for one in (*self.sizes.values(), self.pixels) if one is not None)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> ResizedImage:
        """The same on a device."""
        sizes = {how: one.to(device, non_blocking=non_blocking) for how, one in self.sizes.items()}
        pixels = self.pixels
        if pixels is not None:
            pixels = pixels.to(device, non_blocking=non_blocking)
        return ResizedImage(self.shape, sizes, pixels)


Image = Tensor | ResizedImage
"""A single sample."""

Images = Tensor | Sequence[Image]
"""A batch with the samples first, or a list of single samples, which may differ in size."""

Pixels = Tensor | Sequence[Tensor]
"""The same, all in their own sizes."""


def resized_image(pixels: Tensor, resizings: Iterable[Resizing | None]) -> Image:
    """An image (C, H, W) in the sizes that models take, where they are smaller; else as it is.

    A model's result is the same for either. The image itself is kept where a model takes it as it
    is (None) or makes it larger.

    >>> image = resized_image(torch.zeros(3, 40, 60, dtype=torch.uint8), [Resizing((8, 8))])
    >>> image.shape, image.pixels, [tuple(one.shape) for one in image.sizes.values()]
    (torch.Size([3, 40, 60]), None, [(3, 8, 8)])

    Raises:
        ValueError: a strip that would be larger than `MOST_PIXELS` before it is cropped.
    """
    height, width = pixels.shape[-2:]
    sizes: dict[Resizing, Tensor] = {}
    whole = False
    for how in resizings:
        if how is not None and math.prod(how.covering(height, width)) > MOST_PIXELS:
            raise ValueError(f"{height} x {width} pixels are too long a strip for {how.size}")
        if how is None or not how.shrinks(height, width):
            whole = True
        elif how not in sizes:
            sizes[how] = contiguous(how(pixels))
    pixels = contiguous(pixels) if whole or not sizes else pixels
    return ResizedImage(pixels.shape, sizes, pixels if whole else None) if sizes else pixels


def pixels_of(image: Image) -> Tensor:
    """The pixels (C, H, W) of an image in its own size.

    Raises:
        DataError: it is there in the sizes of other models alone.
    """
    if not isinstance(image, ResizedImage):
        return image
    if image.pixels is None:
        raise DataError(
            "images are resized for the models that take them, found one of "
            f"{tuple(image.shape)} that is there for other models alone: read it for this one"
        )
    return image.pixels


def contiguous(pixels: Tensor) -> Tensor:
    """Pixels on the host in contiguous memory, by this thread alone.

    PyTorch would start a team of threads for every thread that copies.
    """
    return torch.from_numpy(np.ascontiguousarray(pixels.numpy()))


def on_device(images: Images, device: torch.device) -> Images:
    """The images on a device; those that are there already are not copied.

    Arrays are accepted as well. Only uploads to CUDA are asynchronous.

    >>> on_device([torch.zeros(1)], torch.device("cpu"))
    [tensor([0.])]
    """
    if not isinstance(images, Sequence):
        moved: Tensor = _moved(images, device)
        return moved
    return [_moved(image, device) for image in images]


def select(images: Images, rows: Tensor) -> Images:
    """Some of the images, copied once where they are one tensor.

    >>> select([torch.zeros(1), torch.ones(1)], torch.tensor([1]))
    [tensor([1.])]
    """
    if isinstance(images, Tensor):
        return images.index_select(0, rows.to(images.device))
    return [images[row] for row in rows.tolist()]


def as_tensor(images: Any) -> Tensor:
    """Images as a tensor in the same memory; arrays that torch cannot hold are copied: those with
    negative strides, in the other byte order, or read-only.

    >>> as_tensor(np.arange(3)[::-1]).tolist()
    [2, 1, 0]
    """
    if isinstance(images, np.ndarray) and (
        min((0, *images.strides)) < 0 or not images.dtype.isnative or not images.flags.writeable
    ):
        images = images.astype(images.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(images)


def _moved(image: Any, device: torch.device) -> Any:
    image = image if isinstance(image, ResizedImage) else as_tensor(image)
    return image.to(device, non_blocking=device.type == "cuda")


@dataclass(frozen=True)
class Preprocess(Stored, what="preprocessing", error=ModelError):
    """The preprocessing of one model for uint8 images; the same for scoring and running.

    The image is resized (antialiased, aspect kept) until it just covers `size / crop`, cropped to
    `size` around its centre (or resized to `size / crop` exactly where `squash` is set), divided by
    `scale`, and normalised by `mean` and `std`. The result for an image does not depend on the rest
    of the batch.

    Attributes:
        size: (height, width) of the model's input; None leaves the size of images unchanged.
        mean: per channel, subtracted after dividing by `scale`.
        std: per channel, divided by last.
        scale: pixels are divided by it first; 255 scales them to [0, 1].
        crop: the share of the resized side that is kept (timm's `crop_pct`).
        interpolation: bilinear, bicubic or nearest.
        squash: resize without keeping the aspect (timm's crop mode "squash").
        floor: a centre between two pixels is the upper left one, as for transformers; otherwise the
            even one, as for torchvision and timm.

    >>> grey = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> batch = grey(torch.full((2, 1, 16, 16), 255, dtype=torch.uint8))
    >>> batch.shape, float(batch.max())
    (torch.Size([2, 1, 8, 8]), 1.0)

    Raises:
        ModelError: a value out of its range.
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    crop: float = 1.0
    interpolation: str = "bilinear"
    squash: bool = field(default=False, metadata=stored(optional=True))
    floor: bool = field(default=False, metadata=stored(optional=True, sparse=True))

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        _check_settings(self)

    def __call__(self, images: Images) -> Tensor:
        """Ready float32 input (N, C, H, W), on the device of the images.

        Args:
            images: uint8, (N, C, H, W), or a list of (C, H, W) that may differ in size.

        Raises:
            DataError: another dtype or number of channels, or mixed sizes where `size` is None.
            MissingExtra: images have to be resized and torchvision is not installed.
        """
        pixels = self._resized(images)
        gain, offset = _affine(self, pixels.device)
        return pixels.to(torch.float32).mul_(gain).add_(offset)

    def covering(self, height: int, width: int) -> tuple[int, int]:
        """The size to which images of a size are resized before they are cropped to `size`.

        >>> Preprocess((14, 14), (0.0,), (1.0,), crop=14 / 16).covering(64, 32)
        (32, 16)
        """
        return (height, width) if self.resizing is None else self.resizing.covering(height, width)

    @property
    def resizing(self) -> Resizing | None:
        """How the size of images is changed; None leaves it unchanged."""
        if self.size is None:
            return None
        return Resizing(self.size, self.crop, self.interpolation, self.squash, self.floor)

    def _resized(self, images: Images) -> Tensor:
        resizing = self.resizing
        if isinstance(images, Tensor):
            self._check(images, dims=4)
            return images if resizing is None else resizing(images)
        groups: dict[torch.Size | None, list[int]] = {}
        for position, image in enumerate(images):
            self._check(image, dims=3)
            groups.setdefault(None if _is_done(image, resizing) else image.shape, []).append(
                position
            )
        if not groups:
            raise DataError("a batch has at least one image, found none")
        if len(groups) > 1 and resizing is None:
            raise DataError(
                "images of one batch have one size where the model sets none, found "
                f"{', '.join(str(tuple(shape or ())) for shape in groups)}: give the preprocessing "
                "a size"
            )
        fitted = [_stacked([images[row] for row in rows], resizing) for rows in groups.values()]
        if len(fitted) == 1:
            return fitted[0]
        order = torch.tensor([i for rows in groups.values() for i in rows]).argsort()
        return torch.cat(fitted)[order.to(fitted[0].device)]

    def _check(self, images: Image, *, dims: int) -> None:
        channels = len(self.mean)
        if images.dtype != torch.uint8:
            raise DataError(
                f"images are uint8 pixels without normalisation, found {images.dtype}: give raw "
                "pixels, or wrap the model as Stage(model) if it takes ready tensors"
            )
        if images.ndim != dims or images.shape[-3] != channels:
            shape = "(N, C, H, W)" if dims == 4 else "(C, H, W)"
            raise DataError(
                f"images are {shape} with C = {channels}, found the shape {tuple(images.shape)}: "
                "convert them to the channels the model takes"
            )


def _stacked(images: Sequence[Image], resizing: Resizing | None) -> Tensor:
    """Images of one shape, or resized already, as one batch of the size that a model takes."""
    if resizing is None:
        return torch.stack([pixels_of(image) for image in images])
    done = [image.sizes[resizing] for image in images if _is_done(image, resizing)]
    return torch.stack(done) if done else resizing(torch.stack(list(map(pixels_of, images))))


def _is_done(image: Image, resizing: Resizing | None) -> TypeGuard[ResizedImage]:
    return isinstance(image, ResizedImage) and resizing in image.sizes


@lru_cache(maxsize=64)
def _affine(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gain and offset (C, 1, 1): (x / scale - mean) / std = x * gain + offset; kept per device."""
    mean = torch.tensor(preprocess.mean, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(preprocess.std, dtype=torch.float64).view(-1, 1, 1)
    gain, offset = 1 / (preprocess.scale * std), -mean / std
    return gain.to(device, torch.float32), offset.to(device, torch.float32)


def _check_settings(preprocess: Preprocess) -> None:
    size, mean, std = preprocess.size, preprocess.mean, preprocess.std
    if not mean or len(mean) != len(std):
        raise ModelError(f"mean and std have one number per channel, found {mean} and {std}")
    if min(std) <= 0 or not math.isfinite(sum(std) + sum(mean)):
        raise ModelError(f"mean and std are finite and std is above 0, found {mean} and {std}")
    if size is not None and min(size) < 1:
        raise ModelError(f"a size is (height, width) in pixels, found {size}")
    if not (preprocess.scale > 0 and 0 < preprocess.crop <= 1):
        raise ModelError(
            "scale is above 0 and crop in (0, 1], found "
            f"scale {preprocess.scale!r} and crop {preprocess.crop!r}"
        )
    if preprocess.interpolation not in INTERPOLATIONS:
        raise ModelError(unknown("interpolation", preprocess.interpolation, INTERPOLATIONS))


def _torchvision() -> tuple[Any, Any]:
    """Functions that change images, and the enum of interpolations."""
    with needing("resizing images"):
        from torchvision.transforms.v2 import InterpolationMode, functional

    return functional, InterpolationMode
