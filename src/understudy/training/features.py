"""What heads are trained on: named features of a frozen network, from one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from understudy.early_exit.heads import PooledHead, pool
from understudy.early_exit.network import ExitNetwork
from understudy.errors import ModelError
from understudy.graph.capture import hooked
from understudy.graph.model_output import logits_in
from understudy.nn.preprocess import on_device, pixels_of
from understudy.nn.stage import Images, Stage
from understudy.training.sampling import Augmentation, SampleOrder
from understudy.zoo.batches import Batch, batches
from understudy.zoo.data import Array, DataSet

Features = Mapping[str, Tensor]
"""Named features of some samples, each (N, ...)."""

LOGITS = "logits"
CLASSIFIER_INPUT = "input of the classifier"
SAVER, SAVER_LOGITS = "saver", "saver logits"
STORED = torch.float16
"""The dtype in which features are stored."""

Reductions = Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]]
"""Module path -> name of a feature -> the function that makes it from the module's output."""


class _AllFound(Exception):
    """Every requested feature is there: the rest of the network need not run."""


class FeatureExtractor:
    """Extracts the features that the heads of a network are trained on, in one pass of its backbone
    and of its saver.

    Hooks read the outputs of the tapped modules; the frozen network runs as it is, in eval mode,
    and no further than needed.

    Args:
        network: its heads and its saver determine the features.
        classifier: the module path of a layer whose input is a feature as well.
        logits: whether the backbone's logits are a feature.
    """

    def __init__(self, network: ExitNetwork, *, classifier: str | None, logits: bool) -> None:
        self._network = network
        self._classifier = classifier
        self._logits = logits
        self._reductions = reductions_of(network)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._network.stage.device

    @torch.no_grad()
    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The features of some images: name -> (N, ...), float16, where the network is.

        Raises:
            ModelError: a feature that is not finite.
        """
        with self._network.mode.autocast(self.device):
            found = _extract(
                self._network.stage,
                images,
                self._reductions,
                input_of=self._classifier,
                logits=LOGITS if self._logits else None,
            )
            saver = saver_features(self._network, images)
        return {**{name: _clamped(name, value) for name, value in found.items()}, **saver}


@torch.no_grad()
def saver_features(network: ExitNetwork, images: Images) -> dict[str, Tensor]:
    """The pooled last feature of a network's saver and its logits, float16; none without a saver.

    Raises:
        ModelError: a feature that is not finite.
    """
    branch = network.saver_branch
    if branch is None:
        return {}
    (tap,) = branch.saver.taps
    mean = {tap.path: {SAVER: partial(pool, layout=tap.layout)}}
    found = _extract(branch.saver.stage, images, mean, logits=SAVER_LOGITS)
    return {name: _clamped(name, value) for name, value in found.items()}


def feature_name(path: str, reduction: str) -> str:
    """The name of the feature that a reduction makes at a tap.

    >>> feature_name("layer1.3", "mean")
    'layer1.3: mean'
    """
    return f"{path}: {reduction}"


def reductions_of(network: ExitNetwork) -> Reductions:
    """The features at every tap of a network that its heads and its saver's sequence take."""
    found: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {}
    for point in network.locations:
        head, path = network.head(point), network.taps[point.tap].path
        found.setdefault(path, {})[feature_name(path, head.reduction)] = head.reduce
    for tap in network.taps if network.saver_branch is not None else ():
        mean = {feature_name(tap.path, PooledHead.reduction): partial(pool, layout=tap.layout)}
        found[tap.path] = {**mean, **found.get(tap.path, {})}
    return found


def _extract(
    stage: Stage,
    images: Images,
    reductions: Reductions,
    *,
    input_of: str | None = None,
    logits: str | None = None,
) -> dict[str, Tensor]:
    """Run a network as far as needed; features are copied, since layers may write in place."""
    found: dict[str, Tensor] = {}
    left = set(reductions)
    whole = logits is not None or input_of is not None

    def store(path: str, output: Tensor) -> None:
        for name, reduce in reductions[path].items():
            found[name] = reduce(output).to(STORED, copy=True)
        left.discard(path)
        if not left and not whole:
            raise _AllFound

    def store_input(_module: Any, args: tuple[Tensor, ...]) -> None:
        found[CLASSIFIER_INPUT] = args[0].to(STORED, copy=True)

    stage.model.eval()
    hooks = {path: partial(store, path) for path in reductions}
    with hooked(stage.model, hooks), _input_hooked(stage, input_of, store_input):
        try:
            answer = logits_in(stage.model(stage.prepare(images)))
        except _AllFound:
            return found
    if logits is not None:
        found[logits] = answer.to(STORED, copy=True)
    return found


