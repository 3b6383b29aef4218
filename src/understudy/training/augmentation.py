"""Views of an image: mirrored and shifted, as its name decides, so that they never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.nn.device import Images
from understudy.split import uniform

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Augmentation:
    """The views of every image; view 0 is the image as it is.

    What moves in has the colour of the edge. An image looks the same in its view n whenever that is
    asked for, whatever stands beside it.

    Attributes:
        shift: how far it is shifted at most, as a share of its sides.
        flip: whether it may be mirrored.
        seed: other views for another seed.

    >>> views = Augmentation(shift=0.25, flip=False, seed=0)
    >>> image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    >>> torch.equal(views.of(image, ["a"], np.array([0])), image)
    True
    """

    shift: float
    flip: bool
    seed: int

    def of(self, images: Images, ids: Sequence[str], views: Array) -> Images:
        """The images (N, C, H, W), or a list of (C, H, W), each in the view that is asked for.

        Args:
            images: of any dtype, on any device.
            ids: (N,) their names.
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
        """Each image moved as one number in [0, 1) says; -1 leaves it where it is."""
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
        below, aside, mirrored = (
            torch.from_numpy(np.where(still, neutral, move)).to(images.device)
            for move, neutral in zip(moves, (down, right, 0), strict=True)
        )
        rows = _along(height, below - down)
        columns = _along(width, aside - right)
        columns = torch.where(mirrored[:, None] > 0, width - 1 - columns, columns)
        moved = images.gather(2, rows[:, None, :, None].expand(images.shape))
        return moved.gather(3, columns[:, None, None, :].expand(images.shape))


def _along(side: int, by: Tensor) -> Tensor:
    """(N, side): where each place along a side is taken from."""
    return (torch.arange(side, device=by.device) + by[:, None]).clamp(0, side - 1)
