"""``py:module:factory``: what a factory of yours returns becomes a stage."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from understudy.callables.stage import as_callable_stage
from understudy.errors import ModelError, UnderstudyError, brief, unknown
from understudy.nn.stage import Preprocess, Stage
from understudy.zoo.allowed_code import check_allowed, import_path
from understudy.zoo.callable_models import CallableModel
from understudy.zoo.model_specs import macs_of
from understudy.zoo.spec import Spec

PreprocessOf = Callable[[Any, Spec], Preprocess | None]
LARGEST_SIDE = 65_535  # of an image, in pixels
_DECLARED = ("input_size", "mean", "std", "scale")


def factory_stage(
    spec: Spec,
    *,
    preprocess_of: PreprocessOf,
    allow_code: Collection[str],
    found_in: str | Path | None,
) -> Stage:
    """The stage of what the factory of a spec returns: a Stage, a module, an estimator or a
    function.

    Args:
        spec: ``py:module:factory``.
        preprocess_of: what reads the input that a model declares: `declared_input`, or
            `ready_tensors` where it does not matter.
        allow_code, found_in: as for `models.load_stage`.

    Raises:
        ModelError: no such factory, a module that was not allowed, or no model.
    """
    made = _made_by_factory(spec, allow_code=allow_code, found_in=found_in)
    return _stage_of(made, spec, preprocess_of)


def ready_tensors(model: Any, spec: Spec) -> None:
    """No preprocessing, whatever a module declares."""


def declared_input(model: Any, spec: Spec) -> Preprocess:
    """The preprocessing that a module declares by its attributes."""
    missing = [name for name in _DECLARED if not hasattr(model, name)]
    if missing:
        raise ModelError(
            f"a module declares its input by {', '.join(_DECLARED)}; that of {spec.target!r} "
            f"has no {', '.join(missing)}: set them, or return Stage(model, preprocess=...), or "
            "Stage(model) if it takes ready tensors"
        )
    size, mean, std, scale = (_listed(getattr(model, name)) for name in _DECLARED)
    sides = size * 2 if len(size) == 1 and not _is_sequence(model.input_size) else size[-2:]
    if len(sides) != 2 or len(size) > 3 or not all(_is_side(side) for side in sides):
        raise ModelError(
            f"input_size is a number, (H, W) or (C, H, W), up to {LARGEST_SIDE:,} pixels, "
            f"{spec.target!r} has {model.input_size!r}: correct it"
        )
    for name, values in (("mean", mean), ("std", std), ("scale", scale)):
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ModelError(
                f"{name} is made of finite numbers, {spec.target!r} has "
                f"{getattr(model, name)!r}: correct it"
            )
    return Preprocess(
        size=(sides[0], sides[1]), mean=tuple(mean), std=tuple(std), scale=float(*scale)
    )


def _made_by_factory(
    spec: Spec, *, allow_code: Collection[str], found_in: str | Path | None
) -> Any:
    """What the factory of a spec returns."""
    module_name, _, factory_name = spec.target.rpartition(":")
    check_allowed(module_name, factory_name, allow_code=allow_code, found_in=found_in)
    with import_path(found_in):
        module = _imported(module_name, spec, found_in=found_in)
        factory = getattr(module, factory_name, None)
        if not callable(factory):
            names = [
                name
                for name, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            ]
            raise ModelError(unknown("factory", factory_name, names, where=repr(module_name)))
        try:
            return factory()
        except UnderstudyError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"a factory returns a model, that of {spec.text!r} raised {brief(error)}: correct "
                f"{factory_name!r}"
            ) from error


def _imported(name: str, spec: Spec, *, found_in: str | Path | None) -> ModuleType:
    """A module by its name.

    Raises:
        ModelError: there is none, or it raises.
    """
    try:
        return importlib.import_module(name)
    except UnderstudyError:
        raise
    except (Exception, SystemExit) as error:
        way_out = (
            "run in its folder, or install it"
            if found_in is None
            else "install it, or put its folder on PYTHONPATH (PYTHONPATH=. for this one): specs "
            "in files are not looked for in the working directory"
        )
        raise ModelError(
            f"{spec.text!r} names the module {name!r}, which cannot be imported ({brief(error)}): "
            f"{way_out}"
        ) from error


def _stage_of(made: Any, spec: Spec, preprocess_of: PreprocessOf) -> Stage:
    """What a factory returned, as a stage.

    Raises:
        ModelError: it is no model, or has no preprocessing that can be used.
    """
    if isinstance(made, Stage):
        if made.preprocess is not None and not isinstance(made.preprocess, Preprocess):
            raise ModelError(
                f"a stage has a Preprocess or none, that of {spec.target!r} has "
                f"{type(made.preprocess).__name__}: give Stage(model, preprocess=Preprocess(...))"
            )
        return made
    if not isinstance(made, nn.Module):
        return _callable_stage(made, spec, preprocess_of)
    if "macs" in spec.options:
        raise ModelError(
            f"the MACs of modules are counted, {spec.text!r} gives them: leave out ?macs="
        )
    if any(weights.is_meta for weights in made.parameters()):
        raise ModelError(
            f"a model has weights, those of {spec.target!r} are on the device 'meta', which holds "
            "none: make it on the CPU"
        )
    return Stage(made, preprocess=_preprocess(made, spec, preprocess_of))


def _callable_stage(made: Any, spec: Spec, preprocess_of: PreprocessOf) -> Stage:
    """An estimator or a function as a stage; without declared input it gets images as they are.

    Raises:
        ModelError: neither, or its multiply-adds or its input cannot be told.
    """
    try:
        inner = as_callable_stage(made)
    except ModelError as error:
        raise ModelError(
            "a factory returns a Stage, a torch.nn.Module, an estimator or a function from images "
            f"to probabilities, {spec.target!r} returned {type(made).__name__}: return the model"
        ) from error
    name = spec.target.rpartition(":")[2]
    model = CallableModel(inner, name=name, macs=macs_of(spec))
    declares = any(hasattr(made, attribute) for attribute in _DECLARED)
    preprocess = _preprocess(made, spec, preprocess_of) if declares else None
    return Stage(model, preprocess=preprocess, origin=inner.to_origin())


def _preprocess(made: Any, spec: Spec, preprocess_of: PreprocessOf) -> Preprocess | None:
    """The preprocessing of a model.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return preprocess_of(made, spec)
    except UnderstudyError:
        raise
    except Exception as error:
        raise ModelError(
            f"a module declares its input by {', '.join(_DECLARED)}, those of {spec.target!r} "
            f"cannot be read ({brief(error)}): correct them, or return Stage(model, preprocess=...)"
        ) from error


def _listed(value: Any) -> list[Any]:
    """A number or numbers, of Python, NumPy or PyTorch, as a list of Python's."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    return list(plain) if _is_sequence(plain) else [plain]


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIDE
