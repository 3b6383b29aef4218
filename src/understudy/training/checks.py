"""What is looked at before hours of work: images, labels, and the network that is to learn."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from understudy.early_exit.network import ExitNetwork
from understudy.errors import DataError, ModelError
from understudy.training.config import TrainingConfig
from understudy.zoo.classes import check_classes, check_labels
from understudy.zoo.data import DataSet


def first_image(data: DataSet) -> Tensor:
    """The first image that can be decoded.

    Raises:
        DataError: there is none.
    """
    for position in range(len(data)):
        try:
            return data.image(position)
        except DataError:
            continue
    raise DataError(f"no image of {data.spec!r} can be decoded ({len(data)} tried): check the data")


def check_network(network: ExitNetwork, recipe: TrainingConfig) -> None:
    """Refuse a network without exits, and weights that need a saver where there is none.

    Raises:
        ModelError: the message says which.
    """
    if not network.locations and network.saver_branch is None:
        raise ModelError(
            "a network that is trained has exits, found neither heads nor a saver: add some"
        )
    if recipe.weights == "tinysaver" and network.saver_branch is None:
        raise ModelError(
            "samples weigh by a saver's confidence with the weights 'tinysaver', found no saver: "
            "name one, or choose other weights"
        )


def check_learnable(
    data: DataSet, classes: int, recipe: TrainingConfig, *, classifier: bool
) -> None:
    """Refuse labels that the network's exits cannot learn.

    Raises:
        DataError: there are none where they are learnt, they are not the network's classes, or all
            are one.
    """
    spec, labels = repr(data.spec), data.labels
    if labels is None:
        if recipe.targets != "backbone" or classifier:
            raise DataError(
                f"exits learn from labels, {spec} has none: take the backbone's answers as the "
                "targets and leave its classifier as it is, or give labelled images"
            )
        return
    check_classes(data.classes, classes, data=spec)
    check_labels(labels, classes, data=spec)
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"exits learn to tell classes apart, all {len(labels)} labels in {spec} are "
            f"{labels[0]}: give images of every class"
        )
