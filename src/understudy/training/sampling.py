"""The images that training sees: which are held out, and their order in an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from understudy.errors import DataError
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

    def in_view(self, number: int) -> SampleOrder:
        """The same images, all in one view."""
        return SampleOrder(self.positions, np.full(len(self), number))


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
            "training takes at least 2 images, and others to check it on, a held-out share of "
            f"{share:g} of {len(data):,} images leaves {left:,} and {len(data) - left:,}: "
            "change the share, or give more images"
        )
    train = np.random.default_rng(seed).permutation(np.flatnonzero(~apart))
    return HoldOut(train, np.flatnonzero(apart))
