"""The image processors of transformers, translated into `Preprocess` where that gives the same
pixels; otherwise they run themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from understudy.errors import DataError, ModelError, brief
from understudy.nn.preprocess import Preprocess
from understudy.nn.processor import ProcessorPreprocess, run_processor, settings_of

ROUNDING = 1.01
"""By how many of 256 levels a pixel may differ: Pillow and torchvision round otherwise."""

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers; its nearest is no other's
_WHOLE = 384  # the side from which some processors resize without cropping


def preprocess_of_processor(processor: Any) -> Preprocess:
    """The preprocessing of a processor: a `Preprocess` if that makes the same pixels.

    Every translation is run beside the processor on noise of three sizes; a pixel may differ by the
    rounding of one level. Where none agrees, the processor itself is the preprocessing.

    Raises:
        ModelError: the processor makes no pixels (N, C, H, W) of noise, or of other sizes.
    """
    settings = processor.to_dict()
    images = _noise(_channels(settings))
    try:
        ready = [run_processor(processor, image) for image in images]
    except Exception as error:
        raise ModelError(
            f"a processor prepares images, {type(processor).__name__} raised {brief(error)}: "
            "check its preprocessor_config.json"
        ) from error
    for candidate in _candidates(settings):
        if all(_agrees(candidate, *pair) for pair in zip(images, ready, strict=True)):
            return candidate
    sizes = {(int(one.shape[-2]), int(one.shape[-1])) for one in ready}
    if len(sizes) > 1:
        raise ModelError(
            f"a processor makes images of one size, {type(processor).__name__} makes "
            f"{', '.join(map(str, sorted(sizes)))}: give it a size of height and width, or a crop"
        )
    mean, std = _normalisation(settings)
    return ProcessorPreprocess(sizes.pop(), mean, std, processor=settings_of(processor))


def _candidates(settings: Mapping[str, Any]) -> Iterator[Preprocess]:
    """The translations that the settings of a processor allow, the likeliest first."""
    mean, std = _normalisation(settings)
    factor = settings.get("rescale_factor") or 1.0
    scale = 1 / factor if settings.get("do_rescale", True) else 1.0
    scale = float(round(scale)) if math.isclose(scale, round(scale), rel_tol=1e-9) else scale
    fixed: dict[str, Any] = {"mean": mean, "std": std, "scale": scale, "floor": True}
    if not settings.get("do_resize", True):
        yield Preprocess(None, **fixed)
        return
    kind = _INTERPOLATIONS.get(settings.get("resample", 2))
    for size, resized, squash in _geometries(settings):
        if kind is not None and all(s <= r for s, r in zip(size, resized, strict=True)):
            with suppress(ModelError):
                crop = _crop(size, resized)
                yield Preprocess(size, crop=crop, interpolation=kind, squash=squash, **fixed)


def _geometries(
    settings: Mapping[str, Any],
) -> Iterator[tuple[tuple[int, int], tuple[int, int], bool]]:
    """(height, width) of the input, that of the resized image, and whether it loses its aspect."""
    size, box = settings.get("size") or {}, settings.get("crop_size")
    cropped = _sides(box) if settings.get("do_center_crop") and box else None
    if "shortest_edge" not in size:
        if _sides(size) is not None:
            yield cropped or _sides(size), _sides(size), True  # type: ignore[misc]
        return
    edge, crop = int(size["shortest_edge"]), settings.get("crop_pct")
    square = (edge, edge)
    if crop:
        if edge < _WHOLE:
            yield cropped or square, (int(edge / crop),) * 2, False
        yield cropped or square, square, True
    yield cropped or square, square, False
    yield cropped or square, (int(edge * 256 / 224),) * 2, False  # LeViT's


def _crop(size: tuple[int, int], resized: tuple[int, int]) -> float:
    """The share of the resized image that is kept, such that rounding loses no pixel.

    Raises:
        ModelError: the height and the width keep different shares.
    """
    crop = size[0] / resized[0]
    while math.floor(size[0] / crop) < resized[0]:
        crop = math.nextafter(crop, 0.0)
    if tuple(math.floor(side / crop) for side in size) != resized:
        raise ModelError(f"height and width keep the same share, found {size} of {resized}")
    return crop


def _sides(size: Mapping[str, Any] | None) -> tuple[int, int] | None:
    if not size or "height" not in size or "width" not in size:
        return None
    return int(size["height"]), int(size["width"])


def _normalisation(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = _channels(settings)
    if not settings.get("do_normalize", True) or not settings.get("image_mean"):
        return (0.0,) * channels, (1.0,) * channels
    mean, std = settings["image_mean"], settings["image_std"]
    return tuple(map(float, mean)), tuple(map(float, std))


def _channels(settings: Mapping[str, Any]) -> int:
    mean = settings.get("image_mean")
    return len(mean) if isinstance(mean, list | tuple) else 3


def _noise(channels: int) -> list[Tensor]:
    """Images that are wide, high, and small, with sides of which no two have the same rest."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((331, 450), (517, 389), (61, 58))
    return [
        torch.randint(256, (channels, *size), dtype=torch.uint8, generator=generator)
        for size in sizes
    ]


def _agrees(candidate: Preprocess, image: Tensor, ready: Tensor) -> bool:
    """Whether a translation makes the pixels of a processor, up to rounding."""
    try:
        found = candidate(image[None])
    except DataError:
        return False
    if found.shape != ready.shape:
        return False
    std = torch.tensor(candidate.std).view(-1, 1, 1)
    return bool(((found - ready).abs() * std * candidate.scale).max() <= ROUNDING)