@contextmanager
def _input_hooked(stage: Stage, path: str | None, hook: Callable[..., None]) -> Iterator[None]:
    if path is None:
        yield
        return
    handle = stage.model.get_submodule(path).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _clamped(name: str, value: Tensor) -> Tensor:
    if value.isnan().any():
        raise ModelError(
            f"features are numbers, {name!r} has {int(value.isnan().sum())} that are none (NaN): "
            "check the weights of the network"
        )
    largest = torch.finfo(STORED).max
    return value.clamp_(-largest, largest)


@torch.no_grad()
def find_classifier(stage: Stage, images: Images) -> str:
    """The module path of the linear layer whose output is the network's answer.

    >>> find_classifier(Stage(nn.Sequential(nn.ReLU(), nn.Linear(4, 3))), torch.zeros(2, 4))
    '1'

    Raises:
        ModelError: the answer comes from something else.
    """
    outputs: dict[str, list[Tensor]] = {
        path: []
        for path, module in stage.model.named_modules()
        if path and isinstance(module, nn.Linear)
    }
    with hooked(stage.model, {path: found.append for path, found in outputs.items()}):
        answer = logits_in(stage.model(stage.prepare(images)))
    for path, found in outputs.items():
        if len(found) == 1 and found[0] is answer:
            return path
    raise ModelError(
        "a classifier that is trained anew is a torch.nn.Linear whose output is the network's "
        f"answer, {type(stage.model).__name__} has {len(outputs)} linear layers and none is: train "
        "the exits without it"
    )


class FeatureBatch(NamedTuple):
    """Positions of some images in the data set (n,), and their features."""

    positions: Array
    features: Features


class FeatureSource(Protocol):
    """Gives the features of images in an order."""

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded, as far as is known."""

    def batches(self, order: SampleOrder, *, size: int) -> Iterator[FeatureBatch]:
        """Features in batches of `size`, without those of corrupt images."""


class Extractor(Protocol):
    """Makes features of images."""

    @property
    def device(self) -> torch.device:
        """Where the features are made."""

    def __call__(self, images: Images) -> Features:
        """The features of some images, in eval mode and without gradients."""


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The images of a data set, and what makes features of them.

    Attributes:
        data: the images.
        augmentation: makes the views of an image.
        extract: makes features of images.
        workers: threads that decode ahead.
    """

    data: DataSet
    augmentation: Augmentation
    extract: Extractor
    workers: int | None

    def decoded(self, positions: Array, *, size: int) -> Iterator[Batch]:
        """The images at some positions, in batches of so many positions."""
        return batches(self.data, positions.tolist(), size=size, workers=self.workers)

    def features(self, batch: Batch, views: Array) -> Features:
        """The features of decoded images, each in the requested view."""
        ids = self.data.ids[batch.positions].tolist()
        images = on_device(batch.images, self.extract.device)
        pixels = images if isinstance(images, Tensor) else [pixels_of(image) for image in images]
        return self.extract(self.augmentation.apply(pixels, ids, views))


class StreamedFeatures:
    """Features that the network makes anew in every epoch: no room is needed, but time.

    Args:
        images: the images and the extractor of their features.
    """

    def __init__(self, images: TrainingImages) -> None:
        self._images = images
        self._corrupt = np.zeros(len(images.data), bool)

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded, as far as is known."""
        return np.flatnonzero(self._corrupt)

    def batches(self, order: SampleOrder, *, size: int) -> Iterator[FeatureBatch]:
        """Features in batches of `size`, without those of corrupt images."""
        decoded = self._images.decoded(order.positions, size=size)
        for requested, batch in zip(order.batches(size), decoded, strict=True):
            there = np.isin(requested.positions, batch.positions)
            self._corrupt[requested.positions[~there]] = True
            if len(batch):
                features = self._images.features(batch, requested.views[there])
                yield FeatureBatch(batch.positions, features)
