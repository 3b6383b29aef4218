"""What heads are trained on: named features of a frozen network, from one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from understudy.nn.preprocess import Pixels, on_device, pixels_of
from understudy.nn.stage import Images, Stage
from understudy.runtime.fitting_parts import FittingParts
from understudy.training.augmentation import Augmentation, FreshAugmentation
from understudy.training.backbone import BackboneSettings, FrozenModel
from understudy.training.sampling import SampleOrder
from understudy.zoo.batches import Batch, batches, read_batches
from understudy.zoo.data import Array, DataSet

Features = Mapping[str, Tensor]
"""Named features of some samples, each (N, ...)."""

LOGITS = "logits"
CLASSIFIER_INPUT = "input of the classifier"
SAVER, SAVER_LOGITS = "saver", "saver logits"
STORED, WIDE = torch.float16, torch.float32
"""The dtypes in which features are stored: the first where it holds all values of one."""

Reductions = Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]]
"""Module path -> name of a feature -> the function that makes it from the module's output."""


class _AllFound(Exception):
    """Every requested feature is there: the rest of the network need not run."""


class FeatureExtractor:
    """Extracts the features that the heads of a network are trained on, in one pass of its backbone
    and of its saver.

    Hooks read the outputs of the tapped modules; the frozen network runs in eval and inference mode
    (`BackboneSettings`), and no further than needed, on parts of the images that fit into memory.

    Args:
        network: its heads and its saver determine the features.
        classifier: the module path of a layer whose input is a feature as well.
        logits: whether the backbone's logits are a feature.
        precision: in which the backbone runs, "bfloat16" or "float16", where that is not the one in
            which the network runs later.

    Raises:
        ModelError: a precision that the network's mode or its device does not have.
    """

    def __init__(
        self,
        network: ExitNetwork,
        *,
        classifier: str | None,
        logits: bool,
        precision: str | None = None,
    ) -> None:
        self._classifier = classifier
        self._logits = logits
        self._settings = BackboneSettings(network.mode, network.stage.device, precision=precision)
        self._backbone = FrozenModel(network.stage, self._settings)
        self._reductions = reductions_of(network)
        self._saver = SaverFeatures(network, self._settings)
        self._parts = FittingParts(
            size=self._settings.part,
            too_large="features are made of one image at least, found no memory for one on the "
            f"device {str(self.device)!r}: choose one with more",
        )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._backbone.stage.device

    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The features of some images: name -> (N, ...), where the network is; float16, and float32
        for a feature that has values beyond the range of float16.

        Raises:
            ModelError: a feature that is not finite, or a single image that does not fit in memory.
        """
        pieces = self._parts.run(len(images), lambda part: self._of_part(images[part]))
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _of_part(self, images: Images) -> dict[str, Tensor]:
        with self._settings.running():
            found = extract(
                self._backbone,
                images,
                self._reductions,
                input_of=self._classifier,
                logits=LOGITS if self._logits else None,
            )
            found |= self._saver(images)
        return _stored(found)


class SaverFeatures:
    """The pooled last feature of a network's saver and its logits; nothing without a saver.

    Args:
        network: it may have a saver.
        settings: how the saver runs; `settings.running()` is the caller's.
    """

    def __init__(self, network: ExitNetwork, settings: BackboneSettings) -> None:
        self._saver: FrozenModel | None = None
        if network.saver_branch is not None:
            saver = network.saver_branch.saver
            (tap,) = saver.taps
            self._saver = FrozenModel(saver.stage, settings)
            self._reductions = {tap.path: {SAVER: partial(pool, layout=tap.layout)}}

    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The features (N, ...) of some images, in the precision in which the saver runs."""
        if self._saver is None:
            return {}
        return extract(self._saver, images, self._reductions, logits=SAVER_LOGITS)


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


def extract(
    model: FrozenModel,
    images: Images,
    reductions: Reductions,
    *,
    input_of: str | None = None,
    logits: str | None = None,
) -> dict[str, Tensor]:
    """The features of some images, from one run of a network as far as needed.

    Args:
        model: the network.
        images: what its stage takes.
        reductions: the features, by the module that they come from.
        input_of: the module path of a layer whose input is the feature `CLASSIFIER_INPUT`.
        logits: the name of the network's answer as a feature, or None.
    """
    found: dict[str, Tensor] = {}
    left = set(reductions)
    whole = logits is not None or input_of is not None

    def store(path: str, output: Tensor) -> None:
        for name, reduce in reductions[path].items():
            found[name] = _apart(reduce(output), output)
        left.discard(path)
        if not left and not whole:
            raise _AllFound

    def store_input(_module: Any, args: tuple[Tensor, ...]) -> None:
        found[CLASSIFIER_INPUT] = args[0].clone()

    ready = model.prepare(images)
    hooks = {path: partial(store, path) for path in reductions}
    with (
        hooked(model.stage.model, hooks),
        input_hooked(model.stage, input_of, store_input),
    ):
        try:
            answer = model.logits(ready, images)
        except _AllFound:
            return found
    if logits is not None:
        found[logits] = answer
    return found


