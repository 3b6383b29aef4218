"""Models of timm and torchvision, with the preprocessing they were published with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

from understudy.errors import MissingExtra, ModelError, unknown
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage

_IMAGENET = Preprocess(
    size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875
)
_ALTERNATIVE = "give ?checkpoint=FILE or ?weights=random"
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
            raise ModelError(f"timm publishes no weights of {name!r}: {_ALTERNATIVE}")
        _check_head(name, classes, config.num_classes)
    with _downloads(name), _offline_if_unreachable() if published else nullcontext():
        model = timm.create_model(name, pretrained=published, num_classes=classes)
    if not model.num_classes:
        raise ModelError(
            f"a classifier has classes, {name!r} is published as a feature extractor with none: "
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
            raise ModelError(f"torchvision publishes no weights of {name!r}: {_ALTERNATIVE}")
        _check_head(name, classes, len(default.meta["categories"]))
        settings = {"weights": default}
    elif classes is not None:
        settings["num_classes"] = classes
    with _downloads(name):
        model = models.get_model(name, **settings)
    return Stage(
        model, preprocess=_IMAGENET if default is None else preprocess_of(default.transforms())
    )


def _timm_config(timm: Any, name: str) -> Any:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise ModelError(unknown("timm model", name, timm.list_models()))
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = [n for n in timm.list_pretrained() if n.startswith(f"{architecture}.")]
        raise ModelError(unknown("timm model", name, tagged)) from error


def preprocess_of(transforms: Any) -> Preprocess:
    """The preprocessing that torchvision publishes with some weights, from its `transforms()`."""
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
            f"the published weights of {name!r} have {published} classes, not {classes}, whose "
            f"head would be untrained: {_ALTERNATIVE}"
        )


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Set the hub's offline switch where the hub cannot be reached.

    Without it, the hub's client retries for up to some minutes before it reports a model that is
    not cached; the switch is otherwise read from HF_HUB_OFFLINE, once, at import.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # noqa: BLE001 - of requests or httpx, by the version of the hub's client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _downloads(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the published weights of {name!r} cannot be fetched ({reason}): connect to the "
            f"network, or {_ALTERNATIVE}"
        ) from error
