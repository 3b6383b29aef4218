"""Weights: published ones of timm and torchvision, and checkpoints that fit a model exactly."""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import MissingExtra, ModelError, brief, listed, unknown
from understudy.nn.stage import Preprocess, Stage

_NESTED_UNDER = ("state_dict", "model")
_WRAPPER = "module."  # what DataParallel puts before every name


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    A ``.safetensors`` file, or one of `torch.save`, whose tensors may lie under "state_dict" or
    "model" and may carry the "module." of DataParallel. Nothing is ever unpickled.

    Raises:
        ModelError: no such file, a damaged one, or one that holds more than tensors.
    """
    path = Path(os.path.expanduser(file))  # noqa: PTH111 - Path's raises where no such user is
    if not _is_file(path):
        raise ModelError(
            f"weights are read from a file, {str(file)[:200]!r} is none: check the path"
        )
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if all(name.startswith(_WRAPPER) for name in state):
        state = {name.removeprefix(_WRAPPER): value for name, value in state.items()}
    return state


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Put the weights of a checkpoint into a model; every name and every shape has to fit.

    Raises:
        ModelError: the file cannot be read, or tensors are missing, surplus or of another shape.
    """
    state = read_weights(file)
    own = model.state_dict()
    misshaped = [
        f"{name!r} is {tuple(value.shape)} where the model has {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    kinds = [
        f"{name!r} is {value.layout} of {value.dtype} where the model has {own[name].dtype}"
        for name, value in state.items()
        if name in own and not _can_be_copied(value, own[name])
    ]
    fitting = {
        name: value
        for name, value in state.items()
        if name not in own or (value.shape == own[name].shape and _can_be_copied(value, own[name]))
    }
    result = model.load_state_dict(fitting, strict=False)
    missing = [name for name in result.missing_keys if name not in state]
    wrong = [
        _counted("missing", [repr(name) for name in missing]),
        _counted("not in the model", [repr(name) for name in result.unexpected_keys]),
        _counted("of another shape", misshaped),
        _counted("of another kind", kinds),
    ]
    if any(wrong):
        raise ModelError(
            f"weights fit the model exactly, in {str(file)!r} {'; '.join(filter(None, wrong))}: "
            "use the checkpoint of this very architecture and number of classes (?classes=N)"
        )


def _can_be_copied(value: Tensor, target: Tensor) -> bool:
    """Whether numbers keep their meaning: dense, and complex ones only into complex ones."""
    dense = value.layout == torch.strided and not value.is_quantized
    return dense and value.is_complex() == target.is_complex()


def _counted(what: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f"{len(items)} {'is' if len(items) == 1 else 'are'} {what} ({listed(items, 3)})"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtra("reading .safetensors", "torch") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"weights are a whole safetensors file, {str(path)!r} is not ({error}): fetch it again"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about formats: refused below or harmless
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"checkpoints are never unpickled, {str(path)!r} holds more than tensors, or is no "
            "checkpoint: convert it to safetensors"
        ) from error
    except Exception as error:  # bytes that are no checkpoint raise anything
        raise ModelError(
            f"weights are a whole checkpoint, {str(path)!r} cannot be read ({brief(error)}): "
            "fetch it again"
        ) from error
    return _tensors(loaded, path)


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in _NESTED_UNDER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    state = dict(loaded) if isinstance(loaded, Mapping) else {}
    named = all(isinstance(name, str) and isinstance(t, Tensor) for name, t in state.items())
    if not state or not named:
        raise ModelError(
            f"a checkpoint holds named tensors, {str(path)!r} holds "
            f"{type(loaded).__name__} {listed(map(repr, state), 3)}: save model.state_dict()"
        )
    return state


_IMAGENET = Preprocess(
    size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875
)
_ALTERNATIVE = "give ?checkpoint=FILE or ?weights=random"
# What torchvision changes about the architecture where it loads the published weights.
_AS_PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": True},
        "inception_v3": {"transform_input": True, "init_weights": True},
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
    known = models.list_models(module=models)
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        raise ModelError(unknown("torchvision model", name, known))
    weights = _torchvision_weights(models.get_model_weights(architecture), name, tag)
    settings: dict[str, Any] = {"weights": weights}
    if published:
        if weights is None:
            raise ModelError(f"torchvision publishes no weights of {name!r}: {_ALTERNATIVE}")
        _check_head(name, classes, len(weights.meta["categories"]))
    else:
        settings = dict(_AS_PUBLISHED.get(architecture, {}))
        if classes is not None:
            settings["num_classes"] = classes
        if weights is not None and architecture.startswith("vit_"):
            settings["image_size"] = weights.meta["min_size"][0]
    with _downloads(name):
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
