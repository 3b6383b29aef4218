"""The images that training sees: which are held out, their order in an epoch, augmented views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.nn.preprocess import Pixels
from understudy.split import uniform
from understudy.zoo.data import Array, DataSet

RUN, POOL = 64, 256  # rows that lie together; runs that are shuffled together
_SALT = b"held out of training"


@dataclass(frozen=True, eq=False)
class SampleOrder:
    """Images in an order, each in one of its views.

    Attributes:
        positions: (n,) positions in the data set.
        views: (n,) the view of each.
    """

    positions: Array
    views: Array

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int) -> Iterator[SampleOrder]:
        """The same in batches of `size`; the last may have fewer."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield SampleOrder(self.positions[rows], self.views[rows])


@dataclass(frozen=True, eq=False)
class HoldOut:
    """The positions of the training images, in random order, and of the images held out.

    Attributes:
        train: (n,) positions.
        held_out: (m,) positions, disjoint.
    """

    train: Array
    held_out: Array

    def without(self, positions: Array) -> HoldOut:
        """The same without some images."""
        return HoldOut(
            self.train[~np.isin(self.train, positions)],
            self.held_out[~np.isin(self.held_out, positions)],
        )

    def training_order(self, random: np.random.Generator, *, views: int) -> SampleOrder:
        """One epoch: every training image once, in a view drawn for it.

        Runs of neighbours in `train` are drawn in random order and shuffled together with many
        others, so that what lies together on a disk is read together.
        """
        runs = [range(a, min(a + RUN, len(self.train))) for a in range(0, len(self.train), RUN)]
        order = random.permutation(len(runs))
        pools = [
            random.permutation(np.concatenate([runs[n] for n in order[start : start + POOL]]))
            for start in range(0, len(order), POOL)
        ]
        rows = np.concatenate(pools)
        return SampleOrder(self.train[rows], random.integers(views, size=len(rows)))

    def held_out_order(self) -> SampleOrder:
        """The images held out, each in its plain view."""
        return SampleOrder(self.held_out, np.zeros(len(self.held_out), np.int64))


def hold_out(data: DataSet, *, share: float, seed: int) -> HoldOut:
    """Hold a share of the images out, by a keyed hash of their ids, or of their groups.

    >>> from understudy.zoo.data import open_data
    >>> split = hold_out(open_data("digits:train"), share=0.1, seed=0)
    >>> len(split.train) + len(split.held_out)
    897

    Raises:
        DataError: too few images on either side.
    """
    keys = data.ids if data.groups is None else np.array(data.groups, object)
    apart = uniform(keys, salt=_SALT) < share
    left = int((~apart).sum())
    if left < 2 or not apart.any():
        raise DataError(
            "exits are trained on at least 2 images and checked on others, a held-out share of "
            f"{share:g} of {len(data):,} images leaves {left:,} and {len(data) - left:,}: "
            "change the share, or give more images"
        )
    train = np.random.default_rng(seed).permutation(np.flatnonzero(~apart))
    return HoldOut(train, np.flatnonzero(apart))


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
