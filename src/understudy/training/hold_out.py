"""Who is learnt from and who is held out, and in which order an epoch sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError
from understudy.split import uniform
from understudy.zoo.data import DataSet

Array = npt.NDArray[Any]
RUN, POOL = 64, 256  # rows that lie together; runs that are shuffled together
_SALT = b"held out of training"


@dataclass(frozen=True, eq=False)
class Order:
    """Images in an order, each in one of its views.

    Attributes:
        positions: (n,) where in the data set the images stand.
        views: (n,) which view of each.
    """

    positions: Array
    views: Array

    def __len__(self) -> int:
        return len(self.positions)

    def cut(self, size: int) -> Iterator[Order]:
        """The same in batches of `size`; the last may have fewer."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Order(self.positions[rows], self.views[rows])


@dataclass(frozen=True, eq=False)
class HoldOut:
    """The positions of the images that are learnt from, in random order, and of those held out.

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

    def epoch(self, random: np.random.Generator, *, views: int) -> Order:
        """Every image that is learnt from once, in a view drawn for it.

        Runs of neighbours in `train` are drawn in random order and shuffled together with many
        others, so that what lies together on a disk is read together.
        """
        runs = [range(a, min(a + RUN, len(self.train))) for a in range(0, len(self.train), RUN)]
        order = random.permutation(len(runs))
        pools = [
            random.permutation(np.concatenate([runs[n] for n in order[start : start + POOL]]))
            for start in range(0, len(order), POOL)
        ]
        places = np.concatenate(pools)
        return Order(self.train[places], random.integers(views, size=len(places)))

    def check(self) -> Order:
        """The images held out, as they are."""
        return Order(self.held_out, np.zeros(len(self.held_out), np.int64))


def part(data: DataSet, *, held_out: float, seed: int) -> HoldOut:
    """Hold a share of the images out, by a keyed hash of their ids, or of their groups.

    >>> from understudy.zoo.data import open_data
    >>> parts = part(open_data("digits:train"), held_out=0.1, seed=0)
    >>> len(parts.train) + len(parts.held_out)
    897

    Raises:
        DataError: too few images on either side.
    """
    keys = data.ids if data.groups is None else np.array(data.groups, object)
    apart = uniform(keys, salt=_SALT) < held_out
    learnt = int((~apart).sum())
    if learnt < 2 or not apart.any():
        raise DataError(
            "exits are trained on at least 2 images and checked on others, a held-out share of "
            f"{held_out:g} of {len(data):,} images leaves {learnt:,} and {len(data) - learnt:,}: "
            "change the share, or give more images"
        )
    train = np.random.default_rng(seed).permutation(np.flatnonzero(~apart))
    return HoldOut(train, np.flatnonzero(apart))
