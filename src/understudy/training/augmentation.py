"""Augmented images: views that stay the same and can be cached, and those drawn anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from understudy.errors import DataError
from understudy.extras import needing
from understudy.nn.preprocess import Images, Pixels, ResizedImage, Resizing
from understudy.nn.stage import Stage
from understudy.split import uniform
from understudy.training.config import TrainingConfig
from understudy.zoo.data import Array

_GREY = 127.0
_DRAWS: frozenset[Callable[..., Any]] = frozenset(
    {torch.rand, torch.randint, torch.randperm, torch.Tensor.uniform_, torch.Tensor.normal_}
)


@dataclass(frozen=True)
class Augmentation:
    """The views of every image, mirrored and shifted; view 0 is the image as it is.

    Pixels that are shifted in have the colour of the edge. View n of an image depends on its id
    and the seed alone, so that it never changes.

    Attributes:
        shift: how far it is shifted at most, as a share of its sides.
        flip: whether it may be mirrored.
        seed: other views for another seed.

    >>> augmentation = Augmentation(shift=0.25, flip=False, seed=0)
    >>> image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    >>> torch.equal(augmentation.apply(image, ["a"], np.array([0])), image)
    True
    """

    shift: float
    flip: bool
    seed: int

    def apply(self, images: Pixels, ids: Sequence[str], views: Array) -> Pixels:
        """The images (N, C, H, W), or a list of (C, H, W), each in the requested view.

        Args:
            images: of any dtype, on any device.
            ids: (N,) their ids.
            views: (N,) numbers of views.

        Raises:
            DataError: samples that are no images, in another view than 0.
        """
        if not views.any():
            return images
        keys = np.array(
            [f"{self.seed}/{view}/{id}" for view, id in zip(views.tolist(), ids, strict=True)],
            object,
        )
        draws = np.where(views > 0, uniform(keys, salt=b"view"), -1.0)
        if isinstance(images, Tensor):
            return self._moved(images, draws)
        return [
            self._moved(image[None], draws[row : row + 1])[0] for row, image in enumerate(images)
        ]

    def _moved(self, images: Tensor, draws: Array) -> Tensor:
        """Each image moved according to one number in [0, 1); -1 leaves it where it is."""
        if images.ndim != 4:
            raise DataError(
                "views are of images (C, H, W), found samples of the shape "
                f"{tuple(images.shape[1:])}: train on one view, the sample as it is"
            )
        height, width = images.shape[2:]
        down, right = round(self.shift * height), round(self.shift * width)
        choices = (2 * down + 1, 2 * right + 1, 2 if self.flip else 1)
        moves = np.unravel_index((np.maximum(draws, 0) * np.prod(choices)).astype(int), choices)
        still = draws < 0
        vertical, horizontal, mirrored = (
            torch.from_numpy(np.where(still, neutral, move)).to(images.device)
            for move, neutral in zip(moves, (down, right, 0), strict=True)
        )
        rows = _source_places(height, vertical - down)
        columns = _source_places(width, horizontal - right)
        columns = torch.where(mirrored[:, None] > 0, width - 1 - columns, columns)
        moved = images.gather(2, rows[:, None, :, None].expand(images.shape))
        return moved.gather(3, columns[:, None, None, :].expand(images.shape))


def _source_places(side: int, shift: Tensor) -> Tensor:
    """(N, side): the place along a side from which each pixel is taken."""
    return (torch.arange(side, device=shift.device) + shift[:, None]).clamp(0, side - 1)


@dataclass(frozen=True, eq=False)
class FreshAugmentation:
    """Views that are drawn anew in every epoch, by torchvision's transforms.

    An image is cropped at random or, without that, resized as the first model does it; AutoAugment
    or RandAugment and random erasing follow, on pixels of the size that the first model takes.
    Other models take the same pixels, resized. View n of an image depends on its id and the seed
    alone, and the mixture of a batch on the view, the number of the batch and the seed, whatever
    the number of threads; view 0 is the image as it is.

    Args:
        config: the settings, and the seed.
        resizings: how the models resize images; the first one's sets the size.
        colour: of what is erased, one value from 0 to 255 per channel, or one for all.

    >>> config = TrainingConfig(crop=0.25, mixup=0.8)
    >>> augmentation = FreshAugmentation(config, resizings=(Resizing((4, 4)),), colour=(0.0,))
    >>> image = augmentation.image(torch.zeros(3, 9, 7, dtype=torch.uint8), "a", view=1)
    >>> image.shape
    torch.Size([3, 4, 4])
    >>> images, mixture = augmentation.batch(torch.stack([image, image]), view=1, number=0)
    >>> mixture.sum(1)
    tensor([1., 1.])
    """

    config: TrainingConfig
    resizings: tuple[Resizing | None, ...]
    colour: tuple[float, ...]

    def image(self, pixels: Tensor, id: str, *, view: int) -> Tensor:
        """An image (C, H, W) in a view, before it is shifted, mirrored and mixed; uint8.

        May be called by several threads.

        Raises:
            DataError: an image with other than 1 or 3 channels.
            MissingExtra: torchvision is not installed.
        """
        if not view:
            return pixels
        resizing, config = self.resizings[0], self.config
        if config.crop == 1 and resizing is not None:
            pixels = resizing(pixels)
        if (config.crop, config.auto_augment, config.erase) == (1, "none", 0):
            return pixels
        if len(pixels) not in (1, 3):
            raise DataError(
                "images that are augmented anew have 1 or 3 channels, found "
                f"{len(pixels)}: train on cached views, without crop, auto_augment and erase"
            )
        size = tuple(pixels.shape[1:]) if resizing is None else resizing.size
        how = "bilinear" if resizing is None else resizing.interpolation
        transform = _transform(config, size, how, self.colour)
        with _DrawnFrom(torch.Generator().manual_seed(_seed(config.seed, view, id))):
            changed: Tensor = transform(pixels)
        return changed

    def batch(self, images: Pixels, *, view: int, number: int) -> tuple[Images, Tensor | None]:
        """A batch as the models take it, and its mixture (N, N): the share that every image has in
        each of the batch; None where images are not mixed.

        Args:
            images: (N, C, H, W) or a list of (C, H, W), augmented.
            view: in which they are.
            number: of the batch in its epoch.

        Raises:
            DataError: images of several sizes that are to be mixed.
        """
        mixture = None
        if self.config.mixup or self.config.cutmix:
            if not isinstance(images, Tensor):
                raise DataError(
                    "images that are mixed have one size, found several where the model sets none: "
                    "train without mixup and cutmix, or give its preprocessing a size"
                )
            images, mixture = _mixed(images, self.config, view=view, number=number)
        return self._for_models(images), mixture

    def _for_models(self, images: Pixels) -> Images:
        """The pixels as they are where all models take them so, else with the sizes for each."""
        shapes = {tuple(image.shape[-2:]) for image in images}
        if all(how is None or (how.crop == 1 and shapes == {how.size}) for how in self.resizings):
            return images
        sized = {how: _squashed(images, how) for how in self.resizings if how is not None}
        keeps = None in self.resizings
        return [
            ResizedImage(
                image.shape, {how: own[row] for how, own in sized.items()}, image if keeps else None
            )
            for row, image in enumerate(images)
        ]


def fresh_augmentation(config: TrainingConfig, stages: Sequence[Stage]) -> FreshAugmentation | None:
    """What draws views anew for some models; None where the settings need no such views.

    >>> fresh_augmentation(TrainingConfig(views=3), []) is None
    True
    """
    if not config.fresh:
        return None
    preprocess = stages[0].preprocess
    resizings = [None if one.preprocess is None else one.preprocess.resizing for one in stages]
    colour = (
        (_GREY,)
        if preprocess is None
        else tuple(min(max(mean * preprocess.scale, 0.0), 255.0) for mean in preprocess.mean)
    )
    return FreshAugmentation(config, tuple(dict.fromkeys(resizings)), colour)


class _DrawnFrom(TorchFunctionMode):
    """What PyTorch's functions draw in this thread comes from one generator: torchvision's
    transforms take none, and the global one is shared by all threads."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        own = {"generator": self._generator} if func in _DRAWS else {}
        return func(*args, **(kwargs or {}), **own)


