"""Where training gets features from: a cache, or the network itself, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from understudy.nn.device import on_device
from understudy.training.augmentation import Augmentation
from understudy.training.features import FeatureExtractor, Features
from understudy.training.hold_out import Array, Order
from understudy.zoo.batches import Batch, batches
from understudy.zoo.data import DataSet


class Sample(NamedTuple):
    """Positions of some images in the data set (n,), and their features."""

    positions: Array
    features: Features


class FeatureSource(Protocol):
    """Gives the features of images in an order."""

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded, as far as is known."""

    def batches(self, order: Order, *, size: int) -> Iterator[Sample]:
        """Features in batches of `size`, without those of corrupt images."""


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The images of a data set as a network's features.

    Attributes:
        data: the images.
        views: how each view is made.
        take: makes features of images.
        workers: threads that decode ahead.
    """

    data: DataSet
    views: Augmentation
    take: FeatureExtractor
    workers: int

    def decoded(self, positions: Array, *, size: int) -> Iterator[Batch]:
        """The images at some positions, in batches of so many positions."""
        return batches(self.data, positions.tolist(), size=size, workers=self.workers)

    def features(self, batch: Batch, views: Array) -> Features:
        """The features of decoded images, each in the view that is asked for."""
        ids = self.data.ids[batch.positions].tolist()
        images = on_device(batch.images, self.take.device)
        return self.take(self.views.of(images, ids, views))


class Streamed:
    """Features that are made whenever they are asked for: they take no room, but time.

    Args:
        seen: the images and what makes features of them.
    """

    def __init__(self, seen: TrainingImages) -> None:
        self._seen = seen
        self._corrupt = np.zeros(len(seen.data), bool)

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded, as far as is known."""
        return np.flatnonzero(self._corrupt)

    def batches(self, order: Order, *, size: int) -> Iterator[Sample]:
        """Features in batches of `size`, without those of corrupt images."""
        decoded = self._seen.decoded(order.positions, size=size)
        for asked, batch in zip(order.cut(size), decoded, strict=True):
            there = np.isin(asked.positions, batch.positions)
            self._corrupt[asked.positions[~there]] = True
            if len(batch):
                yield Sample(batch.positions, self._seen.features(batch, asked.views[there]))
