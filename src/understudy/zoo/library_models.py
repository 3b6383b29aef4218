"""Models of timm and torchvision, with their published weights and their own preprocessing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from torch import nn

from understudy.errors import MissingExtra, ModelError, unknown
from understudy.nn.stage import Preprocess, Stage
from understudy.zoo.hub_access import ALTERNATIVE, downloads, fetched, offline_if_unreachable
from understudy.zoo.model_specs import CONFIG, HUB, LIBRARY, classes_of, source_of
from understudy.zoo.spec import Spec, existing

ARCHITECTURE = "architecture"
"""In the origin of a stage: what its model is built from again, without the hub or its folder."""

_TIMM_FILES = (CONFIG, "model.safetensors", "open_clip_model.safetensors")
_LABELS = ("labels", "label_names", "label_descriptions")  # of a configuration: texts alone

_IMAGENET = Preprocess(
    size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875
)
# What torchvision changes about the architecture where it loads the published weights.
_AS_PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": True},
        "inception_v3": {"transform_input": True, "init_weights": True},
    }
)


def timm_stage(spec: Spec, *, published: bool) -> Stage:
    """A timm model, with its published weights or with none.

    It is one of the library, or that of a `config.json` on the hub (``hf-hub:OWNER/NAME``) or in a
    folder (``local-dir:FOLDER``).

    Raises:
        ModelError: no such model or weights, or weights for another number of classes.
        MissingExtra: timm is not installed.
    """
    timm, classes = _timm(), classes_of(spec)
    source, place = source_of(spec)
    if source != LIBRARY:
        return _timm_of_folder(timm, _timm_folder(spec, place, source), spec, published=published)
    config = _timm_config(timm, place)
    if published:
        if config is None or not config.has_weights:
            raise ModelError(f"timm publishes no weights of {place!r}: {ALTERNATIVE}")
        check_head(place, classes, config.num_classes)
    with downloads(place), offline_if_unreachable() if published else nullcontext():
        model = timm.create_model(place, pretrained=published, num_classes=classes)
    return _timm_prepared(timm, model, place)


def timm_model(spec: Spec, architecture: Mapping[str, Any]) -> nn.Module:
    """A model without weights, from what `timm_stage` put into the origin of its stage; offline.

    Raises:
        ModelError: the installed timm cannot make it.
        MissingExtra: timm is not installed.
    """
    with TemporaryDirectory() as folder:
        Path(folder, CONFIG).write_text(json.dumps(architecture), encoding="utf-8")
        stage = _timm_of_folder(_timm(), Path(folder), spec, published=False)
    return stage.model


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("timm: models", "zoo") from error
    return timm


def _timm_folder(spec: Spec, place: str, source: str) -> Path:
    """The local folder with a model's `config.json` and weights, that of the hub in its cache."""
    folder = existing(place)
    if source == HUB:
        name, _, revision = place.partition("@")
        folder = fetched(name, _TIMM_FILES, revision=revision or None)
        if not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"weights are safetensors, {spec.text!r} has none (pickles are never read): ask "
                "its owner for them, or save it again with timm where you trust it"
            )
    if folder is None or not (folder / CONFIG).is_file():
        raise ModelError(f"a model of timm has a {CONFIG}, {spec.text!r} has none: check the path")
    return folder


def _timm_of_folder(timm: Any, folder: Path, spec: Spec, *, published: bool) -> Stage:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    classes = classes_of(spec)
    known = config.get("num_classes", config.get("pretrained_cfg", {}).get("num_classes"))
    if published and known is not None:
        check_head(spec.target, classes, known)
    model = timm.create_model(f"local-dir:{folder}", pretrained=published, num_classes=classes)
    stage = _timm_prepared(timm, model, spec.target)
    kept = {key: value for key, value in config.items() if key not in _LABELS}
    inner = kept.get("pretrained_cfg", {})
    for key in _LABELS:
        inner.pop(key, None)
    stage.origin = {**stage.origin, ARCHITECTURE: {**kept, "num_classes": model.num_classes}}
    return stage


def _timm_prepared(timm: Any, model: Any, name: str) -> Stage:
    """A timm model with the preprocessing of its configuration.

    Raises:
        ModelError: it has no classes.
    """
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


def torchvision_stage(spec: Spec, *, published: bool) -> Stage:
    """A torchvision classifier, with published weights or with none.

    ``NAME`` stands for its default weights, ``NAME.WEIGHTS`` for others: resnet50.IMAGENET1K_V1.

    Raises:
        ModelError: no such model or weights, or weights for another number of classes.
        MissingExtra: torchvision is not installed.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtra("torchvision: models", "zoo") from error
    name, classes = spec.target, classes_of(spec)
    known = models.list_models(module=models)
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        raise ModelError(unknown("torchvision model", name, known))
    weights = _torchvision_weights(models.get_model_weights(architecture), name, tag)
    settings: dict[str, Any] = {"weights": weights}
    if published:
        if weights is None:
            raise ModelError(f"torchvision publishes no weights of {name!r}: {ALTERNATIVE}")
        check_head(name, classes, len(weights.meta["categories"]))
    else:
        settings = dict(_AS_PUBLISHED.get(architecture, {}))
        if classes is not None:
            settings["num_classes"] = classes
        if weights is not None and architecture.startswith("vit_"):
            settings["image_size"] = weights.meta["min_size"][0]
    with downloads(name):
        model = models.get_model(architecture, **settings)
    return Stage(
        model, preprocess=_IMAGENET if weights is None else preprocess_of(weights.transforms())
    )


def _torchvision_weights(published: Any, name: str, tag: str) -> Any:
    """The weights of a tag; without one the default weights, None where there are none.

    Raises:
        ModelError: no such weights of a classifier.
    """
    if not tag:
        return getattr(published, "DEFAULT", None)
    architecture = name.partition(".")[0]
    known = {f"{architecture}.{one.name}": one for one in published if one.meta["categories"]}
    if name not in known:
        raise ModelError(unknown("torchvision model", name, known))
    return known[name]


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


def check_head(name: str, classes: int | None, published: int) -> None:
    if classes not in (None, published):
        raise ModelError(
            f"the published weights of {name!r} have {published} classes, not {classes}, whose "
            f"head would be untrained: {ALTERNATIVE}"
        )
