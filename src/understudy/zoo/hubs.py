"""Models of timm and torchvision, with the preprocessing they were published with."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from understudy.errors import MissingExtra, ModelError, unknown
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage

_IMAGENET = Preprocess(
    size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875
)
_WAY_OUT = "give ?checkpoint=FILE or ?weights=random"
# What torchvision changes about the architecture where it loads the published weights.
_AS_PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": True},
        "inception_v3": {"transform_input": True, "init_weights": True},
        "vit_h_14": {"image_size": 518},
    }
)


def timm_stage(name: str, *, classes: int | None, published: bool) -> Stage:
    """A timm model, with its published weights or with none.

    Raises:
        ModelError: no such model or weights, or weights for another number of classes.
        MissingExtra: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("timm: models", "zoo") from error
    config = _timm_config(timm, name)
    if published:
        if config is None or not config.has_weights:
            raise ModelError(f"timm publishes no weights of {name!r}: {_WAY_OUT}")
        _check_head(name, classes, config.num_classes)
    with _downloads(name), _cached_only_without_network(published):
        model = timm.create_model(name, pretrained=published, num_classes=classes)
    if not model.num_classes:
        raise ModelError(
            f"a model tells classes apart, {name!r} is published as a feature extractor with none: "
            "add ?classes=N&checkpoint=FILE"
        )
    data = timm.data.resolve_model_data_config(model)
    preprocess = Preprocess(
        size=(data["input_size"][1], data["input_size"][2]),
        mean=data["mean"],
        std=data["std"],
        crop=data["crop_pct"],
        interpolation=data["interpolation"],
        squash=data["crop_mode"] == "squash",
    )
    mode = data["crop_mode"]
    known = mode in {"center", "squash"}
    origin = {} if known else {"deviation": f"crop mode {mode!r} runs as 'center'"}
    return Stage(model, preprocess=preprocess, origin=origin)


def torchvision_stage(name: str, *, classes: int | None, published: bool) -> Stage:
    """A torchvision classifier, with its published weights or with none.

    Raises:
        ModelError: no such model or weights, or weights for another number of classes.
        MissingExtra: torchvision is not installed.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtra("torchvision: models", "zoo") from error
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(unknown("torchvision model", name, known))
    default = getattr(models.get_model_weights(name), "DEFAULT", None)
    settings = dict(_AS_PUBLISHED.get(name, {}))
    if published:
        if default is None:
            raise ModelError(f"torchvision publishes no weights of {name!r}: {_WAY_OUT}")
        _check_head(name, classes, len(default.meta["categories"]))
        settings = {"weights": default}
    elif classes is not None:
        settings["num_classes"] = classes
    with _downloads(name):
        model = models.get_model(name, **settings)
    return Stage(model, preprocess=_IMAGENET if default is None else _preset(default.transforms()))


def _timm_config(timm: Any, name: str) -> Any:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise ModelError(unknown("timm model", name, timm.list_models()))
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = [n for n in timm.list_pretrained() if n.startswith(f"{architecture}.")]
        raise ModelError(unknown("timm model", name, tagged)) from error


def _preset(transforms: Any) -> Preprocess:
    side, resized = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    crop = side / resized
    while math.floor(side / crop) < resized:  # rounding must not lose a pixel
        crop = math.nextafter(crop, 0.0)
    return Preprocess(
        size=(side, side),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        crop=crop,
        interpolation=transforms.interpolation.value,
    )


def _check_head(name: str, classes: int | None, published: int) -> None:
    if classes not in (None, published):
        raise ModelError(
            f"the published weights of {name!r} tell {published} classes, not {classes}, whose "
            f"head would be untrained: {_WAY_OUT}"
        )


@contextmanager
def _cached_only_without_network(published: bool) -> Iterator[None]:
    """The hub's client retries for a minute where nobody answers; then it is held to its cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (published and not _answers(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Whether a connection can be made; behind a proxy that is for the proxy to say."""
    if getproxies():
        return True
    place = urlsplit(url)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def _downloads(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the published weights of {name!r} cannot be fetched ({reason}): connect to the "
            f"network, or {_WAY_OUT}"
        ) from error
