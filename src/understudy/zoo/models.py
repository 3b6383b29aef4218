"""Model specs: ``timm:NAME``, ``torchvision:NAME``, ``py:module:factory`` become stages,
``exits:DIR`` a network with trained exits."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.serialization import ExitFolder, load_exits
from understudy.errors import ModelError, unknown
from understudy.nn.execution_mode import PLAIN, ExecutionMode, with_mode
from understudy.nn.stage import Preprocess, Stage
from understudy.zoo.spec import Spec, parse_spec
from understudy.zoo.weights import load_weights, timm_stage, torchvision_stage

SCHEMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "timm": ("checkpoint", "classes", "weights", "run"),
        "torchvision": ("checkpoint", "classes", "weights", "run"),
        "py": ("checkpoint", "weights", "run"),
        "exits": ("run",),
    }
)
_HUBS: Mapping[str, Callable[..., Stage]] = MappingProxyType(
    {"timm": timm_stage, "torchvision": torchvision_stage}
)


def load_stage(spec: str) -> Stage:
    """The model that a spec names, with its weights and its own preprocessing.

    ``?checkpoint=FILE`` gives the weights; ``?weights=random`` leaves the model untrained, always
    with the same numbers; otherwise they are the published ones (timm, torchvision) or whatever the
    factory sets (py). ``?classes=N`` sets the number of classes. ``?run=folded+channels_last`` runs
    the model in another execution mode (`nn.execution_mode`).

    Raises:
        ModelError: no such model, weights that cannot be had or do not fit.
        MissingExtra: timm or torchvision is not installed.
    """
    parsed = parse_model_spec(spec)
    checkpoint = parsed.options.get("checkpoint")
    stage = _make(parsed, published=checkpoint is None and "weights" not in parsed.options)
    if checkpoint is not None:
        load_weights(stage.model, checkpoint)
    return with_mode(stage, _execution_mode(parsed))


def build_stage(spec: str) -> Stage:
    """Architecture and preprocessing alone: nothing is downloaded and no checkpoint is read.

    For a saved cascade, which brings its own weights.

    Raises:
        ModelError: no such model.
        MissingExtra: timm or torchvision is not installed.
    """
    parsed = parse_model_spec(spec)
    return with_mode(_make(parsed, published=False), _execution_mode(parsed))


def load_stages(spec: str, name: str) -> dict[str, Stage]:
    """The stages of a spec by exit: all those of a network for ``exits:DIR``, otherwise one.

    Args:
        spec: a model spec.
        name: the name of the model; exits inside a network are named NAME/TAP/HEAD.

    Raises:
        ModelError: no such model or folder, weights that cannot be had or do not fit.
        MissingExtra: timm or torchvision is not installed.
    """
    if parse_model_spec(spec).scheme == "exits":
        return load_network(spec).stages(name)
    return {name: load_stage(spec)}


def load_network(spec: str) -> ExitNetwork:
    """The network of ``exits:DIR``, its backbone and saver loaded from their own specs.

    Raises:
        ModelError: no such folder, or a backbone with other weights than the exits were trained on.
    """
    parsed = parse_model_spec(spec)
    if parsed.scheme != "exits":
        raise ModelError(
            f"a network with exits reads exits:DIR, found {spec!r}: train some with `understudy "
            "train-exits`"
        )
    network = load_exits(parsed.target, stage_of=lambda origin: load_stage(str(origin["spec"])))
    network.origin = {"spec": spec}
    return network.with_mode(_execution_mode(parsed))


def named_models(texts: Sequence[str]) -> dict[str, str]:
    """Exit name -> spec, from texts ``SPEC`` or ``NAME=SPEC``.

    An exit is named after the model or the factory unless a name stands before the spec; a network
    of ``exits:DIR`` has the name recorded in its folder.

    >>> named_models(["timm:resnet18", "big=py:nets:large?checkpoint=a=b.pt"])
    {'resnet18': 'timm:resnet18', 'big': 'py:nets:large?checkpoint=a=b.pt'}

    Raises:
        ModelError: not a model spec, or two exits of one name.
    """
    named: dict[str, str] = {}
    for text in texts:
        match = re.fullmatch(r"([^:=?]+)=(.*)", text, re.DOTALL)
        spec = match[2] if match else text
        parsed = parse_model_spec(spec)
        name = match[1] if match else _default_name(parsed)
        if name in named:
            raise ModelError(
                f"exit names are unique, {named[name]!r} and {spec!r} are both {name!r}: "
                "name one, as in NAME=SPEC"
            )
        named[name] = spec
    return named


def _default_name(spec: Spec) -> str:
    if spec.scheme == "exits":
        return ExitFolder.read(spec.target).name
    return spec.target.rpartition(":")[2]


def parse_model_spec(text: str) -> Spec:
    """A model spec taken apart, its options checked.

    Raises:
        ModelError: an unknown scheme or option, or options that exclude each other.
    """
    spec = parse_spec(text, SCHEMES, what="model", error=ModelError)
    if not spec.target:
        raise ModelError(f"a model has a name, found none in {text!r}: add one after the colon")
    if spec.options.get("weights", "random") != "random":
        raise ModelError(
            f"weights are published, from ?checkpoint=FILE, or random, found "
            f"weights={spec.options['weights']!r}: give ?checkpoint=FILE or ?weights=random"
        )
    if "weights" in spec.options and "checkpoint" in spec.options:
        raise ModelError(f"weights come from one place, {text!r} names two: drop one of them")
    return spec


def _execution_mode(spec: Spec) -> ExecutionMode:
    return ExecutionMode.parse(spec.options["run"]) if "run" in spec.options else PLAIN


def _make(spec: Spec, *, published: bool) -> Stage:
    if spec.scheme == "exits":
        raise ModelError(
            f"one model is needed here, {spec.text!r} has all exits of a network: name its "
            "backbone, or score the network"
        )
    with _fixed_seed():
        if spec.scheme == "py":
            stage = _python_stage(spec)
        else:
            stage = _HUBS[spec.scheme](spec.target, classes=_classes(spec), published=published)
    stage.origin = {**stage.origin, "spec": spec.text}  # a plain dict: modules get deep-copied
    return stage


def _python_stage(spec: Spec) -> Stage:
    module_name, colon, factory_name = spec.target.rpartition(":")
    if not colon or not module_name or not factory_name:
        raise ModelError(
            f"a Python model reads py:module:factory, found {spec.text!r}: name the module and the "
            "function in it that makes the model"
        )
    with _current_directory_first():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ModelError(
                f"{spec.text!r} names the module {module_name!r}, which cannot be imported "
                f"({error}): run in its folder, or install it"
            ) from error
        factory = getattr(module, factory_name, None)
        if not callable(factory):
            names = [
                name
                for name, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            ]
            raise ModelError(unknown("factory", factory_name, names, where=repr(module_name)))
        made = factory()
    return made if isinstance(made, Stage) else _stage_of_module(made, spec)


def _stage_of_module(model: Any, spec: Spec) -> Stage:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"a factory returns a Stage or a torch.nn.Module, {spec.target!r} returned "
            f"{type(model).__name__}: return the model"
        )
    needed = ("input_size", "mean", "std", "scale")
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise ModelError(
            f"a module declares its input by {', '.join(needed)}; that of {spec.target!r} "
            f"has no {', '.join(missing)}: set them, or return Stage(model, preprocess=...)"
        )
    size: Any = model.input_size
    sides = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    if len(sides) != 2:
        raise ModelError(
            f"input_size is a number, (H, W) or (C, H, W), {spec.target!r} has {size!r}: correct it"
        )
    preprocess = Preprocess(
        size=(int(sides[0]), int(sides[1])),
        mean=_numbers(model.mean),
        std=_numbers(model.std),
        scale=float(model.scale),  # type: ignore[arg-type]
    )
    return Stage(model, preprocess=preprocess)


def _numbers(values: Any) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values))


def _classes(spec: Spec) -> int | None:
    text = spec.options.get("classes")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ModelError(f"classes is a whole number above 0, found {text!r} in {spec.text!r}")
    return int(text)


@contextmanager
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
