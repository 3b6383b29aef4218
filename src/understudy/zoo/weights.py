"""Weights from checkpoints, which fit a model exactly."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import MissingExtra, ModelError, brief, listed

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