def _apart(reduced: Tensor, output: Tensor) -> Tensor:
    """A reduced output in memory of its own: later layers may write into the output."""
    shared = reduced.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
    return reduced.clone() if shared else reduced


@contextmanager
def input_hooked(stage: Stage, path: str | None, hook: Callable[..., None]) -> Iterator[None]:
    """A hook on the input of a module of a stage, for the time of a block; nothing without path."""
    if path is None:
        yield
        return
    handle = stage.model.get_submodule(path).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _stored(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Features as they are stored: tensors that training may use, which those of inference mode are
    not, in float16 where that holds all values, else in float32."""
    if not found:
        return {}
    stored = {name: _copied(value, STORED) for name, value in found.items()}
    fit = torch.stack([value.isfinite().all() for value in stored.values()]).tolist()
    for name, fits in zip(stored, fit, strict=True):
        if not fits:
            stored[name] = _copied(found[name], WIDE)
            _check_finite(name, stored[name])
    return stored


def _copied(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _check_finite(name: str, value: Tensor) -> None:
    count = int((~value.isfinite()).sum())
    if count:
        raise ModelError(
            f"features are finite numbers, {name!r} has {count} that are none (NaN or infinite): "
            "check the weights of the network, and its execution mode"
        )


def beyond_range(value: Tensor) -> int:
    """How many values of a feature float16 cannot hold.

    >>> beyond_range(torch.tensor([1.0, -7e4, 65504.0]))
    1
    """
    return int((value.abs() > torch.finfo(STORED).max).sum())


@torch.inference_mode()
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
    """Positions of some images in the data set (n,), and their features; where images are mixed,
    the share (n, n) that every image has in each of them."""

    positions: Array
    features: Features
    mixture: Tensor | None = None


class FeatureSource(Protocol):
    """Gives the features of images in an order."""

    def corrupt(self) -> Array:
        """The positions of the images that could not be decoded, as far as is known."""

    def add_corrupt(self, positions: Array) -> None:
        """Take note of images that an interrupted run could not decode."""

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
        fresh: what draws views anew; without it views are mirrored and shifted alone.
    """

    data: DataSet
    augmentation: Augmentation
    extract: Extractor
    workers: int | None
    fresh: FreshAugmentation | None = None

    def by(self, extract: Extractor) -> TrainingImages:
        """The same images, with other features."""
        return replace(self, extract=extract)

    def decoded(self, positions: Array, *, size: int) -> Iterator[Batch]:
        """The images at some positions, in batches of so many positions."""
        return batches(self.data, positions.tolist(), size=size, workers=self.workers)

    def viewed(self, order: SampleOrder, *, size: int) -> Iterator[Batch]:
        """The images of an order in batches, in their fresh views where there are such."""
        if self.fresh is None or not order.views.any():
            return self.decoded(order.positions, size=size)
        views = np.zeros(len(self.data), np.int64)
        views[order.positions] = order.views
        image = partial(self._fresh_image, self.fresh, views)
        return read_batches(image, order.positions.tolist(), size=size, workers=self.workers)

    def features(self, batch: Batch, views: Array) -> Features:
        """The features of decoded images, each in the requested view."""
        return self.extract(self._moved(batch, views))

    def fresh_features(self, batch: Batch, views: Array, *, number: int) -> FeatureBatch:
        """The features of a batch of `viewed`, which has a number in its epoch."""
        if self.fresh is None or not views.any():
            return FeatureBatch(batch.positions, self.features(batch, views))
        images, mixture = self.fresh.batch(
            self._moved(batch, views), view=int(views[0]), number=number
        )
        return FeatureBatch(batch.positions, self.extract(images), mixture)

    def _moved(self, batch: Batch, views: Array) -> Pixels:
        """Decoded images on the device, mirrored and shifted."""
        ids = self.data.ids[batch.positions].tolist()
        images = on_device(batch.images, self.extract.device)
        pixels = images if isinstance(images, Tensor) else [pixels_of(image) for image in images]
        return self.augmentation.apply(pixels, ids, views)

    def _fresh_image(self, fresh: FreshAugmentation, views: Array, position: int) -> Tensor:
        view = int(views[position])
        return fresh.image(self.data.image(position), str(self.data.ids[position]), view=view)


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

    def add_corrupt(self, positions: Array) -> None:
        """Take note of images that an interrupted run could not decode."""
        self._corrupt[positions] = True

    def batches(self, order: SampleOrder, *, size: int) -> Iterator[FeatureBatch]:
        """Features in batches of `size`, without those of corrupt images."""
        viewed = self._images.viewed(order, size=size)
        for number, (requested, batch) in enumerate(zip(order.batches(size), viewed, strict=True)):
            there = np.isin(requested.positions, batch.positions)
            self._corrupt[requested.positions[~there]] = True
            if len(batch):
                views = requested.views[there]
                yield self._images.fresh_features(batch, views, number=number)
