"""What a loader yields, taken apart into images and labels: alike for scoring and running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from understudy.errors import DataError, listed

LABELS = ("labels", "label")
IMAGES = ("pixel_values", "images", "image")


class LoaderBatch(NamedTuple):
    """The images of a batch, an array or tensor (N, ...) or a list, and labels or None."""

    images: Any
    labels: Any


def taken_apart(batch: Any) -> LoaderBatch:
    """Images and labels of what a loader yields.

    That is ``(images, labels)``, whatever follows them (such as row numbers), ``[images]`` or
    images alone, as of PyTorch's loaders; or a dictionary with `labels` (or `label`) and the
    images, as of Hugging Face's: under `pixel_values`, `images` or `image`, or under any name where
    nothing else is in it.

    >>> import numpy as np
    >>> pixels = np.zeros((2, 3, 8, 8))
    >>> taken_apart({"pixel_values": pixels, "labels": [1, 0]}).labels
    [1, 0]
    >>> taken_apart(list(pixels)).labels is taken_apart([pixels]).labels is None
    True

    Raises:
        DataError: something else.
    """
    if isinstance(batch, Mapping):
        return _of_dictionary(batch)
    if is_array(batch):
        return LoaderBatch(batch, None)
    if not isinstance(batch, tuple | list):
        raise DataError(
            f"a batch is (images, labels), a dictionary of them, or images alone, found "
            f"{type(batch).__name__}: let the loader yield one of these"
        )
    if len(batch) > 1 and not _are_alike(*batch[:2]):
        return _checked(LoaderBatch(*batch[:2]))
    if len(batch) == 1 and _is_batch(batch[0]):
        return LoaderBatch(batch[0], None)
    return LoaderBatch(batch, None)


class ImageInput:
    """A cascade whose samples are images, or rows of numbers: arrays and tensors."""

    def samples_in(self, loaded: Any) -> Any:
        """The images in what a loader yields: one array or tensor, or a list of single images of
        as many dimensions.

        Raises:
            DataError: something else.
        """
        return checked_images(taken_apart(loaded).images)

    def request(self, sample: Any) -> Any:
        """The image of a request.

        Raises:
            DataError: not an array or tensor.
        """
        if not (hasattr(sample, "shape") and hasattr(sample, "dtype")):
            raise DataError(
                f"a request is one image (C, H, W), found {type(sample).__name__}: give an array "
                "or a tensor"
            )
        return sample


def checked_images(images: Any) -> Any:
    """The images of a batch: one array or tensor, or a list of single images of as many dimensions.

    Raises:
        DataError: something else.
    """
    if is_array(images):
        return images
    found = {len(one.shape) if is_array(one) else None for one in images}
    if len(found) > 1 or None in found:
        raise DataError(
            "the images of a batch are one array, or a list of arrays of as many dimensions, found "
            f"a list of {listed(map(_kind_text, images))}: give arrays or tensors (C, H, W)"
        )
    return images


def class_names_in(loader: Any) -> tuple[str, ...] | None:
    """The names of the classes that a loader's data set brings: those of the labels of a data set
    of Hugging Face (`ClassLabel`), or the `classes` of one of torchvision; None for others.

    >>> class_names_in([]) is None
    True
    """
    while hasattr(loader, "dataset"):  # a loader, or a subset
        loader = loader.dataset
    features = getattr(loader, "features", None)
    if isinstance(features, Mapping):
        feature = next((features[name] for name in LABELS if name in features), None)
        names = getattr(feature, "names", None)
    else:
        names = getattr(loader, "classes", None)
    known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if known and names else None


def is_array(images: Any) -> bool:
    """Whether images are one array or tensor, rather than a list of single images."""
    return hasattr(images, "shape")


def _of_dictionary(batch: Mapping[Any, Any]) -> LoaderBatch:
    label = next((name for name in LABELS if name in batch), None)
    others = [name for name in batch if name != label]
    images = next((name for name in IMAGES if name in batch), others[0] if others else None)
    if images is None or (len(others) > 1 and images not in IMAGES):
        raise DataError(
            f"a dictionary of a loader has the images under {' or '.join(map(repr, IMAGES))}, "
            f"found {listed(map(repr, batch)) or 'none'}: models of several inputs need a module "
            "around them that takes one, and a loader that yields (input, labels)"
        )
    return _checked(LoaderBatch(batch[images], None if label is None else batch[label]))


def _checked(batch: LoaderBatch) -> LoaderBatch:
    """A batch with as many labels as images, or none."""
    images, labels = map(_length, batch)
    if images is None or (batch.labels is not None and images != labels):
        raise DataError(
            "a batch is images alone, or images and a label for each, found "
            f"{listed(map(_size_text, batch))}: let the loader yield (images, labels) in batches"
        )
    return batch


def _length(values: Any) -> int | None:
    """How many there are; None for a single one."""
    single = is_array(values) and not len(values.shape)
    return len(values) if hasattr(values, "__len__") and not single else None


def _size_text(values: Any) -> str:
    name, shape = type(values).__name__, getattr(values, "shape", None)
    return f"{name} {tuple(shape)}" if shape is not None else f"{name} of {_length(values)}"


def _kind_text(image: Any) -> str:
    name = type(image).__name__
    return f"{name} {tuple(image.shape)}" if is_array(image) else name


def _are_alike(one: Any, other: Any) -> bool:
    """Whether both are single images, rather than images and labels."""
    return is_array(one) and is_array(other) and len(one.shape) == len(other.shape)


def _is_batch(images: Any) -> bool:
    """Whether the one thing in a list is a batch, (N, C, H, W) or (N, F) or a list of images,
    rather than a single image (C, H, W) or row (F,)."""
    if is_array(images):
        return len(images.shape) not in {1, 3}
    return isinstance(images, tuple | list)