def _seed(*key: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8, person=b"view")
    return int.from_bytes(digest.digest(), "big") >> 1


@lru_cache(maxsize=64)
def _transform(
    config: TrainingConfig, size: tuple[int, int], interpolation: str, colour: tuple[float, ...]
) -> Callable[[Tensor], Tensor]:
    """Pixels (C, H, W) -> pixels of a size, by Pillow: it needs no team of threads per thread."""
    with needing("augmenting images"):
        from torchvision.transforms import v2
    steps: list[Any] = [v2.ToPILImage()]
    if config.crop < 1:
        modes = v2.InterpolationMode(interpolation)
        steps.append(v2.RandomResizedCrop(size, (config.crop, 1.0), interpolation=modes))
    if config.auto_augment != "none":
        kind = v2.AutoAugment if config.auto_augment == "autoaugment" else v2.RandAugment
        steps.append(kind())
    steps.append(v2.PILToTensor())
    if config.erase:
        steps.append(v2.RandomErasing(config.erase, value=colour))
    transform: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return transform


def _mixed(
    images: Tensor, config: TrainingConfig, *, view: int, number: int
) -> tuple[Tensor, Tensor]:
    """The images (N, C, H, W) uint8, each mixed with its neighbour, and the mixture (N, N)."""
    from torchvision.transforms import v2

    count = len(images)
    settings = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
    kinds = [(kind, alpha) for kind, alpha in settings if alpha]
    with torch.random.fork_rng(devices=[]):  # `_DrawnFrom` does not reach what a Beta draws
        torch.default_generator.manual_seed(_seed(config.seed, view, "batch", number))
        kind, alpha = kinds[int(torch.randint(len(kinds), ()))]
        pixels = images if kind is v2.CutMix else images.float()
        mixed, mixture = kind(alpha=alpha, num_classes=count)(pixels, torch.arange(count))
    return mixed.round().to(torch.uint8), mixture.float()


def _squashed(images: Pixels, how: Resizing) -> Pixels:
    """The whole images in the size of a model."""
    whole = Resizing(how.size, 1.0, how.interpolation, squash=True)
    return whole(images) if isinstance(images, Tensor) else [whole(image) for image in images]
